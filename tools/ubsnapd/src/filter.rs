// SPDX-License-Identifier: GPL-2.0

//! The filters of `List`, in containerd's syntax: selectors with commas between them, all of which
//! must match. A selector is a field, or a field, an operator and a value:
//! `kind==active,labels."containerd.io/gc.root"!=x,name~=|^a|`. Of several filters one must match.

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
            // A field that is missing is not equal to anything.
            Ask::NotEqual(other) => value.is_none_or(|v| v != other),
            Ask::Matches(regex) => value.is_some_and(|v| regex.is_match(v)),
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
        let ask = if self.take("==") {
            Ask::Equal(self.value(false)?)
        } else if self.take("!=") {
            Ask::NotEqual(self.value(false)?)
        } else if self.take("~=") {
            let regex = Regex::new(&self.value(true)?);
            Ask::Matches(regex.map_err(|_| "a regular expression that cannot be used")?)
        } else {
            Ask::Present
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
            _ => match self.take_while(|c| c != ',' && !c.is_whitespace()) {
                "" => Err("no value"),
                value => Ok(value.to_owned()),
            },
        }
    }

    /// Parses what is between quotes, as a Go string has it.
    fn quoted(&mut self, quote: char) -> Parsed<String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = self.rest.get(at + c.len_utf8()..).unwrap_or_default();
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c)) if c == quote || c == '\\' => text.push(c),
                    // In a regular expression a backslash is the expression's.
                    Some((_, c)) if quote != '"' => text.extend(['\\', c]),
                    _ => return Err("an escape that is not known"),
                },
                c => text.push(c),
            }
        }
        Err("no closing quote")
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

#[cfg(test)]
mod tests {
    use super::Filters;
    use crate::snapshot::{Id, Kind, Labels, Leaf, Snapshot, Time};

    fn snapshot() -> Snapshot {
        let time = Time {
            seconds: 1,
            nanos: 0,
        };
        let label = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        Snapshot {
            name: "a-wl".into(),
            parent: "p".into(),
            kind: Kind::Active,
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
            "näme==x",
        ] {
            let all = [bad.to_owned()];
            let e = Filters::parse(&all).unwrap_err();
            assert_eq!(e.code, tonic::Code::InvalidArgument, "{bad}");
        }
    }
}
