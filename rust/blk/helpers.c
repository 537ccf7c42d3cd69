// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of the block wrappers, see helpers.h. The helpers contain no
 * policy. The Rust files that call them document why each call is safe.
 */

#include <linux/bio-integrity.h>
#include <linux/bio.h>
#include <linux/blk-cgroup.h>
#include <linux/blk-crypto.h>
#include <linux/blk-integrity.h>
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <trace/events/block.h>

#include "helpers.h"

/* ffi.rs repeats these values, because they are macros or forced types in C. */
static_assert(BLK_FEAT_WRITE_CACHE == 1u << 0);
static_assert(BLK_FEAT_FUA == 1u << 1);
static_assert(BLK_FEAT_IO_STAT == 1u << 4);
static_assert(BLK_FEAT_ZONED == 1u << 10);
static_assert(BLK_FLAG_MISALIGNED == 1u << 1);
static_assert(BLK_STS_NOTSUPP == 1);
static_assert(BLK_STS_NOSPC == 3);
static_assert(BLK_STS_RESOURCE == 9);
static_assert(BLK_STS_IOERR == 10);
static_assert(REQ_OP_MASK == 0xff);
static_assert(SECTOR_SHIFT == 9);
static_assert(MINORBITS == 20);

/*
 * The flags that a lower bio does not inherit from the upper one. NOWAIT and
 * POLLED concern the submitter to the upper queue. The caller decides about FUA
 * and PREFLUSH. ALLOC_CACHE belongs to the allocation of the upper bio.
 */
#define UB_STRIP (REQ_NOWAIT | REQ_POLLED | REQ_FUA | REQ_PREFLUSH | REQ_ALLOC_CACHE)

/*
 * Returns the flags that lower I/O inherits from @rq. If different bios were
 * merged, the flags of @rq do not apply to all of them. Read-ahead may fail
 * early, and a read that was merged with it must not.
 */
static __always_inline blk_opf_t ub_inherited(struct request *rq)
{
	blk_opf_t opf = rq->cmd_flags & ~UB_STRIP;

	if (unlikely(rq->rq_flags & RQF_MIXED_MERGE))
		opf &= ~(REQ_FAILFAST_MASK | REQ_RAHEAD);
	return opf;
}

/* The bios of lower I/O that are not embedded in a request's private data. */
static struct bio_set ub_bios;
static atomic_t ub_bios_used;

int ub_bios_init(void)
{
	int ret;

	if (atomic_xchg(&ub_bios_used, 1))
		return -EBUSY;
	ret = bioset_init(&ub_bios, BIO_POOL_SIZE, 0, 0);
	if (ret)
		atomic_set(&ub_bios_used, 0);
	return ret;
}

void ub_bios_exit(void)
{
	bioset_exit(&ub_bios);
	atomic_set(&ub_bios_used, 0);
}

/*
 * Sets the target of a clone. The clone was made without a device, so it is
 * not associated with a cgroup yet. Associating it once, here, saves a second
 * look-up for every bio.
 */
static void ub_bio_remap(struct bio *bio, struct bio *src, u32 skip, u32 sectors,
			 struct block_device *bdev, sector_t sector, blk_opf_t opf)
{
	bio->bi_bdev = bdev;
	bio->bi_opf = opf;
	if (skip || sectors != bio_sectors(src))
		bio_trim(bio, skip, sectors);
	bio->bi_iter.bi_sector = sector;
	bio_clone_blkg_association(bio, src);
}

/*
 * Clones @sectors of @src, from its sector @skip on, into @own if that is not
 * NULL, else into a bio from the set. Returns NULL if there is no memory
 * without waiting. The end of lower I/O gives memory back to the set, and the
 * request is then queued again, to send its rest.
 */
static struct bio *ub_bio_clone(struct bio *own, struct bio *src, u32 skip, u32 sectors,
				struct block_device *bdev, sector_t sector, blk_opf_t opf)
{
	struct bio *bio = own;

