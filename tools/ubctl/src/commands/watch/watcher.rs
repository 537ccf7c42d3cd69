// SPDX-License-Identifier: GPL-2.0

//! Makes events of uevents and of what sysfs shows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Serialize, Serializer};
use serde_json::json;

use crate::attributes::{union_number, UnionAttributes};
use crate::output::{self, size};
use crate::uevents::Uevent;

/// The version of what `--json` shows.
const VERSION: u32 = 1;

/// An event.
#[derive(Debug)]
pub struct WatchEvent {
    time: SystemTime,
    kind: String,
    /// The union after the event; for one that was removed, as it was last.
    union: Option<UnionAttributes>,
    /// The union before the event, by whose name or UUID it may be watched.
    before: Option<UnionAttributes>,
    /// The requests that have failed since the last event of this kind.
    new_io_errors: Option<u64>,
}

impl WatchEvent {
    fn new(kind: &str, union: Option<UnionAttributes>) -> WatchEvent {
        WatchEvent {
            time: SystemTime::now(),
            kind: kind.to_owned(),
            union,
            before: None,
            new_io_errors: None,
        }
    }

    /// Returns the word for it.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns whether the event is about the union that a word means. An event without a union
    /// counts for every word.
    pub fn is_about(&self, word: &str) -> bool {
        let is_it = |union: &UnionAttributes| union.is_called(word);
        self.union.as_ref().is_none_or(is_it) || self.before.as_ref().is_some_and(is_it)
    }

    fn time(&self) -> String {
        humantime::format_rfc3339_millis(self.time).to_string()
    }

    /// Returns the line for people.
    pub fn text(&self) -> String {
        let name = self.union.as_ref().map_or("-", |u| u.name.as_str());
        let mut line = format!("{}  {name:<11}  {:<9}", self.time(), self.kind);
        if let Some(u) = &self.union {
            line += &match (self.kind.as_str(), self.new_io_errors) {
                (_, Some(new)) => format!("  {new} new, {} in all", u.io_errors),
                ("resized", _) => format!("  {}", size(u.sectors)),
                ("removed", _) => String::new(),
                _ => format!("  {}", u.used()),
            };
            line += &format!("  {}", output::name_text(u.leaf_name.as_ref()));
        }
        line + "\n"
    }
}

impl Serialize for WatchEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let u = self.union.as_ref();
        json!({
            "version": VERSION,
            "time": self.time(),
            "event": self.kind,
            "union": u.map(|u| &u.name),
            "uuid": u.map(|u| &u.uuid),
            "leaf_name": u.and_then(|u| u.leaf_name.as_ref()),
            "mode": u.map(|u| &u.mode),
            "sectors": u.map(|u| u.sectors),
            "slab_bytes": u.map(|u| u.slab_bytes),
            "slabs": u.map(|u| u.slabs),
            "slabs_used": u.map(|u| u.slabs_used),
            "io_errors": u.map(|u| u.io_errors),
            "new_io_errors": self.new_io_errors,
        })
        .serialize(serializer)
    }
}

/// The unions, as they were when they were last looked at.
pub struct Watcher {
    /// `/sys/block`.
    block: PathBuf,
    known: BTreeMap<String, UnionAttributes>,
}

impl Watcher {
    /// Makes a watcher that knows no union yet.
    pub fn new(block: &Path) -> Watcher {
        Watcher {
            block: block.to_owned(),
            known: BTreeMap::new(),
        }
    }

    /// Returns an event for each union that is there.
    pub fn start(&mut self) -> Vec<WatchEvent> {
        self.look("present")
    }

    /// Looks at all unions again. Returns the events of unions that came and went unseen.
    pub fn missed(&mut self) -> Vec<WatchEvent> {
        let mut events = vec![WatchEvent::new("missed", None)];
        events.extend(self.look("added"));
        events
    }

    /// Compares all unions with what is known, and returns the events of what is new or gone.
    fn look(&mut self, new: &str) -> Vec<WatchEvent> {
        let found = UnionAttributes::all(&self.block);
        let is_there = |known: &UnionAttributes| {
            let same = |u: &UnionAttributes| u.name == known.name && u.uuid == known.uuid;
            found.iter().any(same)
        };
        let gone = self
            .known
            .values()
            .filter(|known| !is_there(known))
            .cloned();
        let mut events: Vec<WatchEvent> =
            gone.map(|u| WatchEvent::new("removed", Some(u))).collect();
        for event in &events {
            self.known
                .remove(event.union.as_ref().map_or("", |u| u.name.as_str()));
        }
        for union in found {
            if !self.known.contains_key(&union.name) {
                self.known.insert(union.name.clone(), union.clone());
                events.push(WatchEvent::new(new, Some(union)));
            }
            // `tick` compares the others, so that none of their I/O errors is lost.
        }
        events
    }

