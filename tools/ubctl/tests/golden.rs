// SPDX-License-Identifier: GPL-2.0

//! Checks the golden leaves and layers of `tests/data`. Past versions wrote them, and each later
//! version reads them as the texts beside them say. `tests/data/make.sh` makes a leaf; the
//! text of an old leaf is never made again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tool::leaf::MetadataUnion;
use tool::{ubctl, Folder, MIB};
use ubcore::attach::read_superblock;
use ubcore::error::Role;
use ubcore::map::Base;
use ubcore::plan::{self, Source};
use ubcore::sealed::open::SealedExtents;
use ubcore::stack::extent::{Content, Extents};
use ubcore::stack::source::NoLayers;
use ubctl::device::{Access, Device};
use ubctl::sealed::{self, DeviceReader};

const ROOT: u64 = 16 * MIB;
const LEAF: u64 = 4 * MIB;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(name)
}

/// Unpacks the leaf, or the sealed layer, as it was stored.
fn unpack(f: &Folder, name: &str) -> PathBuf {
    let kind = if is_layer(name) { "sealed" } else { "leaf" };
    let (packed, leaf) = (data(&format!("{name}.{kind}.zst")), f.path("leaf"));
    let run = Command::new("zstd")
        .args(["-q", "-d", "-f", "--sparse", "-o"])
        .args([&leaf, &packed])
        .status()
        .expect("zstd, of the package of that name, unpacks golden leaves");
    assert!(run.success(), "{}", packed.display());
    assert!(fs::metadata(&packed).unwrap().len() < 20 << 10);
    leaf
}

/// Returns whether a name is that of a sealed layer.
fn is_layer(name: &str) -> bool {
    name.ends_with("-layer")
}

/// Returns a dump without the path in its first line.
fn dump(leaf: &Path) -> String {
    let out = ubctl("dump --map {}", &[leaf]).done().out;
    out.split_once('\n').unwrap().1.to_owned()
}

/// Returns where each run of the union's sectors is read from, with a sum of the bytes for runs in
/// the leaf.
fn content(union: &MetadataUnion) -> String {
    let g = *union.map.geometry();
    let mut out = String::new();
    let (mut at, mut before) = (0, String::new());
    while at < g.union_sectors() {
        for run in plan::read(&union.map, NoLayers, at, 128) {
            let line = match run.source {
                Source::Root(_) => "the root".to_owned(),
                Source::Zero => "zeroes".to_owned(),
                Source::Layer(..) | Source::Lost | Source::Broken => panic!("lost"),
                Source::Leaf(s) => {
                    let mut bytes = vec![0; run.sectors as usize * 512];
                    union.device.read_at(s * 512, &mut bytes).unwrap();
                    let sum = ubcore::format::crc::crc32c(0, &bytes);
                    format!("leaf sector {s}, {} sectors, CRC32C {sum:08x}", run.sectors)
                }
            };
            if line != before {
                out += &format!("{at}: {line}\n");
            }
            before = line;
            at += u64::from(run.sectors);
        }
    }
    out
}

/// Returns everything that is stored about a leaf: its dump and what its union reads.
fn said(root: &Path, leaf: &Path) -> String {
    let text = dump(leaf);
    let union = MetadataUnion::attach(root, leaf);
    format!("{text}content\n{}", content(&union))
}

fn held(name: &str) {
    let f = Folder::new(name);
    let (root, leaf) = (f.root("root", ROOT), unpack(&f, name));
    let text = fs::read_to_string(data(&format!("{name}.txt"))).unwrap();
    assert_eq!(said(&root, &leaf), text, "{name} is read otherwise");
    let ran = ubctl("check {} --root {}", &[&leaf, &root]);
    assert_eq!(ran.code, 0, "{}", ran.out);
    // This version can write to the leaf, which reads the same afterwards.
    let before = content(&MetadataUnion::attach(&root, &leaf));
    let slots = |leaf: &Path| {
        let mut device = Device::open(leaf, Role::Leaf, Access::Read).unwrap();
        read_superblock(&mut device).unwrap().superblock
    };
    let old = slots(&leaf);
    MetadataUnion::attach(&root, &leaf).detach();
    let new = slots(&leaf);
    assert!(new.clean && new.generation == old.generation + 1);
    assert_eq!(new.features, old.features);
    assert_eq!(content(&MetadataUnion::attach(&root, &leaf)), before);
}

#[test]
fn the_first_leaf_of_version_1_is_read_as_it_was() {
    held("v1-life");
}

