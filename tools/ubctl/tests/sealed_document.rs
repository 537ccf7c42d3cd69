// SPDX-License-Identifier: GPL-2.0

//! Checks the examples of `Documentation/sealed-layer.rst`: `ubctl seal` and `ubctl seal-root`
//! write the bytes on the page, and they hold what the page says. With `UPDATE=1` the tests write
//! them into the page.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use tool::leaf::MetadataUnion;
use tool::{ubctl, Folder, MIB};
use ubcore::error::Role;
use ubcore::sealed::open::SealedExtents;
use ubcore::stack::extent::{Content, Extent, Extents};
use ubctl::device::{Access, Device};
use ubctl::sealed::{self, DeviceReader};

/// What the bytes on the page are of, in the comments around them.
const LAYER: &str = "bytes";
const DIGESTS: &str = "bytes of the digest file";

/// Returns bytes that begin at `start` as `hexdump -C` shows them, indented.
pub fn dump(start: usize, bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut before: Option<&[u8]> = None;
    let mut repeats = false;
    for (n, line) in bytes.chunks(16).enumerate() {
        if before == Some(line) {
            if !repeats {
                out += "  *\n";
            }
            repeats = true;
            continue;
        }
        (before, repeats) = (Some(line), false);
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        let text: String = line
            .iter()
            .map(|&b| {
                if (32..127).contains(&b) {
                    b as char
                } else {
                    '.'
                }
            })
            .collect();
        let halves = (hex[..8].join(" "), hex[8..].join(" "));
        writeln!(
            out,
            "  {:08x}  {}  {}  |{text}|",
            start + n * 16,
            halves.0,
            halves.1
        )
        .unwrap();
    }
    out
}

/// Compares the bytes on the page with a file.
fn compare(what: &str, file: &Path) {
    let (begin, end) = (
        format!(".. The {what} begin here\n\n::\n\n"),
        format!("\n.. The {what} end here\n"),
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Documentation/sealed-layer.rst");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(&begin).unwrap();
    let (found, after) = rest.split_once(&end).unwrap();
    let bytes = fs::read(file).unwrap();
    let wanted = format!("{}  {:08x}\n", dump(0, &bytes), bytes.len());
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{before}{begin}{wanted}{end}{after}")).unwrap();
    } else {
        assert_eq!(
            found, wanted,
            "sealed-layer.rst: run this test with UPDATE=1"
        );
    }
}

/// A root of 2 MiB and one sector, in which each sector begins with its number.
#[test]
fn the_digest_file_is_what_seal_root_writes() {
    let f = Folder::new("digest-document");
    let root = f.root("root", 2 * MIB + 512);
    ubctl("seal-root {}", &[&root]).done();
    let out = f.path("root.ubdigest");
    compare(DIGESTS, &out);
    assert_eq!(fs::metadata(out).unwrap().len(), 2 * 4096);
}

#[test]
fn the_example_is_what_a_seal_writes() {
    let f = Folder::new("sealed-document");
    let (root, leaf) = (f.root("root", 16 * MIB), f.image("leaf", 8 * MIB));
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    let mut union = MetadataUnion::attach(&root, &leaf);
    union.fill(3, 2);
    union.fill(14, 1);
    // Zeroes.
    union.write(60, 30);
    union.detach();
    let out = f.path("out");
    ubctl("seal {} {}", &[&leaf, &out]).done();

    compare(LAYER, &out);

    // What the text says of them.
    let device = Device::open(&out, Role::Root, Access::Read).unwrap();
    let header = sealed::open(&device, None).unwrap().header;
    assert_eq!((header.union_sectors, header.block_bytes), (32768, 512));
    assert_eq!((header.data_sectors, header.zero_sectors), (9, 24));
    let parts = (header.index_block(), header.digest_block(), header.blocks());
    assert_eq!(parts, (5, 6, 7));
    let mut extents = SealedExtents::new(DeviceReader::new(&device), &header);
    let list: Vec<Extent> = std::iter::from_fn(|| extents.next().unwrap()).collect();
    let extent = |first, sectors, content| Extent {
        first,
        sectors,
        content,
    };
    let wanted = [
        extent(3, 2, Content::Data(19)),
        extent(14, 1, Content::Data(22)),
        extent(60, 4, Content::Data(28)),
        extent(64, 24, Content::Zero),
        extent(88, 2, Content::Data(32)),
    ];
    assert_eq!(list, wanted);
}
