/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Random load on a disk by several writers, each in a private range. An
 * oracle records every operation. The ranges meet inside slabs.
 */
#ifndef LOAD_H
#define LOAD_H

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "oracle.h"

#define LOAD_MOST 512		  /* sectors of one operation */
#define LOAD_UNKNOWN 0xffffffffu /* in place of a tag: a write of it has failed */

struct load;

struct hand {
	struct load *load;
	struct history *history;
	pthread_t thread;
	uint64_t random, from, to;
	uint64_t *buffer;
	aio_context_t aio;
	uint64_t left; /* operations that are left */
	uint64_t done, full;
	int error; /* the error that stopped it */
};

struct load {
	struct oracle oracle;
	struct hand *hands;
	int fd;
	uint32_t block, slab, discarded; /* sectors; the tag of discarded sectors */
	uint32_t *current;		 /* the tag of each sector as its writer knows it */
	_Atomic uint32_t tag, wrong;
	_Atomic int stop;
	/* If set, called after an operation or a flush has succeeded. */
	void (*tell)(struct load *l, struct hand *h, const struct operation *d, uint64_t covered);
	/* If set, called before an operation is sent. */
	void (*about_to)(struct hand *h, const struct operation *d);
};

static inline uint64_t load_draw(struct hand *h, uint64_t below)
{
	h->random = h->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (h->random >> 33) % below;
}

/* Draws small sizes more often than large ones, and whole blocks within the range. */
static inline void load_range(struct hand *h, uint64_t most, uint64_t *start, uint64_t *count)
{
	uint64_t block = h->load->block, blocks = (h->to - h->from) / block, n;

	for (n = 1; n * block < most && load_draw(h, 5); n <<= 1)
		;
	n = 1 + load_draw(h, n);
	if (n > most / block)
		n = most / block;
	if (n > blocks)
		n = blocks;
	*start = h->from + load_draw(h, blocks - n + 1) * block;
	*count = n * block;
}

static inline void load_wrong(struct load *l, const char *what, uint64_t sector, uint64_t tag)
{
	if (l->wrong++ < 5)
		printf("  %s: sector %llu holds tag %lld, not %u\n", what,
		       (unsigned long long)sector, (long long)tag, l->current[sector]);
}

static inline int load_read(struct hand *h, uint64_t start, uint64_t count)
{
	ssize_t n = pread(h->load->fd, h->buffer, count * SECTOR, (off_t)(start * SECTOR));

	if (n < 0)
		return errno;
	return n == (ssize_t)(count * SECTOR) ? 0 : EIO;
}

static inline int load_check(struct hand *h, uint64_t start, uint64_t count)
{
	struct load *l = h->load;
	int error = load_read(h, start, count);

	for (uint64_t i = 0; !error && i < count; i++) {
		uint64_t tag = judge(h->buffer + i * WORDS, start + i);

		if (tag != l->current[start + i] && l->current[start + i] != LOAD_UNKNOWN)
			load_wrong(l, "read", start + i, tag);
	}
	return error;
}

/* Returns whether a slab of the range may have no leaf slab yet, because none of its sectors is written. */
static inline int load_needs_space(const struct load *l, uint64_t start, uint64_t count)
{
	for (uint64_t slab = start / l->slab; slab * l->slab < start + count; slab++) {
		uint64_t i = slab * l->slab, end = i + l->slab;

		if (end > l->oracle.sectors)
			end = l->oracle.sectors;
		while (i < end && (l->current[i] < 2 || l->current[i] == LOAD_UNKNOWN))
			i++;
		if (i == end)
			return 1;
	}
	return 0;
}

/* Handles a full leaf. This is allowed if space is needed, and each sector must be old or new. */
static inline int load_full(struct hand *h, uint64_t start, uint64_t count, uint32_t tag)
{
	struct load *l = h->load;
	int error = load_read(h, start, count);

	h->full++;
	if (!load_needs_space(l, start, count))
		load_wrong(l, "no space for an overwrite", start, tag);
	for (uint64_t i = 0; !error && i < count; i++) {
		uint64_t found = judge(h->buffer + i * WORDS, start + i);

		if (found != tag && found != l->current[start + i] &&
		    l->current[start + i] != LOAD_UNKNOWN)
			load_wrong(l, "write without space", start + i, found);
		else
			l->current[start + i] = (uint32_t)found;
	}
	return error;
}

