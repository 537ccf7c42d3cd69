// SPDX-License-Identifier: GPL-2.0

//! The control device, /dev/unionblk-control.

mod fields;
mod layers;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde_json::json;
use ubcore::abi::{self, Create, FeaturesCall, Layer, LostCall, Remove, Status};
use ubcore::error::{Error, Role};
use ubcore::format::name::{is_union_word, UNION_PREFIX};

pub use self::fields::{leaf_name, path_text, put_path, root_text};
use self::layers::layer_of;
use crate::error::{self, Fail, Result, BUSY, FAILED};
use crate::holders::{self, Tried};
use crate::ioctl;
use crate::lost_sectors::SectorRange;
use crate::node;
use crate::output::{self, size};
use crate::wait::Deadline;

/// The prefix of the names of unions.
pub const PREFIX: &str = UNION_PREFIX;

/// The result of a call of the driver.
type Done = rustix::io::Result<()>;

/// The open control device of a module whose version of the interface is ours.
pub struct Control(File);

impl Control {
    /// Opens the control device and checks the module's version first.
    pub fn open() -> Result<Control> {
        Control::open_at(&control_path())
    }

    fn open_at(path: &Path) -> Result<Control> {
        let file = node::peek(path).map_err(|e| match Errno::from_io_error(&e) {
            Some(Errno::NOENT | Errno::NXIO | Errno::NODEV) => match loaded() {
                Some(minor) => no_control_node(path, &minor),
                None => no_module(path),
            },
            Some(Errno::PERM | Errno::ACCESS) => not_allowed(),
            _ => Fail::io("open", path, &e),
        })?;
        let control = Control(file);
        let mut f = FeaturesCall::new();
        match ioctl::call(&control.0, &mut f) {
            Ok(()) if f.abi_version == abi::ABI_VERSION => Ok(control),
            Ok(()) => Err(other_version(&format!("version {}", f.abi_version))),
            Err(Errno::INVAL | Errno::TOOBIG) => Err(other_version("another version")),
            Err(Errno::NOTTY) => Err(match loaded() {
                Some(minor) => no_control_node(path, &minor),
                None => no_module(path),
            }),
            Err(e) => Err(control.failure("ask the module for its version", e)),
        }
    }

    /// Makes a union and returns its number. `what` names the devices.
    ///
    /// A device that other holders use gets a moment to come free; if it does not, the failure
    /// names the holders.
    pub fn create(&self, request: &mut Create, layers: &[Layer], what: &str) -> Result<u32> {
        let asked = request.clone();
        // The device that the last attempt found busy.
        let node = RefCell::new(PathBuf::new());
        let look = |all| holders::of_path(&node.borrow(), all);
        let attempt = || {
            request.clone_from(&asked);
            let done = ioctl::create(&self.0, request, layers);
            if let (Err(_), Some(Error::Busy(role))) = (&done, request.error()) {
                let layer = layer_of(request, layers);
                let field = match role {
                    Role::Layer => layer.map_or(&request.leaf, |(_, l)| &l.path),
                    Role::Root => &request.root,
                    Role::Leaf => &request.leaf,
                };
                *node.borrow_mut() = path_text(field).into();
                return Ok(Tried::Busy);
            }
            let what = layers::named(request, layers, what);
            self.created(done, request, &what).map(Tried::Done)
        };
        let found = holders::retry(Deadline::new(), look, attempt)?;
        found.map_err(|who| {
            if who.text().is_empty() {
                Fail::core(what, request.error().unwrap_or(Error::Busy(Role::Leaf)))
            } else {
                who.fail(&format!("{what}: {}", node.borrow().display()))
            }
        })
    }

    fn created(&self, done: Done, request: &Create, what: &str) -> Result<u32> {
        match done {
            Ok(()) => Ok(request.id),
            Err(e) => Err(match (request.error(), e) {
                (Some(reason), _) => rest_of(request, Fail::core(what, reason)),
                (None, Errno::EXIST) => exists(request.id),
                (None, e) => self.failure(&format!("attach {what}"), e),
            }),
        }
    }

    /// Removes a union unless it is in use.
    pub fn remove(&self, id: u32) -> Result<Tried<()>> {
        let mut request = Remove::new();
        request.id = id;
        let done = ioctl::call(&self.0, &mut request);
        self.removed(id, done)
    }

