// SPDX-License-Identifier: GPL-2.0

//! The filters of `List`, in containerd's syntax: selectors with commas between them, all of which
//! must match. A selector is a field, or a field, an operator and a value:
//! `kind==active,labels."containerd.io/gc.root"!=x,name~=|^a|`. Of several filters one must match.

use std::str::Chars;

use regex_lite::Regex;

use crate::error::{Error, Result};
use crate::snapshot::Snapshot;

/// What a selector asks.
#[derive(Debug)]
enum Ask {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

/// A field and what is asked of it.
#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    ask: Ask,
}

impl Selector {
    fn matches(&self, snapshot: &Snapshot) -> bool {
        let value = value_of(&self.path, snapshot);
        match &self.ask {
            Ask::Present => value.is_some(),
            Ask::Equal(wanted) => value.is_some_and(|v| v == wanted),
            // As in containerd, a field that is missing counts as empty here.
            Ask::NotEqual(other) => value.unwrap_or_default() != other,
            Ask::Matches(regex) => regex.is_match(value.unwrap_or_default()),
        }
    }
}

/// Returns the value of a field. A parent or a name that is empty is a value.
fn value_of<'a>(path: &[String], snapshot: &'a Snapshot) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "name" => Some(&snapshot.name),
        "parent" => Some(&snapshot.parent),
        "kind" => Some(snapshot.kind.name()),
        "labels" => snapshot.labels.get(&rest.join(".")).map(String::as_str),
        _ => None,
    }
}

/// The filters of a request.
#[derive(Debug)]
pub struct Filters(Vec<Vec<Selector>>);

impl Filters {
    /// Parses them.
    pub fn parse(all: &[String]) -> Result<Filters> {
        let one = |text: &String| {
            if text.is_empty() {
                return Ok(Vec::new());
            }
            let mut parser = Parser { rest: text };
            parser.selectors().map_err(|why| {
                let at = text.len() - parser.rest.len();
                Error::invalid(format!("filter {text:?}: {why} at byte {at}"))
            })
        };
        Ok(Filters(all.iter().map(one).collect::<Result<_>>()?))
    }

    /// Returns whether a snapshot is to be listed.
    pub fn match_one(&self, snapshot: &Snapshot) -> bool {
        let all = |filter: &Vec<Selector>| filter.iter().all(|s| s.matches(snapshot));
        self.0.is_empty() || self.0.iter().any(all)
    }
}

type Parsed<T> = std::result::Result<T, &'static str>;

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn selectors(&mut self) -> Parsed<Vec<Selector>> {
        let mut all = vec![self.selector()?];
        loop {
            self.skip_spaces();
            if self.rest.is_empty() {
                return Ok(all);
            }
            if !self.take(",") {
                return Err("no comma");
            }
            all.push(self.selector()?);
        }
    }

    fn selector(&mut self) -> Parsed<Selector> {
        let mut path = vec![self.field()?];
        while self.take(".") {
            path.push(self.field()?);
        }
        self.skip_spaces();
        let ask = match self.take_while(|c| matches!(c, '=' | '!' | '~')) {
            "" => Ask::Present,
            "==" => Ask::Equal(self.value(false)?),
            "!=" => Ask::NotEqual(self.value(false)?),
            "~=" => {
                let regex = Regex::new(&self.value(true)?);
                Ask::Matches(regex.map_err(|_| "a regular expression that cannot be used")?)
            }
            _ => return Err("an operator that is not known"),
        };
        Ok(Selector { path, ask })
    }

    fn field(&mut self) -> Parsed<String> {
        self.skip_spaces();
        if self.rest.starts_with('"') {
            return self.quoted('"');
        }
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        match self.take_while(is_part) {
            "" => Err("no field"),
            field => Ok(field.to_owned()),
        }
    }

    /// Parses a value. That of a regular expression may have other quotes.
    fn value(&mut self, is_regex: bool) -> Parsed<String> {
        self.skip_spaces();
        match self.rest.chars().next() {
            Some('"') => self.quoted('"'),
            Some(quote @ ('/' | '|')) if is_regex => self.quoted(quote),
            Some('/' | '|') => Err("a quote that a regular expression has"),
            Some('.') => Err("no value"),
            _ => match self.take_while(|c| c != ',' && !c.is_whitespace() && !c.is_control()) {
                "" => Err("no value"),
                value => Ok(value.to_owned()),
            },
        }
    }

    /// Parses what is between quotes, as a Go string has it.
    fn quoted(&mut self, quote: char) -> Parsed<String> {
        let mut bytes = Vec::new();
        let mut chars = self.rest.chars();
        chars.next();
        loop {
            let c = chars.next().filter(|&c| c != '\n');
            match c.ok_or("no closing quote")? {
                c if c == quote => break,
                '\\' => escape(&mut chars, quote, &mut bytes)?,
                c => push(c, &mut bytes),
            }
        }
        self.rest = chars.as_str();
        String::from_utf8(bytes).map_err(|_| "bytes that are no text")
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, word: &str) -> bool {
        let rest = self.rest.strip_prefix(word);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &str {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (found, rest) = self.rest.split_at(end);
        self.rest = rest;
        found
    }
}

