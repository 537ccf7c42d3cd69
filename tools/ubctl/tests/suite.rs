// SPDX-License-Identifier: GPL-2.0

//! All tests of ubctl that use it from outside, as one program: linking a program for each file
//! takes longer than the tests.

mod abi;
mod append;
mod check;
mod cut;
mod document;
mod dump;
mod export;
mod format;
mod freeze;
mod golden;
mod grow;
mod kinds;
mod layers;
mod layers_document;
mod limit;
mod manual;
mod map;
mod orphans;
mod remembered;
mod reset;
mod seal;
mod seal_root;
mod sealed_document;
mod squash;
mod status;
mod ubtab;
mod unmount;
mod usage;
mod watch;
