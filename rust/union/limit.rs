// SPDX-License-Identifier: GPL-2.0

//! The limit of a leaf, changed while its union is used.

use super::Attached;
use crate::ubcore::{
    error::{
        Error,
        Result, //
    },
    protocol::{
        flush,
        refuses_writes, //
    },
};
use core::num::NonZeroU32;
use kernel::prelude::*;

impl Attached {
    /// Sets how many slabs the union may use. `None`: all. If the write fails, the union is
    /// read-only, as after a commit that fails.
    ///
    /// Process context. One call at a time.
    pub(crate) fn set_limit(&self, limit: Option<NonZeroU32>) -> Result {
        let union = self.union();
        let host = union.as_arc_borrow();
        if refuses_writes(&host) {
            return Err(Error::ReadOnlyUnion);
        }
        flush::set_limit(&host, limit)?;
        let allocator = union.allocator.lock();
        let (used, limit) = (allocator.used(), allocator.limit());
        union.events.space(used, limit);
        drop(allocator);
        pr_info!(
            "{}: leaf {} may use {} of {} slabs, and uses {}\n",
            union.name,
            union.lower.leaf,
            limit,
            union.geometry().leaf_slabs(),
            used,
        );
        Ok(())
    }
}