	if (!own)
		bio = bio_alloc_clone(NULL, src, GFP_NOWAIT | __GFP_NOWARN, &ub_bios);
	else if (bio_init_clone(NULL, own, src, GFP_NOWAIT | __GFP_NOWARN))
		return NULL;
	if (bio)
		ub_bio_remap(bio, src, skip, sectors, bdev, sector, opf);
	return bio;
}

int ub_bio_send(struct request *rq, struct bio *own, const struct ub_range *range,
		bio_end_io_t *end_io)
{
	blk_opf_t opf = ub_inherited(rq) | (__force blk_opf_t)range->set_opf;
	u32 sectors = range->sectors;
	struct bio *bio;

	if (range->whole && sectors != bio_sectors(range->src) - range->skip)
		return -E2BIG;
	bio = ub_bio_clone(own, range->src, range->skip, sectors, range->bdev, range->sector, opf);
	if (!bio)
		return -EAGAIN;
	bio->bi_private = rq;
	bio->bi_end_io = end_io;
	trace_block_bio_remap(bio, disk_devt(rq->q->disk),
			      range->src->bi_iter.bi_sector + range->skip);
#ifdef CONFIG_BLK_CGROUP
	if (!bio->bi_blkg)
		bio_associate_blkg(bio);
#endif
	submit_bio_noacct(bio);
	return sectors;
}

bool ub_request_fail_bios(struct request *rq, u64 sector, u32 sectors, blk_status_t status)
{
	u64 at = blk_rq_pos(rq), end;
	bool others = false;
	struct bio *bio;

	__rq_for_each_bio(bio, rq) {
		end = at + bio_sectors(bio);
		if (at < sector + sectors && sector < end)
			bio->bi_status = status;
		others |= !bio->bi_status;
		at = end;
	}
	return others;
}

u32 ub_request_next_bio(struct request *rq, u64 *sector)
{
	u64 at = blk_rq_pos(rq), end;
	struct bio *bio;

	__rq_for_each_bio(bio, rq) {
		end = at + bio_sectors(bio);
		if (!bio->bi_status && *sector < end) {
			*sector = max(*sector, at);
			return end - *sector;
		}
		at = end;
	}
	return 0;
}

#ifdef CONFIG_BLK_MQ_STACKING
static void ub_clone_drop_bios(struct request *clone, struct bio *own)
{
	struct bio *bio;

	while ((bio = clone->bio)) {
		clone->bio = bio->bi_next;
		if (bio == own)
			bio_uninit(bio);
		else
			bio_put(bio);
	}
}

/*
 * Fills @clone with up to @sectors of the range, and returns how many it holds.
 * All other bios are chained to the first one, which ends last, with the first
 * error.
 */
static u32 ub_clone_fill(struct request *clone, struct bio *own,
			 const struct ub_range *range, sector_t sector, u32 sectors)
{
	blk_opf_t opf = clone->cmd_flags & ~REQ_NOMERGE;
	struct bio *src = range->src;
	u32 skip = range->skip, done = 0;

	while (done < sectors && src) {
		u32 take = min(sectors - done, bio_sectors(src) - skip);
		struct bio *bio = ub_bio_clone(clone->bio ? NULL : own, src, skip, take,
					       range->bdev, sector + done, opf);

		if (!bio)
			break;
		/*
		 * The sector is of the whole disk. A driver that submits the
		 * bio again must not have a partition's start added to it.
		 */
		bio_set_flag(bio, BIO_REMAPPED);
		if (clone->bio) {
			bio_chain(bio, clone->bio);
			clone->biotail->bi_next = bio;
		} else {
			clone->bio = bio;
		}
		clone->biotail = bio;
		done += take;
		src = src->bi_next;
		skip = 0;
	}
	return done;
}

