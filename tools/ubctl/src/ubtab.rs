// SPDX-License-Identifier: GPL-2.0

//! `/etc/ubtab`: the unions that a machine has from its boot to its shutdown, one on each line.
//!
//! The file may hold anything. A line is parsed as a whole or refused with its number, and a wrong
//! line does not affect the others. Nothing here looks at the devices.

pub mod generator;
mod units;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ubcore::num::SECTOR_BYTES;

use crate::error::{Fail, Result};
use crate::value_parser::{layer_offset, leaf_name, union_size};

/// Where the file is.
pub const PATH: &str = "/etc/ubtab";
/// The largest file that is read.
const BYTES_MAX: u64 = 1 << 20;
/// The units of time that systemd knows, and none, which stands for seconds.
const TIME_UNITS: [&str; 11] = ["", "us", "ms", "s", "sec", "m", "min", "h", "hr", "d", "w"];
/// The options, for messages and the page.
pub const OPTIONS: &str =
    "defaults, ro, noauto, nofail, _netdev, verify, layer=, in=, ephemeral=, \
                       size=, x-systemd.requires=, x-systemd.after=, x-systemd.device-timeout=";

/// A union of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number of its line.
    pub line: usize,
    /// The name of the leaf.
    pub name: String,
    /// The root.
    pub root: Root,
    /// The leaf.
    pub leaf: Leaf,
    /// The layers, the lowest first: `PATH` or `PATH@OFFSET`.
    pub layers: Vec<String>,
    /// Where to look for root and layers.
    pub places: Vec<String>,
    /// How systemd treats it.
    pub unit: UnitOptions,
    /// Accept no writes.
    pub read_only: bool,
    /// Verify root and layers first.
    pub verify: bool,
}

/// The second field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// `-`: where it was when the leaf was formatted.
    Listed,
    /// `none`.
    None,
    /// A device or an image.
    Path(String),
}

/// The third field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// A device or an image.
    Path(String),
    /// `none`, with the option `ephemeral`: the bytes of the leaf, and those of the union.
    Memory(u64, Option<u64>),
}

/// The options that concern systemd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitOptions {
    /// Do not make it at boot, unless it is needed.
    pub noauto: bool,
    /// Do not wait for it at boot.
    pub nofail: bool,
    /// It needs the network.
    pub netdev: bool,
    /// Units that it requires, and comes after.
    pub requires: Vec<String>,
    /// Units that it comes after.
    pub after: Vec<String>,
    /// How long systemd waits for the devices.
    pub device_timeout: Option<String>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// The number of the line.
    pub line: usize,
    /// What is wrong, and what to do.
    pub text: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// A file: its unions, and its errors.
#[derive(Debug, Default)]
pub struct Ubtab {
    /// The lines that are right.
    pub entries: Vec<Entry>,
    /// The lines that are wrong.
    pub errors: Vec<LineError>,
}

/// Reads a file. `None` if there is none.
pub fn read(path: &Path) -> Result<Option<Ubtab>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(Some(parse(&bytes))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Fail::io("read", path, &e)),
    }
}

/// Parses the content of a file.
pub fn parse(bytes: &[u8]) -> Ubtab {
    let mut tab = Ubtab::default();
    if bytes.len() as u64 > BYTES_MAX {
        let text = "the file is larger than 1 MiB: nothing of it is used".to_owned();
        tab.errors.push(LineError { line: 1, text });
        return tab;
    }
    // The lines that have a name or a leaf already.
    let (mut names, mut leaves) = (HashMap::new(), HashMap::new());
    for (line, text) in (1..).zip(bytes.split(|&b| b == b'\n')) {
        let parsed = match std::str::from_utf8(text) {
            Ok(text) => entry(line, text),
            Err(_) => Err("it is not UTF-8".to_owned()),
        };
        let parsed = parsed.and_then(|entry| {
            let Some(entry) = entry else { return Ok(None) };
            if let Some(first) = names.get(&entry.name) {
                return Err(format!("{} is the name in line {first} too", entry.name));
            }
            if let Leaf::Path(path) = &entry.leaf {
                if let Some(first) = leaves.insert(path.clone(), line) {
                    return Err(format!("{path} is the leaf in line {first} too"));
                }
            }
            names.insert(entry.name.clone(), line);
            Ok(Some(entry))
        });
        match parsed {
            Ok(entry) => tab.entries.extend(entry),
            Err(text) => tab.errors.push(LineError { line, text }),
        }
    }
    tab
}

