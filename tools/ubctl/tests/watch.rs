// SPDX-License-Identifier: GPL-2.0

//! `ubctl watch` and `top` on a machine without unions. Device test 175 has unions.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tool::{command, ubctl};

#[test]
fn without_unions_a_watch_waits() {
    let said = ubctl("watch --for 50ms", &[]).done().out;
    assert_eq!(said, "");
    let ran = ubctl("watch --for 50ms --count 2", &[]);
    ran.refused(1, &["0 of 2 events", "50ms"]);
    let json = ubctl("watch 7 --for 50ms --count 2 --json", &[]).json();
    assert_eq!(json["reason"], "timeout");
    ubctl("watch --for soon", &[]).refused(2, &["--for"]);
    ubctl("watch --count 0", &[]).refused(2, &["--count"]);
}

/// No event comes, so only the closed pipe can end the command before its time.
#[test]
fn a_watch_ends_with_its_reader() {
    let mut watch = command();
    watch.args(["watch", "--for", "60s"]).stdout(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let start = Instant::now();
    drop(watch.stdout.take());
    assert!(watch.wait().unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn without_unions_top_shows_none() {
    let json = ubctl("top --count 1 --interval 100ms --json", &[])
        .done()
        .json();
    assert_eq!(json["unions"], serde_json::json!([]));
    let text = ubctl("top --count 2 --interval 100ms", &[]).done().out;
    assert_eq!(text.matches("0 unions").count(), 2, "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    ubctl("top web", &[]).refused(1, &["no union web"]);
    ubctl("top --interval 1ms", &[]).refused(2, &["at least 100ms"]);
    // It ends with its reader too, at the next table.
    let mut top = command();
    top.args(["top", "--interval", "100ms"])
        .stdout(Stdio::piped());
    let mut top = top.spawn().unwrap();
    let mut first = [0; 1];
    top.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert!(top.wait().unwrap().success());
}