    fn removed(&self, id: u32, done: Done) -> Result<Tried<()>> {
        let name = format!("{PREFIX}{id}");
        match done {
            Ok(()) => Ok(Tried::Done(())),
            Err(Errno::BUSY) => Ok(Tried::Busy),
            Err(Errno::INPROGRESS) => Err(Fail::being_changed(&name)),
            Err(Errno::NODEV) => Err(not_there(id)),
            Err(e @ (Errno::IO | Errno::NOSPC)) => Err(last_commit_failed(&name, e)),
            Err(e) => Err(self.failure(&format!("remove {name}"), e)),
        }
    }

    /// Returns the state of one union.
    pub fn status(&self, id: u32) -> Result<Status> {
        self.ask(id, 0)?.ok_or_else(|| not_there(id))
    }

    /// Returns the lost sectors of a union, as far as the driver names them one by one.
    pub fn lost(&self, id: u32) -> Result<Vec<SectorRange>> {
        let mut list: Vec<SectorRange> = Vec::new();
        let mut from = 0;
        loop {
            let mut request = LostCall::new();
            (request.id, request.from) = (id, from);
            ioctl::call(&self.0, &mut request).map_err(|e| match e {
                Errno::NODEV => not_there(id),
                e => self.failure("ask for the lost sectors of a union", e),
            })?;
            let (sector, sectors) = (request.sector, request.sectors);
            if sectors == 0 {
                return Ok(list);
            }
            // The loop would not end if a range did not end behind the sector asked for.
            from = match sector.checked_add(sectors) {
                Some(end) if end > from => end,
                _ => return Err(other_version("another version")),
            };
            list.push(SectorRange { sector, sectors });
        }
    }

    /// Returns the state of all unions.
    pub fn all(&self) -> Result<Vec<Status>> {
        let mut list: Vec<Status> = Vec::new();
        let mut from = Some(0);
        while let Some(id) = from {
            let Some(status) = self.ask(id, abi::STATUS_NEXT)? else {
                break;
            };
            // The loop would not end if the driver returned a number below the one asked for.
            if status.id < id {
                return Err(other_version("another version"));
            }
            from = status.id.checked_add(1);
            list.push(status);
        }
        Ok(list)
    }

    /// Returns the state of the union that a user's word names.
    pub fn find(&self, name: &str) -> Result<Status> {
        let all = self.all()?;
        let id = resolve(name, &all)?;
        match all.into_iter().find(|s| s.id == id) {
            Some(status) => Ok(status),
            None => self.status(id),
        }
    }

    /// Refuses the number of an existing union.
    pub fn refuse_existing(&self, id: Option<u32>) -> Result {
        match id {
            Some(id) if self.ask(id, 0)?.is_some() => Err(exists(id)),
            _ => Ok(()),
        }
    }

    fn ask(&self, id: u32, flags: u32) -> Result<Option<Status>> {
        let mut s = Status::new();
        s.id = id;
        s.flags = flags;
        let asked = s.clone();
        let deadline = Deadline::new();
        loop {
            s.clone_from(&asked);
            match ioctl::call(&self.0, &mut s) {
                Ok(()) => return Ok(Some(s)),
                Err(Errno::NODEV) => return Ok(None),
                // The union is being attached or detached at this moment.
                Err(Errno::BUSY) if deadline.pause() => {}
                Err(e) => return Err(self.failure("ask for the state of a union", e)),
            }
        }
    }

    fn failure(&self, what: &str, e: Errno) -> Fail {
        match e {
            Errno::PERM | Errno::ACCESS => not_allowed(),
            Errno::BUSY => Fail::new(BUSY, "busy", format!("cannot {what}: in use; try again")),
            Errno::TOOBIG => Fail::new(
                FAILED,
                "abi",
                format!(
                    "cannot {what}: the loaded module is older than this ubctl and does not know \
                     this request: load the module of the same release"
                ),
            ),
            e => {
                let text = error::strerror(e.raw_os_error().unsigned_abs());
                Fail::new(
                    FAILED,
                    "os",
                    format!("cannot {what}: {text}: see the kernel's log"),
                )
            }
        }
    }
}