/// Parses a line. `None` if it is empty or a comment.
fn entry(line: usize, text: &str) -> std::result::Result<Option<Entry>, String> {
    let mut fields = text.split_ascii_whitespace();
    let Some(name) = fields.next().filter(|name| !name.starts_with('#')) else {
        return Ok(None);
    };
    let (Some(root), Some(leaf)) = (fields.next(), fields.next()) else {
        return Err("it lacks a field: a line has a name, a root, a leaf and options".to_owned());
    };
    let options = fields.next().unwrap_or("defaults");
    if let Some(more) = fields.next() {
        let text = "is one field too many: write a space in a path as \\040, and no space between \
                    options";
        return Err(format!("'{}' {text}", shown(more)));
    }
    leaf_name(name).map_err(|why| format!("'{}': {why}", shown(name)))?;
    if name.starts_with('-') {
        return Err(format!(
            "'{name}': ubctl takes a name that begins with - for an option"
        ));
    }
    let mut entry = Entry {
        line,
        name: name.to_owned(),
        root: match root {
            "-" => Root::Listed,
            "none" => Root::None,
            path => Root::Path(absolute("the root", path)?),
        },
        leaf: match leaf {
            "none" => Leaf::Memory(0, None),
            path => Leaf::Path(absolute("the leaf", path)?),
        },
        layers: Vec::new(),
        places: Vec::new(),
        unit: UnitOptions::default(),
        read_only: false,
        verify: false,
    };
    for option in options.split(',') {
        entry.option(option)?;
    }
    entry.check().map(Some)
}

impl Entry {
    /// Takes an option.
    fn option(&mut self, option: &str) -> std::result::Result<(), String> {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        let missing = || format!("the option {} needs a value: {0}=...", shown(key));
        let given = || value.filter(|value| !value.is_empty()).ok_or_else(missing);
        let bytes = || {
            let sectors = union_size(given()?).map_err(|why| format!("{key}: {why}"))?;
            Ok::<u64, String>(sectors.saturating_mul(SECTOR_BYTES))
        };
        match (key, value) {
            ("defaults", None) => {}
            ("ro" | "read-only", None) => self.read_only = true,
            ("verify", None) => self.verify = true,
            ("noauto", None) => self.unit.noauto = true,
            ("nofail", None) => self.unit.nofail = true,
            ("_netdev", None) => self.unit.netdev = true,
            ("layer", _) => self.layers.push(absolute("a layer", given()?)?),
            ("in", _) => self.places.push(absolute("a place", given()?)?),
            ("ephemeral" | "size", _) => {
                let Leaf::Memory(leaf, union) = &mut self.leaf else {
                    return Err(format!(
                        "{key}= is for a leaf in memory, whose field is none"
                    ));
                };
                match key {
                    "size" => *union = Some(bytes()?),
                    _ => *leaf = bytes()?,
                }
            }
            ("x-systemd.requires", _) => self.unit.requires.push(unit(given()?)?),
            ("x-systemd.after", _) => self.unit.after.push(unit(given()?)?),
            ("x-systemd.device-timeout", _) => self.unit.device_timeout = Some(time(given()?)?),
            _ if key.starts_with("x-") && !key.starts_with("x-systemd.") => {}
            _ => {
                let option = shown(option);
                return Err(format!("'{option}' is no option: there are {OPTIONS}"));
            }
        }
        Ok(())
    }

    /// Refuses what does not go together.
    fn check(self) -> std::result::Result<Entry, String> {
        let Leaf::Memory(bytes, _) = self.leaf else {
            return Ok(self);
        };
        let wrong = if bytes == 0 {
            "a leaf of none needs its size: ephemeral=SIZE"
        } else if self.root == Root::Listed {
            "a leaf in memory lists no root: name one, or none"
        } else if self.read_only || !self.places.is_empty() {
            "ro and in= make no sense with a leaf in memory"
        } else {
            return Ok(self);
        };
        Err(wrong.to_owned())
    }

    /// Returns the paths of root, layers and leaf, and the places.
    pub fn paths(&self) -> Vec<PathBuf> {
        let root = match &self.root {
            Root::Path(path) => Some(path.as_str()),
            Root::Listed | Root::None => None,
        };
        let leaf = match &self.leaf {
            Leaf::Path(path) => Some(path.as_str()),
            Leaf::Memory(..) => None,
        };
        let layers = self.layers.iter().map(|layer| without_offset(layer));
        let places = self.places.iter().map(String::as_str);
        let all = root.into_iter().chain(layers).chain(leaf).chain(places);
        all.map(PathBuf::from).collect()
    }