/* Returns how many sectors of the range fit one request of the lower queue. */
static u32 ub_clone_limit(struct request_queue *q, sector_t sector, u32 sectors)
{
	u32 chunk = READ_ONCE(q->limits.chunk_sectors);

	sectors = min(sectors, READ_ONCE(q->limits.max_sectors));
	if (unlikely(chunk)) {
		u32 into;

		div_u64_rem(sector, chunk, &into);
		sectors = min(sectors, chunk - into);
	}
	return sectors;
}

/*
 * Checks that the lower disk is not dead and that the range lies within @bdev.
 * The submission of a bio makes these checks. The insertion of a clone does not.
 */
static __always_inline int ub_clone_check(struct block_device *bdev, u64 sector, u32 sectors)
{
	sector_t size = bdev_nr_sectors(bdev);

	if (unlikely(test_bit(GD_DEAD, &bdev->bd_disk->state)))
		return -ENODEV;
	if (unlikely(sectors > size || sector > size - sectors))
		return -EIO;
	return 0;
}

/*
 * Allocates a request of the lower queue, without waiting. The request must not
 * be merged with another one. The lower disk's scheduler would merge it if the
 * request got there, because the queue is quiesced or the driver requeues it.
 */
static __always_inline struct request *ub_clone_alloc(struct block_device *bdev,
						      blk_opf_t opf)
{
	return blk_mq_alloc_request(bdev_get_queue(bdev), opf | REQ_NOMERGE,
				    BLK_MQ_REQ_NOWAIT);
}

/*
 * Inserts @clone, which has its bios, into the lower queue, or frees it. The
 * end of the bios, not of the request, shows that the lower I/O has ended,
 * because a driver may end a part with an error and the rest without, or may
 * take the bios and submit them again.
 */
static __always_inline int ub_clone_insert(struct request *clone, struct request *rq,
					   struct bio *own, sector_t sector, u32 sectors,
					   u64 from)
{
	blk_status_t status;

	clone->__sector = sector;
	clone->__data_len = sectors << SECTOR_SHIFT;
	clone->phys_gap_bit = rq->phys_gap_bit;
	trace_block_rq_remap(clone, disk_devt(rq->q->disk), from);

	status = blk_insert_cloned_request(clone);
	if (likely(status == BLK_STS_OK))
		return 0;
	/*
	 * If the lower limits have shrunk since they were stacked, the request
	 * does not fit. The worker then sends bios, which are split.
	 */
	if (status == BLK_STS_IOERR && clone->nr_phys_segments > queue_max_segments(clone->q))
		status = BLK_STS_RESOURCE;
	ub_clone_drop_bios(clone, own);
	blk_mq_cleanup_rq(clone);
	blk_mq_free_request(clone);
	if (status == BLK_STS_RESOURCE || status == BLK_STS_DEV_RESOURCE)
		return -EAGAIN;
	return blk_status_to_errno(status);
}

int ub_clone_whole(struct request *rq, struct bio *own, struct block_device *bdev,
		   u64 to, bio_end_io_t *end_io)
{
	struct bio *src = rq->bio;
	struct request *clone;
	int ret;

	ret = ub_clone_check(bdev, to, blk_rq_sectors(rq));
	if (unlikely(ret))
		return ret;
	if (src != rq->biotail || bio_has_crypt_ctx(src) || bio_integrity(src))
		return -E2BIG;

	/* Like bio_init_clone(), without the cost of setting the device. */
	bio_init(own, NULL, NULL, 0, ub_inherited(rq));
	/* Read once more, which costs less than a register over the call. */
	src = rq->bio;
	bio_set_flag(own, BIO_CLONED);
	/* The sector is of the whole disk, as in ub_clone_fill(). */
	bio_set_flag(own, BIO_REMAPPED);
	own->bi_bdev = bdev;
	own->bi_ioprio = src->bi_ioprio;
	own->bi_write_hint = src->bi_write_hint;
	own->bi_write_stream = src->bi_write_stream;
	own->bi_bvec_gap_bit = src->bi_bvec_gap_bit;
	own->bi_iter = src->bi_iter;
	own->bi_iter.bi_sector = to + bdev->bd_start_sect;
	own->bi_io_vec = src->bi_io_vec;
	own->bi_private = rq;
	own->bi_end_io = end_io;
	bio_clone_blkg_association(own, src);

	/* From here on @own has all that is needed, so no register has to keep it. */
	clone = ub_clone_alloc(own->bi_bdev, own->bi_opf);
	if (IS_ERR(clone)) {
		bio_uninit(own);
		return -EAGAIN;
	}
	/* The limits do not change while the queue has a request. */
	if (unlikely(ub_clone_limit(clone->q, own->bi_iter.bi_sector, blk_rq_sectors(rq)) !=
		     blk_rq_sectors(rq))) {
		bio_uninit(own);
		blk_mq_free_request(clone);
		return -E2BIG;
	}
	clone->bio = clone->biotail = own;
	return ub_clone_insert(clone, rq, own, own->bi_iter.bi_sector, blk_rq_sectors(rq),
			       blk_rq_pos(rq));
}

