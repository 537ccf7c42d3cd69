// SPDX-License-Identifier: GPL-2.0
/*
 * Sends I/O that must not wait, as io_uring does at first, and I/O from memory
 * that is not aligned to sectors.
 *   nowait DEVICE SECTOR COUNT TAG [write]
 * Sends COUNT times 4 KiB, one after another, with RWF_NOWAIT: reads and
 * compares with TAG, or writes TAG. Each EAGAIN counts as one too many, and
 * that I/O is sent again without RWF_NOWAIT. Every other I/O uses memory at an
 * odd multiple of the least alignment that the device reports.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "sector.h"

#define EACH 8

static void die(const char *what)
{
	fprintf(stderr, "nowait: %s: %s\n", what, strerror(errno));
	exit(1);
}

static unsigned int memory_alignment(int fd)
{
	struct statx s;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &s))
		die("statx");
	return s.stx_mask & STATX_DIOALIGN ? s.stx_dio_mem_align : SECTOR;
}

int main(int argc, char **argv)
{
	int writes = argc == 6 && !strcmp(argv[5], "write");
	unsigned long waits = 0, bad = 0;
	uint64_t whole[EACH * WORDS];
	char *area;
	int fd;

	if (argc != 5 && !writes) {
		fputs("nowait DEVICE SECTOR COUNT TAG [write]\n", stderr);
		return 2;
	}
	uint64_t sector = strtoull(argv[2], NULL, 0), count = strtoull(argv[3], NULL, 0);
	uint64_t tag = strtoull(argv[4], NULL, 0);

	fd = open(argv[1], (writes ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
	if (fd < 0 || posix_memalign((void **)&area, 4096, 3 * 4096))
		die(argv[1]);
	unsigned int align = memory_alignment(fd);

	for (uint64_t i = 0; i < count; i++, sector += EACH) {
		struct iovec v = { area + (i & 1 ? align : 0), sizeof(whole) };
		off_t at = (off_t)(sector * SECTOR);
		ssize_t n;

		for (int s = 0; writes && s < EACH; s++)
			make(whole + s * WORDS, tag, sector + (uint64_t)s);
		memcpy(v.iov_base, whole, writes ? sizeof(whole) : 0);
		n = writes ? pwritev2(fd, &v, 1, at, RWF_NOWAIT) : preadv2(fd, &v, 1, at, RWF_NOWAIT);
		if (n < 0 && errno == EAGAIN) {
			waits++;
			n = writes ? pwritev(fd, &v, 1, at) : preadv(fd, &v, 1, at);
		}
		if (n != (ssize_t)sizeof(whole))
			die(writes ? "write" : "read");
		memcpy(whole, v.iov_base, sizeof(whole));
		for (int s = 0; s < EACH; s++)
			bad += judge(whole + s * WORDS, sector + (uint64_t)s) != tag;
	}
	if (waits)
		printf("%lu of %s had to wait\n", waits, argv[3]);
	if (bad)
		printf("%lu sectors are not of tag %s\n", bad, argv[4]);
	return waits || bad;
}
