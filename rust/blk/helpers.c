// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of the block wrappers: see helpers.h. Nothing here decides
 * anything; the rules of use are argued in the Rust files that call it.
 */

#include <linux/bio.h>
#include <linux/blk-cgroup.h>
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/capability.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <linux/workqueue.h>
#include <trace/events/block.h>

#include "helpers.h"

/* Numbers that ffi.rs repeats, because they are macros or forced types here. */
static_assert(BLK_FEAT_WRITE_CACHE == 1u << 0);
static_assert(BLK_FEAT_FUA == 1u << 1);
static_assert(BLK_FEAT_IO_STAT == 1u << 4);
static_assert(BLK_FEAT_ZONED == 1u << 10);
static_assert(BLK_FLAG_MISALIGNED == 1u << 1);
static_assert(BLK_STS_NOTSUPP == 1);
static_assert(BLK_STS_NOSPC == 3);
static_assert(BLK_STS_IOERR == 10);
static_assert(REQ_OP_MASK == 0xff);
static_assert(SECTOR_SHIFT == 9);
static_assert(MINORBITS == 20);

/*
 * What a lower bio does not take over from the upper one. NOWAIT and POLLED
 * speak of the upper queue's submitter; FUA and PREFLUSH are the caller's
 * decision; ALLOC_CACHE belongs to the allocation.
 */
#define UB_STRIP (REQ_NOWAIT | REQ_POLLED | REQ_FUA | REQ_PREFLUSH | REQ_ALLOC_CACHE)

/*
 * The clone was made without a device, so that it was not yet associated with
 * a cgroup: doing that once, here, saves a second look-up for every bio.
 */
static void ub_bio_aim(struct bio *bio, const struct ub_part *part)
{
	bio->bi_bdev = part->bdev;
	bio->bi_opf = (bio->bi_opf & ~UB_STRIP) | (__force blk_opf_t)part->set_opf;
	bio_trim(bio, part->skip, part->sectors);
	bio->bi_iter.bi_sector = part->sector;
	trace_block_bio_remap(bio, disk_devt(part->src->bi_bdev->bd_disk),
			      part->src->bi_iter.bi_sector + part->skip);
#ifdef CONFIG_BLK_CGROUP
	bio_clone_blkg_association(bio, part->src);
	if (!bio->bi_blkg)
		bio_associate_blkg(bio);
#endif
}

int ub_bio_init_clone(struct bio *bio, const struct ub_part *part)
{
	int ret = bio_init_clone(NULL, bio, part->src, GFP_NOIO);

	if (!ret)
		ub_bio_aim(bio, part);
	return ret;
}

/*
 * NULL if there is no memory at once: the caller has a bio of its own to go on
 * with, and so needs no reserve. Waiting here could be for ever: bios of this
 * very task may be held back until it returns.
 */
struct bio *ub_bio_alloc_clone(const struct ub_part *part)
{
	struct bio *bio = bio_alloc_clone(NULL, part->src,
					  GFP_NOWAIT | __GFP_NOWARN, &fs_bio_set);

	if (bio)
		ub_bio_aim(bio, part);
	return bio;
}

void ub_bio_init_flush(struct bio *bio, struct block_device *bdev)
{
	bio_init(bio, bdev, NULL, 0, REQ_OP_WRITE | REQ_PREFLUSH);
}

/* As much stack as the way down from here may want, several times over. */
#define UB_STACK (THREAD_SIZE / 2)

/*
 * While a task is in submit_bio_noacct(), what it submits meanwhile is held
 * back until it returns, so that stacked drivers need no deep stack. But a
 * queue's requests are dispatched in there too, and then the task goes on to
 * wait for a tag of that queue, which is free when a request ends: perhaps only
 * one of those whose bios it holds back itself. So they go down at once. That
 * is one level of stack: below, what is submitted is held back as ever, and
 * unions do not stack. Should they do so through others, the stack decides.
 */
void ub_bio_submit(struct bio *bio)
{
	unsigned long here = (unsigned long)__builtin_frame_address(0);
	struct bio_list *held = current->bio_list;

	if (here - (unsigned long)end_of_stack(current) > UB_STACK)
		current->bio_list = NULL;
	submit_bio_noacct(bio);
	current->bio_list = held;
}

void ub_bio_zero(struct bio *bio, u32 skip, u32 sectors)
{
	struct bvec_iter iter = bio->bi_iter;
	struct bio_vec bv;

	bio_advance_iter(bio, &iter, skip << SECTOR_SHIFT);
	iter.bi_size = sectors << SECTOR_SHIFT;
	__bio_for_each_segment(bv, bio, iter, iter)
		memzero_bvec(&bv);
}

/*
 * All who share devices hold them under this one address: among themselves
 * they do not conflict, and nobody else can claim such a device.
 */
static char ub_shared_holder;

/*
 * Where the kernel was told to keep writers away from devices in use
 * (bdev_allow_write_mounted=0), it keeps them away from these too. It takes a
 * holder to ask for that.
 */
struct file *ub_bdev_open_shared(const char *path)
{
	return bdev_file_open_by_path(path, BLK_OPEN_READ |
				      BLK_OPEN_RESTRICT_WRITES,
				      &ub_shared_holder, NULL);
}

struct file *ub_bdev_open_plain(const char *path)
{
	return bdev_file_open_by_path(path, BLK_OPEN_READ, NULL, NULL);
}