int ub_clone_send(struct request *rq, struct bio *own, const struct ub_range *range,
		  bio_end_io_t *end_io)
{
	struct block_device *bdev = range->bdev;
	sector_t sector = range->sector + bdev->bd_start_sect;
	u32 sectors = range->sectors, filled;
	blk_opf_t opf = ub_inherited(rq);
	struct request *clone;
	int ret;

	ret = ub_clone_check(bdev, range->sector, sectors);
	if (unlikely(ret))
		return ret;
	/* A clone bypasses the lower flush machinery, so check for a cache. */
	if (range->set_opf && bdev_write_cache(bdev))
		opf |= (__force blk_opf_t)range->set_opf;
	clone = ub_clone_alloc(bdev, opf);
	if (IS_ERR(clone))
		return -EAGAIN;
	sectors = ub_clone_limit(clone->q, sector, sectors);
	filled = ub_clone_fill(clone, own, range, sector, sectors);
	if (unlikely(!filled || (range->whole && filled != range->sectors))) {
		ub_clone_drop_bios(clone, own);
		blk_mq_free_request(clone);
		return filled ? -E2BIG : -EAGAIN;
	}
	clone->bio->bi_private = rq;
	clone->bio->bi_end_io = end_io;
	ret = ub_clone_insert(clone, rq, own, sector, filled,
			      range->src->bi_iter.bi_sector + range->skip);
	return ret ?: filled;
}
#else
int ub_clone_whole(struct request *rq, struct bio *own, struct block_device *bdev,
		   u64 to, bio_end_io_t *end_io)
{
	return -EOPNOTSUPP;
}

int ub_clone_send(struct request *rq, struct bio *own, const struct ub_range *range,
		  bio_end_io_t *end_io)
{
	return -EOPNOTSUPP;
}
#endif

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
 * The holder of all devices of this module. No other holder can claim such a
 * device. Openers with this holder do not conflict with each other, so blk/claim.rs
 * decides between the disks of this module.
 */
static char ub_holder;

/*
 * If the kernel is configured to refuse writers on devices in use
 * (bdev_allow_write_mounted=0), it also refuses writers on these devices. The
 * flag for this requires a holder.
 */
struct file *ub_bdev_open_claimed(const char *path, bool write)
{
	blk_mode_t mode = BLK_OPEN_READ | BLK_OPEN_RESTRICT_WRITES;

	if (write)
		mode |= BLK_OPEN_WRITE;
	return bdev_file_open_by_path(path, mode, &ub_holder, NULL);
}

struct file *ub_bdev_open_plain(const char *path)
{
	return bdev_file_open_by_path(path, BLK_OPEN_READ, NULL, NULL);
}

/* Opens once more, for reading, a device that is open and claimed already. */
struct file *ub_bdev_again_claimed(struct block_device *bdev)
{
	return bdev_file_open_by_dev(bdev->bd_dev, BLK_OPEN_READ |
				     BLK_OPEN_RESTRICT_WRITES,
				     &ub_holder, NULL);
}

