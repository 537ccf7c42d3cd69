// SPDX-License-Identifier: GPL-2.0

//! Keeps what a format overwrites, to put it back if the format, or the command that needed it,
//! fails.

use ubcore::format::superblock::{choose, Superblock};
use ubcore::geometry::BLOCK_BYTES;
use ubcore::num::u64_as_usize;

use crate::device::{Access, Device};
use crate::error::{Fail, Result};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// The old content of the bytes that a format writes over, and the superblock that it writes.
pub struct Rollback {
    /// Both superblock slots.
    slots: [Vec<u8>; 2],
    /// The bytes that the format wipes in addition, with their offsets.
    wiped: Vec<(u64, Vec<u8>)>,
    /// What both slots hold after the format.
    new: Vec<u8>,
}

impl Rollback {
    /// Reads what the slots and the ranges `wiped`, from one byte up to another, hold.
    pub fn keep(leaf: &Device, wiped: &[(u64, u64)], new: Vec<u8>) -> Result<Rollback> {
        let mut list = Vec::new();
        for &(from, to) in wiped {
            list.push((from, read(leaf, from, to.saturating_sub(from))?));
        }
        Ok(Rollback {
            slots: [read(leaf, 0, BLOCK)?, read(leaf, BLOCK, BLOCK)?],
            wiped: list,
            new,
        })
    }

    /// Puts everything back. The slots come last, and slot A after slot B, so that no superblock is
    /// there before the blocks that it refers to.
    fn put_back(&self, leaf: &Device) -> Result {
        for (at, bytes) in &self.wiped {
            leaf.write_at(*at, bytes)?;
        }
        leaf.sync()?;
        for (at, bytes) in [(BLOCK, &self.slots[1]), (0, &self.slots[0])] {
            leaf.write_at(at, bytes)?;
            leaf.sync()?;
        }
        Ok(())
    }

    /// Handles a format that failed half-way: `leaf` is still held.
    pub fn after_format(&self, leaf: &Device, fail: Fail) -> Fail {
        with(fail, &outcome(self.put_back(leaf)))
    }

    /// Handles a failure after the format. `leaf` is open, and this process has no claim on it.
    pub fn after_create(&self, leaf: &Device, fail: Fail) -> Fail {
        let stays = "the leaf is formatted now, and blank";
        let text = match leaf.again(Access::Exclusive) {
            Err(e) => format!("{stays}: its former content could not be restored: {e}"),
            Ok(leaf) => match self.is_unchanged(&leaf) {
                Ok(true) => outcome(self.put_back(&leaf)),
                Ok(false) => format!(
                    "{stays}, but its superblock has changed since: so nothing was restored"
                ),
                Err(e) => format!("{stays}: its former content could not be restored: {e}"),
            },
        };
        with(fail, &text)
    }

    /// Returns whether both slots are as the format left them, or as a union leaves them if nothing
    /// was written to it. In both cases nothing behind the slots was written either.
    fn is_unchanged(&self, leaf: &Device) -> Result<bool> {
        let slots = [read(leaf, 0, BLOCK)?, read(leaf, BLOCK, BLOCK)?];
        Ok(slots
            .iter()
            .all(|slot| *slot == self.new || self.is_blank(slot)))
    }

    /// Returns whether a slot is of the new leaf with no journal and no map. An attach and a detach
    /// write only a newer generation.
    fn is_blank(&self, slot: &[u8]) -> bool {
        let (Ok((new, _)), Ok((now, _))) = (choose(&self.new, &self.new), choose(slot, slot))
        else {
            return false;
        };
        let kept = |s: &Superblock| (s.uuid, s.nonce, s.journal_tail, s.journal_sequence);
        kept(&new) == kept(&now) && now.directory_slots == new.directory_slots
    }
}

fn outcome(done: Result) -> String {
    match done {
        Ok(()) => "the leaf is as it was before".to_owned(),
        Err(e) => format!(
            "the leaf is partly overwritten, in its first and last MiB or its list of root \
             and layers: their former content could not be restored: {e}"
        ),
    }
}

fn with(mut fail: Fail, text: &str) -> Fail {
    fail.message += &format!(" ({text})");
    fail
}

fn read(leaf: &Device, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; u64_as_usize(len)];
    leaf.read_at(at, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Access, Device, Rollback, BLOCK};
    use crate::error::{Fail, FAILED};
    use std::fs;
    use ubcore::error::Role;

    #[test]
    fn what_was_there_comes_back_unless_another_wrote() {
        let path = std::env::temp_dir().join(format!("ubctl-rollback-{}", std::process::id()));
        let old: Vec<u8> = (0..5 * BLOCK).map(|n| (n % 251) as u8).collect();
        fs::write(&path, &old).unwrap();
        let open = |access| Device::open(&path, Role::Leaf, access).unwrap();
        let new = vec![7; BLOCK as usize];
        let leaf = open(Access::Exclusive);
        let wiped = [(2 * BLOCK, 3 * BLOCK), (4 * BLOCK, 5 * BLOCK)];
        let rollback = Rollback::keep(&leaf, &wiped, new.clone()).unwrap();
        let format = || {
            for at in [0, BLOCK] {
                leaf.write_at(at, &new).unwrap();
            }
            for (from, to) in wiped {
                leaf.write_at(from, &vec![0; (to - from) as usize]).unwrap();
            }
        };
        let fail = || Fail::new(FAILED, "io", "no");
        format();
        assert_ne!(fs::read(&path).unwrap(), old);
        let said = rollback.after_format(&leaf, fail());
        assert_eq!(said.message, "no (the leaf is as it was before)");
        assert_eq!(fs::read(&path).unwrap(), old);

        format();
        let plain = open(Access::Read);
        let said = rollback.after_create(&plain, fail());
        assert!(said.message.contains("not be restored: "), "{said}");
        assert!(said.message.contains("in use"), "{said}");
        leaf.write_at(BLOCK + 9, b"x").unwrap();
        drop(leaf);
        let before = fs::read(&path).unwrap();
        let said = rollback.after_create(&plain, fail());
        assert!(said.message.contains("has changed since"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), before);
        open(Access::Exclusive).write_at(BLOCK + 9, &[7]).unwrap();
        let said = rollback.after_create(&plain, fail());
        assert_eq!(said.message, "no (the leaf is as it was before)");
        assert_eq!(fs::read(&path).unwrap(), old);
        fs::remove_file(&path).unwrap();
    }
}