/// Returns the failure of a remove that has detached the union, but could not commit its map.
fn last_commit_failed(name: &str, e: Errno) -> Fail {
    let (reason, why) = match e {
        Errno::NOSPC => (
            "no_space",
            ", because the storage below the leaf has no space",
        ),
        _ => ("io", ""),
    };
    let text = format!(
        "{name} is gone, but its last commit failed{why}: the leaf holds what the one before it \
         covered; see the kernel's log"
    );
    Fail::new(FAILED, reason, text)
}

/// Returns a refusal for damage, with what can still be done.
fn rest_of(request: &Create, mut fail: Fail) -> Fail {
    if request.damaged_blocks == 0 || request.flags & abi::CREATE_READ_ONLY != 0 {
        return fail;
    }
    let lost = match request.lost_sectors {
        0 => "no sector".to_owned(),
        n => size(n),
    };
    fail.message += &format!(
        "; ubctl check says what is lost, {lost} of the union; to read what is left: ubctl create \
         --read-only"
    );
    fail.with(json!({
        "damaged_blocks": request.damaged_blocks,
        "lost_sectors": request.lost_sectors,
    }))
}

fn control_path() -> PathBuf {
    Path::new("/dev").join(OsStr::from_bytes(abi::CONTROL_NAME.to_bytes()))
}

/// Returns the minor number of the control device if the module is loaded.
fn loaded() -> Option<String> {
    let name = abi::CONTROL_NAME.to_str().ok()?;
    let text = std::fs::read_to_string(format!("/sys/class/misc/{name}/dev")).ok()?;
    Some(text.trim().split_once(':')?.1.to_owned())
}

fn no_control_node(path: &Path, minor: &str) -> Fail {
    Fail::new(
        FAILED,
        "no_node",
        format!(
            "the module is loaded, but {0} is missing or not its control device: is devtmpfs mounted on \
             /dev? (rm -f {0}, mknod {0} c 10 {minor} makes one)",
            path.display()
        ),
    )
}

fn no_module(path: &Path) -> Fail {
    Fail::new(
        FAILED,
        "no_module",
        format!(
            "no {}: load the module: modprobe unionblk, or insmod unionblk.ko",
            path.display()
        ),
    )
}

fn not_allowed() -> Fail {
    Fail::new(FAILED, "permission", "needs CAP_SYS_ADMIN: run as root")
}

fn other_version(found: &str) -> Fail {
    Fail::new(
        FAILED,
        "abi",
        format!(
            "the loaded module has {found} of the ioctl interface, this ubctl has version {}: use \
             both of one release",
            abi::ABI_VERSION
        ),
    )
}

fn exists(id: u32) -> Fail {
    let text = format!("{PREFIX}{id} exists already: choose another --id, or leave it out");
    Fail::new(BUSY, "exists", text)
}

fn not_there(id: u32) -> Fail {
    Fail::new(
        FAILED,
        "not_found",
        format!("there is no {PREFIX}{id}: see ubctl list"),
    )
}

/// Returns the number in `3` or `unionblk3`.
pub fn union_number(s: &str) -> Option<u32> {
    let digits = s.strip_prefix(PREFIX).unwrap_or(s);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|&n| plain && n != abi::ID_ANY)
}

/// Returns whether a device's place in sysfs is a union's, or below a union's.
pub fn is_union(place: &Path) -> bool {
    place.iter().filter_map(OsStr::to_str).any(|part| {
        part.strip_prefix(PREFIX)
            .is_some_and(|n| union_number(n).is_some())
    })
}

