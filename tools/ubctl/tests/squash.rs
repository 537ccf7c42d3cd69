// SPDX-License-Identifier: GPL-2.0

//! `ubctl squash`, `publish`, `diff` and `du`, on images. The oracle is an array of what each
//! sector reads as.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tool::leaf::MetadataUnion;
use tool::{get, put, ubctl, Folder, MIB};
use ubcore::error::Role;
use ubcore::geometry::Block;
use ubcore::map::Base;
use ubcore::plan::{self, Source};
use ubcore::sealed::open::SealedExtents;
use ubcore::stack::chain::StandIn;
use ubcore::stack::extent::{Content, Extents};
use ubcore::stack::source::NoLayers;
use ubctl::device::{Access, Device};
use ubctl::sealed::{self, DeviceReader};

const SECTORS: usize = 32768;

/// What a stack maps: the first byte of each sector; `None`: nothing.
type Oracle = Vec<Option<u8>>;

/// Writes `byte` to sectors, in the leaf and in the oracle.
fn fill(u: &mut MetadataUnion, oracle: &mut Oracle, sector: u64, count: u32, byte: u8) {
    u.write(sector, count);
    for at in sector..sector + u64::from(count) {
        let run = plan::read(&u.map, NoLayers, at, 1).next().unwrap();
        let Source::Leaf(to) = run.source else {
            panic!("{at} is not in the leaf");
        };
        u.device.write_at(to * 512, &[byte; 512]).unwrap();
        oracle[at as usize] = Some(byte);
    }
}

/// Discards slabs, which then read as zeroes.
fn discard(u: &mut MetadataUnion, oracle: &mut Oracle, slab: u32) {
    let g = *u.map.geometry();
    let slabs = slab..slab + 1;
    assert!(u.allocator.empty(&u.map, slabs, Base::Zero).unwrap());
    let start = g.slab_start(slab) as usize;
    oracle[start..start + g.slab_sectors() as usize].fill(Some(0));
}

/// Makes three frozen leaves on each other, with other slabs each.
fn three(f: &Folder) -> (PathBuf, [PathBuf; 3], Oracle) {
    let root = f.root("root", 16 * MIB);
    let mut oracle = vec![None; SECTORS];
    let layers = ["one", "two", "three"].map(|name| f.image(name, 12 * MIB));
    for (n, slab) in [(0, "64K"), (1, "16K"), (2, "256K")] {
        let mut line = format!("format --slab-size {slab} --root {{}}");
        let mut paths: Vec<&Path> = vec![&root];
        for layer in &layers[..n] {
            line += " --layer {}";
            paths.push(layer);
        }
        paths.push(&layers[n]);
        ubctl(&(line + " {}"), &paths).done();
        let mut u = MetadataUnion::attach(&root, &layers[n]);
        match n {
            0 => {
                fill(&mut u, &mut oracle, 3, 300, 1);
                fill(&mut u, &mut oracle, 20_000, 4000, 2);
                discard(&mut u, &mut oracle, 100);
            }
            1 => {
                fill(&mut u, &mut oracle, 200, 50, 3);
                // Part of zeroes, zeroes in the middle of data, and zeroes that are written.
                fill(&mut u, &mut oracle, 12_805, 7, 4);
                discard(&mut u, &mut oracle, 20_032 / 32);
                fill(&mut u, &mut oracle, 22_001, 70, 0);
            }
            _ => {
                fill(&mut u, &mut oracle, 0, 5, 5);
                fill(&mut u, &mut oracle, 20_045, 3, 6);
                fill(&mut u, &mut oracle, 32_760, 8, 7);
            }
        }
        u.commit();
        u.detach();
        ubctl("freeze {}", &[&layers[n]]).done();
    }
    (root, layers, oracle)
}

/// Returns what a sealed layer maps.
fn content(path: &Path) -> Oracle {
    let device = Device::open(path, Role::Root, Access::Read).unwrap();
    let header = sealed::open(&device, None).unwrap().header;
    let mut extents = SealedExtents::new(DeviceReader::new(&device), &header);
    let mut all = vec![None; header.union_sectors as usize];
    while let Some(e) = extents.next().unwrap() {
        for n in 0..e.sectors {
            let byte = match e.content {
                Content::Zero => 0,
                Content::Data(at) => {
                    let sector = get(path, (at + n) * 512, 512);
                    assert!(sector.iter().all(|&b| b == sector[0]));
                    sector[0]
                }
            };
            all[(e.first + n) as usize] = Some(byte);
        }
    }
    all
}

