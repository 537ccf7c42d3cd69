// SPDX-License-Identifier: GPL-2.0

//! The units of systemd for a line of ubtab.
//!
//! A union is to its mounts what an encrypted volume is: the service is required by the device unit
//! of the union, and is ordered before `blockdev@.target` of it, after which systemd orders mounts
//! and swap of that device. At shutdown the order is the reverse.

use std::fmt::Write;
use std::path::Path;

use super::{Entry, PATH};

/// The unit of an entry, and the links and files that go with it.
pub struct Units {
    /// The name of the service.
    pub service: String,
    /// Its content.
    pub text: String,
    /// The directories that get a link to the service.
    pub links: Vec<String>,
    /// Other files: their paths below the directory of the units, and their content.
    pub files: Vec<(String, String)>,
}

impl Units {
    /// Returns the units of an entry. `ubctl` is the path of the tool.
    pub fn of(entry: &Entry, ubctl: &Path) -> Units {
        let union = path_name(&entry.device());
        let options = &entry.unit;
        let target = match options.netdev {
            true => "remote-fs.target",
            false => "local-fs.target",
        };
        let mut links = vec![format!("{union}.device.requires")];
        if !options.noauto {
            links.push(format!("{target}.wants"));
        }
        let drop_in = |device: &String| {
            let timeout = options.device_timeout.as_ref()?;
            let path = format!("{device}.d/50-unionblk-{}.conf", entry.name);
            Some((path, format!("[Unit]\nJobRunningTimeoutSec={timeout}\n")))
        };
        // The service waits for devices and may verify them, which can take longer than a device
        // may take to appear. If the service fails, the job of the union's device fails too. A
        // drop-in that fstab(5) causes has a later name.
        let unlimited = (
            format!("{union}.device.d/40-unionblk.conf"),
            "[Unit]\nJobRunningTimeoutSec=infinity\n".to_owned(),
        );
        let mut files: Vec<_> = devices(entry).iter().filter_map(drop_in).collect();
        files.push(unlimited);
        Units {
            service: format!("unionblk@{}.service", entry.name),
            text: text(entry, ubctl, &union, target),
            files,
            links,
        }
    }
}

/// Returns the device units of what lies under `/dev`.
fn devices(entry: &Entry) -> Vec<String> {
    let paths = entry.paths().into_iter();
    let devices = paths.filter(|path| is_device(path));
    devices
        .map(|path| format!("{}.device", path_name(&path)))
        .collect()
}

/// Returns whether a path is that of a device, without a look at it, because the device need not be
/// there yet.
fn is_device(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

fn text(entry: &Entry, ubctl: &Path, union: &str, target: &str) -> String {
    let options = &entry.unit;
    let devices = devices(entry);
    let paths = entry.paths();
    let mounts: Vec<String> = paths
        .iter()
        .filter(|path| !is_device(path))
        .map(|path| quoted(path))
        .collect();
    let mut out = format!(
        "# Made by unionblk-generator from {PATH}, line {}.\n[Unit]\n",
        entry.line
    );
    let mut line = |key: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{key}={value}");
    };
    line("Description", &format!("Union {}", entry.name));
    line("Documentation", "man:ubtab(5) man:ubctl(8)");
    line("SourcePath", PATH);
    line("DefaultDependencies", "no");
    line("IgnoreOnIsolate", "yes");
    line(
        "Wants",
        &format!("modprobe@unionblk.service modprobe@loop.service blockdev@{union}.target"),
    );
    // An image may lie on the root file system, which is read-only at first.
    line(
        "After",
        "modprobe@unionblk.service modprobe@loop.service systemd-udevd.service systemd-remount-fs.service",
    );
    if options.netdev {
        line("Wants", "network-online.target");
        line("After", "network-online.target remote-fs-pre.target");
    }
    line("Before", &format!("blockdev@{union}.target umount.target"));
    if !options.nofail && !options.noauto {
        line("Before", target);
    }
    line("Conflicts", "umount.target");
    for device in &devices {
        line("BindsTo", device);
        line("After", device);
        // At shutdown, the service that has made the device ends after this one.
        let path = device.strip_suffix(".device").unwrap_or(device);
        line("After", &format!("blockdev@{path}.target"));
    }
    if !mounts.is_empty() {
        line("RequiresMountsFor", &mounts.join(" "));
    }
    for unit in &options.requires {
        line("Requires", unit);
        line("After", unit);
    }
    for unit in &options.after {
        line("After", unit);
    }
    out += "\n[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutSec=infinity\n";
    let tool = ubctl.display().to_string();
    let command = |args: &[String]| {
        let words = std::iter::once(&tool).chain(args);
        words
            .map(|word| argument(word))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let remove = ["remove".to_owned(), entry.name.clone()];
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "ExecStart={}\nExecStop={}",
        command(&entry.create()),
        command(&remove)
    );
    out
}

/// Returns a path as a word of a list of paths.
fn quoted(path: &Path) -> String {
    let mut out = String::from("\"");
    for c in path.display().to_string().chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' => out += "%%",
            c => out.push(c),
        }
    }
    out + "\""
}

