// SPDX-License-Identifier: GPL-2.0

//! The control device and the registry of all unions: decodes, checks and handles each ioctl.

use crate::{
    blk::{
        bios::Bios,
        control::{
            is_admin,
            Control, //
        },
        workqueue::OwnedQueue, //
    },
    device::{
        Attached,
        Shared, //
    },
    error::errno,
    memory::Reserve,
    ubcore::{
        abi::{
            self,
            Call, //
        },
        extend::{
            self,
            Caller,
            Refused, //
        },
        format,
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        Mutex, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

/// A union and its id.
struct Entry {
    id: u32,
    attached: Attached,
}

/// A union's place in the registry.
///
/// Attach and detach do I/O and may hang with their devices. The registry's lock is therefore not
/// held during either, except when the module is unloaded; a place without a union reserves the id.
struct Place {
    id: u32,
    entry: Option<KBox<Entry>>,
}

/// All unions, sorted by id.
#[pin_data]
pub(crate) struct Registry {
    #[pin]
    unions: Mutex<KVec<Place>>,
    shared: Shared,
}

impl Registry {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let shared = Shared {
            queue: Arc::new(OwnedQueue::new(c"unionblk")?, GFP_KERNEL)?,
            releases: Arc::new(OwnedQueue::new(c"unionblk_release")?, GFP_KERNEL)?,
            background: Arc::new(OwnedQueue::new_freezable(c"unionblk_idle")?, GFP_KERNEL)?,
            sends: Arc::new(OwnedQueue::new(c"unionblk_send")?, GFP_KERNEL)?,
            memory: Arc::new(OwnedQueue::new(c"unionblk_memory")?, GFP_KERNEL)?,
            bios: Arc::new(Bios::new()?, GFP_KERNEL)?,
            reserve: Reserve::new()?,
        };
        Arc::pin_init(
            try_pin_init!(Self {
                unions <- new_mutex!(KVec::new(), "unionblk unions"),
                shared,
            }? Error),
            GFP_KERNEL,
        )
    }
}

/// Detaches all unions when the module is unloaded.
///
/// No union is open then, because an open disk holds a reference to the module.
pub(crate) struct Unions(Arc<Registry>);

impl Unions {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Unions(registry)
    }
}

impl Drop for Unions {
    fn drop(&mut self) {
        let mut unions = self.0.unions.lock();
        while let Some(place) = unions.pop() {
            // No ioctl is under way any more, so each place holds a union.
            if let Some(entry) = place.entry {
                // `detach` logs errors. There is no caller to return them to.
                let _ = entry.attached.disk.claim();
                let _ = KBox::into_inner(entry).attached.detach();
            }
        }
        drop(unions);
        Reserve::quiesce(&self.0.shared.reserve);
    }
}

impl Control for Registry {
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        if !is_admin() {
            return Err(EPERM);
        }
        match cmd {
            abi::Features::COMMAND => call(arg, |c| this.features(c)),
            abi::Create::COMMAND => call(arg, |c| this.create(c)),
            abi::Remove::COMMAND => call(arg, |c| this.remove(c)),
            abi::Status::COMMAND => call(arg, |c| this.status(c)),
            abi::Lost::COMMAND => call(arg, |c| this.lost(c)),
            _ => Err(ENOTTY),
        }
    }
}

/// A structure in the caller's address space. Each byte is read once.
struct Structure(UserPtr);

impl Structure {
    fn part(&self, at: usize, len: usize) -> UserSlice {
        UserSlice::new(self.0.wrapping_byte_add(at), len)
    }
}

impl Caller for Structure {
    type Error = Error;

    fn read(&mut self, at: usize, out: &mut [u8]) -> Result {
        self.part(at, out.len()).reader().read_slice(out)
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result {
        self.part(at, bytes.len()).writer().write_slice(bytes)
    }
}

/// Copies a structure from the caller, calls `answer` on it, and copies it back, even if `answer`
/// failed.
fn call<C: Call>(arg: usize, answer: impl FnOnce(&mut C) -> Result) -> Result<isize> {
    let mut user = Structure(UserPtr::from_addr(arg));
    let mut c = extend::take::<C, _>(&mut user).map_err(|e| match e {
        Refused::Small => EINVAL,
        Refused::Large => E2BIG,
        Refused::Memory(e) => e,
    })?;
    // Write the structure back with its "out" fields cleared before anything is done, so that an
    // address that cannot be written is refused here.
    extend::give(&c, &mut user)?;
    let answered = if c.reserved_are_zero() {
        answer(&mut c)
    } else {
        Err(EINVAL)
    };
    extend::give(&c, &mut user)?;
    answered.map(|()| 0)
}

/// Returns a path field as a C string.
fn path(field: &[u8; abi::PATH_BYTES]) -> Result<&CStr> {
    abi::path(field).ok_or(EINVAL)?;
    CStr::from_bytes_until_nul(field).map_err(|_| EINVAL)
}

impl Registry {
    fn features(&self, c: &mut abi::Features) -> Result {
        c.abi_version = abi::ABI_VERSION;
        c.format_version = format::VERSION;
        c.unions = u32::try_from(self.unions.lock().len())?;
        c.features = 0;
        Ok(())
    }

