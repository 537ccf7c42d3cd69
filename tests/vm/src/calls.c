// SPDX-License-Identifier: GPL-2.0
/*
 * Makes the system calls of a disk, both calls that must work and calls that
 * must be refused with the right errno, on a union whose every sector has tag
 * 1.
 *   calls DEVICE                  all of them, once
 *   calls DEVICE partitions N     only partitions made and taken away, N times
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <linux/hdreg.h>
#include <linux/pr.h>
#include <scsi/sg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "sector.h"

#ifndef FALLOC_FL_PUNCH_HOLE
#include <linux/falloc.h>
#endif
#ifndef FALLOC_FL_WRITE_ZEROES
#define FALLOC_FL_WRITE_ZEROES 0x80
#endif

#define MIB (1 << 20)
#define SLAB 65536

static const char *path;
static int fd, failures;
static uint64_t bytes;

static void judge_errno(const char *what, int got, int want)
{
	if (got == want)
		return;
	printf("FAIL: %s: %s, not %s\n", what, got ? strerror(got) : "done",
	       want ? strerror(want) : "done");
	failures++;
}

static void judge_number(const char *what, uint64_t got, uint64_t want)
{
	if (got == want)
		return;
	printf("FAIL: %s is %llu, not %llu\n", what, (unsigned long long)got,
	       (unsigned long long)want);
	failures++;
}

static int call(unsigned long request, void *arg)
{
	return ioctl(fd, request, arg) ? errno : 0;
}

static int on_range(unsigned long request, uint64_t start, uint64_t length)
{
	uint64_t range[2] = { start, length };

	return call(request, range);
}

/* Returns the tag of a sector, past the page cache or through it. */
static uint64_t tag_at(uint64_t byte, int flags)
{
	uint64_t *area;
	int other = open(path, O_RDONLY | O_CLOEXEC | flags);

	if (other < 0 || posix_memalign((void **)&area, 4096, 4096) ||
	    pread(other, area, SECTOR, (off_t)byte) != SECTOR) {
		perror("read");
		exit(1);
	}
	uint64_t tag = judge(area, byte / SECTOR);

	close(other);
	free(area);
	return tag;
}

static void ranges(const char *name, unsigned long request, int of_nothing)
{
	struct { const char *what; uint64_t start, length; int want; } bad[] = {
		{ "an odd start", 100, SLAB, EINVAL },
		{ "an odd length", 0, SLAB + 1, EINVAL },
		{ "beyond the end", bytes, 4096, EINVAL },
		{ "over the end", bytes - 4096, 8192, EINVAL },
		{ "around the end of all numbers", UINT64_MAX - 511, 1024, EINVAL },
		{ "nothing at all", 0, 0, of_nothing },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		fprintf(stderr, "%s: %s\n", name, bad[i].what);
		judge_errno(bad[i].what, on_range(request, bad[i].start, bad[i].length), bad[i].want);
	}
	judge_errno("a range of no memory", call(request, NULL), EFAULT);
	judge_number("the first sector's tag", tag_at(0, O_DIRECT), 1);
}

static void emptying(void)
{
	int writer = fd;

	ranges("discard", BLKDISCARD, EINVAL);
	ranges("zeroout", BLKZEROOUT, EINVAL);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	judge_errno("discard by a reader", on_range(BLKDISCARD, 0, SLAB), EBADF);
	judge_errno("zeroout by a reader", on_range(BLKZEROOUT, 0, SLAB), EBADF);
	close(fd);
	fd = writer;

	/* The content of the page cache goes, too. */
	judge_number("tag in the cache", tag_at(4 * SLAB, 0), 1);
	judge_errno("discard", on_range(BLKDISCARD, 4 * SLAB, SLAB), 0);
	judge_number("tag in the cache after discard", tag_at(4 * SLAB, 0), 0);
	judge_errno("zeroout of a sector", on_range(BLKZEROOUT, 6 * SLAB + 512, 512), 0);
	judge_number("tag of that sector", tag_at(6 * SLAB + 512, O_DIRECT), 0);
	judge_number("tag of the one before", tag_at(6 * SLAB, O_DIRECT), 1);
	judge_number("tag of the one after", tag_at(6 * SLAB + 1024, O_DIRECT), 1);
	judge_errno("secure discard", on_range(BLKSECDISCARD, 0, SLAB), EOPNOTSUPP);
	judge_number("its tag", tag_at(0, O_DIRECT), 1);
}