    /// Returns an event for each union whose count of I/O errors has grown, because the driver
    /// sends no uevent for these.
    pub fn tick(&mut self) -> Vec<WatchEvent> {
        let mut events = Vec::new();
        for known in self.known.values_mut() {
            let Some(now) = UnionAttributes::read(&self.block, &known.name) else {
                // The uevent of the removal comes, or came.
                continue;
            };
            if now.uuid != known.uuid {
                // The uevent of the freeze comes. It is about the old leaf, too.
                continue;
            }
            // A reset begins a new count.
            let before = if now.io_errors >= known.io_errors {
                known.io_errors
            } else {
                0
            };
            let new = now.io_errors.saturating_sub(before);
            *known = now;
            if new > 0 {
                events.push(WatchEvent {
                    new_io_errors: Some(new),
                    ..WatchEvent::new("io_errors", Some(known.clone()))
                });
            }
        }
        events
    }

    /// Returns the events that a uevent stands for.
    pub fn uevent(&mut self, uevent: &Uevent) -> Vec<WatchEvent> {
        let name = uevent.get("DEVNAME").unwrap_or_default();
        let is_union = uevent.get("SUBSYSTEM") == Some("block")
            && uevent.get("DEVTYPE") == Some("disk")
            && union_number(name).is_some();
        if !is_union {
            return Vec::new();
        }
        match uevent.get("ACTION") {
            Some("add") => self.added(name),
            Some("remove") => {
                let removed = self.known.remove(name);
                removed
                    .map(|u| WatchEvent::new("removed", Some(u)))
                    .into_iter()
                    .collect()
            }
            Some("change") => self.changed(name, uevent),
            _ => Vec::new(),
        }
    }

    fn added(&mut self, name: &str) -> Vec<WatchEvent> {
        let Some(union) = UnionAttributes::read(&self.block, name) else {
            // It is gone again, and no one could have used it.
            return Vec::new();
        };
        match self.known.get(name) {
            // It is in the list that was made after the socket was opened.
            Some(known) if known.uuid == union.uuid => Vec::new(),
            _ => {
                self.known.insert(name.to_owned(), union.clone());
                vec![WatchEvent::new("added", Some(union))]
            }
        }
    }

