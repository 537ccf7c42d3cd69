// SPDX-License-Identifier: GPL-2.0

//! The claims of this module's disks on lower devices.
//!
//! To the rest of the kernel there is one holder of all lower devices, this module. So no mount,
//! device mapper or program claims one of them. Among the disks of this module, this list decides.
//! A claim of the kernel cannot change from exclusive to shared. It would have to end before the
//! next one begins, and another holder could come in between.

use crate::sys::{
    bug::warn_on_once,
    mm::NoIo, //
};
use kernel::{
    new_mutex, pr_warn_once,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

/// The claims on one device.
struct Claimed {
    /// The address of the device. The device is open, so no other device has this address.
    device: usize,
    /// Whether there is an exclusive claim.
    exclusive: bool,
    /// The number of shared claims.
    shared: u32,
}

/// The claims on all devices.
#[pin_data]
pub(crate) struct Claims {
    #[pin]
    list: Mutex<KVec<Claimed>>,
}

/// Whether others may claim the device too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No other claim is possible.
    Exclusive,
    /// Other shared claims are possible.
    Shared,
}

/// A claim on a device, which ends when this is dropped.
pub(super) struct Claim {
    claims: Arc<Claims>,
    device: usize,
    kind: Kind,
}

impl Claims {
    /// Returns an empty list.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                list <- new_mutex!(KVec::new(), "unionblk claims"),
            }),
            GFP_KERNEL,
        )
    }

    /// Claims the device of an address. The device must stay open as long as the claim exists.
    /// Fails with `EBUSY` if a claim that exists does not permit this one.
    ///
    /// Context: process. Allocates memory without I/O, because the I/O could be to a disk whose
    /// requests wait for a holder of the lock.
    pub(super) fn claim(this: &Arc<Self>, device: usize, kind: Kind) -> Result<Claim> {
        let _no_io = NoIo::new();
        let mut list = this.list.lock();
        match list.iter_mut().find(|c| c.device == device) {
            Some(found) if kind == Kind::Shared && !found.exclusive => found.add_shared()?,
            Some(_) => return Err(EBUSY),
            None => list.push(
                Claimed {
                    device,
                    exclusive: kind == Kind::Exclusive,
                    shared: u32::from(kind == Kind::Shared),
                },
                GFP_KERNEL,
            )?,
        }
        Ok(Claim {
            claims: this.clone(),
            device,
            kind,
        })
    }

    fn end(&self, device: usize, kind: Kind) {
        let mut list = self.list.lock();
        let at = list.iter().position(|c| c.device == device);
        let Some((at, found)) = at.and_then(|at| Some((at, list.get_mut(at)?))) else {
            pr_warn_once!("bug: a claimed device is not on the list of claims\n");
            return;
        };
        match kind {
            Kind::Exclusive => found.exclusive = false,
            Kind::Shared => {
                warn_on_once!(found.shared == 0);
                found.shared = found.shared.saturating_sub(1);
            }
        }
        if !found.exclusive && found.shared == 0 {
            let _ = list.remove(at);
        }
    }
}

impl Claimed {
    fn add_shared(&mut self) -> Result {
        self.shared = self.shared.checked_add(1).ok_or(EBUSY)?;
        Ok(())
    }
}

impl Claim {
    /// Returns a shared claim on the same device, even if this claim is exclusive. Until that ends,
    /// no other claim is possible; after it, other shared claims are.
    pub(super) fn share(&self) -> Result<Claim> {
        let mut list = self.claims.list.lock();
        let found = list.iter_mut().find(|c| c.device == self.device);
        found.ok_or(EINVAL)?.add_shared()?;
        Ok(Claim {
            claims: self.claims.clone(),
            device: self.device,
            kind: Kind::Shared,
        })
    }

    /// Returns whether the claim is exclusive.
    pub(super) fn is_exclusive(&self) -> bool {
        self.kind == Kind::Exclusive
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.end(self.device, self.kind);
    }
}

/// The list of claims does not look at the devices, so these tests use numbers for addresses.
#[kunit_tests(unionblk_claims)]
mod tests {
    use super::{
        Claims,
        Kind, //
    };
    use kernel::prelude::*;

    fn is_busy<T>(result: Result<T>) -> bool {
        result.err() == Some(EBUSY)
    }

    #[test]
    fn an_exclusive_claim_excludes_all_others() -> Result {
        let claims = Claims::new()?;
        let claim = |device, kind| Claims::claim(&claims, device, kind);
        let alone = claim(1, Kind::Exclusive)?;
        assert!(is_busy(claim(1, Kind::Exclusive)) && is_busy(claim(1, Kind::Shared)));
        let other = claim(2, Kind::Exclusive)?;
        drop(alone);
        assert!(is_busy(claim(2, Kind::Shared)));
        drop(claim(1, Kind::Shared)?);
        drop(other);
        assert!(claims.list.lock().is_empty());
        Ok(())
    }

    #[test]
    fn shared_claims_exclude_an_exclusive_one_until_the_last_ends() -> Result {
        let claims = Claims::new()?;
        let claim = |device, kind| Claims::claim(&claims, device, kind);
        let (a, b) = (claim(1, Kind::Shared)?, claim(1, Kind::Shared)?);
        drop(a);
        assert!(is_busy(claim(1, Kind::Exclusive)));
        drop(b);
        drop(claim(1, Kind::Exclusive)?);
        assert!(claims.list.lock().is_empty());
        Ok(())
    }

    #[test]
    fn an_exclusive_claim_becomes_shared_without_a_moment_between() -> Result {
        let claims = Claims::new()?;
        let claim = |device, kind| Claims::claim(&claims, device, kind);
        let alone = claim(1, Kind::Exclusive)?;
        let shared = alone.share()?;
        assert!(is_busy(claim(1, Kind::Shared)));
        drop(alone);
        assert!(is_busy(claim(1, Kind::Exclusive)));
        let of_another_disk = claim(1, Kind::Shared)?;
        drop((shared, of_another_disk));
        // A caller that fails ends the shared claim first.
        let alone = claim(1, Kind::Exclusive)?;
        drop(alone.share()?);
        assert!(is_busy(claim(1, Kind::Shared)));
        drop(alone);
        assert!(claims.list.lock().is_empty());
        Ok(())
    }
}