static int allocate(int mode, uint64_t start, uint64_t length)
{
	return fallocate(fd, mode, (off_t)start, (off_t)length) ? errno : 0;
}

static void allocating(void)
{
	const int keep = FALLOC_FL_KEEP_SIZE;

	judge_errno("punch", allocate(FALLOC_FL_PUNCH_HOLE | keep, 8 * SLAB, SLAB), 0);
	judge_number("tag after punch", tag_at(8 * SLAB, O_DIRECT), 0);
	judge_errno("zero", allocate(FALLOC_FL_ZERO_RANGE, 10 * SLAB + 512, 1024), 0);
	judge_number("tag after zero", tag_at(10 * SLAB + 512, O_DIRECT), 0);
	judge_number("tag before it", tag_at(10 * SLAB, O_DIRECT), 1);
	judge_errno("punch off a block", allocate(FALLOC_FL_PUNCH_HOLE | keep, 100, 512), EINVAL);
	judge_errno("punch beyond", allocate(FALLOC_FL_PUNCH_HOLE | keep, bytes, 512), EINVAL);
	judge_errno("allocate", allocate(0, 0, SLAB), EOPNOTSUPP);
	judge_errno("collapse", allocate(FALLOC_FL_COLLAPSE_RANGE, 0, SLAB), EOPNOTSUPP);
	judge_errno("insert", allocate(FALLOC_FL_INSERT_RANGE, 0, SLAB), EOPNOTSUPP);
	judge_errno("write zeroes", allocate(FALLOC_FL_WRITE_ZEROES, 12 * SLAB, 2 * SLAB), 0);
	judge_number("tag after write zeroes", tag_at(13 * SLAB, O_DIRECT), 0);
}

static void read_only(void)
{
	int on = 1, off = 0, is = -1;
	uint64_t *area;

	judge_errno("set read-only", call(BLKROSET, &on), 0);
	judge_errno("ask", call(BLKROGET, &is), 0);
	judge_number("read-only", (uint64_t)is, 1);
	if (posix_memalign((void **)&area, 4096, 4096))
		exit(1);
	judge_errno("write", pwrite(fd, area, 4096, 0) < 0 ? errno : 0, EPERM);
	judge_errno("discard", on_range(BLKDISCARD, 0, SLAB), EPERM);
	judge_errno("zeroout", on_range(BLKZEROOUT, 0, SLAB), EPERM);
	judge_number("tag", tag_at(0, O_DIRECT), 1);
	judge_errno("set writable", call(BLKROSET, &off), 0);
	make(area, 1, 0);
	judge_errno("write again", pwrite(fd, area, SECTOR, 0) < 0 ? errno : 0, 0);
	free(area);
}

static void numbers(void)
{
	int n = -1;
	unsigned int u = 0;
	unsigned long size = 0;
	unsigned short s = 9;
	uint64_t sequence = 0;

	judge_errno("sector size", call(BLKSSZGET, &n), 0);
	judge_number("sector size", (uint64_t)n, 512);
	judge_errno("block size", call(BLKPBSZGET, &u), 0);
	judge_number("block size", u, 512);
	judge_errno("least I/O", call(BLKIOMIN, &u), 0);
	judge_number("least I/O", u, 512);
	judge_errno("alignment", call(BLKALIGNOFF, &n), 0);
	judge_number("alignment", (uint64_t)n, 0);
	judge_errno("rotational", call(BLKROTATIONAL, &s), 0);
	judge_number("rotational", s, 0);
	judge_errno("size", call(BLKGETSIZE, &size), 0);
	judge_number("size", size, bytes / SECTOR);
	judge_number("size by seeking", (uint64_t)lseek(fd, 0, SEEK_END), bytes);
	judge_errno("sequence", call(BLKGETDISKSEQ, &sequence), 0);
	judge_number("a sequence", sequence != 0, 1);
	judge_errno("set read-ahead", call(BLKRASET, (void *)64), 0);
	judge_errno("read-ahead", call(BLKRAGET, &size), 0);
	judge_number("read-ahead", size, 64);
	n = 4096;
	judge_errno("soft block size", call(BLKBSZSET, &n), 0);
	n = 333;
	judge_errno("a soft block size that is none", call(BLKBSZSET, &n), EINVAL);
	judge_errno("write back the cache", call(BLKFLSBUF, NULL), 0);
}