    fn changed(&mut self, name: &str, uevent: &Uevent) -> Vec<WatchEvent> {
        let known = self.known.get_mut(name);
        let before = known.as_deref().cloned();
        let now = match (UnionAttributes::read(&self.block, name), known) {
            (Some(now), Some(known)) => {
                // `tick` compares the count of errors. A freeze or a reset begins a new count.
                let is_reset = uevent.get("UNIONBLK_EVENT") == Some("reset");
                let same = now.uuid == known.uuid && !is_reset;
                let io_errors = if same { known.io_errors } else { 0 };
                *known = UnionAttributes {
                    io_errors,
                    ..now.clone()
                };
                Some(now)
            }
            (now, known) => now.or(known.cloned()),
        };
        let event = |kind: &str| WatchEvent {
            before: before.clone(),
            ..WatchEvent::new(kind, now.clone())
        };
        let resized = (uevent.get("RESIZE") == Some("1")).then(|| event("resized"));
        let own = uevent.get("UNIONBLK_EVENT").map(event);
        resized.into_iter().chain(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Uevent, WatchEvent, Watcher};
    use crate::attributes::tests::union;
    use std::fs;
    use std::path::PathBuf;

    fn folder(name: &str) -> PathBuf {
        let name = format!("ubctl-watch-{name}-{}", std::process::id());
        let block = std::env::temp_dir().join(name);
        fs::create_dir_all(&block).unwrap();
        block
    }

    fn uevent(action: &str, name: &str, more: &str) -> Uevent {
        let text = format!(
            "{action}@/x|ACTION={action}|SUBSYSTEM=block|DEVTYPE=disk|DEVNAME={name}|{more}|"
        );
        Uevent::parse(text.replace('|', "\0").as_bytes())
    }

    fn kinds(events: &[WatchEvent]) -> Vec<String> {
        let name = |e: &WatchEvent| e.union.as_ref().map_or("-".to_owned(), |u| u.name.clone());
        events
            .iter()
            .map(|e| format!("{} {}", e.kind, name(e)))
            .collect()
    }

    #[test]
    fn unions_come_and_go() {
        let block = folder("go");
        union(&block, "unionblk0", &[("uuid", "a")]);
        let mut w = Watcher::new(&block);
        assert_eq!(kinds(&w.start()), ["present unionblk0"]);
        union(&block, "unionblk1", &[("uuid", "b")]);
        assert_eq!(
            kinds(&w.uevent(&uevent("add", "unionblk1", ""))),
            ["added unionblk1"]
        );
        // One that was in the list.
        assert!(w.uevent(&uevent("add", "unionblk0", "")).is_empty());
        fs::remove_dir_all(block.join("unionblk0")).unwrap();
        let events = w.uevent(&uevent("remove", "unionblk0", ""));
        assert_eq!(kinds(&events), ["removed unionblk0"]);
        assert_eq!(events[0].union.as_ref().unwrap().uuid, "a");
        assert!(w.uevent(&uevent("remove", "unionblk0", "")).is_empty());
        // What came and went while uevents were missed; one of them with the number of another.
        union(&block, "unionblk0", &[("uuid", "c")]);
        union(&block, "unionblk1", &[("uuid", "d")]);
        assert_eq!(
            kinds(&w.missed()),
            [
                "missed -",
                "removed unionblk1",
                "added unionblk0",
                "added unionblk1"
            ]
        );
        for other in [uevent("add", "sda", ""), uevent("add", "unionblk0p1", "")] {
            assert!(w.uevent(&other).is_empty());
        }
        fs::remove_dir_all(&block).unwrap();
    }

    #[test]
    fn events_have_the_drivers_word_and_errors_are_counted() {
        let block = folder("word");
        let files = [
            ("uuid", "a"),
            ("name", "web"),
            ("io_errors", "2"),
            ("slabs", "10"),
        ];
        union(&block, "unionblk0", &files);
        let mut w = Watcher::new(&block);
        w.start();
        let events = w.uevent(&uevent("change", "unionblk0", "UNIONBLK_EVENT=low_space"));
        assert_eq!(kinds(&events), ["low_space unionblk0"]);
        let events = w.uevent(&uevent("change", "unionblk0", "RESIZE=1"));
        assert_eq!(kinds(&events), ["resized unionblk0"]);
        // The event of a removal shows the union as it was last.
        union(&block, "unionblk0", &[("mode", "read-only")]);
        w.uevent(&uevent("change", "unionblk0", "UNIONBLK_EVENT=read_only"));
        assert_eq!(w.known["unionblk0"].mode, "read-only");
        // A program has written to the disk and closed it.
        assert!(w.uevent(&uevent("change", "unionblk0", "")).is_empty());
        assert!(w.tick().is_empty());
        union(&block, "unionblk0", &[("io_errors", "5")]);
        let events = w.tick();
        let json = serde_json::to_value(&events[0]).unwrap();
        assert_eq!(
            (&json["new_io_errors"], &json["io_errors"]),
            (&3.into(), &5.into())
        );
        assert_eq!(
            (&json["event"], &json["leaf_name"]),
            (&"io_errors".into(), &"web".into())
        );
        let text = events[0].text();
        assert!(
            text.ends_with("Z  unionblk0    io_errors  3 new, 5 in all  web\n"),
            "{text}"
        );
        assert!(w.tick().is_empty());
        // Events that were dropped, or a second `add`, lose no errors.
        union(&block, "unionblk0", &[("io_errors", "6")]);
        assert_eq!(kinds(&w.missed()), ["missed -"]);
        assert!(w.uevent(&uevent("add", "unionblk0", "")).is_empty());
        assert_eq!(w.tick()[0].new_io_errors, Some(1));
        // A freeze begins a new leaf and a new count. Its event is about the old leaf, too.
        union(&block, "unionblk0", &[("uuid", "b"), ("io_errors", "1")]);
        assert!(w.tick().is_empty());
        let events = w.uevent(&uevent("change", "unionblk0", "UNIONBLK_EVENT=frozen"));
        assert_eq!(kinds(&events), ["frozen unionblk0"]);
        assert!(events[0].is_about("a") && events[0].is_about("b"));
        assert_eq!(w.tick()[0].new_io_errors, Some(1));
        fs::remove_dir_all(&block).unwrap();
    }
}
