// SPDX-License-Identifier: GPL-2.0

//! Checks the example of `Documentation/on-disk-example.rst`. The test rebuilds the leaf from the
//! hex digits on that page, and compares everything that the page says of it with the core and the
//! tool.

use std::fmt::Write;
use std::path::PathBuf;
use tool::{command, get, Folder, MIB};
use ubcore::error::{Error, Role};
use ubcore::format::below_list::{self, Listed};
use ubcore::format::record::{Record, SlabRun};
use ubcore::format::superblock::{choose, Superblock};
use ubcore::format::{directory, ring};
use ubcore::geometry::{LeafSlab, MapPage};
use ubcore::leaf_block::LeafBlock;
use ubcore::slot::Slot;
use ubctl::device::{Access, Device};
use ubctl::error::{code_of, reason_of};
use ubctl::root_samples;

const BLOCK: usize = 4096;

pub const PAGE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../Documentation/on-disk-example.rst"
);

/// Returns the page up to the example with layers, which `layers_document.rs` checks.
fn page() -> String {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (page, _) = page.split_once("\nAn example with layers\n").unwrap();
    page.to_owned()
}

/// Parses a line of `hexdump -C`: the offset and up to 16 bytes.
fn hex_line(line: &str) -> Option<(usize, Vec<u8>)> {
    let digits = line.strip_prefix("  ")?.split("  |").next()?;
    let mut words = digits.split_whitespace();
    let at = words.next().filter(|w| w.len() == 8)?;
    let at = usize::from_str_radix(at, 16).ok()?;
    let bytes: Option<Vec<u8>> = words.map(|w| u8::from_str_radix(w, 16).ok()).collect();
    Some((at, bytes?))
}

/// Returns the leaf's first MiB as the page shows it; the page may not show anything twice.
pub fn shown(page: &str) -> Vec<u8> {
    let mut image = vec![0; MIB as usize];
    let mut end = 0;
    let mut repeated: Option<Vec<u8>> = None;
    let mut last = Vec::new();
    for line in page.lines() {
        if line == "  *" {
            repeated = Some(last.clone());
        } else if let Some((at, bytes)) = hex_line(line) {
            assert!(at >= end && at % 16 == 0, "{line}");
            if let Some(bytes) = repeated.take().filter(|b| b.iter().any(|&b| b != 0)) {
                for to in image[end..at].chunks_mut(bytes.len()) {
                    to.copy_from_slice(&bytes);
                }
            }
            image[at..at + bytes.len()].copy_from_slice(&bytes);
            end = at + bytes.len();
            last = bytes;
        }
    }
    image
}

/// A row of a table: offset, bytes, field and value.
pub struct Row {
    pub at: usize,
    pub len: usize,
    pub field: String,
    pub value: String,
}

/// Returns the tables, in order.
pub fn tables(page: &str) -> Vec<Vec<Row>> {
    let mut tables: Vec<Vec<Row>> = Vec::new();
    let mut rules = 0;
    for line in page.lines() {
        if line.starts_with("======  =====  ") {
            rules += 1;
            if rules % 3 == 1 {
                tables.push(Vec::new());
            }
        } else if rules % 3 == 2 {
            let table = tables.last_mut().unwrap();
            // Fields contain spaces, so the rule below the heading gives the columns.
            let (head, value) = line.split_at(35);
            if let Some(at) = head.strip_prefix("0x") {
                let (at, rest) = at.split_at(6);
                let (len, field) = rest.split_at(7);
                table.push(Row {
                    at: usize::from_str_radix(at.trim(), 16).unwrap(),
                    len: len.trim().parse().unwrap(),
                    field: field.trim().to_owned(),
                    value: value.trim().to_owned(),
                });
            } else {
                table.last_mut().unwrap().value.push_str(value.trim());
            }
        }
    }
    assert_eq!(rules % 3, 0);
    tables
}

/// Returns whether bytes are what a value says: text, a UUID, a digest, a number.
pub fn means(bytes: &[u8], row: &Row) -> bool {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut s, b| {
            write!(s, "{b:02x}").unwrap();
            s
        })
    };
    match row.field.as_str() {
        "magic" => bytes == row.value.as_bytes(),
        "name" | "path" => bytes
            .strip_prefix(row.value.as_bytes())
            .is_some_and(|r| r.iter().all(|&b| b == 0)),
        "uuid" | "root_digest" | "identity" => hex(bytes) == row.value.replace('-', ""),
        "seal" | "chain" | "digest" | "below" | "after" if row.value != "0" => {
            hex(bytes) == row.value
        }
        _ => {
            let hexadecimal = row.value.strip_prefix("0x");
            let number = hexadecimal.map_or_else(
                || row.value.parse::<u64>().unwrap(),
                |digits| u64::from_str_radix(digits, 16).unwrap(),
            );
            let mut wanted = number.to_le_bytes().to_vec();
            wanted.resize(bytes.len().max(8), 0);
            wanted[..bytes.len()] == *bytes && wanted[bytes.len()..].iter().all(|&b| b == 0)
        }
    }
}

