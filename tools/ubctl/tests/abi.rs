// SPDX-License-Identifier: GPL-2.0

//! Checks that the ioctl ABI is the same in C and in Rust: sizes, offsets, numbers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use tool::Folder;
use ubcore::abi::{
    self, Call, Create, FeaturesCall, Freeze, Layer, Limit, LostCall, Remove, Reset, Status,
};
use ubcore::abi_copy;
use ubcore::error::{Area, Error, FeatureClass, Role};
use ubcore::leaf_block::LeafBlock;
use ubcore::stack::chain::LAYERS_MAX;

/// The output of the C program, by kind and name.
type Said = BTreeMap<String, Vec<u64>>;

/// Compiles and runs `tests/abi/pin.c`; `None` without a C compiler.
fn ask_c() -> Option<Said> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = Folder::new("abi");
    let program = folder.path("pin");
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut build = Command::new(&cc);
    build
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program);
    build.arg(top.join("tests/abi/pin.c"));
    let built = match build.output() {
        Ok(built) => built,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => panic!("{e}"),
    };
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let out = Command::new(&program).output().unwrap();
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    let line = |l: &str| {
        let words: Vec<&str> = l.split(' ').collect();
        let numbers = words[2..].iter().map(|n| n.parse().unwrap()).collect();
        (format!("{} {}", words[0], words[1]), numbers)
    };
    Some(text.lines().map(line).collect())
}

/// Checks the size and each field of a structure against the C program's output.
macro_rules! layout {
    ($said:ident, $name:literal, $type:ty, $($field:ident),+) => {{
        let mut sum = 0;
        $said.insert(concat!("size ", $name).into(), vec![size_of::<$type>() as u64]);
        $(
            let size = size_of_field(|s: &$type| &s.$field);
            sum += size;
            $said.insert(
                concat!("field ", $name, ".", stringify!($field)).into(),
                vec![std::mem::offset_of!($type, $field) as u64, size],
            );
        )+
        assert_eq!(sum, size_of::<$type>() as u64, "a field of {} is not compared", $name);
    }};
}

fn size_of_field<S, F>(_: fn(&S) -> &F) -> u64 {
    size_of::<F>() as u64
}

fn ask_rust() -> Said {
    let mut said = Said::new();
    layouts(&mut said);
    layout_of_status(&mut said);
    numbers(&mut said);
    said
}

fn layouts(said: &mut Said) {
    layout!(
        said,
        "features",
        FeaturesCall,
        size,
        abi_version,
        format_version,
        unions,
        features
    );
    layout!(
        said,
        "create",
        Create,
        size,
        flags,
        id,
        queues,
        root,
        leaf,
        reason,
        damaged_blocks,
        reason_detail,
        lost_sectors,
        layers,
        layers_count,
        layer
    );
    layout!(said, "layer", Layer, path, offset, reserved);
    layout!(said, "remove", Remove, size, flags, id, reserved0);
    layout!(
        said,
        "freeze",
        Freeze,
        size,
        flags,
        id,
        reason,
        leaf,
        seal,
        reason_detail
    );
    layout!(
        said,
        "reset",
        Reset,
        size,
        flags,
        id,
        reason,
        uuid,
        reason_detail
    );
    layout!(
        said,
        "limit",
        Limit,
        size,
        flags,
        id,
        reason,
        slabs,
        reserved0,
        uuid,
        reason_detail
    );
    layout!(said, "lost", LostCall, size, flags, id, reserved0, from, sector, sectors, unnamed);
}

fn layout_of_status(said: &mut Said) {
    layout!(
        said,
        "status",
        Status,
        size,
        flags,
        id,
        mode,
        major,
        minor,
        openers,
        queues,
        root,
        leaf,
        uuid,
        sectors,
        root_sectors,
        leaf_sectors,
        slab_sectors,
        slabs,
        slabs_used,
        journal_blocks,
        journal_used,
        dirty,
        commits,
        checkpoints,
        journal_written,
        first_writes,
        io_errors,
        map_bytes,
        discard,
        reserved0,
        name,
        last_error,
        damaged_blocks,
        lost_sectors,
        stack_bytes,
        layers,
        stack_unions,
        no_space,
        limit_slabs,
        reserved1
    );
}