    /// Returns the arguments of `ubctl` that make the union.
    pub fn create(&self) -> Vec<String> {
        let mut args = vec!["create".to_owned()];
        let mut option = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
        match &self.root {
            Root::Listed => {}
            Root::None => option("--root", "none"),
            Root::Path(path) => option("--root", path),
        }
        self.layers
            .iter()
            .for_each(|layer| option("--layer", layer));
        self.places.iter().for_each(|place| option("--in", place));
        match &self.leaf {
            Leaf::Path(path) => option("--leaf", path),
            Leaf::Memory(bytes, union) => {
                option("--ephemeral", &bytes.to_string());
                union
                    .iter()
                    .for_each(|bytes| option("--size", &bytes.to_string()));
            }
        }
        option("--name", &self.name);
        args.extend(self.read_only.then(|| "--read-only".to_owned()));
        args.extend(self.verify.then(|| "--verify".to_owned()));
        args
    }

    /// Returns the path of the union, which udev makes from the name.
    pub fn device(&self) -> PathBuf {
        Path::new("/dev/unionblk/by-name").join(&self.name)
    }
}

/// Returns the path of a layer.
fn without_offset(layer: &str) -> &str {
    match layer.rsplit_once('@') {
        Some((path, offset)) if layer_offset(offset).is_ok() => path,
        _ => layer,
    }
}

/// Returns an absolute path. As in fstab, a backslash and three octal digits are a byte.
fn absolute(what: &str, word: &str) -> std::result::Result<String, String> {
    let path = unescaped(word).ok_or_else(|| {
        format!(
            "{what} '{}': a \\ is followed by three octal digits, which are a character",
            shown(word)
        )
    })?;
    if !path.starts_with('/') {
        return Err(format!(
            "{what} '{}' is no absolute path: begin it with a /",
            shown(word)
        ));
    }
    if path.chars().any(char::is_control) {
        return Err(format!("{what} '{}' has a control character", shown(word)));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("{what} '{}' has a .. in it", shown(word)));
    }
    Ok(path)
}

fn unescaped(word: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let mut value = 0u32;
        for _ in 0..3 {
            let digit = rest.next().filter(|digit| (b'0'..=b'7').contains(digit))?;
            value = value * 8 + u32::from(digit - b'0');
        }
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Returns the name of a unit of systemd.
fn unit(word: &str) -> std::result::Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let kinds = [
        ".service", ".target", ".mount", ".device", ".socket", ".path", ".timer", ".slice",
    ];
    let is_unit = word.len() <= 255 && kinds.iter().any(|kind| word.ends_with(kind));
    if !is_unit || !word.chars().all(is_allowed) {
        return Err(format!(
            "'{}' is not the name of a unit of systemd",
            shown(word)
        ));
    }
    Ok(word.to_owned())
}

/// Returns a time in the form of systemd.
fn time(word: &str) -> std::result::Result<String, String> {
    let is_time = word == "infinity"
        || (word.starts_with(|c: char| c.is_ascii_digit())
            && word.len() <= 32
            && word
                .split(|c: char| c.is_ascii_digit() || c == '.')
                .all(|unit| TIME_UNITS.contains(&unit)));
    if !is_time {
        return Err(format!(
            "'{}' is no time: write 30s, 5min or infinity",
            shown(word)
        ));
    }
    Ok(word.to_owned())
}

