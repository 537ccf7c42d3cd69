// SPDX-License-Identifier: GPL-2.0

//! The claims of this module's disks on lower devices.
//!
//! To the rest of the kernel there is one holder of all lower devices, this module. So no mount,
//! device mapper or program claims one of them. Among the disks of this module, this list decides.
//! A claim of the kernel cannot change from exclusive to shared. It would have to end before the
//! next one begins, and another holder could come in between.
//!
//! The kernel refuses a claim on a disk beside one on a partition of it, but not claims on two
//! partitions that overlap, because the scan of a partition table does not compare the partitions.
//! This list does.

use crate::sys::{
    bug::warn_on_once,
    mm::NoIo, //
};
use core::ops::Range;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

/// A device, and where its sectors are. The device is open, so no other one has its address.
pub(super) struct Place {
    /// The address of the device.
    pub(super) device: usize,
    /// The address of its disk.
    pub(super) disk: usize,
    /// Its sectors, on its disk. The kernel can move no partition that is open, and grows none over
    /// another. If it makes one smaller, the holder of a claim still counts on the old size.
    pub(super) sectors: Range<u64>,
}

impl Place {
    /// Returns whether both share sectors.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.disk == other.disk
            && self.sectors.start < other.sectors.end
            && other.sectors.start < self.sectors.end
    }
}

/// The claims on one device.
struct Claimed {
    place: Place,
    /// Whether there is an exclusive claim.
    exclusive: bool,
    /// Whether the holder of the exclusive claim may write.
    written: bool,
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
pub(super) enum ClaimKind {
    /// No other claim is possible. If the holder may write, none is possible on a device that
    /// overlaps this one either.
    Exclusive { write: bool },
    /// The holder reads. Other shared claims are possible.
    Shared,
}

impl ClaimKind {
    /// Returns whether no other claim is possible.
    pub(super) fn is_exclusive(self) -> bool {
        self != ClaimKind::Shared
    }

    /// Returns whether the holder may write.
    pub(super) fn writes(self) -> bool {
        self == ClaimKind::Exclusive { write: true }
    }
}

/// A claim on a device, which ends when this is dropped.
pub(super) struct Claim {
    claims: Arc<Claims>,
    device: usize,
    kind: ClaimKind,
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