fn numbers(said: &mut Said) {
    let mut number = |name: &str, n: u64| said.insert(format!("number UNIONBLK_{name}"), vec![n]);
    number("ABI_VERSION", abi::ABI_VERSION.into());
    number("SIZE_MAX", abi_copy::SIZE_MAX as u64);
    number("FEATURES_SIZE_VER0", FeaturesCall::SIZE_VER0 as u64);
    number("CREATE_SIZE_VER0", Create::SIZE_VER0 as u64);
    number("REMOVE_SIZE_VER0", Remove::SIZE_VER0 as u64);
    number("STATUS_SIZE_VER0", Status::SIZE_VER0 as u64);
    number("LOST_SIZE_VER0", LostCall::SIZE_VER0 as u64);
    number("FREEZE_SIZE_VER0", Freeze::SIZE_VER0 as u64);
    number("RESET_SIZE_VER0", Reset::SIZE_VER0 as u64);
    number("LIMIT_SIZE_VER0", Limit::SIZE_VER0 as u64);
    number("PATH_BYTES", abi::PATH_BYTES as u64);
    number("NAME_BYTES", ubcore::format::name::NAME_BYTES as u64);
    number("ID_ANY", abi::ID_ANY.into());
    number("MODE_WRITABLE", abi::MODE_WRITABLE.into());
    number("MODE_READ_ONLY", abi::MODE_READ_ONLY.into());
    number(
        "MODE_READ_ONLY_REQUESTED",
        abi::MODE_READ_ONLY_REQUESTED.into(),
    );
    number("CREATE_READ_ONLY", abi::CREATE_READ_ONLY.into());
    number("CREATE_NO_ROOT", abi::CREATE_NO_ROOT.into());
    number("FREEZE_FILE_SYSTEMS", abi::FREEZE_FILE_SYSTEMS.into());
    number("LAYERS_MAX", LAYERS_MAX.into());
    number("DISCARD_ZERO", abi::DISCARD_ZERO.into());
    number("DISCARD_REVEAL", abi::DISCARD_REVEAL.into());
    number("STATUS_NEXT", abi::STATUS_NEXT.into());
    number("IOC_TYPE", abi::TYPE.into());
    number("IOC_FEATURES", FeaturesCall::COMMAND.into());
    number("IOC_CREATE", Create::COMMAND.into());
    number("IOC_REMOVE", Remove::COMMAND.into());
    number("IOC_STATUS", Status::COMMAND.into());
    number("IOC_LOST", LostCall::COMMAND.into());
    number("IOC_FREEZE", Freeze::COMMAND.into());
    number("IOC_RESET", Reset::COMMAND.into());
    number("IOC_LIMIT", Limit::COMMAND.into());
    number("REASON_NONE", 0);
    for (name, e) in reasons() {
        number(&format!("REASON_{name}"), e.to_wire().0.into());
    }
}

fn reasons() -> [(&'static str, Error); 32] {
    [
        ("NOT_FORMATTED", Error::NotFormatted),
        ("NEWER_VERSION", Error::NewerVersion(2)),
        (
            "UNKNOWN_FEATURES",
            Error::UnknownFeatures(FeatureClass::Incompat, 1),
        ),
        ("DAMAGED", Error::Damaged(Area::Map, LeafBlock(0))),
        ("ROOT_SIZE", Error::RootSize(1, 2)),
        ("ROOT_CONTENT", Error::RootContent),
        ("LEAF_SIZE", Error::LeafSize(1, 2)),
        ("LEAF_TOO_SMALL", Error::LeafTooSmall(1, 2)),
        ("SLAB_SIZE", Error::SlabSize(3)),
        ("TOO_LARGE", Error::TooLarge(Role::Root, 1)),
        ("IO", Error::Io(Role::Leaf, 1)),
        ("BUSY", Error::Busy(Role::Leaf)),
        ("OPEN", Error::Open(Role::Root, 2)),
        ("READ_ONLY_LEAF", Error::ReadOnlyLeaf),
        ("SAME_DEVICE", Error::SameDevice),
        ("LIMITS", Error::Limits(Role::Leaf)),
        ("NO_MEMORY", Error::NoMemory),
        ("FULL", Error::Full),
        ("STACKED", Error::Stacked(Role::Leaf)),
        ("OS", Error::Os(5)),
        ("FINE_MAP", Error::FineMap(4096)),
        ("INTERNAL", Error::Internal),
        ("FROZEN", Error::Frozen),
        ("NOT_FROZEN", Error::NotFrozen),
        ("LAYER_COUNT", Error::LayerCount(1, 2)),
        ("LAYER_IDENTITY", Error::LayerIdentity),
        ("UNION_SIZE", Error::UnionSize(1, 2)),
        ("BLOCK_SIZE", Error::BlockSize(1, 2)),
        ("READ_ONLY_UNION", Error::ReadOnlyUnion),
        ("REQUESTS_IN_FLIGHT", Error::RequestsInFlight),
        ("NO_ROOM", Error::NoRoom(Role::Leaf, 1)),
        ("SHRINK", Error::Shrink(Role::Root, 1)),
    ]
}

#[test]
fn c_and_rust_agree() {
    let Some(c) = ask_c() else {
        eprintln!("skipped: no C compiler (cc, or $CC)");
        return;
    };
    let rust = ask_rust();
    for (name, number) in &rust {
        assert_eq!(c.get(name), Some(number), "{name}");
    }
    assert_eq!(c.len(), rust.len());
    // Any bytes that C has beyond the sum of the fields would be padding, which leaks kernel
    // memory.
    for name in [
        "features", "create", "layer", "remove", "status", "lost", "freeze", "reset", "limit",
    ] {
        let fields: u64 = c
            .iter()
            .filter(|(k, _)| k.starts_with(&format!("field {name}.")))
            .map(|(_, v)| v[1])
            .sum();
        assert_eq!(vec![fields], c[&format!("size {name}")], "{name}");
    }
}