/// Returns a word for a message, and not much of a long one.
fn shown(word: &str) -> String {
    const MOST: usize = 60;
    let mut text: String = word
        .chars()
        .take(MOST)
        .flat_map(char::escape_default)
        .collect();
    if word.chars().nth(MOST).is_some() {
        text += "...";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{parse, Leaf, Root, BYTES_MAX};

    /// Returns the errors of a file.
    fn errors(text: &str) -> Vec<String> {
        let tab = parse(text.as_bytes());
        tab.errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lines_are_unions() {
        let text = "# name root leaf options\n\n\
                    web-01  /srv/gold.img  /dev/disk/by-id/x\n\
                    \tjob none none ephemeral=1G,size=4G,nofail\n\
                    a - /srv/a\\040b.leaf ro,layer=/srv/l1,layer=/srv/l2@4K,in=/srv,x-other=7\n";
        let tab = parse(text.as_bytes());
        assert!(tab.errors.is_empty(), "{:?}", tab.errors);
        let [web, job, a] = &tab.entries[..] else {
            panic!("{tab:?}");
        };
        assert_eq!((web.line, web.name.as_str()), (3, "web-01"));
        assert_eq!(web.root, Root::Path("/srv/gold.img".to_owned()));
        assert_eq!(
            web.create().join(" "),
            "create --root /srv/gold.img --leaf /dev/disk/by-id/x --name web-01"
        );
        assert_eq!(job.leaf, Leaf::Memory(1 << 30, Some(4 << 30)));
        assert!(job.unit.nofail && !web.unit.nofail);
        assert_eq!(
            job.create().join(" "),
            "create --root none --ephemeral 1073741824 --size 4294967296 --name job"
        );
        assert_eq!(a.leaf, Leaf::Path("/srv/a b.leaf".to_owned()));
        let paths = a.paths();
        let paths: Vec<&str> = paths.iter().filter_map(|path| path.to_str()).collect();
        assert_eq!(paths, ["/srv/l1", "/srv/l2", "/srv/a b.leaf", "/srv"]);
        assert!(a.create().contains(&"/srv/l2@4K".to_owned()));
        assert!(a.create().contains(&"--read-only".to_owned()));
    }

    #[test]
    fn a_wrong_line_is_named_and_the_others_hold() {
        for (line, word) in [
            ("x", "lacks a field"),
            ("x /a", "lacks a field"),
            ("x /a /b defaults 0", "one field too many"),
            ("x a /b", "the root 'a' is no absolute path"),
            ("x /a b", "the leaf 'b' is no absolute path"),
            ("x /a /b/../c", "has a .."),
            ("x /a /b\\04", "octal digits"),
            ("x /a /b\\999", "octal digits"),
            ("x /a /b\\777", "octal digits"),
            ("x /a /b\\012", "control character"),
            ("x /a /b\\377", "octal digits"),
            ("3 /a /b", "union's number"),
            ("a/b /a /b", "A-Z a-z 0-9"),
            ("web-part1 /a /b", "-partN"),
            (
                "x /a /b frob",
                "'frob' is no option: there are defaults, ro",
            ),
            ("x /a /b ,", "'' is no option"),
            ("x /a /b ro=1", "is no option"),
            ("x /a /b layer", "needs a value"),
            ("x /a /b layer=", "needs a value"),
            ("x /a /b layer=l", "a layer 'l' is no absolute path"),
            ("x /a /b ephemeral=1G", "for a leaf in memory"),
            ("x /a /b size=1G", "for a leaf in memory"),
            ("x /a none", "needs its size"),
            ("x /a none ephemeral=much", "ephemeral: unknown unit"),
            ("x /a none ephemeral=0", "multiple of 512"),
            ("x - none ephemeral=1G", "lists no root"),
            ("x /a none ephemeral=1G,ro", "no sense"),
            ("x /a none ephemeral=1G,in=/srv", "no sense"),
            (
                "x /a /b x-systemd.requires=a;b.service",
                "not the name of a unit",
            ),
            ("x /a /b x-systemd.after=network", "not the name of a unit"),
            ("x /a /b x-systemd.device-timeout=soon", "no time"),
            ("x /a /b x-systemd.other=1", "is no option"),
            ("ok /r /l", "is the name in line 1 too"),
            ("x /a /leaf", "/leaf is the leaf in line 1 too"),
        ] {
            let text = format!("ok /root /leaf\n#\n{line}\nlast /root /leaf2\n");
            let found = errors(&text);
            assert_eq!(found.len(), 1, "{line}: {found:?}");
            assert!(found[0].starts_with("line 3: "), "{}", found[0]);
            assert!(found[0].contains(word), "no '{word}' in: {}", found[0]);
            assert_eq!(parse(text.as_bytes()).entries.len(), 2, "{line}");
        }
    }

    #[test]
    fn any_bytes_are_a_file() {
        assert_eq!(errors("x /a /b\nname\u{1b}[2J /a /b").len(), 1);
        let tab = parse(b"x /a /b\n\xff /c /d\ny /e /f");
        assert_eq!((tab.entries.len(), tab.errors[0].line), (2, 2));
        let long = "x".repeat(1 << 16);
        let text = &errors(&format!("x /a {long}"))[0];
        assert!(text.len() < 200 && text.contains("..."), "{text}");
        let huge = vec![b'#'; BYTES_MAX as usize + 1];
        assert!(parse(&huge).errors[0].text.contains("larger than 1 MiB"));
        // Every byte in every field.
        for byte in 0..=255u8 {
            for field in ["n? /r /l", "n /r? /l", "n /r /l?", "n /r /l ro,?"].map(str::as_bytes) {
                let line: Vec<u8> = field
                    .iter()
                    .map(|&b| if b == b'?' { byte } else { b })
                    .collect();
                let tab = parse(&line);
                assert!(tab.entries.len() + tab.errors.len() >= 1, "{byte}");
            }
        }
    }
}