struct file *ub_bdev_open_exclusive(const char *path, void *holder, bool write)
{
	blk_mode_t mode = BLK_OPEN_READ | BLK_OPEN_RESTRICT_WRITES;

	if (write)
		mode |= BLK_OPEN_WRITE;
	return bdev_file_open_by_path(path, mode, holder, NULL);
}

/*
 * Waits, so it must not run where this task's own bios are still held back:
 * the one waited for would be among them.
 */
int ub_bdev_rw(struct block_device *bdev, u64 sector, void *buf, u32 len, u32 opf)
{
	struct bio_vec bv;
	struct bio bio;
	int ret;

	if (WARN_ON_ONCE(current->bio_list))
		return -EDEADLK;
	bio_init(&bio, bdev, &bv, 1, (__force blk_opf_t)opf);
	bio.bi_iter.bi_sector = sector;
	bio_add_virt_nofail(&bio, buf, len);
	ret = submit_bio_wait(&bio);
	bio_uninit(&bio);
	return ret;
}

int ub_bdev_flush(struct block_device *bdev)
{
	if (WARN_ON_ONCE(current->bio_list))
		return -EDEADLK;
	return blkdev_issue_flush(bdev);
}

/* Nothing to do where the device knows no discard. */
int ub_bdev_discard(struct block_device *bdev, u64 sector, u64 sectors)
{
	if (WARN_ON_ONCE(current->bio_list))
		return -EDEADLK;
	if (!bdev_max_discard_sectors(bdev))
		return 0;
	return blkdev_issue_discard(bdev, sector, sectors, GFP_NOIO);
}

/* Writes zeroes where the device cannot do better. With @keep it gives no space back. */
int ub_bdev_zero(struct block_device *bdev, u64 sector, u64 sectors, bool keep)
{
	if (WARN_ON_ONCE(current->bio_list))
		return -EDEADLK;
	return blkdev_issue_zeroout(bdev, sector, sectors, GFP_NOIO,
				    keep ? BLKDEV_ZERO_NOUNMAP : 0);
}

bool ub_bdev_takes_requests(struct block_device *bdev)
{
	return queue_is_mq(bdev_get_queue(bdev));
}

bool ub_bdev_read_only(struct block_device *bdev)
{
	return bdev_read_only(bdev);
}

int ub_bdev_name(struct block_device *bdev, char *buf, size_t len)
{
	return scnprintf(buf, len, "%pg", bdev);
}

/* The open op runs under the same mutex: no opener slips in between. */
int ub_disk_claim(struct gendisk *disk, bool *claimed)
{
	int ret = 0;

	mutex_lock(&disk->open_mutex);
	if (*claimed || disk_openers(disk))
		ret = -EBUSY;
	else
		*claimed = true;
	mutex_unlock(&disk->open_mutex);
	return ret;
}

/* sysfs: the disk among the device's holders, the device among its slaves. */
int ub_disk_link(struct gendisk *disk, struct block_device *bdev)
{
	return bd_link_disk_holder(bdev, disk);
}

void ub_disk_unlink(struct gendisk *disk, struct block_device *bdev)
{
	bd_unlink_disk_holder(bdev, disk);
}

void ub_disk_get(struct gendisk *disk)
{
	get_device(disk_to_dev(disk));
}

void ub_disk_event(struct gendisk *disk, const char *variable)
{
	char *variables[] = { (char *)variable, NULL };

	kobject_uevent_env(&disk_to_dev(disk)->kobj, KOBJ_CHANGE, variables);
}

void *ub_disk_data(struct device *dev)
{
	return dev_to_disk(dev)->private_data;
}

u32 ub_disk_openers(struct gendisk *disk)
{
	return disk_openers(disk);
}

/*
 * The outer plug's time stamp belongs to the stretch before: it may be stale by
 * the end, and the flag that would have had it renewed is the inner plug's.
 * The flag goes first: a task that is preempted with the flag and no plug has
 * the scheduler write to the plug that is not there.
 */
struct blk_plug *ub_plug_begin(struct blk_plug *plug, unsigned short requests)
{
	struct blk_plug *outer = current->plug;

	current->flags &= ~PF_BLOCK_TS;
	barrier();
	current->plug = NULL;
	blk_start_plug(plug);
	/* The first who wants a request gets so many at once, for those after. */
	plug->nr_ios = requests;
	return outer;
}

void ub_plug_end(struct blk_plug *plug, struct blk_plug *outer)
{
	blk_finish_plug(plug);
	if (outer)
		outer->cur_ktime = 0;
	current->plug = outer;
}

/* A macro where lockdep is built in. */
struct workqueue_struct *ub_alloc_workqueue(const char *name, bool freezable)
{
	unsigned int flags = WQ_MEM_RECLAIM | WQ_UNBOUND;

	if (freezable)
		flags |= WQ_FREEZABLE;
	return alloc_workqueue("%s", flags, 0, name);
}

/* Gives way to other tasks; -EINTR if this one is to die. */
int ub_give_way(void)
{
	cond_resched();
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/* The limits change under limits_lock, which readers of one word do not need. */
u32 ub_bdev_logical_block_size(struct block_device *bdev)
{
	return READ_ONCE(bdev_get_queue(bdev)->limits.logical_block_size);
}

u32 ub_bdev_features(struct block_device *bdev)
{
	return (__force u32)READ_ONCE(bdev_get_queue(bdev)->limits.features);
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

struct module *ub_bdev_owner(struct block_device *bdev)
{
	return bdev->bd_disk->fops->owner;
}
