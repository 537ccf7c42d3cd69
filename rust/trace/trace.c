// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of mod.rs. While an event is not enabled, its function does nothing: a
 * static key skips the tracepoint.
 */

#define CREATE_TRACE_POINTS
#include "trace.h"

/* mod.rs declares the same functions. */
void ub_trace_first_write(struct gendisk *disk, u64 sector, u32 sectors);
void ub_trace_commit(struct gendisk *disk, u64 blocks, u64 changes, int error);
void ub_trace_checkpoint(struct gendisk *disk, u64 blocks, int error);
void ub_trace_free(struct gendisk *disk, u64 sector, u64 sectors);

void ub_trace_first_write(struct gendisk *disk, u64 sector, u32 sectors)
{
	trace_unionblk_first_write(disk_devt(disk), sector, sectors);
}

void ub_trace_commit(struct gendisk *disk, u64 blocks, u64 changes, int error)
{
	trace_unionblk_commit(disk_devt(disk), blocks, changes, error);
}

void ub_trace_checkpoint(struct gendisk *disk, u64 blocks, int error)
{
	trace_unionblk_checkpoint(disk_devt(disk), blocks, error);
}

void ub_trace_free(struct gendisk *disk, u64 sector, u64 sectors)
{
	trace_unionblk_free(disk_devt(disk), sector, sectors);
}
