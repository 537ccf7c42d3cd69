// SPDX-License-Identifier: GPL-2.0

//! `ubctl map`, on images.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tool::leaf::MetadataUnion;
use tool::{put, ubctl, Folder, MIB};
use ubcore::map::Base;

/// Makes a frozen leaf, and a leaf on it that is larger than the root: 40 MiB on 32 MiB.
fn stack(f: &Folder) -> (PathBuf, PathBuf, PathBuf) {
    let root = f.root("root", 32 * MIB);
    let (low, leaf) = (f.image("low", 16 * MIB), f.image("leaf", 16 * MIB));
    ubctl("format --root {} {}", &[&root, &low]).done();
    let mut u = MetadataUnion::attach(&root, &low);
    u.fill(0, 4096);
    u.fill(20_000, 100);
    u.commit();
    u.detach();
    ubctl("freeze {}", &[&low]).done();
    let line = "format --size 40M --root {} --layer {} {}";
    ubctl(line, &[&root, &low, &leaf]).done();
    let mut u = MetadataUnion::attach(&root, &leaf);
    u.fill(2048, 3000);
    u.fill(81_000, 8);
    // Slab 5 of 64 KiB, which the layer has, reads as zeroes.
    assert!(u.allocator.empty(&u.map, 5..6, Base::Zero).unwrap());
    u.commit();
    u.detach();
    (root, low, leaf)
}

/// Returns source, layer and length of each range, and checks that they have no gap.
fn ranges(json: &Value) -> Vec<(String, u64, u64)> {
    let mut end = 0;
    let mut all = Vec::new();
    for s in json["ranges"].as_array().unwrap() {
        assert_eq!(s["sector"], end);
        let sectors = s["sectors"].as_u64().unwrap();
        end += sectors;
        let source = s["source"].as_str().unwrap().to_owned();
        all.push((source, s["layer"].as_u64().unwrap_or(0), sectors));
    }
    assert_eq!(json["sectors"], end);
    all
}

#[test]
fn each_range_has_its_source() {
    let f = Folder::new("map");
    let (root, low, leaf) = stack(&f);
    let before = fs::read(&leaf).unwrap();
    let json = ubctl("map {} --json", &[&leaf]).done().json();
    let want = [
        ("layer", 1, 640),
        ("zero", 0, 128),
        ("layer", 1, 2048 - 768),
        ("leaf", 0, 3000),
        ("root", 0, 20_000 - 5048),
        ("layer", 1, 100),
        ("root", 0, 65_536 - 20_100),
        ("zero", 0, 81_000 - 65_536),
        ("leaf", 0, 8),
        ("zero", 0, 81_920 - 81_008),
    ];
    let want: Vec<_> = want.iter().map(|&(s, n, c)| (s.to_owned(), n, c)).collect();
    assert_eq!(ranges(&json), want);
    assert_eq!(
        (&json["version"], &json["is_union"]),
        (&1.into(), &false.into())
    );
    let source = |kind: &str| {
        let all = json["sources"].as_array().unwrap();
        let found = all.iter().find(|s| s["source"] == kind).unwrap();
        (found["sectors"].as_u64().unwrap(), found["name"].clone())
    };
    let name = |path: &Path| Value::from(path.to_str().unwrap());
    assert_eq!(source("leaf"), (3008, name(&leaf)));
    assert_eq!(source("layer"), (2020, name(&low)));
    assert_eq!(source("root"), (65_536 - 5048 - 100, name(&root)));
    assert_eq!(source("zero").0, 128 + 81_920 - 65_536 - 8);
    // Neither root nor data is needed.
    fs::remove_file(&root).unwrap();
    let again = ubctl("map {} --json", &[&leaf]).done().json();
    assert_eq!(again["ranges"], json["ranges"]);
    assert!(fs::read(&leaf).unwrap() == before);
}