#[test]
fn layers_become_one_with_the_same_content() {
    let f = Folder::new("squash");
    let (root, [one, two, three], oracle) = three(&f);
    let before = [&one, &two, &three].map(|path| fs::read(path).unwrap());
    let out = f.path("out");
    let line = "squash {} {} {} {} --json";
    let said = ubctl(line, &[&one, &two, &three, &out]).done().json();
    assert!(content(&out) == oracle);
    let verified = ubctl("verify {} --json", &[&out]).done().json();
    for field in [
        "digest",
        "sectors",
        "extents",
        "data_sectors",
        "zero_sectors",
        "bytes",
    ] {
        assert_eq!(said[field], verified[field], "{field}");
    }
    assert_eq!(
        (&said["stands_for"], &verified["stand_in"]["layers"]),
        (&3.into(), &3.into())
    );
    // 50 and 32 sectors of the first, 3 of the first and of the second, 70, and 2 of 0 to 4.
    assert_eq!(said["hidden_sectors"], 50 + 32 + 70 + 2);
    let after = [&one, &two, &three].map(|path| fs::read(path).unwrap());
    assert!(before == after);

    // The same from sealed layers, mixed with leaves, and from squashed ones.
    let (first, low) = (f.path("first"), f.path("low"));
    ubctl("seal --stand-in {} {}", &[&one, &first]).done();
    ubctl("squash {} {} {}", &[&one, &two, &low]).done();
    let whole = fs::read(&out).unwrap();
    for layers in [&[&first, &two, &three][..], &[&low, &three]] {
        let again = f.path("again");
        let mut paths: Vec<&Path> = layers.iter().map(|p| p.as_path()).collect();
        paths.push(&again);
        let line = "squash --force".to_owned() + &" {}".repeat(paths.len());
        ubctl(&line, &paths).done();
        assert!(fs::read(&again).unwrap() == whole);
    }
    let plain = f.path("plain");
    let line = "squash --no-stand-in {} {} {} {}";
    ubctl(line, &[&one, &two, &three, &plain]).done();
    let text = ubctl("verify {}", &[&plain]).done().out;
    assert!(text.contains(said["digest"].as_str().unwrap()), "{text}");
    assert!(!text.contains("stands for"), "{text}");

    // It takes the place of the layers below a leaf that lies on them.
    let top = f.image("top", 8 * MIB);
    ubctl("format --root {} --layer {} {}", &[&root, &three, &top]).done();
    ubctl("freeze {}", &[&top]).done();
    let leaf = f.image("leaf", 8 * MIB);
    let on = |layer: &Path| {
        let line = "format --force --root {} --layer {} --layer {} {}";
        ubctl(line, &[&root, layer, &top, &leaf])
    };
    on(&plain).refused(3, &["top"]);
    on(&low).refused(3, &["top"]);
    on(&out).done();
    // A part of them, the lowest or not.
    let high = f.path("high");
    ubctl("squash {} {} {}", &[&two, &three, &high]).done();
    let line = "format --force --root {} --layer {} --layer {} --layer {} {}";
    ubctl(line, &[&root, &one, &high, &top, &leaf]).done();
    ubctl(line, &[&root, &low, &three, &top, &leaf]).done();
}

