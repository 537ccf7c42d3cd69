/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for the parts of the block layer that Rust code cannot call directly:
 * static inlines, macros, and code under #ifdef. ffi.rs declares the same
 * functions.
 */
#ifndef UNIONBLK_HELPERS_H
#define UNIONBLK_HELPERS_H

#include <linux/blk-mq.h>
#include <linux/types.h>

struct bio;
struct block_device;
struct device;
struct file;
struct gendisk;
struct module;

/*
 * A range of an upper request, from sector @skip of the bio @src on, and the
 * lower sector that it goes to.
 */
struct ub_range {
	struct bio *src;
	struct block_device *bdev;
	u64 sector;
	u32 skip;
	u32 sectors;
	u32 set_opf;
	/* Send all of the range, or nothing and return -E2BIG. */
	bool whole;
};

int ub_bios_init(void);
void ub_bios_exit(void);

/*
 * Sends a range of @rq, or the first sectors of it, to the lower queue as a
 * separate request. Never waits. Returns the number of sectors sent, -EAGAIN if
 * it would have to wait, or another error.
 *
 * If @own is not NULL, it is used as the first bio. When all bios have ended,
 * which may be before this returns, @end_io gets the first bio, with @rq as its
 * bi_private.
 */
int ub_clone_send(struct request *rq, struct bio *own, const struct ub_range *range,
		  bio_end_io_t *end_io);

/*
 * Sends all of @rq as one lower request, to sector @to of @bdev. This is a fast
 * path of ub_clone_send(), and in all other respects like it; @own must not be
 * NULL. Returns 0, or an error: -E2BIG if @rq does not fit one lower request, has
 * more than one bio, or has an encryption context or integrity data.
 */
int ub_clone_whole(struct request *rq, struct bio *own, struct block_device *bdev,
		   u64 to, bio_end_io_t *end_io);

/*
 * Sets @status for the bios of @rq that overlap a range. It stays if @rq ends
 * with BLK_STS_OK. Returns whether @rq has bios without an error status.
 */
bool ub_request_fail_bios(struct request *rq, u64 sector, u32 sectors, blk_status_t status);

/*
 * Finds the first bio of @rq that ends after *@sector and has no error status.
 * Moves *@sector up to its start, and returns the number of its sectors from
 * there on; 0 if there is none.
 */
u32 ub_request_next_bio(struct request *rq, u64 *sector);

/*
 * Sends a range of one bio of @rq as a bio. May wait. Like ub_clone_send() in
 * all other respects; -EAGAIN means that there is no memory.
 */
int ub_bio_send(struct request *rq, struct bio *own, const struct ub_range *range,
		bio_end_io_t *end_io);
void ub_bio_zero(struct bio *bio, u32 skip, u32 sectors);

struct file *ub_bdev_open_claimed(const char *path, bool write);
struct file *ub_bdev_open_plain(const char *path);
struct file *ub_bdev_again_claimed(struct block_device *bdev);
int ub_bdev_rw(struct block_device *bdev, u64 sector, void *buf, u32 len, u32 opf);
int ub_bdev_flush(struct block_device *bdev);
bool ub_bdev_accepts_requests(struct block_device *bdev);
bool ub_bdev_accepts_clones(struct block_device *bdev);
bool ub_bdev_may_sleep(struct block_device *bdev);
bool ub_bdev_has_cache(struct block_device *bdev);
bool ub_bdev_has_fua(struct block_device *bdev);
bool ub_bdev_read_only(struct block_device *bdev);
u32 ub_bdev_logical_block_size(struct block_device *bdev);
u32 ub_bdev_features(struct block_device *bdev);
int ub_bdev_name(struct block_device *bdev, char *buf, size_t len);

void ub_tags_set_lock_class(struct blk_mq_tag_set *set, struct lock_class_key *key);

int ub_disk_forbid_open(struct gendisk *disk, bool *forbidden);
u32 ub_disk_openers(struct gendisk *disk);
int ub_disk_freeze(struct gendisk *disk, unsigned int *memflags);
void ub_disk_unfreeze(struct gendisk *disk, unsigned int memflags);
void ub_disk_permit_open(struct gendisk *disk, bool *forbidden, bool scan);
unsigned int ub_disk_logical_block_size(struct gendisk *disk);
int ub_disk_set_limits(struct gendisk *disk, const struct queue_limits *lim,
		       struct queue_limits *before);
int ub_disk_restore_limits(struct gendisk *disk, const struct queue_limits *before);
unsigned int ub_disk_bdevs(struct gendisk *disk, struct block_device **list,
			   unsigned int most);
void ub_bdev_put(struct block_device *bdev);
int ub_bdev_freeze(struct block_device *bdev);
int ub_bdev_thaw(struct block_device *bdev);
int ub_disk_link(struct gendisk *disk, struct block_device *bdev);
void ub_disk_unlink(struct gendisk *disk, struct block_device *bdev);
void ub_disk_setup(struct gendisk *disk, struct lock_class_key *key, bool no_merges);
void ub_disk_get(struct gendisk *disk);
void ub_disk_event(struct gendisk *disk, const char *variable);
void *ub_disk_data(struct device *dev);

struct module *ub_bdev_owner(struct block_device *bdev);

int ub_bdev_discard(struct block_device *bdev, u64 sector, u64 sectors);
int ub_bdev_zero(struct block_device *bdev, u64 sector, u64 sectors, bool keep);

#endif
