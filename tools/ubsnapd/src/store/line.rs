// SPDX-License-Identifier: GPL-2.0

//! A line of the log: checksum, number, and the changes that are made together. The checksum is
//! CRC32C over all that follows it in the line.

use ubcore::format::crc::crc32c;

/// Returns a line.
pub fn encode(number: u64, changes: &str) -> String {
    let body = format!("{number} {changes}");
    format!("{:08x} {body}\n", crc32c(0, body.as_bytes()))
}

/// Returns the number and the changes of a line without its end, if its checksum is right.
fn decode(line: &[u8]) -> Option<(u64, &str)> {
    let (crc, body) = line.split_at_checked(8)?;
    let body = body.strip_prefix(b" ")?;
    if !crc.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let (crc, body) = (
        std::str::from_utf8(crc).ok()?,
        std::str::from_utf8(body).ok()?,
    );
    if format!("{:08x}", crc32c(0, body.as_bytes())) != crc {
        return None;
    }
    let (number, changes) = body.split_once(' ')?;
    Some((number.parse().ok()?, changes))
}

/// What a log holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Scanned<'a> {
    /// The number and the changes of each line.
    pub lines: Vec<(u64, &'a str)>,
    /// The bytes of these lines. Bytes behind them belong to a line that a crash interrupted.
    pub bytes: usize,
}

/// Returns whether the end of this damaged line is a whole line. The newline before that line is
/// then damaged, so that it seems to belong to this one.
fn hides_one(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\n").unwrap_or_default();
    (1..line.len()).any(|at| line.get(at..).and_then(decode).is_some())
}

/// Reads a log. Fails, with the byte, if a line is damaged that is not the last: a crash during an
/// append leaves no whole line behind a torn one.
pub fn scan(log: &[u8]) -> Result<Scanned<'_>, usize> {
    let mut lines: Vec<(u64, &str)> = Vec::new();
    let mut bytes = 0;
    let mut torn = None;
    let mut at = 0;
    for line in log.split_inclusive(|&b| b == b'\n') {
        let whole = line.strip_suffix(b"\n").and_then(decode);
        let follows = |n: u64| {
            lines
                .last()
                .is_none_or(|(last, _)| last.checked_add(1) == Some(n))
        };
        match (whole, torn) {
            (Some((n, changes)), None) if follows(n) => {
                lines.push((n, changes));
                bytes = at + line.len();
            }
            (Some(_), _) => return Err(torn.unwrap_or(at)),
            (None, _) if hides_one(line) => return Err(torn.unwrap_or(at)),
            (None, _) => torn = torn.or(Some(at)),
        }
        at += line.len();
    }
    Ok(Scanned { lines, bytes })
}

#[cfg(test)]
mod tests {
    use super::{encode, scan};

    #[test]
    fn a_line_has_its_checksum() {
        // The checksum was computed with another program.
        assert_eq!(encode(1, "x"), "d009585a 1 x\n".to_owned());
        let log = encode(7, "{}") + &encode(8, "[1]");
        let found = scan(log.as_bytes()).unwrap();
        assert_eq!(found.lines, [(7, "{}"), (8, "[1]")]);
        assert_eq!(found.bytes, log.len());
    }

    #[test]
    fn what_a_crash_leaves_at_the_end_is_cut() {
        let (a, b) = (encode(1, "a"), encode(2, "bb"));
        let log = a.clone() + &b;
        for end in 0..=log.len() {
            let found = scan(&log.as_bytes()[..end]).unwrap();
            let whole = usize::from(end >= a.len()) + usize::from(end >= log.len());
            assert_eq!(found.lines.len(), whole, "{end}");
        }
        // A file system may lengthen the file and not write the bytes.
        let zeroes = [a.as_bytes(), &[0; 100]].concat();
        assert_eq!(scan(&zeroes).unwrap().bytes, a.len());
        let half = [a.as_bytes(), &[0; 3], &b.as_bytes()[3..]].concat();
        assert_eq!(scan(&half).unwrap().bytes, a.len());
    }

    #[test]
    fn damage_before_the_end_is_refused() {
        let (a, b, c) = (encode(1, "a"), encode(2, "bb"), encode(3, "c"));
        for at in 0..b.len() {
            let mut log = (a.clone() + &b + &c).into_bytes();
            log[a.len() + at] ^= 1;
            assert_eq!(scan(&log), Err(a.len()), "{at}");
        }
        let gap = a.clone() + &c;
        assert_eq!(scan(gap.as_bytes()), Err(a.len()));
    }
}
