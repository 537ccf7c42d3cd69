// SPDX-License-Identifier: GPL-2.0

//! Compares the table of the status's fields with the pages and the device test that name the same
//! fields. `UPDATE=1 cargo test -p ubctl status::` writes the fields anew into
//! `Documentation/status.rst`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use ubctl::commands::status::fields::{Field, Twin, FIELDS, SYSFS_ONLY};
use ubctl::commands::status::text::LINES;

/// The line of the page behind which the fields begin.
const MARK: &str =
    ".. The fields, from the table in tools/ubctl/src/commands/status/fields.rs:\n\n";
/// The greatest length of a line of the page.
const WIDTH: usize = 80;

type Names = BTreeSet<String>;

fn place(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(place(file)).unwrap()
}

fn names<'a>(list: impl IntoIterator<Item = &'a str>) -> Names {
    list.into_iter().map(str::to_owned).collect()
}

/// Returns the part of a text behind `from`, up to `to`.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap();
    rest.split_once(to).unwrap().0
}

/// Returns the files in sysfs.
fn sysfs() -> Names {
    let files = FIELDS.iter().filter_map(|f| f.sysfs.name(f.name));
    names(files.chain(SYSFS_ONLY))
}

/// Returns words in lines with an indent.
fn wrap(text: &str) -> String {
    let mut out = String::new();
    let mut line = String::from(" ");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            writeln!(out, "{line}").unwrap();
            " ".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    out + &line + "\n"
}

/// Returns a field's entry of the page.
fn entry(f: &Field) -> String {
    let mut head = format!("``{}`` ({}", f.name, f.unit);
    if !f.line.is_empty() {
        write!(head, "; text: {}", f.line).unwrap();
    }
    for (interface, twin) in [("ioctl", f.abi), ("sysfs", f.sysfs)] {
        match twin {
            Twin::None => {}
            Twin::Same => write!(head, "; {interface}").unwrap(),
            Twin::As(name) => write!(head, "; {interface}: ``{name}``").unwrap(),
        }
    }
    format!("{head})\n{}", wrap(f.meaning))
}

#[test]
fn the_page_has_every_field() {
    let file = "Documentation/status.rst";
    let page = read(file);
    let (head, found) = page.split_once(MARK).unwrap();
    let entries: Vec<String> = FIELDS.iter().map(entry).collect();
    let wanted = entries.join("\n");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(place(file), format!("{head}{MARK}{wanted}")).unwrap();
        return;
    }
    assert!(
        found == wanted,
        "{file} is not as the table: write it anew with UPDATE=1, and look at the difference"
    );
}

#[test]
fn names_are_unique_and_each_line_shows_a_field() {
    let all = names(FIELDS.iter().map(|f| f.name));
    assert_eq!(all.len(), FIELDS.len());
    let shown = names(FIELDS.iter().map(|f| f.line).filter(|l| !l.is_empty()));
    assert_eq!(shown, names(LINES.iter().map(|(label, _)| *label)));
}

/// Returns the fields that the driver fills.
fn driver() -> Names {
    names(FIELDS.iter().filter_map(|f| f.abi.name(f.name)))
}

#[test]
fn every_field_of_the_driver_is_shown() {
    // The test of the ABI checks that this program has every field of the structure.
    let pin = read("tests/abi/pin.c");
    let all = pin.lines().filter_map(|l| {
        let name = l.trim().strip_prefix("FIELD(status, ")?;
        name.strip_suffix(");")
    });
    let found = all.filter(|name| !["size", "flags", "reserved0", "reserved1"].contains(name));
    assert_eq!(names(found), driver());
}

#[test]
fn the_page_of_the_ioctl_has_the_fields_of_the_driver() {
    let page = read("Documentation/ioctl.rst");
    let section = between(&page, "\nUNIONBLK_IOC_STATUS\n", "\nUNIONBLK_IOC_LOST\n");
    let rule = "====================  ====";
    let table = section.split(rule).nth(1).unwrap();
    // The first column has the names, and is empty where a meaning continues.
    let found = table
        .lines()
        .filter(|l| l.starts_with(char::is_alphabetic))
        .flat_map(|l| l[..20].split(',').map(str::trim));
    assert_eq!(names(found.filter(|name| *name != "flags")), driver());
}

#[test]
fn the_pages_of_sysfs_have_the_same_files() {
    let page = read("Documentation/ABI/testing/sysfs-block-unionblk");
    let folder = "What:\t\t/sys/block/unionblk<N>/union/";
    let found = page.lines().filter_map(|l| l.strip_prefix(folder));
    assert_eq!(names(found.filter(|f| !f.is_empty())), sysfs());

    let page = read("Documentation/admin.rst");
    let example = between(&page, "/union; grep '' *\n", "\n\n");
    let found = example.lines().map(|l| l.trim().split_once(':').unwrap().0);
    assert_eq!(names(found), sysfs());
}

#[test]
fn the_example_of_the_text_has_the_lines() {
    let page = read("Documentation/admin.rst");
    let example = between(&page, "# ubctl status unionblk0\n  unionblk0\n", "\n\n");
    let found: Vec<&str> = example
        .lines()
        .map(|l| l.trim().split("  ").next().unwrap())
        .collect();
    let labels = LINES.iter().map(|(label, _)| *label);
    // The union of the example has all of its sectors and no layers, and its leaf is not an image.
    let others = ["lost", "host", "layers"];
    let wanted: Vec<&str> = labels.filter(|l| !others.contains(l)).collect();
    assert_eq!(found, wanted);
}

#[test]
fn the_device_test_compares_every_file_of_sysfs() {
    let test = read("tests/vm/unionblk/027").replace("\\\n", "");
    let list = between(&test, "for f in ", "; do");
    let same = FIELDS.iter().filter(|f| f.sysfs == Twin::Same);
    assert_eq!(names(list.split_whitespace()), names(same.map(|f| f.name)));
    // Each of the others is read by itself.
    for f in FIELDS {
        if let Twin::As(file) = f.sysfs {
            assert!(test.contains(&format!("$(_of {file})")), "{file}");
        }
    }
    let files = between(&test, "_is \"files\"", "_is \"modes\"");
    let (_, files) = files.split_once(" && echo *)\" \"").unwrap();
    let files = files.trim_end().trim_end_matches('"');
    assert_eq!(names(files.split_whitespace()), sysfs());
}
