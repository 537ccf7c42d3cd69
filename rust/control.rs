// SPDX-License-Identifier: GPL-2.0

//! The control device: calls are decoded, checked and answered here, and the unions are kept.

use crate::{
    blk::{
        control::{
            is_admin,
            Control, //
        },
        workqueue::OwnedQueue, //
    },
    device::Attached,
    error::errno,
    ubcore::{
        abi::{
            self,
            Call, //
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

/// Most hardware queues of a union.
const QUEUES_MAX: u32 = 8;

/// A union and its number.
struct Entry {
    id: u32,
    attached: Attached,
}

/// All unions, by ascending id.
#[pin_data]
pub(crate) struct Registry {
    #[pin]
    unions: Mutex<KVec<KBox<Entry>>>,
    queue: Arc<OwnedQueue>,
}

impl Registry {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let queue = Arc::new(OwnedQueue::new(c"unionblk")?, GFP_KERNEL)?;
        Arc::pin_init(
            try_pin_init!(Self {
                unions <- new_mutex!(KVec::new(), "unionblk unions"),
                queue,
            }? Error),
            GFP_KERNEL,
        )
    }
}

/// Detaches all unions when the module goes: none is open, or it could not go.
pub(crate) struct Unions(Arc<Registry>);

impl Unions {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Unions(registry)
    }
}

impl Drop for Unions {
    fn drop(&mut self) {
        let mut unions = self.0.unions.lock();
        while let Some(entry) = unions.pop() {
            // Errors are told by `detach`. Nobody waits for an answer.
            let _ = entry.attached.disk.claim();
            let _ = KBox::into_inner(entry).attached.detach();
        }
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
            _ => Err(ENOTTY),
        }
    }
}

/// Takes a structure in, has it answered, and gives it back: also when the call failed.
fn call<C: Call>(arg: usize, answer: impl FnOnce(&mut C) -> Result) -> Result<isize> {
    let user = UserPtr::from_addr(arg);
    let mut c = C::new_zeroed();
    UserSlice::new(user, size_of::<C>())
        .reader()
        .read_slice(c.as_mut_bytes())?;
    if usize::try_from(c.size()) != Ok(size_of::<C>()) || !c.reserved_are_zero() {
        return Err(EINVAL);
    }
    let answered = answer(&mut c);
    UserSlice::new(user, size_of::<C>())
        .writer()
        .write_slice(c.as_bytes())?;
    answered.map(|()| 0)
}

/// A path field as a C string.
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
        let (root, leaf) = (c.root, c.leaf);
        let queues = match c.queues {
            0 => kernel::cpu::nr_cpu_ids().min(QUEUES_MAX),
            n if n <= QUEUES_MAX => n,
            _ => return Err(EINVAL),
        };
        let read_only = c.flags & abi::CREATE_READ_ONLY != 0;
        let mut unions = self.unions.lock();
        let (id, at) = free_id(&unions, c.id)?;
        // Before the attach: afterwards nothing may fail for want of memory.
        unions.reserve(1, GFP_KERNEL)?;
        let room = KBox::<Entry>::new_uninit(GFP_KERNEL)?;
        let attached = Attached::new(
            id,
            path(&root)?,
            path(&leaf)?,
            queues,
            read_only,
            self.queue.clone(),
        )
        .map_err(|e| {
            c.set_error(e);
            errno(e)
        })?;
        let entry = KBox::write(room, Entry { id, attached });
        c.id = id;
        unions.insert_within_capacity(at, entry).map_err(|_| ENOMEM)
    }

    fn remove(&self, c: &mut abi::Remove) -> Result {
        let mut unions = self.unions.lock();
        let at = position(&unions, c.id).map_err(|_| ENODEV)?;
        unions.get(at).ok_or(ENODEV)?.attached.disk.claim()?;
        let entry = unions.remove(at).map_err(|_| ENODEV)?;
        KBox::into_inner(entry).attached.detach().map_err(errno)
    }

    fn status(&self, c: &mut abi::Status) -> Result {
        let unions = self.unions.lock();
        let at = match position(&unions, c.id) {
            Ok(at) => at,
            Err(at) if c.flags & abi::STATUS_NEXT != 0 => at,
            Err(_) => return Err(ENODEV),
        };
        unions.get(at).ok_or(ENODEV)?.fill(c);
        Ok(())
    }
}

/// Where a union is, or would be.
fn position(unions: &[KBox<Entry>], id: u32) -> core::result::Result<usize, usize> {
    unions.binary_search_by_key(&id, |e| e.id)
}

/// The id that a new union gets, and its place: the wanted one, or the lowest that is free.
fn free_id(unions: &[KBox<Entry>], wanted: u32) -> Result<(u32, usize)> {
    if wanted != abi::ID_ANY {
        return match position(unions, wanted) {
            Ok(_) => Err(EEXIST),
            Err(at) => Ok((wanted, at)),
        };
    }
    let mut id = 0;
    for e in unions {
        if e.id != id {
            break;
        }
        id = id.checked_add(1).ok_or(ENOSPC)?;
    }
    let at = position(unions, id).err().ok_or(EEXIST)?;
    Ok((id, at))
}

impl Entry {
    fn fill(&self, c: &mut abi::Status) {
        let Attached {
            disk,
            union,
            queues,
        } = &self.attached;
        let g = union.geometry();
        (c.major, c.minor) = disk.dev();
        c.id = self.id;
        c.flags = 0;
        c.mode = union.mode();
        c.openers = disk.openers();
        c.queues = *queues;
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
        c.last_error = union.failure.as_ref().map_or(0, |e| e.to_wire().0);
        c.journal_used = union.stats.journal_used();
        c.commits = union.stats.commits();
        c.checkpoints = union.stats.checkpoints();
        c.journal_written = union.stats.journal_written();
    }
}