#[test]
fn the_drawing_fits_its_width() {
    let f = Folder::new("map-width");
    let (_, low, leaf) = stack(&f);
    let text = ubctl("map {} --width 40", &[&leaf]).done().out;
    let lines: Vec<&str> = text.lines().collect();
    // 24 cells of 128 KiB in a row, 320 in all.
    assert!(lines[0].ends_with(": 40 MiB, 128 KiB a cell"), "{text}");
    let rows: Vec<&str> = lines[1..]
        .iter()
        .copied()
        .take_while(|l| !l.contains("SOURCE"))
        .collect();
    assert_eq!(rows.len(), 14, "{text}");
    let cells: String = rows.iter().map(|row| &row[12..]).collect();
    assert_eq!(cells.len(), 320);
    // 1 MiB of the layer, of whose zeroes no cell is full, and then the leaf.
    assert!(
        cells.starts_with(&("1".repeat(8) + &"#".repeat(12) + ".")),
        "{text}"
    );
    assert_eq!(cells.matches('1').count(), 8 + 1, "{text}");
    assert_eq!(cells.matches('+').count(), 1, "{text}");
    assert!(cells.ends_with("000"), "{text}");
    assert!(text.contains("#  leaf     1.5 MiB   3.7 %"), "{text}");
    for width in ["20", "33", "80", "200"] {
        let text = ubctl(&format!("map {{}} --width {width}"), &[&low])
            .done()
            .out;
        let drawing = text.lines().skip(1).take_while(|l| !l.contains("SOURCE"));
        let longest = drawing.map(|l| l.chars().count()).max().unwrap();
        assert!(longest <= width.parse().unwrap(), "{width}: {text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
    ubctl("map {} --width 19", &[&leaf]).refused(2, &["20.."]);
}

#[test]
fn a_layer_is_drawn_without_what_it_lies_on() {
    let f = Folder::new("map-layer");
    let (_, low, leaf) = stack(&f);
    let json = ubctl("map {} --json", &[&low]).done().json();
    let frozen = ranges(&json);
    assert_eq!(frozen[0], ("layer".to_owned(), 1, 4096));
    assert_eq!(frozen[1].0, "root");
    let sealed = f.path("sealed");
    ubctl("seal {} {} --stand-in", &[&low, &sealed]).done();
    let json = ubctl("map {} --json", &[&sealed]).done().json();
    let kinds: Vec<String> = ranges(&json).into_iter().map(|s| s.0).collect();
    assert_eq!(kinds, ["layer", "below", "layer", "below"]);
    // A layer in another place, by its identity, or one that stands for it.
    let (there, moved) = (f.path("there"), f.path("there/moved"));
    fs::create_dir(&there).unwrap();
    fs::rename(&low, &moved).unwrap();
    ubctl("map {}", &[&leaf]).refused(1, &["low", "No such file"]);
    let by_place = ubctl("map {} --in {} --json", &[&leaf, &there])
        .done()
        .json();
    let by_name = ubctl("map {} --layer {} --json", &[&leaf, &sealed])
        .done()
        .json();
    assert_eq!(by_place["ranges"], by_name["ranges"]);
    ubctl("map {} --in {}", &[&sealed, &there]).refused(2, &["--layer"]);
    fs::remove_dir_all(&there).unwrap();
}

#[test]
fn the_picture_is_written_whole_or_not_at_all() {
    let f = Folder::new("map-svg");
    let (_, low, leaf) = stack(&f);
    // A name that is no XML.
    let odd = f.path("a<&>\"b");
    fs::rename(&leaf, &odd).unwrap();
    let svg = f.path("map.svg");
    let json = ubctl("map {} --svg {} --json", &[&odd, &svg]).done().json();
    assert_eq!(json["svg"], svg.to_str().unwrap());
    let document = fs::read_to_string(&svg).unwrap();
    assert!(
        document.starts_with("<svg ") && document.ends_with("</svg>\n"),
        "{document}"
    );
    assert!(
        document.contains("a&lt;&amp;&gt;\"b: 40 MiB, 8 KiB a cell"),
        "{document}"
    );
    for title in [
        "leaf: 8 KiB from 39.5 MiB on",
        "zeroes: 1 MiB from 32 MiB on",
    ] {
        assert!(document.contains(title), "{title}: {document}");
    }
    ubctl("map {} --svg {}", &[&odd, &svg]).refused(3, &["exists already", "--force"]);
    ubctl("map {} --svg {} --force", &[&low, &svg]).done();
    assert!(fs::read_to_string(&svg).unwrap() != document);
    ubctl("map {} --svg /dev/null --force", &[&low]).refused(3, &["not a regular file"]);
    ubctl("map {} --force", &[&low]).refused(2, &["--svg"]);
}

#[test]
fn what_has_no_map_is_refused() {
    let f = Folder::new("map-refused");
    let (root, _, leaf) = stack(&f);
    ubctl("map {}", &[&root]).refused(3, &["not formatted"]);
    let missing = f.path("missing");
    ubctl("map {}", &[&missing]).refused(1, &["missing", "No such file"]);
    // Of another leaf.
    let other = f.image("other", 16 * MIB);
    ubctl("format --root {} {}", &[&root, &other]).done();
    ubctl("freeze {}", &[&other]).done();
    ubctl("map {} --layer {}", &[&leaf, &other]).refused(3, &["layer"]);
    put(&leaf, 0, &[7; 8192]);
    ubctl("map {}", &[&leaf]).refused(3, &["not formatted"]);
}