static inline int load_aio(struct hand *h, uint64_t start, uint64_t count)
{
	struct iocb cb = { 0 }, *list = &cb;
	struct io_event event;
	long n;

	cb.aio_fildes = (uint32_t)h->load->fd;
	cb.aio_lio_opcode = IOCB_CMD_PWRITE;
	cb.aio_buf = (uint64_t)(uintptr_t)h->buffer;
	cb.aio_nbytes = count * SECTOR;
	cb.aio_offset = (int64_t)(start * SECTOR);
	cb.aio_rw_flags = RWF_DSYNC;
	if (syscall(SYS_io_submit, h->aio, 1, &list) != 1)
		return errno;
	/* A child of another thread that ends may interrupt it. */
	do
		n = syscall(SYS_io_getevents, h->aio, 1, 1, &event, NULL);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		return errno;
	if (event.res < 0)
		return (int)-event.res;
	return event.res == (int64_t)(count * SECTOR) ? 0 : EIO;
}

static inline int load_sync_write(struct hand *h, uint64_t start, uint64_t count, int flags)
{
	char *from = (char *)h->buffer, *end = from + count * SECTOR;

	/* After a short transfer the loop continues, to learn the reason. */
	while (from < end) {
		struct iovec v = { from, (size_t)(end - from) };
		ssize_t n = pwritev2(h->load->fd, &v, 1,
				     (off_t)((start + count) * SECTOR) - (end - from), flags);

		if (n <= 0)
			return n ? errno : EIO;
		from += n;
	}
	return 0;
}

static inline size_t load_begin(struct hand *h, uint64_t start, uint64_t count, uint32_t tag)
{
	size_t n = oracle_begin(h->history, start, count, tag);

	if (h->load->about_to)
		h->load->about_to(h, &h->history->operations[n]);
	return n;
}

static inline void load_settle(struct hand *h, size_t n, int fua)
{
	struct load *l = h->load;
	struct operation *d = &h->history->operations[n];

	for (uint64_t i = d->start; i < d->start + d->count; i++)
		l->current[i] = d->tag;
	oracle_end(&l->oracle, h->history, n, fua);
	if (l->tell)
		l->tell(l, h, &h->history->operations[n], 0);
}

/* kind 0: plain, 1: FUA alone, 2: FUA and a flush, as O_DSYNC does it */
static inline int load_write(struct hand *h, uint64_t start, uint64_t count, int kind)
{
	struct load *l = h->load;
	uint32_t tag = l->tag++;
	size_t n = load_begin(h, start, count, tag);
	int error;

	for (uint64_t i = 0; i < count; i++)
		make(h->buffer + i * WORDS, tag, start + i);
	error = kind == 1 ? load_aio(h, start, count) :
			    load_sync_write(h, start, count, kind ? RWF_DSYNC : 0);
	if (error == ENOSPC)
		return load_full(h, start, count, tag);
	if (!error)
		load_settle(h, n, kind);
	return error;
}

/* A discard changes whole slabs and leaves parts of slabs alone. */
static inline int load_change(struct hand *h, uint64_t start, uint64_t count, int discard)
{
	struct load *l = h->load;
	uint64_t range[2] = { start * SECTOR, count * SECTOR };
	uint64_t from = start, to = start + count;
	uint32_t tag = discard ? l->discarded : 0;
	size_t n = 0;

	if (discard) {
		from = (start + l->slab - 1) / l->slab * l->slab;
		to = to == l->oracle.sectors ? to : to / l->slab * l->slab;
	}
	if (from < to)
		n = load_begin(h, from, to - from, tag);
	if (ioctl(l->fd, discard ? BLKDISCARD : BLKZEROOUT, range))
		return errno == ENOSPC && !discard ? load_full(h, start, count, 0) : errno;
	if (from < to)
		load_settle(h, n, 0);
	return 0;
}

static inline int load_flush(struct hand *h)
{
	struct load *l = h->load;
	uint64_t covered = oracle_flush_begin(&l->oracle);

	if (fsync(l->fd))
		return errno;
	oracle_flush_end(&l->oracle, covered);
	if (l->tell)
		l->tell(l, h, NULL, covered);
	return 0;
}

static inline void load_align(struct hand *h, uint64_t *start, uint64_t *count)
{
	uint64_t slab = h->load->slab, at = (*start + slab - 1) / slab * slab;

	if (at + slab > h->to)
		return;
	*start = at;
	*count = *count < slab ? slab : *count;
	if (at + *count > h->to)
		*count = (h->to - at) / slab * slab;
}

