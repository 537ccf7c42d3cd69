// SPDX-License-Identifier: GPL-2.0

//! The store: which snapshots there are, durable before a request is answered.
//!
//! It is a log, `snapshots.log`, to which each change appends a line and syncs the file. A crash
//! leaves at most the last line torn, whose change no request has been answered with; the next open
//! cuts it off. A log that has grown is written anew under another name, synced, and renamed. It is
//! text, so that it can be read without this program. A line that was changed or taken out makes it
//! a damaged one, because of the checksums and numbers.

mod line;
pub mod state;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{fallocate, FallocateFlags};
use rustix::io::Errno;

use self::state::{Change, State};
use crate::error::{complain, Error, Result};

/// The name of the log.
const LOG: &str = "snapshots.log";
/// The name of a log that is not whole yet.
const NEW: &str = "snapshots.log.new";
/// A log of less is not written anew.
const SMALL: u64 = 1 << 20;
/// The space behind the log that is kept for changes that free space. On a full disk a removal
/// could not be stored without it. A removal takes about 200 bytes.
const RESERVE: u64 = 256 << 10;
/// The bytes of a line that is cut off which a message shows.
const SHOWN: usize = 2048;

/// The open store. Its owner holds the lock of the directory.
pub struct Store {
    directory: PathBuf,
    file: File,
    state: State,
    /// The number of the next line.
    next: u64,
    /// The bytes of the log, and its bytes when it was last written anew.
    bytes: u64,
    fresh: u64,
    /// The end of the space that is allocated for the log.
    allocated: u64,
    /// No space can be allocated.
    #[cfg(test)]
    is_full: bool,
    /// Why nothing can be stored any more.
    broken: Option<String>,
}

