// SPDX-License-Identifier: GPL-2.0
/*
 * Discards and zeroes ranges of a device. See helpers.h. All bios are on the
 * stack. blkdev_issue_discard() and blkdev_issue_zeroout() take bios from the
 * kernel's shared set. A reclaim of space must not wait for these, because writes
 * that wait for the reclaim may hold all that the set has in reserve.
 */

#include <linux/bio.h>
#include <linux/blkdev.h>

#include "helpers.h"

/* Returns how many sectors one bio without data can have, in whole blocks. */
static u32 ub_nodata_limit(u32 block_bytes)
{
	return rounddown(UINT_MAX, max(block_bytes, 1u << SECTOR_SHIFT)) >> SECTOR_SHIFT;
}

/* Sends one bio without data and waits for it. */
static int ub_bdev_send_nodata(struct block_device *bdev, u64 sector, u32 sectors, blk_opf_t opf)
{
	struct bio bio;
	int ret;

	bio_init(&bio, bdev, NULL, 0, opf);
	bio.bi_iter.bi_sector = sector;
	bio.bi_iter.bi_size = sectors << SECTOR_SHIFT;
	ret = submit_bio_wait(&bio);
	bio_uninit(&bio);
	return ret;
}

/* Does nothing if the device does not support discard. */
int ub_bdev_discard(struct block_device *bdev, u64 sector, u64 sectors)
{
	if (WARN_ON_ONCE(current->bio_list))
		return -EDEADLK;
	if (!bdev_max_discard_sectors(bdev))
		return 0;
	while (sectors) {
		u32 granularity = max(bdev_discard_granularity(bdev) >> SECTOR_SHIFT, 1u);
		u64 step = min_t(u64, sectors, ub_nodata_limit(granularity << SECTOR_SHIFT));
		u32 into;
		int ret;

		/* The next bio begins where the device can free space. */
		div_u64_rem(sector + bdev->bd_start_sect, granularity, &into);
		if (into)
			step = min_t(u64, sectors, granularity - into);
		ret = ub_bdev_send_nodata(bdev, sector, step, REQ_OP_DISCARD);
		if (ret)
			return ret == -EOPNOTSUPP ? 0 : ret;
		sector += step;
		sectors -= step;
	}
	return 0;
}

/* The number of pages that one bio with zeroes holds. */
#define ZERO_PAGES 8
#define ZERO_SECTORS (ZERO_PAGES << PAGE_SECTORS_SHIFT)

/* Writes up to ZERO_SECTORS sectors of zeroes, and sets how many. */
static int ub_bdev_zero_pages(struct block_device *bdev, u64 sector, u32 sectors, u32 *written)
{
	struct bio_vec bv[ZERO_PAGES];
	struct bio bio;
	int ret;

	bio_init(&bio, bdev, bv, ARRAY_SIZE(bv), REQ_OP_WRITE);
	bio.bi_iter.bi_sector = sector;
	while (bio_sectors(&bio) < sectors) {
		u32 len = min_t(u32, (sectors - bio_sectors(&bio)) << SECTOR_SHIFT, PAGE_SIZE);

		if (bio_add_page(&bio, ZERO_PAGE(0), len, 0) < len)
			break;
	}
	*written = bio_sectors(&bio);
	ret = submit_bio_wait(&bio);
	bio_uninit(&bio);
	return ret;
}

/* Writes zeroes if the device cannot zero. With @keep, no space is freed. */
int ub_bdev_zero(struct block_device *bdev, u64 sector, u64 sectors, bool keep)
{
	if (WARN_ON_ONCE(current->bio_list))
		return -EDEADLK;
	while (sectors) {
		u32 block = bdev_logical_block_size(bdev) >> SECTOR_SHIFT;
		u32 limit = min(bdev_write_zeroes_sectors(bdev), UINT_MAX >> SECTOR_SHIFT);
		u32 step = min_t(u64, sectors, rounddown(limit, block));
		int ret = -EOPNOTSUPP;

		if (step)
			ret = ub_bdev_send_nodata(bdev, sector, step, REQ_OP_WRITE_ZEROES |
						  (keep ? REQ_NOUNMAP : 0));
		/*
		 * A driver may find out only now that the device cannot. Then it
		 * sets the limit to 0, as sd does, and may return any error.
		 */
		if (ret == -EOPNOTSUPP || (ret && !bdev_write_zeroes_sectors(bdev)))
			ret = ub_bdev_zero_pages(bdev, sector,
						 min_t(u64, sectors, ZERO_SECTORS), &step);
		if (ret)
			return ret;
		sector += step;
		sectors -= step;
	}
	return 0;
}