/// Checks a table against the bytes of its block: the table must have each byte exactly once.
pub fn check_table(table: &[Row], block: &[u8], bytes: usize) {
    let mut end = 0;
    for row in table {
        assert_eq!(row.at, end, "{}", row.field);
        end += row.len;
        assert!(
            means(&block[row.at..end], row),
            "{} at {:#x} is not {}: {:02x?}",
            row.field,
            row.at,
            row.value,
            &block[row.at..end]
        );
    }
    assert_eq!(end, bytes);
}

/// Returns a number of a table.
fn number(table: &[Row], field: &str) -> u64 {
    let row = table.iter().find(|r| r.field == field).unwrap();
    row.value
        .strip_prefix("0x")
        .map_or_else(|| row.value.parse(), |hex| u64::from_str_radix(hex, 16))
        .unwrap()
}

fn block(image: &[u8], n: usize) -> &[u8] {
    &image[n * BLOCK..(n + 1) * BLOCK]
}

fn superblock(image: &[u8]) -> Superblock {
    let (superblock, slot) = choose(block(image, 0), block(image, 1)).unwrap();
    assert_eq!(slot, Slot::A);
    superblock
}

/// Makes the two images of the page in a directory.
fn images(f: &Folder) -> (PathBuf, PathBuf) {
    let (root, leaf) = (f.image("root.img", 16 * MIB), f.image("leaf.img", 8 * MIB));
    tool::put(&root, 0, b"golden");
    tool::put(&leaf, 0, &shown(&page()));
    (root, leaf)
}

#[test]
fn the_superblock_is_what_its_table_says() {
    let (page, image) = (page(), shown(&page()));
    let table = &tables(&page)[0];
    check_table(table, block(&image, 0), 512);
    assert_eq!(block(&image, 0), block(&image, 1));

    // The words of the tables mean the same to the core as to the reader.
    let sb = superblock(&image);
    let g = &sb.geometry;
    for (field, value) in [
        ("generation", sb.generation),
        ("nonce", sb.nonce),
        ("root_sectors", g.root_sectors()),
        ("union_sectors", g.union_sectors()),
        ("leaf_sectors", g.leaf_sectors()),
        ("root_block_bytes", sb.root_block_bytes.into()),
        ("slab_sectors", g.slab_sectors().into()),
        ("journal_blocks", g.journal_blocks().into()),
        ("journal_tail", sb.journal_tail.into()),
        ("journal_sequence", sb.journal_sequence),
    ] {
        assert_eq!(number(table, field), value, "{field}");
    }
    assert_eq!(
        (sb.clean, sb.reveal, sb.name.to_string().as_str()),
        (false, false, "example")
    );
    assert_eq!(sb.directory_slot(0), Ok(Some(Slot::A)));
    assert_eq!(
        (g.root_slabs(), g.leaf_slabs(), g.data_start()),
        (256, 112, 2048)
    );
    assert_eq!(
        (g.table_pages(), g.bits_pages(), g.directory_blocks()),
        (1, 1, 1)
    );
    assert_eq!(g.directory_block(0, Slot::A).0, 18);
    assert_eq!(
        (
            g.page_block(MapPage(0), Slot::A).0,
            g.page_block(MapPage(0), Slot::B).0,
            g.page_block(MapPage(1), Slot::B).0
        ),
        (20, 22, 23)
    );
}

#[test]
fn the_journal_is_what_its_table_says() {
    let (page, image) = (page(), shown(&page()));
    let table = &tables(&page)[1];
    check_table(table, block(&image, 3), BLOCK);
    let nonce = superblock(&image).nonce;
    // Sequence, base and count of each block. Each ends a transaction and was written alone.
    for (n, head) in [(1, 6, 1), (2, 0, 2), (3, 27, 2), (4, 0, 1), (5, 0, 1)]
        .iter()
        .enumerate()
    {
        let found = ring::open(block(&image, n + 2), nonce).unwrap();
        assert_eq!(
            (found.sequence, found.origin.0, found.count),
            *head,
            "block {}",
            n + 2
        );
        assert!(found.last && found.before == 0, "block {}", n + 2);
    }
    let record = |n, at| Record::decode(ring::word(block(&image, n), at).unwrap(), 128).unwrap();
    let run = |first, count| SlabRun { first, count };
    let new = |slab, run| Record::New { slab, step: 1, run };
    let more = |run| Record::More { slab: 7, run };
    assert_eq!(
        record(2, 0),
        Record::New {
            slab: 7,
            step: 1,
            run: run(104, 3)
        }
    );
    assert_eq!(
        [record(3, 0), record(3, 1)],
        [more(run(104, 3)), more(run(114, 6))]
    );
    assert_eq!(
        [record(4, 0), record(4, 1)],
        [new(156, run(32, 96)), new(157, run(0, 64))]
    );
    assert_eq!(record(5, 0), Record::Zero { slab: 7, count: 1 });
    assert_eq!(record(6, 0), Record::Origin(LeafSlab(0)));
}

