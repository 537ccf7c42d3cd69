// SPDX-License-Identifier: GPL-2.0

//! The name that a leaf may have. People and udev rules use it as well as the leaf's UUID.

use core::fmt::{self, Write};

/// Bytes of the field, `UNIONBLK_NAME_BYTES`. The last byte is always zero.
pub const NAME_BYTES: usize = 32;

/// The prefix of the names of unions, before their number.
pub const UNION_PREFIX: &str = "unionblk";

/// Returns whether a word names a union: `3`, `unionblk3`. The word may have any length, because
/// the range of valid numbers may change.
pub fn is_union_word(word: &str) -> bool {
    let digits = word.strip_prefix(UNION_PREFIX).unwrap_or(word);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Returns whether a word ends like the link of a partition: `web-part1`. The link of a union with
/// this name would be the link of partition 1 of the union `web`.
pub fn is_partition_word(word: &str) -> bool {
    let disk = word.trim_end_matches(|c: char| c.is_ascii_digit());
    disk.len() < word.len() && disk.ends_with("-part")
}

/// A leaf's name, or none.
///
/// A leaf is not formatted with a name that names a union, see [`is_union_word`], or a partition,
/// see [`is_partition_word`]. A leaf that was made elsewhere may have such a name, and is accepted
/// with it.
///
/// # Invariants
///
/// Up to 31 bytes of `A-Z a-z 0-9 . _ -`, the first no dot, then zeroes to the end. Therefore the
/// name can be used in a path, a shell's word and an environment as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeafName([u8; NAME_BYTES]);

impl LeafName {
    /// No name.
    pub const NONE: LeafName = LeafName([0; NAME_BYTES]);

    /// Takes the field as it lies on the leaf or goes over the wire. Returns `None` if the field
    /// breaks the invariants.
    pub fn from_field(field: [u8; NAME_BYTES]) -> Option<LeafName> {
        let name = LeafName(field);
        let len = name.bytes().count();
        let padded = field.get(len..)?.iter().all(|&b| b == 0);
        let sound = len < NAME_BYTES && padded && name.bytes().all(is_allowed);
        (sound && name.bytes().next() != Some(b'.')).then_some(name)
    }

    /// Takes what a user wants to call a leaf. An empty text is no name.
    pub fn from_text(text: &str) -> Option<LeafName> {
        let mut field = [0; NAME_BYTES];
        // A zero byte in the text would end the name early. `is_allowed` refuses it here.
        if is_union_word(text) || is_partition_word(text) || !text.bytes().all(is_allowed) {
            return None;
        }
        field
            .get_mut(..text.len())?
            .copy_from_slice(text.as_bytes());
        Self::from_field(field)
    }

    /// Returns the field, padded with zeroes.
    pub fn field(&self) -> [u8; NAME_BYTES] {
        self.0
    }

    /// Returns the bytes of the name, none if there is no name.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.iter().copied().take_while(|&b| b != 0)
    }
}

/// Writes the name, nothing if there is none.
impl fmt::Display for LeafName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By the invariants each byte is an ASCII character.
        self.bytes().try_for_each(|b| f.write_char(char::from(b)))
    }
}

fn is_allowed(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_name))]
mod tests {
    use super::{is_partition_word, is_union_word, LeafName};

    #[test]
    fn what_is_a_name_and_what_is_not() {
        for good in [
            "a",
            "web-01.example",
            "_x",
            "-",
            "A.b_c-9",
            "3a",
            "unionblk",
            "unionblk3p1",
        ] {
            let name = LeafName::from_text(good);
            assert!(name.is_some());
            if let Some(name) = name {
                assert!(name.bytes().eq(good.bytes()));
                assert!(LeafName::from_field(name.field()) == Some(name));
            }
        }
        assert!(LeafName::from_text("") == Some(LeafName::NONE));
        assert!(LeafName::from_text("a234567890123456789012345678901").is_some());
        for bad in [
            "a2345678901234567890123456789012",
            ".hidden",
            "..",
            "a b",
            "a/b",
            "a\0",
            "\0",
            "na\u{ef}ve",
            "a\n",
        ] {
            assert!(LeafName::from_text(bad).is_none());
        }
    }

    #[test]
    fn what_calls_a_union_is_no_name_to_give() {
        for word in ["3", "007", "99999999999", "unionblk3", "unionblk003"] {
            assert!(is_union_word(word));
            assert!(LeafName::from_text(word).is_none());
        }
        for word in ["", "unionblk", "unionblk3p1", "-3", "3 ", "Unionblk3"] {
            assert!(!is_union_word(word));
        }
        // A name that was made elsewhere is accepted.
        let mut field = [0; 32];
        field[0] = b'3';
        assert!(LeafName::from_field(field).is_some_and(|name| name.bytes().eq("3".bytes())));
    }

    #[test]
    fn what_calls_a_partition_is_no_name_to_give() {
        for word in ["web-part1", "web-part007", "-part1", "a-part1-part2"] {
            assert!(is_partition_word(word));
            assert!(LeafName::from_text(word).is_none());
        }
        for word in [
            "web-part",
            "web-part1a",
            "web-1",
            "webpart1",
            "part1",
            "web-Part1",
        ] {
            assert!(!is_partition_word(word));
            assert!(LeafName::from_text(word).is_some());
        }
        // A name that was made elsewhere is accepted.
        let mut field = [0; 32];
        for (to, from) in field.iter_mut().zip(b"web-part1") {
            *to = *from;
        }
        assert!(
            LeafName::from_field(field).is_some_and(|name| name.bytes().eq("web-part1".bytes()))
        );
    }

    #[test]
    fn a_field_is_padded_with_zeroes() {
        let mut field = [0; 32];
        assert!(LeafName::from_field(field) == Some(LeafName::NONE));
        field[1] = b'x';
        assert!(LeafName::from_field(field).is_none());
        field[0] = b'y';
        assert!(LeafName::from_field(field).is_some());
        field[31] = 1;
        assert!(LeafName::from_field(field).is_none());
        assert!(LeafName::from_field([b'x'; 32]).is_none());
    }
}
