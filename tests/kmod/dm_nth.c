// SPDX-License-Identifier: GPL-2.0
/*
 * A device-mapper target that fails exactly the n-th I/O of a kind.
 *
 *   table: START LENGTH nth DEVICE LABEL
 *   echo "LABEL KIND N MODE" >/sys/module/dm_nth/parameters/arm
 *   cat /sys/module/dm_nth/parameters/seen       LABEL COUNT FAILED, a line each
 *
 * KIND is read, write, flush, discard or zero. MODE: "once" fails that I/O;
 * "kind" fails it and all later I/Os of its kind; "dead" fails it and all later
 * I/Os of any kind; "landed" does that I/O and then reports a failure. An N of
 * 0 disarms, and keeps the count. COUNT is the number of I/Os of the armed kind
 * since it was armed.
 *
 * Device mapper sends the flush before a write as a separate bio, so a write
 * that flushes first counts as both.
 */
#include <linux/bio.h>
#include <linux/device-mapper.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

enum kind { READS, WRITES, FLUSHES, DISCARDS, ZEROES, KINDS };
enum mode { ONCE, KIND, DEAD, LANDED, MODES };

static const char *const kind_names[KINDS] = { "read", "write", "flush", "discard", "zero" };
static const char *const mode_names[MODES] = { "once", "kind", "dead", "landed" };

struct nth {
	struct dm_dev *dev;
	char label[16];
	enum kind kind;
	enum mode mode;
	unsigned int n, count, failed;
	struct list_head list;
};

/* The state of one bio that is done first and failed afterwards. */
struct nth_bio {
	bool fail;
};

static LIST_HEAD(targets);
static DEFINE_SPINLOCK(lock);

static enum kind kind_of(const struct bio *bio)
{
	switch (bio_op(bio)) {
	case REQ_OP_READ:
		return READS;
	case REQ_OP_DISCARD:
	case REQ_OP_SECURE_ERASE:
		return DISCARDS;
	case REQ_OP_WRITE_ZEROES:
		return ZEROES;
	default:
		return bio->bi_opf & REQ_PREFLUSH || !bio_sectors(bio) ? FLUSHES : WRITES;
	}
}

/* Returns whether this I/O fails. */
static bool judge(struct nth *t, enum kind kind)
{
	unsigned long flags;
	bool fail;

	spin_lock_irqsave(&lock, flags);
	if (kind == t->kind)
		t->count++;
	if (!t->n || t->count < t->n)
		fail = false;
	else if (t->mode == DEAD)
		fail = true;
	else if (t->mode == KIND)
		fail = kind == t->kind;
	else
		fail = kind == t->kind && t->count == t->n;
	if (fail)
		t->failed++;
	spin_unlock_irqrestore(&lock, flags);
	return fail;
}

static int nth_map(struct dm_target *ti, struct bio *bio)
{
	struct nth *t = ti->private;
	struct nth_bio *own = dm_per_bio_data(bio, sizeof(*own));
	bool fail = judge(t, kind_of(bio));

	own->fail = fail && t->mode == LANDED;
	if (fail && !own->fail)
		return DM_MAPIO_KILL;
	bio_set_dev(bio, t->dev->bdev);
	bio->bi_iter.bi_sector = dm_target_offset(ti, bio->bi_iter.bi_sector);
	return DM_MAPIO_REMAPPED;
}

static int nth_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct nth_bio *own = dm_per_bio_data(bio, sizeof(*own));

	if (own->fail)
		*error = BLK_STS_IOERR;
	return DM_ENDIO_DONE;
}

static int nth_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct nth *t;
	int error;

	if (argc != 2 || strlen(argv[1]) >= sizeof(t->label)) {
		ti->error = "nth DEVICE LABEL";
		return -EINVAL;
	}
	t = kzalloc(sizeof(*t), GFP_KERNEL);
	if (!t)
		return -ENOMEM;
	error = dm_get_device(ti, argv[0], dm_table_get_mode(ti->table), &t->dev);
	if (error) {
		ti->error = "no such device";
		kfree(t);
		return error;
	}
	strscpy(t->label, argv[1], sizeof(t->label));
	ti->private = t;
	ti->num_flush_bios = 1;
	ti->num_discard_bios = 1;
	ti->num_write_zeroes_bios = 1;
	ti->per_io_data_size = sizeof(struct nth_bio);
	spin_lock_irq(&lock);
	list_add(&t->list, &targets);
	spin_unlock_irq(&lock);
	return 0;
}

static void nth_dtr(struct dm_target *ti)
{
	struct nth *t = ti->private;

	spin_lock_irq(&lock);
	list_del(&t->list);
	spin_unlock_irq(&lock);
	dm_put_device(ti, t->dev);
	kfree(t);
}

static int nth_iterate(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	struct nth *t = ti->private;

	return fn(ti, t->dev, 0, ti->len, data);
}

static int arm_set(const char *text, const struct kernel_param *param)
{
	char label[16], kind[16], mode[16];
	int error = -ENODEV, k, m;
	struct nth *t;
	unsigned int n;

	if (sscanf(text, "%15s %15s %u %15s", label, kind, &n, mode) != 4)
		return -EINVAL;
	k = match_string(kind_names, KINDS, kind);
	m = match_string(mode_names, MODES, mode);
	if (k < 0 || m < 0)
		return -EINVAL;
	spin_lock_irq(&lock);
	list_for_each_entry(t, &targets, list) {
		if (strcmp(t->label, label))
			continue;
		t->kind = k;
		t->mode = m;
		t->n = n;
		if (n) {
			t->count = 0;
			t->failed = 0;
		}
		error = 0;
	}
	spin_unlock_irq(&lock);
	return error;
}

static int seen_get(char *buffer, const struct kernel_param *param)
{
	struct nth *t;
	int len = 0;

	spin_lock_irq(&lock);
	list_for_each_entry(t, &targets, list)
		len += sysfs_emit_at(buffer, len, "%s %u %u\n", t->label, t->count, t->failed);
	spin_unlock_irq(&lock);
	return len;
}

static const struct kernel_param_ops arm_ops = { .set = arm_set };
static const struct kernel_param_ops seen_ops = { .get = seen_get };

module_param_cb(arm, &arm_ops, NULL, 0200);
module_param_cb(seen, &seen_ops, NULL, 0400);

static struct target_type nth_target = {
	.name = "nth",
	.version = { 1, 0, 0 },
	.module = THIS_MODULE,
	.ctr = nth_ctr,
	.dtr = nth_dtr,
	.map = nth_map,
	.end_io = nth_end_io,
	.iterate_devices = nth_iterate,
};
module_dm(nth);

MODULE_DESCRIPTION("Fails exactly the n-th I/O of a kind");
MODULE_LICENSE("GPL");