#[test]
fn the_directory_and_the_pages_are_what_they_are_said_to_be() {
    let (page, image) = (page(), shown(&page()));
    let table = &tables(&page)[2];
    check_table(table, block(&image, 18), BLOCK);
    let sb = superblock(&image);
    let mut entries = [directory::PageEntry::EMPTY; 2];
    directory::decode(
        block(&image, 18),
        0,
        sb.generation,
        sb.nonce,
        LeafBlock(18),
        &mut entries,
    )
    .unwrap();
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(entry.slot, Some(Slot::A));
        assert_eq!(
            number(table, &format!("page {n} crc")),
            u64::from(entry.crc)
        );
        assert_eq!(
            entry.crc,
            ubcore::format::crc::crc32c(0, block(&image, 20 + n)),
            "page {n}"
        );
    }
    assert_eq!(image[0x1401c..0x14020], (8u32 << 1).to_le_bytes());
    assert_eq!(image[0x1507d], 7);
}

#[test]
fn the_list_is_what_its_table_says() {
    let (page, image) = (page(), shown(&page()));
    let sb = superblock(&image);
    assert_eq!(sb.geometry.below_list_blocks(), 1);
    let at = sb.geometry.below_list_block(0).0 as usize;
    assert_eq!(at, 24);
    check_table(&tables(&page)[3], block(&image, at), BLOCK);
    let bytes = block(&image, at).try_into().unwrap();
    let mut found = Vec::new();
    below_list::decode(bytes, 0, &sb, |listed| found.push(listed)).unwrap();
    let [Listed::Root(root)] = found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(root.path(), b"/srv/root.img");
}

#[test]
fn the_tool_says_of_it_what_the_page_says() {
    let f = Folder::new("document");
    let (root, leaf) = images(&f);
    let page = page();
    let dump = page
        .split("  # ubctl dump --map leaf.img\n")
        .nth(1)
        .unwrap();
    let mut wanted = String::new();
    for line in dump.lines().map_while(|l| l.strip_prefix("  ")) {
        writeln!(wanted, "{line}").unwrap();
    }
    let folder = leaf.parent().unwrap();
    let output = command()
        .args(["dump", "--map", "leaf.img"])
        .current_dir(folder)
        .output();
    let ran = tool::ran(&output.unwrap()).done();
    assert_eq!(ran.out, wanted);

    let sb = superblock(&get(&leaf, 0, 2 * BLOCK));
    let root = Device::open(&root, Role::Root, Access::Read).unwrap();
    assert_eq!(
        root_samples::digest(&root, &sb.uuid).unwrap(),
        sb.root_digest
    );
}

/// Returns only the words, with N for each number.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for word in text.split_whitespace() {
        let digits = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let number = digits.strip_prefix("0x").unwrap_or(digits);
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_hexdigit());
        // "a" and "be" are words, not hex numbers; a word never begins with a digit.
        let is_number = is_number && digits.starts_with(|c: char| c.is_ascii_digit());
        let word = if is_number {
            word.replace(digits, "N")
        } else {
            word.to_owned()
        };
        plain.push_str(&word);
        plain.push(' ');
    }
    plain
}

#[test]
fn each_reason_is_explained() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../Documentation/troubleshooting.rst"
    );
    let raw = std::fs::read_to_string(path).unwrap();
    let page = plain(&raw);
    for reason in 1..=32 {
        // The second detail of unknown features is their class, and no class has the number 77.
        let detail = if reason == 3 { 1 } else { 77 };
        let e = Error::from_wire(reason, 1, detail).unwrap();
        let text = plain(&e.to_string());
        assert!(page.contains(text.trim()), "no '{text}'");
        let heading = format!("``{}`` ({}", reason_of(e), code_of(e));
        assert!(raw.contains(&heading), "no '{heading}'");
    }
    assert!(
        Error::from_wire(33, 1, 77).is_none(),
        "a new reason wants a place here"
    );
}

#[test]
fn a_wrong_digit_is_noticed() {
    let good = page();
    let table = &tables(&good)[0];
    for (from, to) in [
        ("00000050  00 80", "00000050  01 80"),
        ("000000a0  65 78", "000000a0  65 79"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        let image = shown(&bad);
        assert!(
            table.iter().any(|r| !means(&image[r.at..r.at + r.len], r)),
            "{to}"
        );
        assert!(choose(block(&image, 0), &[0; BLOCK]).is_err());
    }
}