static void refused(void)
{
	struct { struct blk_zone_report r; struct blk_zone z; } report = { .r = { .nr_zones = 1 } };
	struct blk_zone_range zone = { .sector = 0, .nr_sectors = 128 };
	struct pr_registration reservation = { .new_key = 1 };
	struct hd_geometry geometry;
	struct sg_io_hdr command = { .interface_id = 'S' };
	char block[4096], *odd = block + 1;

	judge_errno("report zones", call(BLKREPORTZONE, &report), ENOTTY);
	judge_errno("reset a zone", call(BLKRESETZONE, &zone), ENOTTY);
	judge_errno("finish a zone", call(BLKFINISHZONE, &zone), ENOTTY);
	judge_errno("a command of SCSI", call(SG_IO, &command), ENOTTY);
	judge_errno("geometry", call(HDIO_GETGEO, &geometry), ENOTTY);
	judge_errno("an unknown call", call(_IO(0x12, 250), NULL), ENOTTY);
	judge_errno("a reservation", call(IOC_PR_REGISTER, &reservation), EOPNOTSUPP);
	judge_errno("direct I/O at an odd place", pread(fd, block, 512, 100) < 0 ? errno : 0, EINVAL);
	judge_errno("direct I/O of an odd length", pread(fd, block, 100, 0) < 0 ? errno : 0, EINVAL);
	judge_errno("direct I/O to an odd byte", pread(fd, odd, 512, 0) < 0 ? errno : 0, EINVAL);
	judge_number("bytes read at the end", (uint64_t)pread(fd, block, 512, (off_t)bytes), 0);
	judge_errno("write at the end", pwrite(fd, block, 512, (off_t)bytes) < 0 ? errno : 0, ENOSPC);
}

static int partition(int op, int number, uint64_t start, uint64_t length)
{
	struct blkpg_partition p = { .pno = number, .start = (long long)start,
				     .length = (long long)length };
	struct blkpg_ioctl_arg arg = { .op = op, .datalen = sizeof(p), .data = &p };

	return call(BLKPG, &arg);
}

static void partitions(void)
{
	judge_errno("add", partition(BLKPG_ADD_PARTITION, 1, MIB, 4 * MIB), 0);
	judge_errno("add it again", partition(BLKPG_ADD_PARTITION, 1, 8 * MIB, MIB), EBUSY);
	judge_errno("add over it", partition(BLKPG_ADD_PARTITION, 2, 2 * MIB, MIB), EBUSY);
	judge_errno("add off a block", partition(BLKPG_ADD_PARTITION, 3, 8 * MIB + 7, MIB), EINVAL);
	judge_errno("add beyond", partition(BLKPG_ADD_PARTITION, 3, bytes, MIB), EINVAL);
	judge_errno("add a second", partition(BLKPG_ADD_PARTITION, 2, 8 * MIB, MIB), 0);
	judge_errno("resize", partition(BLKPG_RESIZE_PARTITION, 2, 8 * MIB, 2 * MIB), 0);
	judge_errno("resize into nothing", partition(BLKPG_RESIZE_PARTITION, 7, 8 * MIB, MIB), ENXIO);
	judge_errno("delete", partition(BLKPG_DEL_PARTITION, 1, 0, 0), 0);
	judge_errno("delete it again", partition(BLKPG_DEL_PARTITION, 1, 0, 0), ENXIO);
	judge_errno("delete the second", partition(BLKPG_DEL_PARTITION, 2, 0, 0), 0);
	judge_errno("read the table", call(BLKRRPART, NULL), 0);
}

static void holders(void)
{
	int first = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	int second = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);

	judge_number("the first holder", first >= 0, 1);
	judge_errno("a second holder", second < 0 ? errno : 0, EBUSY);
	judge_errno("a partition under a holder", partition(BLKPG_ADD_PARTITION, 1, MIB, MIB), 0);
	judge_errno("the table under a holder", call(BLKRRPART, NULL), EBUSY);
	judge_errno("delete under a holder", partition(BLKPG_DEL_PARTITION, 1, 0, 0), 0);
	close(first);
	second = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	judge_number("the next holder", second >= 0, 1);
	close(second);
}

int main(int argc, char **argv)
{
	int again = argc == 4 && !strcmp(argv[2], "partitions");

	if (argc != 2 && !again) {
		fputs("calls DEVICE [partitions N]\n", stderr);
		return 2;
	}
	path = argv[1];
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes)) {
		perror(path);
		return 1;
	}
	for (long n = again ? strtol(argv[3], NULL, 0) : 0; n > 0; n--)
		partitions();
	if (again)
		return failures != 0;
	numbers();
	emptying();
	allocating();
	read_only();
	refused();
	partitions();
	holders();
	return failures != 0;
}