impl Store {
    /// Opens the store of a directory. Returns none if there is none.
    pub fn open(directory: &Path) -> Result<Option<Store>> {
        let path = directory.join(LOG);
        let log = match fs::read(&path) {
            Ok(log) => log,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(format!("read {}", path.display()), &e)),
        };
        let damaged = |why: String| {
            Error::internal(format!(
                "{}: {why}: keep a copy of it, and restore a backup",
                path.display()
            ))
        };
        let found = line::scan(&log).map_err(|at| damaged(format!("damaged at byte {at}")))?;
        let mut state = State::default();
        for (n, changes) in &found.lines {
            let wrong = |why| damaged(format!("line {n}: {why}"));
            let changes: Vec<Change> =
                serde_json::from_str(changes).map_err(|e| wrong(e.to_string()))?;
            for change in changes {
                state.apply(change).map_err(wrong)?;
            }
        }
        let Some((last, _)) = found.lines.last() else {
            return Err(damaged("it has no whole line".to_owned()));
        };
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.map_err(|e| Error::io(format!("open {}", path.display()), &e))?;
        let bytes = found.bytes as u64;
        if let Some(torn) = log.get(found.bytes..).filter(|torn| !torn.is_empty()) {
            let cut = file.set_len(bytes);
            cut.map_err(|e| Error::io(format!("cut {}", path.display()), &e))?;
            complain(&format!("{}: {}", path.display(), dropped(torn)));
        }
        // Images are deleted because of what the log says. The daemon that wrote it may have ended
        // before it synced, so a power failure could still take back what was read.
        let synced = file.sync_all().and_then(|()| sync_directory(directory));
        synced.map_err(|e| Error::io(format!("sync {}", path.display()), &e))?;
        let mut store = Store {
            directory: directory.to_owned(),
            file,
            state,
            next: last.saturating_add(1),
            bytes,
            fresh: 0,
            allocated: 0,
            #[cfg(test)]
            is_full: false,
            broken: None,
        };
        // On a full disk the next change that needs the reserve fails.
        let _ = store.reserve(0);
        Ok(Some(store))
    }

    /// Makes the store of a directory, for file systems of this size.
    pub fn create(directory: &Path, bytes: u64) -> Result<Store> {
        let state = State {
            bytes,
            next: 1,
            ..State::default()
        };
        let (file, bytes) = write_anew(directory, &state, 0)?;
        Ok(Store {
            directory: directory.to_owned(),
            file,
            state,
            next: 1,
            bytes,
            fresh: bytes,
            allocated: 0,
            #[cfg(test)]
            is_full: false,
            broken: None,
        })
    }

    /// Allocates space for `more` bytes, and for the reserve behind them.
    fn reserve(&mut self, more: u64) -> io::Result<()> {
        let needed = self.bytes.saturating_add(more).saturating_add(RESERVE);
        if self.allocated >= needed {
            return Ok(());
        }
        // More, so that this is rare.
        let end = needed.saturating_add(RESERVE);
        let length = end.saturating_sub(self.bytes);
        #[cfg(test)]
        if self.is_full {
            return Err(Errno::NOSPC.into());
        }
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.bytes, length) {
            // The disk cannot allocate space in advance.
            Ok(()) | Err(Errno::OPNOTSUPP) => {
                self.allocated = end;
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Returns what the store holds.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Makes changes, all of them or none. They are durable when this returns.
    pub fn change(&mut self, changes: &[Change]) -> Result {
        if let Some(why) = &self.broken {
            return Err(Error::internal(format!(
                "the store cannot be written since an error: {why}: restart ubsnapd"
            )));
        }
        let mut state = self.state.clone();
        for change in changes {
            let wrong = |why| Error::internal(format!("a change that the store refuses: {why}"));
            state.apply(change.clone()).map_err(wrong)?;
        }
        let text = serde_json::to_string(changes);
        let text = text.map_err(|e| Error::internal(format!("cannot encode a change: {e}")))?;
        let line = line::encode(self.next, &text);
        if let (Err(e), false) = (self.reserve(line.len() as u64), frees(changes)) {
            let what = format!("write {}", self.directory.join(LOG).display());
            return Err(Error::io(what, &e));
        }
        self.append(&line)?;
        self.state = state;
        self.next = self.next.saturating_add(1);
        if self.bytes > SMALL && self.bytes / 4 > self.fresh {
            self.renew();
        }
        Ok(())
    }

    fn append(&mut self, line: &str) -> Result {
        let what = format!("write {}", self.directory.join(LOG).display());
        if let Err(e) = self.file.write_all(line.as_bytes()) {
            // A part of the line may be there, behind which nothing may be appended.
            if let Err(e) = self.file.set_len(self.bytes) {
                self.broken = Some(e.to_string());
            }
            // The cut also frees the space behind the log.
            self.allocated = 0;
            return Err(Error::io(what, &e));
        }
        if let Err(e) = self.file.sync_data() {
            // It is unknown what is durable now, and another sync may not report it again.
            self.broken = Some(e.to_string());
            return Err(Error::io(what, &e));
        }
        self.bytes = self.bytes.saturating_add(line.len() as u64);
        Ok(())
    }

    /// Writes the log anew. If that fails, the old log stays in use, unless the new one already has
    /// its name.
    fn renew(&mut self) {
        match write_anew(&self.directory, &self.state, self.next) {
            Ok((file, bytes)) => {
                self.file = file;
                (self.bytes, self.fresh, self.allocated) = (bytes, bytes, 0);
                // If this fails, the next change tries again.
                let _ = self.reserve(0);
                self.next = self.next.saturating_add(1);
            }
            Err(e) => {
                complain(&format!("the log was not rewritten: {e}"));
                // On a full disk its part would take the space that removals free.
                let _ = fs::remove_file(self.directory.join(NEW));
                self.fresh = self.bytes;
                let same = fs::metadata(self.directory.join(LOG))
                    .ok()
                    .zip(self.file.metadata().ok());
                if !same.is_some_and(|(a, b)| ubctl::device::is_same(&a, &b)) {
                    self.broken = Some(e.message);
                }
            }
        }
    }
}

/// Returns whether changes end something, so that they may use the reserve.
fn frees(changes: &[Change]) -> bool {
    let frees = |change: &Change| {
        matches!(
            change,
            Change::Forget(_) | Change::Discard(_) | Change::Deleted(_)
        )
    };
    changes.iter().any(frees)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Returns the message about what is cut off.
fn dropped(torn: &[u8]) -> String {
    let start = torn.get(..SHOWN).unwrap_or(torn);
    let start = String::from_utf8_lossy(start);
    format!(
        "its last line is incomplete and was cut off, {} bytes: {:?}",
        torn.len(),
        start.trim_end_matches('\0')
    )
}

/// Writes a log of one line in place of the one that is there. Returns it and its size.
fn write_anew(directory: &Path, state: &State, number: u64) -> Result<(File, u64)> {
    let (path, new) = (directory.join(LOG), directory.join(NEW));
    let failed = |e: io::Error| Error::io(format!("write {}", path.display()), &e);
    let text = serde_json::to_string(&state.changes());
    let text = text.map_err(|e| Error::internal(format!("cannot encode the store: {e}")))?;
    let line = line::encode(number, &text);
    // A crash may have left one.
    let _ = fs::remove_file(&new);
    let file = OpenOptions::new().append(true).create_new(true).open(&new);
    let mut file = file.map_err(failed)?;
    file.write_all(line.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&new, &path).map_err(failed)?;
    sync_directory(directory).map_err(failed)?;
    Ok((file, line.len() as u64))
}

#[cfg(test)]
mod tests;
