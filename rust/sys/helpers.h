/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for parts of the kernel that Rust code cannot call directly: static
 * inlines, macros, and code under #ifdef. ffi.rs declares the same functions.
 */
#ifndef UNIONBLK_SYS_HELPERS_H
#define UNIONBLK_SYS_HELPERS_H

#include <linux/types.h>

struct workqueue_struct;

struct workqueue_struct *ub_alloc_workqueue(const char *name, bool freezable);

int ub_give_way(void);
void ub_wait_for_tasks(void);
bool ub_is_admin(void);
unsigned int ub_noio_save(void);
void ub_noio_restore(unsigned int flags);

#endif
