// SPDX-License-Identifier: GPL-2.0
/*
 * A disk in memory, /dev/again0, that does to requests what some drivers do
 * rarely. xen-blkfront takes the bios out of the requests in flight when the
 * machine resumes, and submits them again. It may also resume with lower limits.
 * sd offers WRITE_ZEROES until the first one has failed.
 *
 *   insmod blk_again.ko mib=64
 *   insmod blk_again.ko zeroes=N   offers WRITE_ZEROES, and fails each: 1 and stops offering it,
 *                                  as sd does, 2 and still offers it
 *   insmod blk_again.ko blocking=1 takes requests where it may sleep, like nbd, so it ends them
 *                                  in a task's context and outside of RCU
 *   echo N >/sys/module/blk_again/parameters/again      the next N requests
 *   echo N >/sys/module/blk_again/parameters/segments   the new max_segments
 *   cat /sys/module/blk_again/parameters/done           how many were submitted again
 *   echo 1 >/sys/module/blk_again/parameters/refuse     fail reads that are read-ahead,
 *                                                       as a suspended dm device does
 *   echo DEVICE >/sys/module/blk_again/parameters/mixed reads two blocks of DEVICE in one
 *                                                       plug, of which the first is read-ahead;
 *                                                       EIO if the second one fails
 *   cat /sys/module/blk_again/parameters/under_rcu      how many of these reads ended in a task's
 *                                                       context that was under RCU
 */
#include <linux/bio.h>
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/highmem.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/rcupdate.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

static unsigned int mib = 64;
module_param(mib, uint, 0444);
static unsigned int zeroes;
module_param(zeroes, uint, 0444);
static bool blocking;
module_param(blocking, bool, 0444);

static atomic_t again, done;

static int again_set(const char *val, const struct kernel_param *kp)
{
	int n, ret = kstrtoint(val, 0, &n);

	if (!ret)
		atomic_set(kp->arg, n);
	return ret;
}

static int again_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%d\n", max(atomic_read(kp->arg), 0));
}

static const struct kernel_param_ops again_ops = { .set = again_set, .get = again_get };
module_param_cb(again, &again_ops, &again, 0644);
module_param_cb(done, &again_ops, &done, 0444);
static atomic_t under_rcu;
module_param_cb(under_rcu, &again_ops, &under_rcu, 0444);

static bool refuse;
module_param(refuse, bool, 0644);

static u8 *memory;
static struct gendisk *disk;
static struct blk_mq_tag_set set;
static struct bio_list taken = BIO_EMPTY_LIST;
static DEFINE_SPINLOCK(lock);

static void submit_taken(struct work_struct *work)
{
	struct bio_list list = BIO_EMPTY_LIST;
	struct bio *bio;

	spin_lock(&lock);
	bio_list_merge_init(&list, &taken);
	spin_unlock(&lock);
	while ((bio = bio_list_pop(&list)))
		submit_bio(bio);
}
static DECLARE_WORK(submit_work, submit_taken);

static void copy(struct request *rq)
{
	u8 *at = memory + (blk_rq_pos(rq) << SECTOR_SHIFT);
	struct req_iterator iter;
	struct bio_vec bv;

	rq_for_each_segment(bv, rq, iter) {
		if (rq_data_dir(rq) == WRITE)
			memcpy_from_bvec(at, &bv);
		else
			memcpy_to_bvec(&bv, at);
		at += bv.bv_len;
	}
}

static blk_status_t queue_rq(struct blk_mq_hw_ctx *hctx, const struct blk_mq_queue_data *bd)
{
	struct request *rq = bd->rq;

	blk_mq_start_request(rq);
	if (rq->bio && atomic_dec_if_positive(&again) >= 0) {
		spin_lock(&lock);
		blk_steal_bios(&taken, rq);
		spin_unlock(&lock);
		atomic_inc(&done);
		blk_mq_end_request(rq, BLK_STS_OK);
		schedule_work(&submit_work);
		return BLK_STS_OK;
	}
	if (refuse && rq->cmd_flags & REQ_RAHEAD) {
		blk_mq_end_request(rq, BLK_STS_IOERR);
		return BLK_STS_OK;
	}
	if (req_op(rq) == REQ_OP_WRITE_ZEROES) {
		if (zeroes == 1)
			blk_queue_disable_write_zeroes(rq->q);
		blk_mq_end_request(rq, BLK_STS_TARGET);
		return BLK_STS_OK;
	}
	copy(rq);
	blk_mq_end_request(rq, BLK_STS_OK);
	return BLK_STS_OK;
}

