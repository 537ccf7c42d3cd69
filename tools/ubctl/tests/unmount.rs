// SPDX-License-Identifier: GPL-2.0

//! `remove --unmount` unmounts what is mounted from its union, and nothing else. A tmpfs stands for
//! the union's file system. Each test runs in a private mount namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ubctl::error::BUSY;
use ubctl::mounts::{of_process, unmount};
use ubctl::node::Node;

const INSIDE: &str = "UBCTL_TEST_NAMESPACE";

/// Runs `test` in a namespace: this program again, for the test of this name.
fn in_a_namespace(name: &str, test: impl FnOnce(&Path)) {
    if let Some(folder) = std::env::var_os(INSIDE) {
        return test(Path::new(&folder));
    }
    let folder = std::env::temp_dir().join(format!("ubctl-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    // The root of the build root is no mount, so unshare cannot make it private. It is private.
    let has_root = of_process("self").iter().any(|m| m.at == Path::new("/"));
    let done = Command::new("unshare")
        .arg(if is_root { "-m" } else { "-rm" })
        .args([
            "--propagation",
            if has_root { "private" } else { "unchanged" },
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("unmount::{name}"), "--nocapture"])
        .env(INSIDE, fs::canonicalize(&folder).unwrap())
        .output()
        .expect("unshare");
    let said = [done.stdout, done.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert!(done.status.success(), "{}", said.concat());
    assert!(said[0].contains("1 passed"), "{}", said.concat());
    fs::remove_dir_all(folder).unwrap();
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).status().unwrap();
    assert!(done.success(), "{program} {args:?}");
}

/// Mounts a tmpfs on a new directory.
fn tmpfs(at: &Path) -> &Path {
    fs::create_dir_all(at).unwrap();
    run("mount", &["-t", "tmpfs", "none", at.to_str().unwrap()]);
    at
}

fn node_of(at: &Path) -> [Node; 1] {
    [Node::new("unionblk0", fs::metadata(at).unwrap().dev())]
}

fn mounts(nodes: &[Node]) -> Vec<PathBuf> {
    let ours = of_process("self").into_iter().filter(|m| m.is_of(nodes));
    ours.map(|m| m.at).collect()
}

#[test]
fn a_mount_that_hides_the_unions_stays() {
    in_a_namespace("a_mount_that_hides_the_unions_stays", |folder| {
        let (outer, inner) = (folder.join("a"), folder.join("a/b"));
        let union = node_of(tmpfs(&inner));
        tmpfs(&outer);
        let fail = unmount(&union).unwrap_err();
        assert!(fail.message.contains("another mount"), "{fail}");
        tmpfs(&inner);
        fs::write(inner.join("mine"), "").unwrap();
        let fail = unmount(&union).unwrap_err();
        assert_eq!((fail.code, fail.reason), (BUSY, "busy"));
        assert!(fail.message.contains("another mount"), "{fail}");
        assert!(inner.join("mine").exists(), "another's mount has gone");
        for at in [&inner, &outer] {
            run("umount", &[at.to_str().unwrap()]);
        }
        assert_eq!(mounts(&union), [inner]);
        unmount(&union).unwrap();
        assert!(mounts(&union).is_empty());
    });
}

#[test]
fn all_mounts_of_a_union_go() {
    in_a_namespace("all_mounts_of_a_union_go", |folder| {
        let (first, second) = (folder.join("a"), folder.join("b"));
        let union = node_of(tmpfs(&first));
        let bind = |to: &Path| {
            fs::create_dir_all(to).unwrap();
            let [from, to] = [&first, to].map(|p| p.to_str().unwrap());
            run("mount", &["--bind", from, to]);
        };
        bind(&second);
        // One on top of the other at one place, and another's mount inside.
        bind(&first);
        let other = node_of(tmpfs(&first.join("c")));
        assert_eq!(mounts(&union).len(), 3);
        unmount(&union).unwrap();
        assert!(mounts(&union).is_empty() && mounts(&other).is_empty());
    });
}

#[test]
fn nothing_is_unmounted_below_the_root() {
    in_a_namespace("nothing_is_unmounted_below_the_root", |folder| {
        let union = node_of(tmpfs(folder));
        let idle = folder.join("idle");
        tmpfs(&idle);
        fs::create_dir(folder.join("proc")).unwrap();
        let proc = folder.join("proc");
        run("mount", &["--rbind", "/proc", proc.to_str().unwrap()]);
        std::os::unix::fs::chroot(folder).unwrap();
        std::env::set_current_dir("/").unwrap();
        let idle = node_of(Path::new("/idle"));
        let fail = unmount(&union).unwrap_err();
        assert_eq!(fail.message, "cannot unmount /: the system runs on it");
        assert_eq!(mounts(&idle), [Path::new("/idle")]);
    });
}