/// What `verify` proves of a layer that stands for others, and what it only repeats.
#[test]
fn a_claim_is_verified_against_the_layers() {
    let f = Folder::new("against");
    let (root, [one, two, three], _) = three(&f);
    let (out, plain) = (f.path("out"), f.path("plain"));
    ubctl("squash {} {} {}", &[&one, &two, &out]).done();
    ubctl("squash --no-stand-in {} {} {}", &[&one, &two, &plain]).done();
    let text = ubctl("verify {}", &[&out]).done().out;
    assert!(
        text.contains("2 layers, not verified: use --against"),
        "{text}"
    );
    let line = "verify {} --against {} --against {}";
    let text = ubctl(line, &[&out, &one, &two]).done().out;
    assert!(text.contains("2 layers, verified with --against"), "{text}");
    assert!(text.contains("the content of "), "{text}");
    let against = |layer: &Path, layers: [&Path; 2]| {
        let ran = ubctl(&format!("{line} --json"), &[layer, layers[0], layers[1]]);
        let json = ran.json();
        let place = json["against"]["same_place"].as_bool();
        (json["reason"].as_str().map(str::to_owned), place)
    };
    assert_eq!(against(&plain, [&one, &two]), (None, None));
    let other = Some("other_content".to_owned());
    assert_eq!(against(&out, [&two, &three]), (other.clone(), Some(false)));
    // In an order in which they were not made.
    assert_eq!(
        against(&out, [&two, &one]).0,
        Some("wrong_layer".to_owned())
    );

    // The claim of another layer, beside this content. Nothing but the comparison shows it.
    let lie = f.path("lie");
    ubctl("seal {} {}", &[&three, &lie]).done();
    let digest = |path: &Path| get(path, 160, 32).try_into().unwrap();
    let mut block: Block = get(&out, 4096, 4096).try_into().unwrap();
    let claim = StandIn::decode(&block, &digest(&out)).unwrap().unwrap();
    claim.encode(&digest(&lie), &mut block);
    put(&lie, 4096, &block);
    ubctl("verify {}", &[&lie]).done();
    assert_eq!(against(&lie, [&one, &two]), (other, Some(true)));
    ubctl(line, &[&lie, &one, &two]).refused_after(3, &["does not have the content of"]);

    // The content of a leaf, and the place of another with the same content.
    let twin = f.image("twin", 12 * MIB);
    ubctl("format --root {} {}", &[&root, &twin]).done();
    ubctl("freeze {}", &[&twin]).done();
    let empty = f.image("empty", 12 * MIB);
    ubctl("format --root {} {}", &[&root, &empty]).done();
    ubctl("freeze {}", &[&empty]).done();
    let sealed = f.path("empty.sealed");
    ubctl("seal --stand-in {} {}", &[&empty, &sealed]).done();
    ubctl("verify {} --against {}", &[&sealed, &empty]).done();
    let ran = ubctl("verify {} --against {}", &[&sealed, &twin]);
    ran.refused_after(3, &["stands for other layers"]);
}

#[test]
fn what_cannot_be_squashed_is_refused() {
    let f = Folder::new("squash-refused");
    let (root, [one, two, three], _) = three(&f);
    let out = f.path("out");
    let refused = |layers: &[&PathBuf], words: &[&str]| {
        let mut paths: Vec<&Path> = layers.iter().map(|p| p.as_path()).collect();
        paths.push(&out);
        let line = "squash".to_owned() + &" {}".repeat(paths.len());
        ubctl(&line, &paths).refused(3, words);
    };
    refused(&[&two, &one], &["layer ", "one", "not the one"]);
    refused(&[&one, &three], &["three", "made on 2 layers"]);
    refused(&[&root], &["root", "not formatted"]);
    let leaf = f.image("leaf", 8 * MIB);
    ubctl("format --root {} --layer {} {}", &[&root, &three, &leaf]).done();
    refused(&[&three, &leaf], &["leaf", "not frozen", "ubctl freeze"]);
    // Damaged data of a sealed layer does not become part of another.
    let sealed = f.path("sealed");
    ubctl("seal --stand-in {} {}", &[&one, &sealed]).done();
    put(&sealed, 2 * 4096 + 1600, b"rot");
    refused(
        &[&sealed, &two],
        &["sealed", "1 of 3 MiB of data are damaged", "ubctl verify"],
    );
    assert!(!out.exists());
    fs::write(&out, "kept").unwrap();
    refused(&[&one, &two], &["out exists already", "--force"]);
    let line = "squash --force {} {} {}";
    ubctl(line, &[&one, &two, &two]).refused(3, &["are one device or share sectors"]);
    assert_eq!(fs::read(&out).unwrap(), b"kept");
    ubctl(line, &[&one, &two, &f.path("no/out")]).refused(1, &["cannot create"]);
    ubctl("squash {}", &[&one]).refused(2, &["Usage"]);
}

/// Returns what a union on the root of [`three`] reads as.
fn image(root: &Path, oracle: &Oracle) -> Vec<u8> {
    let mut all = fs::read(root).unwrap();
    for (sector, byte) in all.chunks_mut(512).zip(oracle) {
        if let Some(byte) = byte {
            sector.fill(*byte);
        }
    }
    all
}

