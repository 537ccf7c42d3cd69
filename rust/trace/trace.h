/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Trace events of a disk, in events/unionblk of tracefs. The redirection of
 * requests is traced by the block layer: block_rq_remap and block_bio_remap.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM unionblk

#if !defined(_UNIONBLK_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _UNIONBLK_TRACE_H

#include <linux/blkdev.h>
#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(unionblk_sectors,

	TP_PROTO(dev_t dev, sector_t sector, sector_t sectors),

	TP_ARGS(dev, sector, sectors),

	TP_STRUCT__entry(
		__field(dev_t,		dev)
		__field(sector_t,	sector)
		__field(sector_t,	sectors)
	),

	TP_fast_assign(
		__entry->dev		= dev;
		__entry->sector		= sector;
		__entry->sectors	= sectors;
	),

	TP_printk("%d,%d %llu + %llu",
		  MAJOR(__entry->dev), MINOR(__entry->dev),
		  (unsigned long long)__entry->sector,
		  (unsigned long long)__entry->sectors)
);

/* A write has completed that made a mapping: where, on the disk. */
DEFINE_EVENT(unionblk_sectors, unionblk_first_write,

	TP_PROTO(dev_t dev, sector_t sector, sector_t sectors),

	TP_ARGS(dev, sector, sectors)
);

/* Space below was freed: where, on the writable device. */
DEFINE_EVENT(unionblk_sectors, unionblk_free,

	TP_PROTO(dev_t dev, sector_t sector, sector_t sectors),

	TP_ARGS(dev, sector, sectors)
);

/* A commit has ended: metadata blocks written, changes made durable, 0 or -errno. */
TRACE_EVENT(unionblk_commit,

	TP_PROTO(dev_t dev, u64 blocks, u64 changes, int error),

	TP_ARGS(dev, blocks, changes, error),

	TP_STRUCT__entry(
		__field(dev_t,	dev)
		__field(u64,	blocks)
		__field(u64,	changes)
		__field(int,	error)
	),

	TP_fast_assign(
		__entry->dev		= dev;
		__entry->blocks		= blocks;
		__entry->changes	= changes;
		__entry->error		= error;
	),

	TP_printk("%d,%d blocks=%llu changes=%llu error=%d",
		  MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->blocks, __entry->changes, __entry->error)
);

/* A checkpoint has ended: metadata blocks that it made free, 0 or -errno. */
TRACE_EVENT(unionblk_checkpoint,

	TP_PROTO(dev_t dev, u64 blocks, int error),

	TP_ARGS(dev, blocks, error),

	TP_STRUCT__entry(
		__field(dev_t,	dev)
		__field(u64,	blocks)
		__field(int,	error)
	),

	TP_fast_assign(
		__entry->dev	= dev;
		__entry->blocks	= blocks;
		__entry->error	= error;
	),

	TP_printk("%d,%d freed=%llu error=%d",
		  MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->blocks, __entry->error)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