static inline int load_one(struct hand *h)
{
	uint64_t what = load_draw(h, 100), start, count;

	load_range(h, LOAD_MOST, &start, &count);
	/* Half of the discards and zeroings begin at a slab and cover at least one. */
	if (what >= 68 && what < 80 && what % 2)
		load_align(h, &start, &count);
	if (what < 46)
		return load_write(h, start, count, 0);
	if (what < 56)
		return load_write(h, start, count, what < 53 ? 1 : 2);
	if (what < 68)
		return load_check(h, start, count);
	if (what < 80)
		return load_change(h, start, count, what < 74);
	return what < 92 ? load_flush(h) : 0;
}

/* Continues after an operation that failed, because it is unknown what the operation has left. */
static inline void load_forget(struct hand *h)
{
	const struct operation *d = h->history->n ? &h->history->operations[h->history->n - 1] : NULL;

	for (uint64_t i = 0; d && !d->done && i < d->count; i++)
		h->load->current[d->start + i] = LOAD_UNKNOWN;
}

static inline void *load_work(void *arg)
{
	struct hand *h = arg;

	while (!h->error && h->left && !h->load->stop && !h->load->wrong) {
		h->error = load_one(h);
		h->done++;
		h->left--;
	}
	return NULL;
}

static inline void load_make(struct load *l, uint64_t sectors, unsigned int writers, uint64_t seed)
{
	memset(l, 0, sizeof(*l));
	l->fd = -1;
	l->block = 1;
	l->tag = 2;
	oracle_make(&l->oracle, sectors, writers);
	l->current = oracle_memory(NULL, sectors * sizeof(*l->current));
	l->hands = oracle_memory(NULL, writers * sizeof(*l->hands));
	memset(l->hands, 0, writers * sizeof(*l->hands));
	for (unsigned int w = 0; w < writers; w++) {
		struct hand *h = &l->hands[w];
		uint64_t each = sectors / writers / 8 * 8;

		h->load = l;
		h->history = &l->oracle.histories[w];
		h->random = mix(seed * 1000 + w + 1);
		/* Not at the edge of a slab. */
		h->from = w ? w * each - 8 : 0;
		h->to = w + 1 == writers ? sectors : (w + 1) * each - 8;
		if (posix_memalign((void **)&h->buffer, 4096, LOAD_MOST * SECTOR) ||
		    syscall(SYS_io_setup, 4, &h->aio)) {
			perror("load");
			exit(1);
		}
	}
}

/* Sets the writers to what the oracle knows. */
static inline void load_rewind(struct load *l)
{
	memcpy(l->current, l->oracle.known, l->oracle.sectors * sizeof(*l->current));
}

/* Continues from the present state. */
static inline void load_go(struct load *l, uint64_t operations)
{
	l->stop = 0;
	for (unsigned int w = 0; w < l->oracle.writers; w++) {
		l->hands[w].error = 0;
		l->hands[w].left = operations;
		if (pthread_create(&l->hands[w].thread, NULL, load_work, &l->hands[w])) {
			perror("thread");
			exit(1);
		}
	}
}

static inline void load_start(struct load *l, uint64_t operations)
{
	load_rewind(l);
	load_go(l, operations);
}

static inline void load_join(struct load *l)
{
	for (unsigned int w = 0; w < l->oracle.writers; w++)
		pthread_join(l->hands[w].thread, NULL);
}

/* Reads all sectors as they are now, with the first writer. */
static inline int load_survey(struct load *l, uint64_t *found)
{
	struct hand *h = &l->hands[0];

	for (uint64_t at = 0; at < l->oracle.sectors; at += LOAD_MOST) {
		uint64_t n = l->oracle.sectors - at;
		int error = load_read(h, at, n < LOAD_MOST ? n : LOAD_MOST);

		for (uint64_t i = 0; !error && i < LOAD_MOST && i < n; i++)
			found[at + i] = judge(h->buffer + i * WORDS, at + i);
		if (error)
			return error;
	}
	return 0;
}

static inline uint64_t load_sum(const struct load *l, size_t offset)
{
	uint64_t sum = 0;

	for (unsigned int w = 0; w < l->oracle.writers; w++)
		sum += *(const uint64_t *)((const char *)&l->hands[w] + offset);
	return sum;
}

#endif