#[test]
fn a_stack_is_published_as_an_image() {
    let f = Folder::new("publish");
    let (root, [one, _, three], mut oracle) = three(&f);
    let out = f.path("out");
    let line = "publish --root {} --layer {} {} --json";
    let said = ubctl(line, &[&root, &three, &out]).done().json();
    assert!(fs::read(&out).unwrap() == image(&root, &oracle));
    assert_eq!(
        (&said["sectors"], &said["leaf"]),
        (&SECTORS.into(), &().into())
    );
    assert_eq!(said["layers"].as_array().unwrap().len(), 3);
    // The root has a number in each sector, and a unit of zeroes is a hole.
    let all = image(&root, &oracle);
    let units = all.chunks(4096).filter(|u| u.iter().any(|&b| b != 0));
    assert_eq!(said["written_sectors"], units.count() * 8);

    // So is all that no layer maps if there is no root.
    let (sealed, sparse) = (f.path("sealed"), f.path("sparse"));
    ubctl("squash {} {}", &[&three, &sealed]).done();
    let line = "publish --root none --layer {} {} --json";
    let said = ubctl(line, &[&sealed, &sparse]).done().json();
    let written = said["written_sectors"].as_u64().unwrap() as usize;
    let image_of_layer = fs::read(&sparse).unwrap();
    let data = image_of_layer
        .chunks(512)
        .filter(|s| s.iter().any(|&b| b != 0));
    let data = data.count();
    assert!((data..data + 100).contains(&written), "{written} of {data}");
    let blocks = fs::metadata(&sparse).unwrap().blocks() as usize;
    assert!(blocks < SECTORS / 2, "{blocks} sectors are allocated");

    let leaf = f.image("leaf", 8 * MIB);
    ubctl("format --root {} --layer {} {}", &[&root, &three, &leaf]).done();
    let mut u = MetadataUnion::attach(&root, &leaf);
    fill(&mut u, &mut oracle, 9000, 20, 9);
    let line = "publish --root {} --leaf {} {}";
    ubctl(line, &[&root, &leaf, &f.path("new")]).refused(4, &["in use"]);
    u.detach();
    ubctl(line, &[&root, &leaf, &out]).refused(3, &["out exists already", "--force"]);
    let line = "publish --force --root {} --leaf {} {}";
    let text = ubctl(line, &[&root, &leaf, &out]).done().out;
    assert!(text.contains("published and verified"), "{text}");
    assert!(fs::read(&out).unwrap() == image(&root, &oracle));

    let other = f.root("other", 16 * MIB);
    put(&other, 0, b"changed");
    ubctl(line, &[&other, &leaf, &out]).refused(3, &["root"]);
    let with = "publish --force --root {} --layer {} --leaf {} {}";
    ubctl(with, &[&root, &one, &leaf, &out]).refused(3, &["leaf", "made on 3 layers"]);
    ubctl(line, &[&root, &leaf, &root]).refused(3, &["are one device or share sectors"]);
    ubctl("publish --root {} {}", &[&root, &out]).refused(2, &["nothing lies on the root"]);
    assert!(fs::read(&out).unwrap() == image(&root, &oracle));
}

#[test]
fn differences_are_found_by_sector() {
    let f = Folder::new("diff");
    let (root, [one, two, three], oracle) = three(&f);
    let line = "diff --root {} {} {} --json";
    let same = ubctl(line, &[&root, &three, &three]).done().json();
    assert_eq!(
        (&same["sectors"], &same["ranges"]),
        (&0.into(), &Vec::<u8>::new().into())
    );
    // The oracle: the images of both.
    let images = [&two, &three].map(|layer| {
        let out = f.path("out");
        let line = "publish --force --root {} --layer {} {}";
        ubctl(line, &[&root, layer, &out]).done();
        fs::read(out).unwrap()
    });
    assert!(images[1] == image(&root, &oracle));
    let both = images[0].chunks(512).zip(images[1].chunks(512));
    let wanted: Vec<u64> = (0..)
        .zip(both)
        .filter(|(_, (a, b))| a != b)
        .map(|(n, _)| n)
        .collect();
    let said = ubctl(line, &[&root, &two, &three]).done().json();
    let mut found = Vec::new();
    for range in said["ranges"].as_array().unwrap() {
        let [first, count] = ["sector", "sectors"].map(|field| range[field].as_u64().unwrap());
        found.extend(first..first + count);
    }
    assert_eq!(found, wanted);
    assert_eq!(said["bytes"], wanted.len() * 512);
    assert_eq!(wanted.len(), 5 + 3 + 8);
    let text = ubctl("diff --root {} {} {}", &[&root, &two, &three])
        .done()
        .out;
    assert!(text.contains("16 sectors (8192 bytes) differ"), "{text}");

    // A squashed layer reads as the layers, wherever these are.
    let sealed = f.path("sealed");
    ubctl("squash {} {} {}", &[&one, &two, &sealed]).done();
    let folder = f.path("");
    let moved = f.path("moved");
    fs::rename(&one, &moved).unwrap();
    let line = "diff --root {} --in {} {} {} --json";
    let said = ubctl(line, &[&root, &folder, &two, &sealed]).done().json();
    assert_eq!(said["sectors"], 0);
    ubctl("diff --root {} {} {}", &[&root, &two, &sealed]).refused(1, &["No such file"]);
}