/// Returns the number of the only union that a word can mean: by the union's number or device, or
/// by the name or UUID of its leaf. A word that names a union by its number can mean no other
/// union. If a leaf has that word as its name, the word is ambiguous, because the user may not know
/// of the leaf.
fn resolve(word: &str, unions: &[Status]) -> Result<u32> {
    let device = device_of(word);
    let numbered = union_number(word.strip_prefix("/dev/").unwrap_or(word));
    let node = |s: &Status| device.is_some_and(|d| d == (s.major, s.minor));
    let means = |s: &Status| -> Option<String> {
        if numbered == Some(s.id) {
            Some("its number".to_owned())
        } else if node(s) {
            Some("its device".to_owned())
        } else if leaf_name(s).is_some_and(|name| name == word) {
            Some(format!("its leaf's name, {word}"))
        } else if output::uuid(&s.uuid).eq_ignore_ascii_case(word) {
            Some("its leaf's UUID".to_owned())
        } else {
            None
        }
    };
    let found: Vec<(u32, String)> = unions
        .iter()
        .filter_map(|s| Some((s.id, means(s)?)))
        .collect();
    match &found[..] {
        [(id, _)] if numbered.is_none_or(|n| n == *id) && !is_misnamed(word, *id) => Ok(*id),
        // The driver decides, because the union may be in the middle of its attach or detach.
        [] => numbered.ok_or_else(|| no_union(word)),
        several => Err(ambiguous(word, several)),
    }
}

/// Returns whether a word is the number of a union other than `id`. Union `id` would then have the
/// word only as the name of its leaf.
fn is_misnamed(word: &str, id: u32) -> bool {
    is_union_word(word) && union_number(word) != Some(id)
}

fn no_union(word: &str) -> Fail {
    Fail::new(
        FAILED,
        "not_found",
        format!(
            "{word} is not a union: use {PREFIX}N, /dev/{PREFIX}N, N, or its leaf's name or UUID as in \
             ubctl list"
        ),
    )
}

fn ambiguous(word: &str, found: &[(u32, String)]) -> Fail {
    let each = |(id, why): &(u32, String)| format!("{PREFIX}{id} ({why})");
    let list: Vec<String> = found.iter().map(each).collect();
    let list = list.join(", ");
    Fail::new(
        FAILED,
        "ambiguous",
        format!("{word} is ambiguous: it may mean {list}: use /dev/{PREFIX}N, or the leaf's UUID"),
    )
}

/// Returns the numbers of the block device at a path. A bare word is not a path, whatever files are
/// in the current directory.
fn device_of(word: &str) -> Option<(u32, u32)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = std::fs::metadata(Some(word).filter(|w| w.contains('/'))?).ok()?;
    let rdev = meta.rdev();
    let is_block = meta.file_type().is_block_device();
    is_block.then(|| (rustix::fs::major(rdev), rustix::fs::minor(rdev)))
}

#[cfg(test)]
mod tests {
    use super::{
        is_union, put_path, resolve, rest_of, union_number, Control, Errno, File, Tried, FAILED,
    };
    use crate::error::Fail;
    use std::path::Path;
    use ubcore::abi::{Create, Status};
    use ubcore::error::{Area, Error};
    use ubcore::leaf_block::LeafBlock;

    fn union(id: u32, name: &str) -> Status {
        let mut s = Status::new();
        (s.id, s.uuid) = (id, [0xab, id as u8].repeat(8).try_into().unwrap());
        // Software other than ubctl may have written the name on the leaf.
        s.name[..name.len()].copy_from_slice(name.as_bytes());
        s
    }

    #[test]
    fn what_a_union_may_be_called() {
        let all = [union(0, ""), union(3, ""), union(12, "")];
        let find = |name: &str| resolve(name, &all).map_err(|f| f.reason);
        assert_eq!(find("3"), Ok(3));
        assert_eq!(find("unionblk12"), Ok(12));
        assert_eq!(find("/dev/unionblk0"), Ok(0));
        // A number that names no union and no leaf: the driver decides.
        assert_eq!(find("4"), Ok(4));
        assert_eq!(union_number("4294967295"), None);
        for bad in [
            "",
            "unionblk",
            "unionblk0p1",
            "sda",
            "/dev/unionblk",
            "/dev/null",
            "-1",
            "+1",
            "4294967295",
        ] {
            assert_eq!(find(bad), Err("not_found"), "{bad}");
        }
    }

