// SPDX-License-Identifier: GPL-2.0

//! The control device and the registry of all unions: decodes, checks and handles each ioctl.

use crate::{
    error::errno,
    memory::Reserve,
    resources::{
        Resources,
        UNIONS_MAX, //
    },
    sys::{
        bug::warn_on_once,
        control_device::{
            is_admin,
            IoctlHandler, //
        },
        mm::NoIo,
        task, //
    },
    ubcore::{
        abi::{
            self,
            Call, //
        },
        abi_copy::{
            self,
            Caller,
            Refused, //
        },
        error, format,
        num::{
            saturating_u32,
            u32_as_usize,
            usize_as_u64, //
        },
        stack::chain::{
            Seal,
            LAYERS_MAX, //
        },
    },
    union::{
        Attached,
        FreezeOptions,
        Options, //
    },
};
use core::num::NonZeroU32;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        Mutex,
        UniqueArc, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};
use zerocopy::{
    FromZeros,
    IntoBytes, //
};

/// A union in the registry.
///
/// Attach and detach do I/O and may hang with their devices. So the registry's lock is not held
/// meanwhile, except when the module is unloaded. An entry without a union reserves the id. A
/// freeze, a reset or a change of the limit leaves the union in its entry, so that other calls find
/// it.
struct Registered {
    id: u32,
    attached: Option<Arc<Attached>>,
    /// Whether a freeze, a reset or a change of the limit runs, which has a second reference to the
    /// union.
    is_changing: bool,
}

/// All unions, sorted by id.
#[pin_data]
pub(crate) struct Registry {
    #[pin]
    unions: Mutex<KVec<Registered>>,
    resources: Arc<Resources>,
}

impl Registry {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let resources = Resources::new()?;
        Arc::pin_init(
            try_pin_init!(Self {
                unions <- new_mutex!(KVec::new(), "unionblk unions"),
                resources,
            }? Error),
            GFP_KERNEL,
        )
    }
}

/// Detaches all unions when it is dropped, which happens when the module is unloaded.
///
/// No union is open then, because an open disk holds a reference to the module.
pub(crate) struct DetachAll(Arc<Registry>);

impl DetachAll {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        DetachAll(registry)
    }
}

impl Drop for DetachAll {
    fn drop(&mut self) {
        let mut unions = self.0.unions.lock();
        while let Some(registered) = unions.pop() {
            // No ioctl is under way any more, so each entry holds a union.
            if let Some(attached) = registered.attached {
                // `detach` logs errors. There is no caller to return them to.
                let _ = attached.forbid_open();
                let _ = Attached::detach(attached);
            }
        }
        drop(unions);
        Reserve::quiesce(&self.0.resources.reserve);
        // A task that has ended the last request may be preempted before it returns to the lower
        // driver by way of this module, whose code is about to be freed.
        task::wait_for_tasks();
    }
}

impl IoctlHandler for Registry {
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        if !is_admin() {
            return Err(EPERM);
        }
        match cmd {
            abi::FeaturesCall::COMMAND => call(arg, |c| this.features(c)),
            abi::Create::COMMAND => call(arg, |c| this.create(c)),
            abi::Remove::COMMAND => call(arg, |c| this.remove(c)),
            abi::Status::COMMAND => call(arg, |c| this.status(c)),
            abi::Freeze::COMMAND => call(arg, |c| this.freeze(c)),
            abi::LostCall::COMMAND => call(arg, |c| this.lost(c)),
            abi::Reset::COMMAND => call(arg, |c| this.reset(c)),
            abi::Limit::COMMAND => call(arg, |c| this.set_limit(c)),
            _ => Err(ENOTTY),
        }
    }
}

/// The UUID of a call that accepts any leaf.
const ANY_LEAF: [u8; 16] = [0; 16];

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
///
/// Not inlined, because the structures of all calls together would take much of the kernel's stack.
#[inline(never)]
fn call<C: Call>(arg: usize, answer: impl FnOnce(&mut C) -> Result) -> Result<isize> {
    let mut user = Structure(UserPtr::from_addr(arg));
    let mut c = abi_copy::copy_in::<C, _>(&mut user).map_err(|e| match e {
        Refused::Small => EINVAL,
        Refused::Large => E2BIG,
        Refused::Memory(e) => e,
    })?;
    // Write the structure back with its "out" fields cleared before anything is done, so that an
    // address that cannot be written is refused here.
    abi_copy::copy_out(&c, &mut user)?;
    let answered = if c.is_well_formed() {
        answer(&mut c)
    } else {
        Err(EINVAL)
    };
    abi_copy::copy_out(&c, &mut user)?;
    answered.map(|()| 0)
}

/// Returns a path field as a C string.
fn path(field: &[u8; abi::PATH_BYTES]) -> Result<&CStr> {
    abi::path(field).ok_or(EINVAL)?;
    CStr::from_bytes_until_nul(field).map_err(|_| EINVAL)
}

