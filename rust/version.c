// SPDX-License-Identifier: GPL-2.0
/*
 * The version of the module, which the macro module! of Rust has no key for.
 * Kbuild takes it from Cargo.toml.
 */

#include <linux/module.h>

MODULE_VERSION(UNIONBLK_VERSION);
