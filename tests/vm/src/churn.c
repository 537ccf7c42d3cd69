// SPDX-License-Identifier: GPL-2.0
/*
 * A random workload on a disk, with a record of what each sector must hold: writes
 * of 512 B to 1 MiB, reads that are checked at once, discards, zeroings,
 * flushes and FUA writes. Several processes run at once, each in a private
 * range. The ranges meet inside slabs.
 *   churn learn DEVICE STATE                 remembers what is there
 *   churn run   DEVICE STATE SEED OPERATIONS JOBS SLAB-SECTORS DISCARDED-TAG
 *   churn check DEVICE STATE                 all of it, from the disk
 * A discard turns each slab that it covers as a whole into DISCARDED-TAG (0:
 * zeroes, 1: the root's) and leaves parts of slabs alone. In place of the tag a
 * file can be given, with a slash in its name: the STATE of what lies below.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sector.h"

#define MOST 2048 /* sectors of one operation */

struct workload {
	int fd;
	uint32_t *state; /* the tag of each sector */
	uint32_t *below; /* the tags that discards reveal; NULL: one for all */
	uint64_t sectors, from, to, random, tag;
	uint64_t *buffer;
	uint32_t block, slab, discarded, bad;
};

static void die(const char *what)
{
	fprintf(stderr, "churn: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t number(const char *s)
{
	char *end;
	uint64_t v = strtoull(s, &end, 0);

	if (!*s || *end) {
		fprintf(stderr, "churn: not a number: %s\n", s);
		exit(2);
	}
	return v;
}

static uint64_t draw(struct workload *l, uint64_t below)
{
	l->random = l->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (l->random >> 33) % below;
}

/* Draws as many small sizes as large ones, and whole blocks within the range. */
static void draw_range(struct workload *l, uint64_t *start, uint64_t *count, uint64_t most)
{
	uint64_t blocks = (l->to - l->from) / l->block, n;

	for (n = 1; n * l->block < most && draw(l, 10); n <<= 1)
		;
	n = 1 + draw(l, n);
	if (n > most / l->block)
		n = most / l->block;
	if (n > blocks)
		n = blocks;
	*start = l->from + draw(l, blocks - n + 1) * l->block;
	*count = n * l->block;
}

static void complain(struct workload *l, uint64_t sector, uint64_t tag)
{
	if (l->bad++ >= 5)
		return;
	if (tag == DAMAGED)
		printf("sector %llu is damaged or another's, not of tag %u\n",
		       (unsigned long long)sector, l->state[sector]);
	else
		printf("sector %llu has tag %llu, not %u\n", (unsigned long long)sector,
		       (unsigned long long)tag, l->state[sector]);
}

static void read_range(struct workload *l, uint64_t start, uint64_t count)
{
	ssize_t n = pread(l->fd, l->buffer, count * SECTOR, (off_t)(start * SECTOR));

	if (n != (ssize_t)(count * SECTOR))
		die("read");
}

static void check_range(struct workload *l, uint64_t start, uint64_t count)
{
	read_range(l, start, count);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t tag = judge(l->buffer + i * WORDS, start + i);

		if (tag != l->state[start + i])
			complain(l, start + i, tag);
	}
}

static void write_range(struct workload *l, uint64_t start, uint64_t count, int flags)
{
	struct iovec v = { l->buffer, count * SECTOR };

	l->tag++;
	for (uint64_t i = 0; i < count; i++) {
		make(l->buffer + i * WORDS, l->tag, start + i);
		l->state[start + i] = (uint32_t)l->tag;
	}
	if (pwritev2(l->fd, &v, 1, (off_t)(start * SECTOR), flags) != (ssize_t)v.iov_len)
		die("write");
}

static void change(struct workload *l, unsigned long call, uint64_t start, uint64_t count)
{
	uint64_t range[2] = { start * SECTOR, count * SECTOR };

	if (ioctl(l->fd, call, range))
		die(call == BLKDISCARD ? "discard" : "zeroout");
}

static void discard(struct workload *l, uint64_t start, uint64_t count)
{
	uint64_t first = (start + l->slab - 1) / l->slab * l->slab;
	uint64_t last = (start + count) / l->slab * l->slab;

	/* The last slab of the disk may be short. */
	if (start + count == l->sectors)
		last = l->sectors;
	change(l, BLKDISCARD, start, count);
	for (uint64_t i = first; i < last; i++)
		l->state[i] = l->below ? l->below[i] : l->discarded;
}

static void zero(struct workload *l, uint64_t start, uint64_t count)
{
	change(l, BLKZEROOUT, start, count);
	for (uint64_t i = start; i < start + count; i++)
		l->state[i] = 0;
}

static void operate(struct workload *l, uint64_t operations)
{
	uint64_t start, count;

	while (operations-- && !l->bad) {
		uint64_t what = draw(l, 100);

		draw_range(l, &start, &count, what >= 75 && what < 90 ? 4 * MOST : MOST);
		if (what < 45)
			write_range(l, start, count, 0);
		else if (what < 50)
			write_range(l, start, count, RWF_DSYNC);
		else if (what < 75)
			check_range(l, start, count);
		else if (what < 83)
			discard(l, start, count);
		else if (what < 90)
			zero(l, start, count);
		else if (what < 97 && fsync(l->fd))
			die("fsync");
	}
	exit(l->bad != 0);
}

static int run(struct workload *l, uint64_t seed, uint64_t operations, uint64_t jobs)
{
	int failed = 0, status;
	uint64_t each = l->sectors / jobs / l->block * l->block;

	for (uint64_t j = 0; j < jobs; j++) {
		l->from = j * each;
		l->to = j + 1 == jobs ? l->sectors : (j + 1) * each;
		l->random = mix(seed * 1000 + j + 1);
		l->tag = 1000 + (seed * jobs + j) * 100000;
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (!child)
			operate(l, operations);
	}
	for (uint64_t j = 0; j < jobs; j++) {
		if (wait(&status) < 0)
			die("wait");
		failed |= status;
	}
	return failed != 0;
}

static void everything(struct workload *l, int learn)
{
	for (uint64_t at = 0; at < l->sectors; at += MOST) {
		uint64_t n = l->sectors - at < MOST ? l->sectors - at : MOST;

		if (!learn) {
			check_range(l, at, n);
			continue;
		}
		read_range(l, at, n);
		for (uint64_t i = 0; i < n; i++)
			l->state[at + i] = (uint32_t)judge(l->buffer + i * WORDS, at + i);
	}
}

/* Tags of sectors that the file has not known yet are those of zeroes. */
static uint32_t *tags(const struct workload *l, const char *state)
{
	int fd = open(state, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	off_t bytes = (off_t)(l->sectors * sizeof(uint32_t));
	struct stat s;
	uint32_t *p;

	if (fd < 0 || fstat(fd, &s) || (s.st_size < bytes && ftruncate(fd, bytes)))
		die("state");
	p = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die("state");
	return p;
}

static void prepare(struct workload *l, const char *device, const char *state)
{
	int block;
	uint64_t bytes;

	l->fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (l->fd < 0)
		die("open");
	if (ioctl(l->fd, BLKGETSIZE64, &bytes) || ioctl(l->fd, BLKSSZGET, &block))
		die("size");
	l->sectors = bytes / SECTOR;
	l->block = (uint32_t)block / SECTOR;
	l->state = tags(l, state);
	if (posix_memalign((void **)&l->buffer, 4096, MOST * SECTOR))
		die("memory");
}

int main(int argc, char **argv)
{
	struct workload l = { .bad = 0 };
	const char *verb = argc > 3 ? argv[1] : "";

	if (!strcmp(verb, "run") ? argc != 9 : argc != 4) {
		fputs("churn learn|check DEVICE STATE\n"
		      "churn run DEVICE STATE SEED OPERATIONS JOBS SLAB DISCARDED\n", stderr);
		return 2;
	}
	prepare(&l, argv[2], argv[3]);
	if (!strcmp(verb, "run")) {
		l.slab = (uint32_t)number(argv[7]);
		if (strchr(argv[8], '/'))
			l.below = tags(&l, argv[8]);
		else
			l.discarded = (uint32_t)number(argv[8]);
		return run(&l, number(argv[4]), number(argv[5]), number(argv[6]));
	}
	everything(&l, !strcmp(verb, "learn"));
	if (l.bad)
		printf("%u sectors are wrong\n", l.bad);
	return l.bad != 0;
}