/*
 * Waits for a bio. Must not be called while current->bio_list holds back the
 * bios of the current task, because it would hold back this bio too.
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

bool ub_bdev_accepts_requests(struct block_device *bdev)
{
	return queue_is_mq(bdev_get_queue(bdev));
}

bool ub_bdev_accepts_clones(struct block_device *bdev)
{
	/* The submission of a bio adds checksums. A clone skips it. */
	return IS_ENABLED(CONFIG_BLK_MQ_STACKING) && ub_bdev_accepts_requests(bdev) &&
	       !blk_get_integrity(bdev->bd_disk);
}

bool ub_bdev_may_sleep(struct block_device *bdev)
{
	return bdev_get_queue(bdev)->tag_set->flags & BLK_MQ_F_BLOCKING;
}

bool ub_bdev_has_cache(struct block_device *bdev)
{
	return bdev_write_cache(bdev);
}

bool ub_bdev_has_fua(struct block_device *bdev)
{
	return bdev_fua(bdev);
}

bool ub_bdev_read_only(struct block_device *bdev)
{
	return bdev_read_only(bdev);
}

int ub_bdev_name(struct block_device *bdev, char *buf, size_t len)
{
	return scnprintf(buf, len, "%pg", bdev);
}

/* The open operation runs under the same mutex, so it cannot race with this. */
int ub_disk_forbid_open(struct gendisk *disk, bool *forbidden)
{
	int ret = 0;

	mutex_lock(&disk->open_mutex);
	if (*forbidden || disk_openers(disk))
		ret = -EBUSY;
	else
		*forbidden = true;
	mutex_unlock(&disk->open_mutex);
	return ret;
}

/* In sysfs, links @disk as a holder of @bdev, and @bdev as a slave of @disk. */
int ub_disk_link(struct gendisk *disk, struct block_device *bdev)
{
	return bd_link_disk_holder(bdev, disk);
}

void ub_disk_unlink(struct gendisk *disk, struct block_device *bdev)
{
	bd_unlink_disk_holder(bdev, disk);
}

/*
 * If our set may sleep, queue_rq() runs as a reader of the set's SRCU domain and
 * enters lower queues, without waiting. A thread that has frozen a lower queue
 * waits for the readers of the lower set's domain. lockdep does not know that
 * our readers do not wait. If both domains had one class, it would report a
 * deadlock. So the domains of our sets get a separate class.
 */
void ub_tags_set_lock_class(struct blk_mq_tag_set *set, struct lock_class_key *key)
{
	if (set->srcu)
		lockdep_set_class(set->srcu, key);
}

/*
 * Disables writeback throttling by default. Lower requests bypass that of the
 * lower devices, so a user who wants it enables it here, in queue/wbt_lat_usec.
 *
 * The elevator_lock gets a separate lockdep class for the same reason as the
 * set: a thread waits for our SRCU readers under our elevator_lock, and another
 * thread takes the elevator_lock of a lower queue, which our readers enter,
 * while that queue is frozen. lockdep must not take the two locks for one.
 */
void ub_disk_setup(struct gendisk *disk, struct lock_class_key *key, bool no_merges)
{
	blk_queue_flag_set(QUEUE_FLAG_DISABLE_WBT_DEF, disk->queue);
	if (no_merges)
		blk_queue_flag_set(QUEUE_FLAG_NOMERGES, disk->queue);
	lockdep_set_class(&disk->queue->elevator_lock, key);
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

/* The limits change under limits_lock, which a reader of one word can skip. */
u32 ub_bdev_logical_block_size(struct block_device *bdev)
{
	return READ_ONCE(bdev_get_queue(bdev)->limits.logical_block_size);
}

u32 ub_bdev_features(struct block_device *bdev)
{
	return (__force u32)READ_ONCE(bdev_get_queue(bdev)->limits.features);
}

struct module *ub_bdev_owner(struct block_device *bdev)
{
	return bdev->bd_disk->fops->owner;
}