/// Returns the path of the root, unless the caller wants a union without a root.
fn root(c: &abi::Create) -> Result<Option<&CStr>> {
    if c.flags & abi::CREATE_NO_ROOT == 0 {
        return path(&c.root).map(Some);
    }
    match c.root.iter().all(|&b| b == 0) {
        true => Ok(None),
        false => Err(EINVAL),
    }
}

/// Copies the layers from the caller. Each path ends with NUL.
fn copy_layers(c: &abi::Create) -> Result<KVVec<abi::Layer>> {
    if c.layers_count > LAYERS_MAX {
        return Err(EINVAL);
    }
    let user = Structure(UserPtr::from_addr(usize::try_from(c.layers)?));
    let mut list = KVVec::with_capacity(u32_as_usize(c.layers_count), GFP_KERNEL)?;
    for n in 0..u32_as_usize(c.layers_count) {
        let mut layer = abi::Layer::new_zeroed();
        let size = size_of::<abi::Layer>();
        let at = n.checked_mul(size).ok_or(EINVAL)?;
        user.part(at, size)
            .reader()
            .read_slice(layer.as_mut_bytes())?;
        path(&layer.path)?;
        if layer.reserved != 0 {
            return Err(EINVAL);
        }
        list.push(layer, GFP_KERNEL)?;
    }
    Ok(list)
}

impl Registry {
    fn features(&self, c: &mut abi::FeaturesCall) -> Result {
        c.abi_version = abi::ABI_VERSION;
        c.format_version = format::VERSION;
        c.unions = u32::try_from(self.unions.lock().len())?;
        c.features = 0;
        Ok(())
    }

    #[inline(never)]
    fn create(&self, c: &mut abi::Create) -> Result {
        let queues = match c.queues {
            0 => kernel::cpu::nr_cpu_ids().min(abi::QUEUES_MAX),
            n if n <= abi::QUEUES_MAX => n,
            _ => return Err(EINVAL),
        };
        let root = root(c)?;
        let leaf = path(&c.leaf)?;
        let layers = copy_layers(c)?;
        // Allocate before the attach, because after it no allocation may fail.
        let room = UniqueArc::<Attached>::new_uninit(GFP_KERNEL)?;
        let id = self.reserve_id(c.id)?;
        let options = Options {
            id,
            root,
            leaf,
            layers: &layers,
            queues,
            read_only: c.flags & abi::CREATE_READ_ONLY != 0,
        };
        match Attached::new(&options, &self.resources) {
            Ok(attached) => {
                let totals = attached.loss_totals();
                self.put_back(id, room.write(attached).into());
                c.id = id;
                c.set_totals(totals);
                Ok(())
            }
            Err(failed) => {
                self.remove_id(id);
                c.set_totals(failed.totals);
                c.set_error(failed.error);
                c.layer = failed.layer;
                Err(errno(failed.error))
            }
        }
    }

    fn remove(&self, c: &mut abi::Remove) -> Result {
        let attached = self.take(c.id)?;
        if let Err(e) = attached.forbid_open() {
            self.put_back(c.id, attached);
            return Err(e);
        }
        let done = Attached::detach(attached);
        self.remove_id(c.id);
        done.map_err(errno)
    }

    fn freeze(&self, c: &mut abi::Freeze) -> Result {
        let new = FreezeOptions {
            leaf: path(&c.leaf)?,
            seal: Seal(c.seal),
            freeze_file_systems: c.flags & abi::FREEZE_FILE_SYSTEMS != 0,
        };
        let attached = self.begin_change(c.id, ANY_LEAF).map_err(|e| match e {
            EINPROGRESS => EBUSY,
            e => e,
        })?;
        let done = attached.freeze(&new, &self.resources);
        self.end_change(c.id, attached);
        done.map_err(|e| {
            c.set_error(e);
            errno(e)
        })
    }

    fn reset(&self, c: &mut abi::Reset) -> Result {
        let attached = self.begin_change(c.id, c.uuid)?;
        let done = attached.keep_closed().and_then(|closed| {
            attached.reset(closed, &self.resources).map_err(|e| {
                c.set_error(e);
                errno(e)
            })
        });
        self.end_change(c.id, attached);
        done
    }

    fn set_limit(&self, c: &mut abi::Limit) -> Result {
        let attached = self.begin_change(c.id, c.uuid)?;
        let done = attached.set_limit(NonZeroU32::new(c.slabs));
        self.end_change(c.id, attached);
        done.map_err(|e| {
            c.set_error(e);
            errno(e)
        })
    }

    fn status(&self, c: &mut abi::Status) -> Result {
        let unions = self.unions.lock();
        let next = c.flags & abi::STATUS_NEXT != 0;
        let at = match position(&unions, c.id) {
            Ok(at) => at,
            Err(at) if next => at,
            Err(_) => return Err(ENODEV),
        };
        let mut from = unions.iter().skip(at);
        let attached = if next {
            from.find_map(|registered| registered.attached.as_ref())
                .ok_or(ENODEV)?
        } else {
            let registered = from.next().ok_or(ENODEV)?;
            registered.attached.as_ref().ok_or(EBUSY)?
        };
        attached.fill_status(c);
        Ok(())
    }