/// The leaf above was formatted before the list had roots.
#[test]
fn the_first_leaf_that_lists_its_root_is_read_as_it_was() {
    held("v1-listed");
}

/// Returns what is stored about a sealed layer: what `verify` says, and its extents with a sum of
/// their bytes.
fn said_of_layer(layer: &Path) -> String {
    let text = ubctl("verify {}", &[layer]).done().out;
    let mut out = text.split_once('\n').unwrap().1.to_owned();
    let device = Device::open(layer, Role::Root, Access::Read).unwrap();
    let header = sealed::open(&device, None).unwrap().header;
    let mut extents = SealedExtents::new(DeviceReader::new(&device), &header);
    while let Some(e) = extents.next().unwrap() {
        out += &format!("{}, {} sectors: ", e.first, e.sectors);
        let Content::Data(position) = e.content else {
            out += "zeroes\n";
            continue;
        };
        let mut bytes = vec![0; e.sectors as usize * 512];
        device.read_at(position * 512, &mut bytes).unwrap();
        let sum = ubcore::format::crc::crc32c(0, &bytes);
        out += &format!("layer sector {position}, CRC32C {sum:08x}\n");
    }
    out
}

/// The layer is read as it was, and the same content still gives the same bytes.
#[test]
fn the_first_sealed_layer_of_version_1_is_read_and_made_as_it_was() {
    let f = Folder::new("v1-layer");
    let layer = unpack(&f, "v1-layer");
    let text = fs::read_to_string(data("v1-layer.txt")).unwrap();
    assert_eq!(said_of_layer(&layer), text);
    assert!(fs::read(&layer).unwrap() == fs::read(sealed(&f)).unwrap());
}

/// Seals the content of the golden layer.
fn sealed(f: &Folder) -> PathBuf {
    let (root, leaf) = (f.root("root", ROOT), f.image("unsealed", LEAF));
    ubctl("format --root {} --slab-size 16K {}", &[&root, &leaf]).done();
    workload(&root, &leaf);
    // Extents for a second block of the index, and data for a second chunk.
    let mut u = MetadataUnion::attach(&root, &leaf);
    for n in 0..300 {
        u.fill(10_000 + 3 * n, 2);
    }
    u.fill(12_000, 2500);
    u.detach();
    let out = f.path("sealed");
    ubctl("seal {} {}", &[&leaf, &out]).done();
    out
}

/// Makes the leaf or layer named `GOLDEN` in the directory `INTO`, only for `tests/data/make.sh`.
#[test]
#[ignore = "makes a golden leaf: tests/data/make.sh runs it"]
fn make() {
    let name = std::env::var("GOLDEN").expect("GOLDEN: the leaf's name");
    let into = PathBuf::from(std::env::var("INTO").expect("INTO: a folder"));
    let f = Folder::new("make-golden");
    if is_layer(&name) {
        let layer = sealed(&f);
        fs::write(into.join(format!("{name}.txt")), said_of_layer(&layer)).unwrap();
        fs::copy(&layer, into.join(format!("{name}.sealed"))).unwrap();
        return;
    }
    let (root, leaf) = (f.root("root", ROOT), f.image("leaf", LEAF));
    ubctl(
        "format --root {} --slab-size 16K --name golden {}",
        &[&root, &leaf],
    )
    .done();
    workload(&root, &leaf);
    fs::write(into.join(format!("{name}.txt")), said(&root, &leaf)).unwrap();
    fs::copy(&leaf, into.join(format!("{name}.leaf"))).unwrap();
}

/// Attaches twice, the second time without a detach. So slot B of directory and pages is active,
/// and the journal has each kind of record.
fn workload(root: &Path, leaf: &Path) {
    let mut u = MetadataUnion::attach(root, leaf);
    u.fill(0, 70);
    u.fill(5000, 3);
    u.detach();
    let mut u = MetadataUnion::attach(root, leaf);
    u.fill(30_000, 2);
    u.committer.checkpoint(&u.map, &mut u.device).unwrap();
    // A New record.
    u.fill(9000, 5);
    u.fill(20_000, 40);
    u.fill(32_700, 60);
    u.commit();
    // A More record; then a Words record, with every other sector.
    u.fill(5010, 4);
    u.commit();
    for n in 0..16 {
        u.fill(9024 + 2 * n, 1);
    }
    u.commit();
    for (slabs, base) in [(0..1, Base::Zero), (625..627, Base::Below)] {
        assert!(u.allocator.empty(&u.map, slabs, base).unwrap());
        u.commit();
    }
}
