// SPDX-License-Identifier: GPL-2.0

//! All tests of the core that use it from outside, as one program: linking a program for each file
//! takes longer than the tests.

mod assigned;
mod below_list;
mod blocks;
mod broken;
mod campaign;
mod changed_slabs;
mod check;
mod check_workloads;
mod damage;
mod emptied;
mod errors;
mod features;
mod frozen;
mod full;
mod full_digest;
mod grow;
mod hostile;
mod interrupted;
mod journal_padding;
mod known_bugs;
mod large;
mod larger_than_root;
mod leaf_extents;
mod limit;
mod live_freeze;
mod new_leaf;
mod order;
mod overlap;
mod places;
mod power;
mod protocol;
mod reclaim;
mod replayed;
mod reset;
mod salvage;
mod sealed;
mod sealed_damage;
mod short_of_memory;
mod single_lookup;
mod stack_map;
mod stack_plan;
mod stored;
mod torn;
mod writes;