    #[test]
    fn a_leaf_called_like_a_union_takes_nothing_over() {
        let all = [
            union(0, "3"),
            union(1, "unionblk3"),
            union(3, "plain"),
            union(5, "77"),
            union(6, "6"),
            union(7, "007"),
        ];
        let find = |name: &str| resolve(name, &all).map_err(|f| f.reason);
        assert_eq!(find("/dev/unionblk3"), Ok(3));
        assert_eq!(find("plain"), Ok(3));
        // The number and the name mean the same union.
        assert_eq!((find("6"), find("007")), (Ok(6), Ok(7)));
        for word in ["3", "unionblk3", "77"] {
            assert_eq!(find(word), Err("ambiguous"), "{word}");
        }
        assert_eq!(find("003"), Ok(3));
        let fail = resolve("3", &all).unwrap_err();
        assert!(
            fail.message.contains(
                "may mean unionblk0 (its leaf's name, 3), unionblk3 (its number): use /dev/"
            ),
            "{fail}"
        );
    }

    #[test]
    fn a_union_is_known_by_its_place() {
        let is = |p: &str| is_union(Path::new(p));
        assert!(is("/sys/devices/virtual/block/unionblk0"));
        assert!(is("/sys/devices/virtual/block/unionblk12/unionblk12p1"));
        assert!(!is("/sys/devices/virtual/block/loop0"));
        assert!(!is("/sys/devices/virtual/misc/unionblk-control"));
        assert!(!is("/sys/devices/virtual/block/unionblk"));
    }

    #[test]
    fn what_a_leaf_may_be_called() {
        let all = [
            union(0, ""),
            union(2, "web"),
            union(5, "db"),
            union(7, "db"),
        ];
        let find = |name: &str| resolve(name, &all).map_err(|f| f.reason);
        assert_eq!(find("web"), Ok(2));
        assert_eq!(find("AB07ab07-ab07-ab07-ab07-ab07ab07ab07"), Ok(7));
        assert_eq!(find("db"), Err("ambiguous"));
        for unknown in ["", "we", "Web", "ab07"] {
            assert_eq!(find(unknown), Err("not_found"), "{unknown}");
        }
    }

    #[test]
    fn a_file_in_the_nodes_place_is_not_taken_for_it() {
        let fail = Control::open_at(Path::new("/dev/null")).err().unwrap();
        assert_eq!(fail.reason, "no_module", "{fail}");
        let fail = Control::open_at(Path::new("/nowhere/control"))
            .err()
            .unwrap();
        assert_eq!(fail.reason, "no_module", "{fail}");
        assert!(fail.message.contains("modprobe unionblk"), "{fail}");
    }

    #[test]
    fn a_union_that_is_gone_without_its_last_commit_is_called_gone() {
        let control = Control(File::open("/dev/null").unwrap());
        let of = |e| control.removed(3, Err(e)).err().unwrap();
        for (e, reason, why) in [
            (Errno::IO, "io", "failed: the leaf"),
            (Errno::NOSPC, "no_space", "has no space: the leaf"),
        ] {
            let fail = of(e);
            assert_eq!((fail.code, fail.reason), (FAILED, reason));
            let said = fail.message.starts_with("unionblk3 is gone, but its last");
            assert!(said && fail.message.contains(why), "{fail}");
        }
        let reasons = [Errno::NODEV, Errno::INPROGRESS].map(|e| of(e).reason);
        assert_eq!(reasons, ["not_found", "busy"]);
        assert!(of(Errno::INVAL).message.starts_with("cannot remove"));
        let busy = control.removed(3, Err(Errno::BUSY));
        assert!(matches!(busy, Ok(Tried::Busy)));
    }

    #[test]
    fn a_refusal_says_whether_the_rest_can_be_read() {
        let e = Error::Damaged(Area::Page, LeafBlock(21));
        let mut c = Create::new();
        c.set_error(e);
        let fail = rest_of(&c, Fail::core("leaf x", e));
        assert_eq!(fail.message, format!("leaf x: {e}"));
        (c.damaged_blocks, c.lost_sectors) = (1, 2048);
        let fail = rest_of(&c, Fail::core("leaf x", e));
        assert!(fail
            .message
            .starts_with(&format!("leaf x: {e}; ubctl check")));
        assert!(fail.message.contains("lost, 1 MiB of"), "{fail}");
        assert!(fail.message.ends_with("ubctl create --read-only"), "{fail}");
        assert_eq!(fail.reason, "damaged");
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let mut c = Create::new();
        let long = "x".repeat(256);
        assert!(put_path(&mut c.root, Path::new(&long)).is_err());
        assert!(put_path(&mut c.root, Path::new(&long[1..])).is_ok());
    }
}