/// Moves files to a new directory, which is returned.
fn moved(f: &Folder, name: &str, files: &[&Path]) -> std::path::PathBuf {
    let folder = f.path(name);
    fs::create_dir(&folder).unwrap();
    for file in files {
        fs::rename(file, folder.join(file.file_name().unwrap())).unwrap();
    }
    folder
}

#[test]
fn what_lies_below_is_found_by_publish() {
    let f = Folder::new("publish-found");
    let (root, [one, two, three], oracle) = three(&f);
    let leaf = f.image("leaf", 8 * MIB);
    ubctl("format --root {} --layer {} {}", &[&root, &three, &leaf]).done();
    let wanted = image(&root, &oracle);
    let out = f.path("out");
    let is_published = |line: &str, paths: &[&Path]| {
        let said = ubctl(line, paths).done().json();
        assert!(fs::read(&out).unwrap() == wanted, "{line}");
        said
    };
    let said = is_published("publish --json --leaf {} {}", &[&leaf, &out]);
    assert_eq!(said["root"], root.to_str().unwrap());
    is_published("publish --json --force --layer {} {}", &[&three, &out]);
    let sealed = f.path("sealed");
    ubctl("squash {} {} {} {}", &[&one, &two, &three, &sealed]).done();
    let of_sealed = "publish --force --layer {} {}";
    ubctl(of_sealed, &[&sealed, &out]).refused(2, &["name the root with --root"]);

    // Devices that have moved are found in a place. If two could be meant, the command is refused.
    let place = moved(&f, "place", &[&root, &one, &two, &three]);
    let gone = "publish --force --leaf {} {}";
    ubctl(gone, &[&leaf, &out]).refused(1, &["made on a root", "--in"]);
    is_published(
        "publish --json --force --in {} --leaf {} {}",
        &[&place, &leaf, &out],
    );
    let line = "publish --force --in {} --leaf {} {}";
    let of_layer = "publish --json --force --in {} --layer {} {}";
    is_published(
        of_layer,
        &[&place, &place.join(three.file_name().unwrap()), &out],
    );
    let empty = moved(&f, "empty", &[]);
    ubctl(line, &[&empty, &leaf, &out]).refused(3, &["root", "in none of the places"]);
    fs::copy(place.join(two.file_name().unwrap()), place.join("copy")).unwrap();
    ubctl(line, &[&place, &leaf, &out]).refused(3, &["layer 2", "could be each of"]);
    fs::remove_file(place.join("copy")).unwrap();
    fs::copy(place.join(root.file_name().unwrap()), place.join("copy")).unwrap();
    ubctl(line, &[&place, &leaf, &out]).refused(3, &["the root", "could be each of"]);
    assert!(fs::read(&out).unwrap() == wanted);
}

