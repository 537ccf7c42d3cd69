// SPDX-License-Identifier: GPL-2.0

//! Output to the terminal. A reader that closes its pipe early (`ubctl list | head -n 1`) is not an
//! error.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use ubcore::format::features::Features;
use ubcore::format::name::LeafName;
use ubcore::stack::chain::LayerId;

use crate::error::{Fail, Result, FAILED};

/// Writes text to standard output, in a form that cannot control a terminal.
pub fn text(text: &str) -> Result {
    more(text).map(|_| ())
}

/// Writes a line, or more, of an answer that continues, to standard output, in a form that cannot
/// control a terminal. Returns false if its reader is gone.
pub fn more(text: &str) -> Result<bool> {
    write(&for_terminal(text))
}

/// Writes text with colours, or another control of the terminal, to standard output. The caller has
/// escaped names with [`path`]. Returns false if its reader is gone.
pub fn styled(text: &str) -> Result<bool> {
    write(text)
}

fn write(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Fail::io("write to", Path::new("standard output"), &e)),
    }
}

/// Writes one JSON value to standard output, in one line, as [`more`] does.
pub fn json_line<T: Serialize>(value: &T) -> Result<bool> {
    let line = serde_json::to_string(value)
        .map_err(|e| Fail::new(FAILED, "io", format!("cannot make JSON: {e}")))?;
    write(&(line + "\n"))
}

/// Writes one JSON value to standard output.
pub fn json<T: Serialize>(value: &T) -> Result {
    write(&pretty(value)?).map(|_| ())
}

/// Writes one JSON value to standard error, for a command whose standard output is something else.
pub fn json_on_stderr<T: Serialize>(value: &T) -> Result {
    // If this fails, there is no one left to notify.
    let _ = io::stderr().lock().write_all(pretty(value)?.as_bytes());
    Ok(())
}

fn pretty<T: Serialize>(value: &T) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Fail::new(FAILED, "io", format!("cannot make JSON: {e}")))?;
    Ok(text + "\n")
}

/// Writes a message to standard error.
pub fn complain(message: &str) {
    // If this fails, there is no one left to notify.
    let _ = writeln!(io::stderr().lock(), "ubctl: {}", for_terminal(message));
}

/// Escapes what would control a terminal. Names of files and the paths that a leaf lists can have
/// any byte but NUL.
fn for_terminal(text: &str) -> String {
    escaped(text, |c| c.is_control() && c != '\n' && c != '\t')
}

/// Returns a path for a message or a line of text. Control characters are escaped, also the end of
/// a line, because a path could otherwise look like another message.
pub fn path(path: &Path) -> String {
    escaped(&path.display().to_string(), char::is_control)
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_escaped(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// Returns a number of sectors as a size for people: `64 KiB`, `1.5 GiB`.
pub fn size(sectors: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if sectors < 2 {
        return format!("{} B", sectors * 512);
    }
    let mut unit = 0;
    let mut in_unit = 2;
    while unit + 1 < units.len() && sectors / in_unit >= 1024 {
        in_unit *= 1024;
        unit += 1;
    }
    if sectors % in_unit == 0 {
        return format!("{} {}", sectors / in_unit, units[unit]);
    }
    format!("{:.1} {}", sectors as f64 / in_unit as f64, units[unit])
}

/// Returns a number and its noun, which takes an s unless there is one.
pub fn counted(n: impl Into<u64>, noun: &str) -> String {
    let n = n.into();
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Returns what a layer is, in a few words.
pub fn layer(id: &LayerId) -> String {
    match id {
        LayerId::Frozen(id, _) => format!("frozen {}", uuid(id)),
        LayerId::Sealed(digest) => format!("sealed {}", hex(digest)),
    }
}

/// Returns a leaf's name, as JSON shows it: `null` for a leaf without a name.
pub fn name(name: LeafName) -> Option<String> {
    Some(name.to_string()).filter(|n| !n.is_empty())
}

/// Returns a leaf's name for people, to whom an empty name would be invisible.
pub fn name_text(name: Option<&String>) -> String {
    name.map_or_else(|| "-".to_owned(), String::clone)
}

/// Returns bytes in the form of a UUID.
pub fn uuid(bytes: &[u8; 16]) -> String {
    let h = hex(bytes);
    let parts = [&h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..]];
    parts.join("-")
}

/// Returns bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for b in bytes {
        out += &format!("{b:02x}");
    }
    out
}

/// Returns the feature bits that are set.
pub fn features(features: &Features) -> String {
    let classes = [
        ("compat", features.compat),
        ("ro_compat", features.ro_compat),
        ("incompat", features.incompat),
    ];
    let set = classes.into_iter().filter(|(_, bits)| *bits != 0);
    let list: Vec<String> = set
        .map(|(class, bits)| format!("{class} {bits:#x}"))
        .collect();
    if list.is_empty() {
        "none".to_owned()
    } else {
        list.join(", ")
    }
}

/// Returns rows in columns as wide as necessary; the first row is the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|s| s.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Returns lines of `name  value`, indented, with the values aligned.
pub fn fields(list: &[(&str, String)]) -> String {
    let width = list.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, value) in list {
        out += &format!("  {name:width$}  {value}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{counted, features, for_terminal, path, size, table, uuid, Features};

    #[test]
    fn one_has_no_plural() {
        let of = |n: u32| counted(n, "block");
        assert_eq!([0, 1, 2].map(of), ["0 blocks", "1 block", "2 blocks"]);
    }

    #[test]
    fn sizes_are_as_short_as_they_can_be() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1), "512 B");
        assert_eq!(size(3), "1.5 KiB");
        assert_eq!(size(128), "64 KiB");
        assert_eq!(size(2048), "1 MiB");
        assert_eq!(size(2049), "1.0 MiB");
        assert_eq!(size(3 << 20), "1.5 GiB");
        assert_eq!(size(u64::MAX), "8192.0 EiB");
    }

    #[test]
    fn features_are_named_by_class() {
        let mut f = Features::NONE;
        assert_eq!(features(&f), "none");
        (f.compat, f.ro_compat) = (1 << 63, 6);
        assert_eq!(features(&f), "compat 0x8000000000000000, ro_compat 0x6");
    }

    #[test]
    fn columns_line_up() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(
            table(&[row("A", "B"), row("long", "x")]),
            "A     B\nlong  x\n"
        );
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn no_text_controls_a_terminal() {
        let text = "a\tb\n\u{1b}[2J\u{9b}c\rü";
        assert_eq!(for_terminal(text), "a\tb\n\\u{1b}[2J\\u{9b}c\\rü");
        assert_eq!(path(Path::new("a\nubctl: b")), "a\\nubctl: b");
    }

    #[test]
    fn uuids_are_grouped() {
        assert_eq!(uuid(&[0xab; 16]), "abababab-abab-abab-abab-abababababab");
    }
}