static const struct blk_mq_ops ops = { .queue_rq = queue_rq };
static const struct block_device_operations fops = { .owner = THIS_MODULE };

static int segments_set(const char *val, const struct kernel_param *kp)
{
	struct queue_limits lim;
	u16 n;
	int ret = kstrtou16(val, 0, &n);

	if (ret || !disk)
		return ret;
	lim = queue_limits_start_update(disk->queue);
	lim.max_segments = n;
	return queue_limits_commit_update_frozen(disk->queue, &lim);
}

static const struct kernel_param_ops segments_ops = { .set = segments_set };
module_param_cb(segments, &segments_ops, NULL, 0200);

/*
 * Only a kernel with preemptible RCU counts its read sections. On others lock
 * debugging knows them, if it is built in.
 */
static bool is_under_rcu(void)
{
#ifdef CONFIG_DEBUG_LOCK_ALLOC
	return lock_is_held(&rcu_lock_map);
#else
	return rcu_preempt_depth();
#endif
}

static void mixed_end(struct bio *bio)
{
	if (in_task() && is_under_rcu())
		atomic_inc(&under_rcu);
	complete(bio->bi_private);
}

/* The block layer merges the two bios, because they are adjacent and in one plug. */
static int read_mixed(struct block_device *bdev)
{
	struct completion ended[2];
	struct bio *bios[2];
	struct blk_plug plug;
	int i, ret;

	for (i = 0; i < 2; i++) {
		init_completion(&ended[i]);
		bios[i] = bio_alloc(bdev, 1, REQ_OP_READ | (i ? 0 : REQ_RAHEAD), GFP_KERNEL);
		bios[i]->bi_iter.bi_sector = i * PAGE_SECTORS;
		bios[i]->bi_private = &ended[i];
		bios[i]->bi_end_io = mixed_end;
		__bio_add_page(bios[i], alloc_page(GFP_KERNEL | __GFP_NOFAIL), PAGE_SIZE, 0);
	}
	blk_start_plug(&plug);
	submit_bio(bios[0]);
	submit_bio(bios[1]);
	blk_finish_plug(&plug);
	for (i = 0; i < 2; i++)
		wait_for_completion(&ended[i]);
	ret = blk_status_to_errno(bios[1]->bi_status);
	for (i = 0; i < 2; i++) {
		__free_page(bios[i]->bi_io_vec[0].bv_page);
		bio_put(bios[i]);
	}
	return ret;
}

static int mixed_set(const char *val, const struct kernel_param *kp)
{
	char path[64];
	struct file *file;
	int ret;

	strscpy(path, val, sizeof(path));
	file = bdev_file_open_by_path(strim(path), BLK_OPEN_READ, NULL, NULL);
	if (IS_ERR(file))
		return PTR_ERR(file);
	ret = read_mixed(file_bdev(file));
	bdev_fput(file);
	return ret;
}

static const struct kernel_param_ops mixed_ops = { .set = mixed_set };
module_param_cb(mixed, &mixed_ops, NULL, 0200);

static int __init again_init(void)
{
	struct queue_limits lim = { .max_hw_sectors = 2048, .max_segments = 128 };
	int ret = -ENOMEM;

	if (zeroes)
		lim.max_write_zeroes_sectors = 2048;
	memory = vzalloc(mib * SZ_1M);
	if (!memory)
		return ret;
	set = (struct blk_mq_tag_set){ .ops = &ops, .nr_hw_queues = 1, .queue_depth = 64,
				       .numa_node = NUMA_NO_NODE,
				       .flags = blocking ? BLK_MQ_F_BLOCKING : 0 };
	ret = blk_mq_alloc_tag_set(&set);
	if (ret)
		goto free_memory;
	disk = blk_mq_alloc_disk(&set, &lim, NULL);
	if (IS_ERR(disk)) {
		ret = PTR_ERR(disk);
		goto free_set;
	}
	disk->fops = &fops;
	strscpy(disk->disk_name, "again0", sizeof(disk->disk_name));
	set_capacity(disk, mib * (SZ_1M >> SECTOR_SHIFT));
	ret = add_disk(disk);
	if (!ret)
		return 0;
	put_disk(disk);
free_set:
	blk_mq_free_tag_set(&set);
free_memory:
	vfree(memory);
	return ret;
}
module_init(again_init);

static void __exit again_exit(void)
{
	del_gendisk(disk);
	put_disk(disk);
	flush_work(&submit_work);
	blk_mq_free_tag_set(&set);
	vfree(memory);
}
module_exit(again_exit);

MODULE_DESCRIPTION("a disk whose driver submits bios again, for tests");
MODULE_LICENSE("GPL");