    fn lost(&self, c: &mut abi::LostCall) -> Result {
        let unions = self.unions.lock();
        let at = position(&unions, c.id).map_err(|_| ENODEV)?;
        let registered = unions.get(at).ok_or(ENODEV)?;
        registered.attached.as_ref().ok_or(EBUSY)?.fill_lost(c);
        Ok(())
    }

    /// Reserves an id for a new union and returns it.
    fn reserve_id(&self, wanted: u32) -> Result<u32> {
        // The mutex is held, so memory for the list must not wait for I/O, which could be to a
        // union.
        let _no_io = NoIo::new();
        let mut unions = self.unions.lock();
        if unions.len() >= UNIONS_MAX {
            pr_err!(
                "cannot create a union, because there are {UNIONS_MAX}, the maximum: detach one \
                 first\n"
            );
            return Err(EUSERS);
        }
        let (id, at) = free_id(&unions, wanted)?;
        unions.reserve(1, GFP_KERNEL)?;
        let registered = Registered {
            id,
            attached: None,
            is_changing: false,
        };
        let inserted = unions.insert_within_capacity(at, registered);
        inserted.map_err(|_| errno(error::Error::Internal))?;
        Ok(id)
    }

    /// Takes a union out of its entry, for a call that does I/O. Fails with `EBUSY` if another
    /// create or remove call for this id is under way, and with `EINPROGRESS` if a freeze, a reset
    /// or a change of the limit is.
    fn take(&self, id: u32) -> Result<Arc<Attached>> {
        let mut unions = self.unions.lock();
        let at = position(&unions, id).map_err(|_| ENODEV)?;
        let registered = unions.get_mut(at).ok_or(ENODEV)?;
        if registered.is_changing {
            return Err(EINPROGRESS);
        }
        registered.attached.take().ok_or(EBUSY)
    }

    /// Begins a freeze, a reset or a change of the limit of a union, and keeps other calls from
    /// taking the union. Fails as [`Registry::take`] does, and with `ESTALE` if the leaf is not the
    /// one of `uuid`. The leaf cannot become another one before [`Registry::end_change`].
    fn begin_change(&self, id: u32, uuid: [u8; 16]) -> Result<Arc<Attached>> {
        let mut unions = self.unions.lock();
        let at = position(&unions, id).map_err(|_| ENODEV)?;
        let registered = unions.get_mut(at).ok_or(ENODEV)?;
        let attached = registered.attached.clone().ok_or(EBUSY)?;
        if registered.is_changing {
            return Err(EINPROGRESS);
        }
        if uuid != ANY_LEAF && uuid != attached.leaf_uuid() {
            return Err(ESTALE);
        }
        registered.is_changing = true;
        Ok(attached)
    }

    /// Ends what [`Registry::begin_change`] has begun.
    fn end_change(&self, id: u32, attached: Arc<Attached>) {
        // Drop this reference before the flag is cleared, because a detach needs the only one. The
        // entry still exists, because `take` refuses while the flag is set.
        drop(attached);
        self.change(id, |registered| registered.is_changing = false);
    }

    /// Puts a union into its entry. The entry exists, because only the call that reserved the id
    /// or took the union removes it.
    fn put_back(&self, id: u32, attached: Arc<Attached>) {
        self.change(id, |registered| registered.attached = Some(attached));
    }

    /// Changes an entry. The entry exists, because only the call that reserved the id or took the
    /// union removes it.
    fn change(&self, id: u32, f: impl FnOnce(&mut Registered)) {
        let mut unions = self.unions.lock();
        let at = position(&unions, id).ok();
        match at.and_then(|at| unions.get_mut(at)) {
            Some(registered) => f(registered),
            None => warn_on_once!(true),
        }
    }

    /// Removes an entry, whose id other unions may use from now on.
    fn remove_id(&self, id: u32) {
        let mut unions = self.unions.lock();
        let removed = position(&unions, id).map(|at| unions.remove(at));
        warn_on_once!(removed.is_err());
    }
}

/// Returns the index of the union `id`, or as an error the index to insert it at.
fn position(unions: &[Registered], id: u32) -> core::result::Result<usize, usize> {
    unions.binary_search_by_key(&id, |registered| registered.id)
}

/// Returns the id for a new union, and its index: the wanted id, or the lowest unused one.
fn free_id(unions: &[Registered], wanted: u32) -> Result<(u32, usize)> {
    if wanted != abi::ID_ANY {
        return match position(unions, wanted) {
            Ok(_) => Err(EEXIST),
            Err(at) => Ok((wanted, at)),
        };
    }
    // The entries are in the order of their ids, so up to the lowest unused id each is at the index
    // that is its id.
    let at_its_id = |(at, registered): &(usize, &Registered)| u32_as_usize(registered.id) == *at;
    let at = unions.iter().enumerate().take_while(at_its_id).count();
    Ok((saturating_u32(usize_as_u64(at)), at))
}
