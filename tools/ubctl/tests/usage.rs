// SPDX-License-Identifier: GPL-2.0

//! Checks the command line: help, wrong words, errors in JSON, a closed pipe, no module.

use std::path::Path;
use std::process::Stdio;
use tool::{command, ran, ubctl, Folder, MIB};

#[test]
fn help_names_the_commands_the_exit_codes_and_examples() {
    let help = ubctl("--help", &[]).done().out;
    for word in [
        "format", "create", "remove", "list", "status", "dump", "check", "seal", "squash",
        "publish", "diff", "du", "verify", "--json",
    ] {
        assert!(help.contains(word), "no {word} in {help}");
    }
    for line in [
        "Exit codes (check has its own, see its --help):\n  0  done\n  1  failed",
        "\n  2  the command line is wrong",
        "\n  3  refused: not formatted, wrong root or layer, newer version, damaged,\n     looks used",
        "\n  4  busy",
        "ubctl create --root /dev/vda --leaf /dev/vdb --format",
    ] {
        assert!(help.contains(line), "no {line} in {help}");
    }
    let usage = |command: &str| {
        let help = ubctl(&format!("{command} --help"), &[]).done().out;
        help.lines()
            .find(|l| l.starts_with("Usage: "))
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        usage("format"),
        "Usage: ubctl format [OPTIONS] --root <ROOT> <LEAF>"
    );
    assert_eq!(
        usage("create"),
        "Usage: ubctl create [OPTIONS] --leaf <LEAF>"
    );
    assert_eq!(usage("remove"), "Usage: ubctl remove [OPTIONS] [UNIONS]...");
    assert_eq!(usage("list"), "Usage: ubctl list [OPTIONS]");
    assert_eq!(usage("status"), "Usage: ubctl status [OPTIONS] [UNION]");
    assert_eq!(usage("dump"), "Usage: ubctl dump [OPTIONS] <LEAF>");
    // The options of every command are not among a command's own.
    let help = ubctl("remove --help", &[]).done().out;
    let (own, global) = help.split_once("\nOptions of every command:\n").unwrap();
    for (part, option) in [(own, "--all"), (global, "--json"), (global, "--no-wait")] {
        let other = if part == own { global } else { own };
        assert!(part.contains(option) && !other.contains(option), "{help}");
    }
    assert_eq!(usage("seal"), "Usage: ubctl seal [OPTIONS] <LEAF> <OUT>");
    assert_eq!(
        usage("squash"),
        "Usage: ubctl squash [OPTIONS] <LAYER>... <OUT>"
    );
    assert_eq!(usage("verify"), "Usage: ubctl verify [OPTIONS] <WHAT>");
    assert!(ubctl("--version", &[]).done().out.starts_with("ubctl "));
}

#[test]
fn wrong_command_lines_are_reported() {
    for (line, word) in [
        ("", "Usage: ubctl"),
        ("frobnicate", "frobnicate"),
        ("format /dev/null", "--root"),
        ("format --root a", "LEAF"),
        (
            "format --root a b --slab-size 8K",
            "power of two from 16K to 4M",
        ),
        (
            "format --root a b --slab-size 48K",
            "power of two from 16K to 4M",
        ),
        ("format --root a b --slab-size 1X", "unknown unit"),
        (
            "format --root a b --journal-size 4K",
            "multiple of 4K from 64K to 256M",
        ),
        ("format --root a b --name a/b", "A-Z a-z 0-9"),
        ("format --root a b --name web-part1", "-partN"),
        ("format --root a b --name unionblk3", "union's number"),
        ("format --root a b --size 1000", "multiple of 512"),
        ("create --root a", "--leaf"),
        ("create --root a --leaf b --ephemeral 4M", "--leaf"),
        ("create --root a --ephemeral 4M --format", "--format"),
        ("create --root a --ephemeral 4M --force", "--force"),
        ("create --root a --ephemeral 4M --read-only", "--read-only"),
        ("create --root a --ephemeral 4M --grow-to 8M", "--grow-to"),
        ("create --ephemeral 4M --in a", "--in"),
        ("create --root a --ephemeral much", "unknown unit"),
        ("create --root a --leaf b --size 1M", "--format"),
        ("create --root a --leaf b --force", "--format"),
        ("create --root a --leaf b --slab-size 64K", "--format"),
        ("create --root a --leaf b --dry-run", "--format"),
        ("create --root a --ephemeral 4M --dry-run", "--dry-run"),
        ("create --root a --leaf b --id 4294967295", "4294967295"),
        ("remove", "UNIONS"),
        ("seal a", "OUT"),
        ("du", "LAYER"),
        ("diff a", "<B>"),
        ("publish x", "--leaf"),
        ("squash a", "OUT"),
        ("verify a@1K", "multiple of 4K"),
        ("remove --all unionblk0", "--all"),
        ("remove unionblk0 --except-ubtab", "--except-ubtab"),
    ] {
        ubctl(line, &[]).refused(2, &[word]);
    }
    let ran = ubctl("remove --json", &[]);
    assert_eq!((ran.code, &ran.json()["reason"]), (2, &"usage".into()));
    assert_eq!(ran.json()["code"], 2);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let f = Folder::new("pipe");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 6 * MIB));
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(reader);
    let mut command = command();
    command
        .arg("dump")
        .arg(&leaf)
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(writer)))
        .stderr(Stdio::piped());
    let ran = ran(&command.output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn without_the_module_the_message_says_to_load_it() {
    if Path::new("/dev/unionblk-control").exists() {
        eprintln!("skipped: the module is loaded here");
        return;
    }
    for line in [
        "list",
        "status",
        "status unionblk0",
        "remove 0",
        "create --root a --leaf b --format",
    ] {
        ubctl(line, &[]).refused(
            1,
            &[
                "/dev/unionblk-control",
                "modprobe unionblk",
                "insmod unionblk.ko",
            ],
        );
    }
    let ran = ubctl("list --json", &[]);
    assert_eq!((ran.code, &ran.json()["reason"]), (1, &"no_module".into()));
}