#[test]
fn what_lies_below_is_found_by_diff() {
    let f = Folder::new("diff-found");
    let (root, [one, two, three], _) = three(&f);
    let line = "diff {} {} --json";
    let differ = |line: &str, paths: &[&Path]| ubctl(line, paths).done().json()["sectors"].clone();
    assert_eq!(differ(line, &[&two, &three]), 16);
    let sealed = f.path("sealed");
    ubctl("squash {} {} {}", &[&one, &two, &sealed]).done();
    assert_eq!(differ(line, &[&two, &sealed]), 0);
    assert_eq!(differ(line, &[&sealed, &three]), 16);
    let other = f.path("other");
    ubctl("squash {} {}", &[&one, &other]).done();
    let line = "diff {} {}";
    ubctl(line, &[&sealed, &other]).refused(2, &["sealed", "name the root with --root"]);
    let line = "diff {} {} --json";
    let of_two_roots = f.path("root-2");
    fs::copy(&root, &of_two_roots).unwrap();
    put(&of_two_roots, 8 * MIB, b"another root");
    let leaf = f.image("leaf", 8 * MIB);
    let leaf_2 = f.image("leaf-2", 8 * MIB);
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    ubctl("format --root {} {}", &[&of_two_roots, &leaf_2]).done();
    assert_eq!(differ(line, &[&leaf, &leaf_2]), 1);
    assert_eq!(differ(line, &[&leaf, &leaf]), 0);

    let place = moved(&f, "place", &[&root, &one]);
    ubctl("diff {} {}", &[&two, &three]).refused(1, &["made on a root", "--in"]);
    let line = "diff --in {} {} {}";
    let json = "diff --in {} {} {} --json";
    // Devices that have not moved are found where they were: the second layer, and then the root.
    assert_eq!(differ(json, &[&place, &two, &three]), 16);
    fs::rename(place.join(root.file_name().unwrap()), &root).unwrap();
    assert_eq!(differ(json, &[&place, &two, &three]), 16);
    // Another root or layer there is not taken.
    fs::rename(&two, place.join("two")).unwrap();
    fs::rename(&root, place.join("root")).unwrap();
    fs::rename(place.join(one.file_name().unwrap()), f.path("away")).unwrap();
    fs::copy(&leaf, &one).unwrap();
    let gone = ["layer 1, which was ", "nor where it was"];
    ubctl(line, &[&place, &place.join("two"), &three]).refused(3, &gone);
    fs::rename(f.path("away"), place.join("one")).unwrap();
    fs::copy(&of_two_roots, &root).unwrap();
    put(&root, 0, b"another root");
    fs::rename(place.join("root"), f.path("away")).unwrap();
    let gone = ["the root: ", "nor where it was"];
    ubctl(line, &[&place, &place.join("two"), &three]).refused(3, &gone);
    fs::rename(f.path("away"), place.join("root")).unwrap();
    assert_eq!(differ(json, &[&place, &place.join("two"), &three]), 16);
    fs::copy(place.join("two"), place.join("copy")).unwrap();
    ubctl(line, &[&place, &place.join("two"), &three]).refused(3, &["could be each of"]);
}

#[test]
fn what_layers_hold_is_counted() {
    let f = Folder::new("du");
    let (root, [one, two, three], oracle) = three(&f);
    let line = "du {} {} {} --json";
    let said = ubctl(line, &[&one, &two, &three]).done().json();
    let of = |n: usize, field: &str| said["layers"][n][field].as_u64().unwrap();
    let held = [0, 1, 2].map(|n| (of(n, "data_sectors"), of(n, "zero_sectors")));
    assert_eq!(held, [(4300, 128), (127, 32), (16, 0)]);
    // 2 of the first 300 are hidden by the highest, 50, 32 and 70 by the second.
    assert_eq!(of(0, "visible_data_sectors"), 4300 - 2 - 50 - 32 - 70);
    assert_eq!(of(0, "visible_zero_sectors"), 128 - 7);
    assert_eq!(of(1, "visible_data_sectors"), 127);
    assert_eq!(of(1, "visible_zero_sectors"), 32 - 3);
    assert_eq!(of(2, "visible_data_sectors"), 16);
    let visible = oracle.iter().flatten().count() as u64;
    let sum = ["visible_data_sectors", "visible_zero_sectors"].map(|f| said[f].as_u64().unwrap());
    assert_eq!(sum[0] + sum[1], visible);
    assert!(of(0, "space_sectors") > 4300 && of(0, "space_sectors") < 12 * 2048);
    let sealed = f.path("sealed");
    let bytes = ubctl("seal {} {} --json", &[&one, &sealed]).done().json()["bytes"].clone();
    let said = ubctl("du {} --json", &[&sealed]).done().json();
    assert_eq!(said["layers"][0]["kind"], "sealed");
    assert_eq!(said["space_sectors"], bytes.as_u64().unwrap() / 512);
    let text = ubctl("du {}", &[&sealed]).done().out;
    assert!(text.contains("VISIBLE ZEROES"), "{text}");
    ubctl("du {}", &[&root]).refused(3, &["not formatted"]);
}