fn push(c: char, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

const UNKNOWN: &str = "an escape that is not known";

/// Takes the value of so many digits.
fn digits(chars: &mut Chars<'_>, count: usize, radix: u32) -> Parsed<u32> {
    let (digits, rest) = chars.as_str().split_at_checked(count).ok_or(UNKNOWN)?;
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(UNKNOWN);
    }
    *chars = rest.chars();
    u32::from_str_radix(digits, radix).map_err(|_| UNKNOWN)
}

/// Adds what a backslash and the characters after it stand for.
fn escape(chars: &mut Chars<'_>, quote: char, bytes: &mut Vec<u8>) -> Parsed<()> {
    let byte = |value| u8::try_from(value).map_err(|_| UNKNOWN);
    let text = |value| char::from_u32(value).ok_or(UNKNOWN);
    if chars.as_str().starts_with(|c: char| c.is_digit(8)) {
        bytes.push(byte(digits(chars, 3, 8)?)?);
        return Ok(());
    }
    let c = match chars.next().ok_or("no closing quote")? {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'u' => text(digits(chars, 4, 16)?)?,
        'U' => text(digits(chars, 8, 16)?)?,
        'x' => {
            // One byte, which may be a part of a character.
            bytes.push(byte(digits(chars, 2, 16)?)?);
            return Ok(());
        }
        '\\' => '\\',
        c if c == quote => c,
        // In a regular expression a backslash is the expression's.
        c if quote != '"' => {
            push('\\', bytes);
            c
        }
        _ => return Err(UNKNOWN),
    };
    push(c, bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Filters;
    use crate::snapshot::{Id, Labels, Leaf, Snapshot, SnapshotKind, Time};

    fn snapshot() -> Snapshot {
        let time = Time {
            seconds: 1,
            nanos: 0,
        };
        let label = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        Snapshot {
            name: "a-wl".into(),
            parent: "p".into(),
            kind: SnapshotKind::Active,
            labels: Labels::from([
                label("l", "2"),
                label("containerd.io/gc.root", "check walk"),
            ]),
            created: time,
            updated: time,
            leaf: Leaf {
                number: 1,
                uuid: Id([1; 16]),
            },
            seal: None,
            used: 0,
            commit: None,
        }
    }

    fn matches(filters: &[&str]) -> bool {
        let filters: Vec<String> = filters.iter().map(|&f| f.to_owned()).collect();
        Filters::parse(&filters).unwrap().match_one(&snapshot())
    }

    #[test]
    fn what_a_filter_finds() {
        for one in [
            "",
            "name==a-wl",
            "name",
            "name==\"a-wl\"",
            "parent!=\"\"",
            "parent!=q",
            "kind==active",
            "labels.l",
            "labels.l==2",
            "labels.\"containerd.io/gc.root\"==\"check walk\"",
            "labels.\"containerd.io/gc.root\"",
            "labels.none!=x",
            "name==a-wl,labels.l",
            " name == a-wl , labels.l ",
            "name~=/^a-/",
            "name~=|w[lm]$|",
            "name~=\"^a\"",
            "name~=/\\w-wl/",
            "name~=/\\\\w-wl/",
            "name~=\"^a-\\\\w+$\"",
            "name~=|^a/?|",
            "name~=^a-",
            "labels.l~=2",
            "\"name\"==a-wl",
            "labels.\"l\"==\"\\x32\"",
            "labels.l==\"\\062\"",
            "labels.l==\"\\u0032\"",
            "labels.l==\"\\U00000032\"",
            "labels.l!=\"\\xc3\\xa4\\a\\b\\f\\n\\r\\t\\v\\\\\\\"\"",
            "labels.none~=/^$/",
            "parent==p,kind!=view,labels.l",
        ] {
            assert!(matches(&[one]), "{one}");
        }
        for one in [
            "name==a",
            "parent==\"\"",
            "kind==view",
            "kind==Active",
            "labels.none",
            "labels",
            "other==x",
            "other",
            "name==a-wl,labels.l==3",
            "labels.none==\"\"",
            "labels.none!=\"\"",
            "labels.none~=/./",
            "name~=/^w/",
        ] {
            assert!(!matches(&[one]), "{one}");
        }
        assert!(matches(&[]) && matches(&["name==x", "parent==p"]));
        assert!(!matches(&["name==x", "parent==q"]));
    }

    #[test]
    fn what_is_no_filter() {
        for bad in [
            "==x",
            "name==",
            "name=x",
            "name==a b",
            "name,",
            ",",
            "name==\"a",
            "labels.",
            "name~=/(/",
            "name==/a/",
            "name==\"\\q\"",
            "name<=x",
            "name===x",
            "name=~x",
            "name~x",
            "name!x",
            "name==.x",
            "name==,x",
            "name==a,,name",
            "name==|a|",
            "/name/==a",
            "name==\"\\xg0\"",
            "name==\"\\400\"",
            "name==\"\\12\"",
            "name==\"\\ud800\"",
            "name==\"\\xff\"",
            "name==\"a\nb\"",
            "name==\"\\",
            "näme==x",
        ] {
            let all = [bad.to_owned()];
            let e = Filters::parse(&all).unwrap_err();
            assert_eq!(e.code, tonic::Code::InvalidArgument, "{bad}");
        }
    }
}