    fn create(&self, c: &mut abi::Create) -> Result {
        let queues = match c.queues {
            0 => kernel::cpu::nr_cpu_ids().min(abi::QUEUES_MAX),
            n if n <= abi::QUEUES_MAX => n,
            _ => return Err(EINVAL),
        };
        let read_only = c.flags & abi::CREATE_READ_ONLY != 0;
        let (root, leaf) = (path(&c.root)?, path(&c.leaf)?);
        // Allocate before the attach, because after it no allocation may fail.
        let room = KBox::<Entry>::new_uninit(GFP_KERNEL)?;
        let id = self.take_place(c.id)?;
        let mut damage = abi::Damage::default();
        let done = Attached::new(
            id,
            root,
            leaf,
            queues,
            (read_only, &mut damage),
            &self.shared,
        );
        c.damaged_blocks = damage.blocks;
        c.lost_sectors = damage.sectors;
        match done {
            Ok(attached) => {
                self.fill_place(id, KBox::write(room, Entry { id, attached }));
                c.id = id;
                Ok(())
            }
            Err(e) => {
                self.give_place(id);
                c.set_error(e);
                Err(errno(e))
            }
        }
    }

    fn remove(&self, c: &mut abi::Remove) -> Result {
        let entry = {
            let mut unions = self.unions.lock();
            let at = position(&unions, c.id).map_err(|_| ENODEV)?;
            let place = unions.get_mut(at).ok_or(ENODEV)?;
            // A create or remove call for this id is under way.
            place.entry.take().ok_or(EBUSY)?
        };
        if let Err(e) = entry.attached.disk.claim() {
            self.fill_place(c.id, entry);
            return Err(e);
        }
        let done = KBox::into_inner(entry).attached.detach();
        self.give_place(c.id);
        done.map_err(errno)
    }

    fn status(&self, c: &mut abi::Status) -> Result {
        let unions = self.unions.lock();
        let next = c.flags & abi::STATUS_NEXT != 0;
        let at = match position(&unions, c.id) {
            Ok(at) => at,
            Err(at) if next => at,
            Err(_) => return Err(ENODEV),
        };
        let mut from = unions.get(at..).unwrap_or_default().iter();
        let entry = if next {
            from.find_map(|place| place.entry.as_ref()).ok_or(ENODEV)?
        } else {
            let place = from.next().ok_or(ENODEV)?;
            place.entry.as_ref().ok_or(EBUSY)?
        };
        entry.fill(c);
        Ok(())
    }

    fn lost(&self, c: &mut abi::Lost) -> Result {
        let unions = self.unions.lock();
        let at = position(&unions, c.id).map_err(|_| ENODEV)?;
        let place = unions.get(at).ok_or(ENODEV)?;
        let entry = place.entry.as_ref().ok_or(EBUSY)?;
        entry.attached.union.loss.fill(c);
        Ok(())
    }

    /// Reserves a place for a new union and returns its id.
    fn take_place(&self, wanted: u32) -> Result<u32> {
        let mut unions = self.unions.lock();
        let (id, at) = free_id(&unions, wanted)?;
        unions.reserve(1, GFP_KERNEL)?;
        let place = Place { id, entry: None };
        unions
            .insert_within_capacity(at, place)
            .map_err(|_| ENOMEM)?;
        Ok(id)
    }

    fn fill_place(&self, id: u32, entry: KBox<Entry>) {
        let mut unions = self.unions.lock();
        let at = position(&unions, id).ok();
        if let Some(place) = at.and_then(|at| unions.get_mut(at)) {
            place.entry = Some(entry);
        }
    }

    fn give_place(&self, id: u32) {
        let mut unions = self.unions.lock();
        if let Ok(at) = position(&unions, id) {
            let _ = unions.remove(at);
        }
    }
}

/// Returns the index of the union `id`, or as an error the index to insert it at.
fn position(unions: &[Place], id: u32) -> core::result::Result<usize, usize> {
    unions.binary_search_by_key(&id, |place| place.id)
}

/// Returns the id for a new union, and its index: the wanted id, or the lowest unused one.
fn free_id(unions: &[Place], wanted: u32) -> Result<(u32, usize)> {
    if wanted != abi::ID_ANY {
        return match position(unions, wanted) {
            Ok(_) => Err(EEXIST),
            Err(at) => Ok((wanted, at)),
        };
    }
    let mut id = 0;
    for place in unions {
        if place.id != id {
            break;
        }
        id = id.checked_add(1).ok_or(ENOSPC)?;
    }
    let at = position(unions, id).err().ok_or(EEXIST)?;
    Ok((id, at))
}

impl Entry {
    fn fill(&self, c: &mut abi::Status) {
        let Attached { disk, union } = &self.attached;
        let g = union.geometry();
        (c.major, c.minor) = disk.dev();
        c.id = self.id;
        c.flags = 0;
        c.mode = union.mode();
        c.openers = disk.openers();
        c.queues = disk.queues();
        c.root = union.root_path;
        c.leaf = union.leaf_path;
        c.uuid = union.uuid;
        c.sectors = g.union_sectors();
        c.root_sectors = g.root_sectors();
        c.leaf_sectors = g.leaf_sectors();
        c.slab_sectors = g.slab_sectors();
        c.slabs = g.leaf_slabs();
        c.slabs_used = union.allocator.lock().used();
        c.journal_blocks = g.journal_blocks();
        c.dirty = u32::from(!union.is_clean());
        c.first_writes = union.stats.first_writes();
        c.io_errors = union.stats.io_errors();
        c.map_bytes = union.map.memory().bytes();
        c.discard = union.discard_policy();
        c.name = union.name_of_leaf.field();
        let damage = union.loss.damage();
        c.damaged_blocks = damage.blocks;
        c.lost_sectors = damage.sectors;
        c.last_error = union.failure.as_ref().map_or(0, |e| e.to_wire().0);
        c.journal_used = union.stats.journal_used();
        c.commits = union.stats.commits();
        c.checkpoints = union.stats.checkpoints();
        c.journal_written = union.stats.journal_written();
    }
}
