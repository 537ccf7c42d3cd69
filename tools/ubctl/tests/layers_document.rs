// SPDX-License-Identifier: GPL-2.0

//! Checks the example with layers in `Documentation/on-disk-example.rst`. The tests run the
//! commands on the page again, with the core in place of the driver, and compare each field that is
//! not random with the tables; and compute the chains from the bytes on the page. With `UPDATE=1`
//! the first test writes the bytes of its run into the page, with `/srv` as the directory.

use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use map_memory::sha256::Sha256;
use tool::leaf::MetadataUnion;
use tool::{get, put, ubctl, Folder, MIB};
use ubcore::format::below_list::{self, Listed};
use ubcore::format::crc::block_crc;
use ubcore::format::superblock::{choose, Superblock};
use ubcore::geometry::Block;
use ubcore::sealed::header::Header;
use ubcore::stack::chain::{ChainId, LayerId, StandIn};

use super::document::{check_table, means, shown, tables, Row, PAGE};
use super::sealed_document::dump;

const BLOCK: usize = 4096;
const BASE: &str = "superblock of base.leaf";
const TOP: &str = "superblock of top.leaf";
const LIST: &str = "list of top.leaf";
const RECORD: &str = "stand-in record of both.sealed";
/// The block of the list.
const LIST_BLOCK: usize = 24;
/// Fields that are random, or depend on one that is. `identity` is checked apart.
const RANDOM: [&str; 8] = [
    "crc",
    "uuid",
    "nonce",
    "root_digest",
    "seal",
    "chain",
    "identity",
    "after",
];

/// Returns the page before a part, the part, and the page behind it.
fn split<'a>(page: &'a str, what: &str) -> (&'a str, &'a str, &'a str) {
    let (before, rest) = page
        .split_once(&format!(".. The {what} begins here\n"))
        .unwrap();
    let (part, after) = rest
        .split_once(&format!(".. The {what} ends here\n"))
        .unwrap();
    (before, part, after)
}

/// Returns a block as the page shows it, and its table.
fn part(page: &str, what: &str, block: usize) -> (Block, Vec<Row>) {
    let (_, part, _) = split(page, what);
    let bytes = &shown(part)[block * BLOCK..(block + 1) * BLOCK];
    let table = tables(part).pop().unwrap();
    (bytes.try_into().unwrap(), table)
}

fn page() -> String {
    fs::read_to_string(PAGE).unwrap()
}

/// Runs the commands on the page. Returns the root and the three files that it shows.
fn make(f: &Folder) -> [PathBuf; 3] {
    let root = f.image("root.img", 16 * MIB);
    put(&root, 0, b"golden");
    let leaf = |name: &str| f.image(&format!("{name}.leaf"), 8 * MIB);
    let [base, step, top] = ["base", "step", "top"].map(leaf);
    let format = |below: &[&Path], name: &str, leaf: &Path| {
        let layers = "--layer {} ".repeat(below.len());
        let line = format!("format --root {{}} {layers} --name {name} --grow-to 8M {{}}");
        ubctl(&line, &[&[&*root], below, &[leaf]].concat()).done();
    };
    let fill = |leaf: &Path, sector| {
        let mut union = MetadataUnion::attach(&root, leaf);
        // The driver does this at an attach.
        let (map, device) = (&union.map, &mut union.device);
        union.committer.checkpoint(map, device).unwrap();
        union.fill(sector, 1);
        union.detach();
    };
    format(&[], "base", &base);
    fill(&base, 40);
    ubctl("freeze {}", &[&base]).done();
    format(&[&base], "step", &step);
    fill(&step, 48);
    let sealed = f.path("step.sealed");
    ubctl("seal {} {}", &[&step, &sealed]).done();
    format(&[&base, &sealed], "top", &top);
    let both = f.path("both.sealed");
    ubctl("squash {} {} {}", &[&base, &sealed, &both]).done();
    [base, top, both]
}