/// Returns a word of a command line. A dollar sign begins a variable there.
fn argument(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.:@=+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    quoted(Path::new(word)).replace('$', "$$")
}

/// Returns the name that systemd derives from a path, as `systemd-escape --path` does.
pub fn path_name(path: &Path) -> String {
    let path = path.display().to_string();
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.is_empty() {
        return "-".to_owned();
    }
    let mut out = String::new();
    for (n, byte) in parts.join("/").bytes().enumerate() {
        let c = char::from(byte);
        match byte {
            b'/' => out.push('-'),
            b'.' if n > 0 => out.push(c),
            b':' | b'_' => out.push(c),
            _ if c.is_ascii_alphanumeric() => out.push(c),
            _ => out += &format!("\\x{byte:02x}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::{path_name, Units};
    use std::path::Path;

    fn units(line: &str) -> Units {
        let tab = parse(line.as_bytes());
        assert!(tab.errors.is_empty(), "{:?}", tab.errors);
        Units::of(&tab.entries[0], Path::new("/usr/sbin/ubctl"))
    }

    #[test]
    fn names_are_those_of_systemd_escape() {
        for (path, name) in [
            ("/dev/sda2", "dev-sda2"),
            ("/dev/disk/by-id/wwn-0x5", "dev-disk-by\\x2did-wwn\\x2d0x5"),
            ("//srv/./a b/", "srv-a\\x20b"),
            ("/.hidden.x", "\\x2ehidden.x"),
            ("/", "-"),
            ("/ä", "\\xc3\\xa4"),
        ] {
            assert_eq!(path_name(Path::new(path)), name, "{path}");
        }
    }

    #[test]
    fn devices_bind_and_files_require_their_mounts() {
        let made = units("web-01 /dev/sda2 /srv/web.leaf layer=/dev/sdb@4K");
        assert_eq!(made.service, "unionblk@web-01.service");
        let union = "dev-unionblk-by\\x2dname-web\\x2d01";
        for line in [
            "BindsTo=dev-sda2.device\nAfter=dev-sda2.device\n",
            "BindsTo=dev-sdb.device\n",
            "RequiresMountsFor=\"/srv/web.leaf\"\n",
            "Before=local-fs.target\n",
            "Conflicts=umount.target\n",
            "DefaultDependencies=no\n",
            "Description=Union web-01\n",
            "ExecStart=/usr/sbin/ubctl create --root /dev/sda2 --layer /dev/sdb@4K --leaf \
             /srv/web.leaf --name web-01\nExecStop=/usr/sbin/ubctl remove web-01\n",
        ] {
            assert!(made.text.contains(line), "no {line} in {}", made.text);
        }
        let before = format!("Before=blockdev@{union}.target umount.target\n");
        assert!(made.text.contains(&before), "{}", made.text);
        let required = format!("{union}.device.requires");
        assert_eq!(made.links, [required.as_str(), "local-fs.target.wants"]);
        let drop_in = format!("{union}.device.d/40-unionblk.conf");
        let text = "[Unit]\nJobRunningTimeoutSec=infinity\n".to_owned();
        assert_eq!(made.files, [(drop_in, text)]);
        let made_by = "After=dev-sda2.device\nAfter=blockdev@dev-sda2.target\n";
        assert!(made.text.contains(made_by), "{}", made.text);
    }

    #[test]
    fn options_are_taken() {
        let made = units("a /dev/sda - ".replace("- ", "/dev/sdb nofail").as_str());
        assert!(!made.text.contains("Before=local-fs.target"));
        assert_eq!(made.links.len(), 2);
        let made = units("a none /dev/sdb noauto");
        assert_eq!(made.links.len(), 1);
        assert!(made.text.contains("--root none"));
        let made =
            units("a - /dev/sdb _netdev,x-systemd.requires=x.service,x-systemd.after=y.target");
        for line in [
            "Before=remote-fs.target\n",
            "After=network-online.target remote-fs-pre.target\n",
            "Requires=x.service\nAfter=x.service\nAfter=y.target\n",
            "create --leaf /dev/sdb --name a\n",
        ] {
            assert!(made.text.contains(line), "no {line} in {}", made.text);
        }
        let made = units("a - /dev/sdb x-systemd.device-timeout=5min");
        let wanted = (
            "dev-sdb.device.d/50-unionblk-a.conf".to_owned(),
            "[Unit]\nJobRunningTimeoutSec=5min\n".to_owned(),
        );
        assert_eq!(made.files[0], wanted);
    }

    #[test]
    fn nothing_in_a_path_is_a_specifier_a_variable_or_another_word() {
        let made = units("a none /srv/a\\040%n$HOME\"\\134;.leaf");
        let line = "--leaf \"/srv/a %%n$$HOME\\\"\\\\;.leaf\" --name a\n";
        assert!(made.text.contains(line), "{}", made.text);
        let line = "RequiresMountsFor=\"/srv/a %%n$HOME\\\"\\\\;.leaf\"\n";
        assert!(made.text.contains(line), "{}", made.text);
    }
}
