// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of the wrappers in this directory, see helpers.h. The helpers
 * contain no policy. The Rust files that call them document why each call is
 * safe.
 */

#include <linux/capability.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/workqueue.h>

#include "helpers.h"

/*
 * alloc_workqueue() is a macro if lockdep is built in. The queue runs as many
 * work items at a time as the kernel allows, because each may wait for a device
 * that hangs. The default is half of that.
 */
struct workqueue_struct *ub_alloc_workqueue(const char *name, bool freezable)
{
	unsigned int flags = WQ_MEM_RECLAIM | WQ_UNBOUND;

	if (freezable)
		flags |= WQ_FREEZABLE;
	return alloc_workqueue("%s", flags, WQ_UNBOUND_MAX_ACTIVE, name);
}

/* Reschedules if needed. Returns -EINTR if a fatal signal is pending. */
int ub_give_way(void)
{
	/*
	 * With lazy preemption, cond_resched() does nothing, and a task that was
	 * woken up would wait for the next tick.
	 */
	if (test_thread_flag(TIF_NEED_RESCHED_LAZY))
		schedule();
	else
		cond_resched();
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/*
 * Without TASKS_RCU this is synchronize_rcu(), which does not wait for tasks
 * that were preempted outside of RCU. KPROBES, BPF_SYSCALL and ftrace select it.
 */
static_assert(!IS_ENABLED(CONFIG_PREEMPTION) || IS_ENABLED(CONFIG_TASKS_RCU));

void ub_wait_for_tasks(void)
{
	synchronize_rcu_tasks();
}

bool ub_is_admin(void)
{
	return capable(CAP_SYS_ADMIN);
}

unsigned int ub_noio_save(void)
{
	return memalloc_noio_save();
}

void ub_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}
