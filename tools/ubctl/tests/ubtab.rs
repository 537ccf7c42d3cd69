// SPDX-License-Identifier: GPL-2.0

//! `ubctl ubtab`, and the tool under the name of the generator.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use tool::{command, ran, ubctl, Folder};

#[test]
fn a_file_is_checked_and_each_wrong_line_named() {
    let f = Folder::new("ubtab");
    let file = f.path("ubtab");
    ubctl("ubtab {}", &[&file]).done();
    fs::write(
        &file,
        "web-01 /srv/gold.img /srv/web.leaf\njob none none ephemeral=1G\n",
    )
    .unwrap();
    let out = ubctl("ubtab {}", &[&file]).done().out;
    assert!(
        out.contains("/dev/unionblk/by-name/web-01") && out.contains("memory"),
        "{out}"
    );
    fs::write(&file, "a /srv/r /srv/l\n\nb /srv/r srv/l\nc /srv/r\n").unwrap();
    ubctl("ubtab {}", &[&file]).refused_after(3, &["line 3: the leaf", "line 4: it lacks"]);
    let ran = ubctl("--json ubtab {}", &[&file]);
    assert_eq!(ran.code, 3);
    let json = ran.json();
    assert_eq!(
        (&json["reason"], &json["errors"][1]["line"]),
        (&"ubtab".into(), &4.into())
    );
    assert_eq!(json["unions"][0]["unit"], "unionblk@a.service");
    let words = json["unions"][0]["command"].as_array().unwrap();
    assert_eq!(words[0], "create");
    ubctl("ubtab {}", &[&f.path("")]).refused(1, &["cannot read"]);
}

#[test]
fn the_tool_is_the_generator_under_its_name() {
    let f = Folder::new("generator");
    let name = f.path("unionblk-generator");
    symlink(command().get_program(), &name).unwrap();
    let (file, units) = (f.path("ubtab"), f.path("units"));
    fs::create_dir(&units).unwrap();
    let generate = || {
        let mut generator = Command::new(&name);
        generator
            .stdin(Stdio::null())
            .args([&units, &units, &units, &file]);
        ran(&generator.output().unwrap())
    };
    generate().done();
    assert_eq!(fs::read_dir(&units).unwrap().count(), 0);
    fs::write(&file, "a /srv/r /srv/l\nb\n").unwrap();
    generate().refused(1, &["ubtab, line 2: it lacks"]);
    let unit = fs::read_to_string(units.join("unionblk@a.service")).unwrap();
    let tool = command().get_program().to_owned();
    let line = format!("ExecStart={} create --root /srv/r", tool.to_string_lossy());
    assert!(unit.contains(&line), "{unit}");
    let none = Command::new(&name).output().unwrap();
    ran(&none).refused(2, &["three directories"]);
}

#[test]
fn the_page_has_every_option() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Documentation/ubtab.rst");
    let page = fs::read_to_string(page).unwrap();
    for option in ubctl::ubtab::OPTIONS.split(", ") {
        assert!(
            page.contains(&format!("``{option}")),
            "no {option} in ubtab.rst"
        );
    }
}