    /// Claims a device. It must stay open as long as the claim exists. Fails with `EBUSY` if a
    /// claim that exists, on this device or on one that overlaps it, does not permit this one.
    ///
    /// Context: process. Allocates memory without I/O, because the I/O could be to a disk whose
    /// requests wait for a holder of the lock.
    pub(super) fn claim(this: &Arc<Self>, place: Place, kind: ClaimKind) -> Result<Claim> {
        let _no_io = NoIo::new();
        let device = place.device;
        let mut list = this.list.lock();
        if list.iter().any(|c| c.refuses(&place, kind)) {
            return Err(EBUSY);
        }
        match list.iter_mut().find(|c| c.place.device == device) {
            // It has shared claims, and this is one more.
            Some(found) => found.add_shared()?,
            None => list.push(
                Claimed {
                    place,
                    exclusive: kind.is_exclusive(),
                    written: kind.writes(),
                    shared: u32::from(!kind.is_exclusive()),
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

    fn end(&self, device: usize, kind: ClaimKind) {
        let mut list = self.list.lock();
        let at = list.iter().position(|c| c.place.device == device);
        let Some((at, found)) = at.and_then(|at| Some((at, list.get_mut(at)?))) else {
            // The device of a claim is on the list.
            warn_on_once!(true);
            return;
        };
        if kind.is_exclusive() {
            found.exclusive = false;
            found.written = false;
        } else {
            warn_on_once!(found.shared == 0);
            found.shared = found.shared.saturating_sub(1);
        }
        if !found.exclusive && found.shared == 0 {
            let _ = list.remove(at);
        }
    }
}

impl Claimed {
    /// Returns whether these claims do not permit one on this device.
    fn refuses(&self, place: &Place, kind: ClaimKind) -> bool {
        if self.place.device == place.device {
            self.exclusive || kind.is_exclusive()
        } else {
            (self.written || kind.writes()) && self.place.overlaps(place)
        }
    }

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
        let found = list.iter_mut().find(|c| c.place.device == self.device);
        found.ok_or(EINVAL)?.add_shared()?;
        Ok(Claim {
            claims: self.claims.clone(),
            device: self.device,
            kind: ClaimKind::Shared,
        })
    }

    /// Returns whether the claim is exclusive.
    pub(super) fn is_exclusive(&self) -> bool {
        self.kind.is_exclusive()
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
        ClaimKind,
        Claims,
        Place, //
    };
    use core::ops::Range;
    use kernel::prelude::*;

    const WRITE: ClaimKind = ClaimKind::Exclusive { write: true };
    const READ: ClaimKind = ClaimKind::Exclusive { write: false };

    /// Returns a whole disk.
    fn disk(device: usize) -> Place {
        part(device, device, 0..100)
    }

    fn part(device: usize, disk: usize, sectors: Range<u64>) -> Place {
        Place {
            device,
            disk,
            sectors,
        }
    }

    fn is_busy<T>(result: Result<T>) -> bool {
        result.err() == Some(EBUSY)
    }

    #[test]
    fn an_exclusive_claim_excludes_all_others() -> Result {
        let claims = Claims::new()?;
        let claim = |device, kind| Claims::claim(&claims, disk(device), kind);
        let alone = claim(1, WRITE)?;
        assert!(is_busy(claim(1, WRITE)) && is_busy(claim(1, ClaimKind::Shared)));
        let other = claim(2, WRITE)?;
        drop(alone);
        assert!(is_busy(claim(2, ClaimKind::Shared)));
        drop(claim(1, ClaimKind::Shared)?);
        drop(other);
        assert!(claims.list.lock().is_empty());
        Ok(())
    }

    #[test]
    fn shared_claims_exclude_an_exclusive_one_until_the_last_ends() -> Result {
        let claims = Claims::new()?;
        let claim = |device, kind| Claims::claim(&claims, disk(device), kind);
        let (a, b) = (claim(1, ClaimKind::Shared)?, claim(1, ClaimKind::Shared)?);
        drop(a);
        assert!(is_busy(claim(1, WRITE)));
        drop(b);
        drop(claim(1, WRITE)?);
        assert!(claims.list.lock().is_empty());
        Ok(())
    }

    #[test]
    fn an_exclusive_claim_becomes_shared_without_a_moment_between() -> Result {
        let claims = Claims::new()?;
        let claim = |device, kind| Claims::claim(&claims, disk(device), kind);
        let alone = claim(1, WRITE)?;
        let shared = alone.share()?;
        assert!(is_busy(claim(1, ClaimKind::Shared)));
        drop(alone);
        assert!(is_busy(claim(1, WRITE)));
        let of_another_disk = claim(1, ClaimKind::Shared)?;
        drop((shared, of_another_disk));
        // A caller that fails ends the shared claim first.
        let alone = claim(1, WRITE)?;
        drop(alone.share()?);
        assert!(is_busy(claim(1, ClaimKind::Shared)));
        drop(alone);
        assert!(claims.list.lock().is_empty());
        Ok(())
    }

    #[test]
    fn a_writer_shares_no_sector_with_another_device() -> Result {
        let claims = Claims::new()?;
        let claim = |place, kind| Claims::claim(&claims, place, kind);
        let all = [WRITE, READ, ClaimKind::Shared];
        let written = claim(part(1, 9, 10..20), WRITE)?;
        for kind in all {
            assert!(is_busy(claim(part(2, 9, 19..30), kind)));
            assert!(is_busy(claim(part(9, 9, 0..100), kind)));
            drop(claim(part(2, 9, 20..30), kind)?);
            drop(claim(part(2, 8, 10..20), kind)?);
        }
        drop(written);
        for (one, other) in [
            (READ, ClaimKind::Shared),
            (ClaimKind::Shared, READ),
            (READ, READ),
        ] {
            let read = claim(part(1, 9, 10..20), one)?;
            assert!(is_busy(claim(part(2, 9, 0..11), WRITE)));
            let beside = claim(part(2, 9, 0..11), other)?;
            drop((read, beside));
        }
        assert!(claims.list.lock().is_empty());
        Ok(())
    }

    #[test]
    fn a_device_is_written_until_its_exclusive_claim_ends() -> Result {
        let claims = Claims::new()?;
        let claim = |place, kind| Claims::claim(&claims, place, kind);
        let alone = claim(part(1, 9, 10..20), WRITE)?;
        let shared = alone.share()?;
        assert!(is_busy(claim(part(2, 9, 15..30), ClaimKind::Shared)));
        drop(alone);
        let beside = claim(part(2, 9, 15..30), ClaimKind::Shared)?;
        assert!(is_busy(claim(part(3, 9, 15..30), WRITE)));
        drop((shared, beside));
        drop(claim(part(3, 9, 15..30), WRITE)?);
        assert!(claims.list.lock().is_empty());
        Ok(())
    }
}