/// Makes the paths of a list begin with `/srv`, as on the page.
fn in_srv(f: &Folder, list: &mut Block) {
    let folder = f.path("");
    let folder = folder.as_os_str().as_bytes();
    let folder = folder.strip_suffix(b"/").unwrap();
    for path in list[40..].chunks_mut(312).map(|entry| &mut entry[48..304]) {
        if let Some(rest) = path.strip_prefix(folder) {
            let mut new = [b"/srv", rest].concat();
            new.resize(path.len(), 0);
            path.copy_from_slice(&new);
        }
    }
    let crc = block_crc(list, 4).unwrap();
    list[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Returns the value of a field as the page has it.
fn value(row: &Row, bytes: &[u8]) -> String {
    let hex: String = bytes.iter().fold(String::new(), |mut s, b| {
        write!(s, "{b:02x}").unwrap();
        s
    });
    let number = || {
        let (low, high) = bytes.split_at(bytes.len().min(8));
        assert!(high.iter().all(|&b| b == 0), "{}", row.field);
        let mut word = [0; 8];
        word[..low.len()].copy_from_slice(low);
        u64::from_le_bytes(word)
    };
    match row.field.as_str() {
        _ if bytes.iter().all(|&b| b == 0) => "0".to_owned(),
        "magic" | "name" | "path" => {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            text.trim_end_matches('\0').to_owned()
        }
        "uuid" => {
            let cuts = [0..8, 8..12, 12..16, 16..20, 20..32];
            cuts.map(|at| &hex[at]).join("-")
        }
        "root_digest" | "identity" | "seal" | "chain" | "digest" | "below" | "after" => hex,
        "crc" | "nonce" => format!("{:#x}", number()),
        _ => number().to_string(),
    }
}

/// Writes a block and its table into the page.
fn update(what: &str, block: usize, bytes: &Block, table: &[Row]) {
    let page = page();
    let (before, _, after) = split(&page, what);
    let end = table.last().map(|row| row.at + row.len).unwrap();
    let rule = "======  =====  ==================  ============================================";
    let mut rows = String::new();
    for row in table {
        let value = value(row, &bytes[row.at..row.at + row.len]);
        let (first, more) = value.split_at(value.len().min(36));
        let (first, more) = match value.len() {
            64 => value.split_at(32),
            _ => (first, more),
        };
        let (at, len, field) = (row.at, row.len, &row.field);
        writeln!(rows, "{at:#05x}   {len:<7}{field:<20}{first}").unwrap();
        if !more.is_empty() {
            writeln!(rows, "{:35}{more}", "").unwrap();
        }
    }
    let part = format!(
        ".. The {what} begins here\n\n::\n\n{}\n{rule}\n\
         Offset  Bytes  Field               Value\n{rule}\n{rows}{rule}\n\n.. The {what} ends here\n",
        dump(block * BLOCK, &bytes[..end])
    );
    fs::write(PAGE, format!("{before}{part}{after}")).unwrap();
}

#[test]
fn the_example_with_layers_is_what_the_tool_writes() {
    let f = Folder::new("layers-document");
    let [base, top, both] = make(&f);
    let read = |path: &Path, block: usize| -> Block {
        let bytes = get(path, (block * BLOCK) as u64, BLOCK);
        bytes.try_into().unwrap()
    };
    for leaf in [&base, &top] {
        assert!(read(leaf, 0) == read(leaf, 1));
    }
    let mut list = read(&top, LIST_BLOCK);
    in_srv(&f, &mut list);
    let page = page();
    for (what, block, wrote) in [
        (BASE, 0, read(&base, 0)),
        (TOP, 0, read(&top, 0)),
        (LIST, LIST_BLOCK, list),
        (RECORD, 1, read(&both, 1)),
    ] {
        let (bytes, table) = part(&page, what, block);
        if std::env::var_os("UPDATE").is_some() {
            update(what, block, &wrote, &table);
            continue;
        }
        let bytes_of_table = table.last().map(|row| row.at + row.len).unwrap();
        check_table(&table, &bytes, bytes_of_table);
        for row in table.iter().filter(|row| !RANDOM.contains(&&*row.field)) {
            let wrote = &wrote[row.at..row.at + row.len];
            assert!(means(wrote, row), "{what}: {}: {wrote:02x?}", row.field);
        }
        // The digest of a sealed layer is not random.
        if what == LIST {
            let identity = |block: &Block| block[40 + 2 * 312 + 16..][..32].to_vec();
            assert_eq!(identity(&wrote), identity(&bytes));
        }
    }
}

fn superblock(bytes: &Block) -> Superblock {
    let (superblock, _) = choose(bytes, bytes).unwrap();
    superblock
}

/// What the text says of the blocks, and how they belong together.
#[test]
fn the_example_with_layers_is_one_stack() {
    let page = page();
    let [base, top] = [BASE, TOP].map(|what| superblock(&part(&page, what, 0).0));
    assert_eq!((base.features.ro_compat, base.clean), (1, true));
    assert_eq!(base.chain, ChainId::BOTTOM);
    let frozen = LayerId::Frozen(base.uuid, base.frozen.unwrap());

    assert_eq!(top.geometry.layers(), 2);
    assert_eq!(top.geometry.below_list_block(0).0 as usize, LIST_BLOCK);
    assert_eq!(top.directory_slot(0), Ok(None));
    let (list, _) = part(&page, LIST, LIST_BLOCK);
    let mut found = Vec::new();
    below_list::decode(&list, 0, &top, |listed| found.push(listed)).unwrap();
    let [Listed::Root(root), Listed::Layer(low), Listed::Layer(high)] = found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(root.digest, top.root_digest);
    assert_eq!(low.id, frozen);
    assert_eq!(
        (low.path(), high.path()),
        (&b"/srv/base.leaf"[..], &b"/srv/step.sealed"[..])
    );
    assert!(matches!(high.id, LayerId::Sealed(_)));
    let chain = ChainId::BOTTOM.with::<Sha256>(&low.id);
    assert_eq!(top.chain, chain.with::<Sha256>(&high.id));

    let (record, _) = part(&page, RECORD, 1);
    let digest = record[16..48].try_into().unwrap();
    let stand_in = StandIn::decode(&record, &digest).unwrap().unwrap();
    assert_eq!(stand_in.below, ChainId::BOTTOM);
    assert_eq!((stand_in.after, stand_in.layers), (top.chain, 2));

    // The digest depends on the content alone, and the header of a new run has it too.
    let f = Folder::new("layers-document-stack");
    let [_, _, both] = make(&f);
    let header = get(&both, 0, BLOCK).try_into().unwrap();
    assert_eq!(Header::decode(&header).unwrap().digest, digest);
}
