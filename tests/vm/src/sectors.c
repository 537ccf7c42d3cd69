// SPDX-License-Identifier: GPL-2.0
/* Writes sectors as sector.h describes them, and checks them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sector.h"

#define CHUNK (1 << 20)
#define TAGS_MAX 64

static const char usage_text[] =
	"sectors fill    DEVICE TAG [START COUNT [BYTES]]   write, BYTES at a time\n"
	"sectors fua     DEVICE TAG START COUNT             one write with FUA and no flush\n"
	"sectors scatter DEVICE TAG SEED TIMES BYTES [LIMIT]  write at distinct places below sector LIMIT\n"
	"sectors weave   DEVICE TAG PART OF BYTES [LIMIT]   write every OF-th place, beginning with PART\n"
	"sectors check   DEVICE TAG[,TAG...] [START COUNT]  fail unless every sector is one of these\n"
	"sectors count   DEVICE [START COUNT]               how many sectors of each tag\n"
	"sectors punch   DEVICE START COUNT                 fallocate() a hole\n"
	"sectors zero    DEVICE START COUNT                 fallocate() zeroes\n"
	"sectors sync    DEVICE                             fsync\n";

static void die(const char *what)
{
	fprintf(stderr, "sectors: %s: %s\n", what, strerror(errno));
	exit(errno == ENOSPC ? 28 : 1);
}

static void usage(void)
{
	fputs(usage_text, stderr);
	exit(2);
}

static uint64_t number(const char *s)
{
	char *end;
	uint64_t v = strtoull(s, &end, 0);

	if (!*s || *end)
		usage();
	return v;
}

static uint64_t size_of(int fd)
{
	uint64_t bytes;
	struct stat st;

	if (fstat(fd, &st))
		die("stat");
	if (!S_ISBLK(st.st_mode))
		return (uint64_t)st.st_size / SECTOR;
	if (ioctl(fd, BLKGETSIZE64, &bytes))
		die("size");
	return bytes / SECTOR;
}

static int open_device(const char *path, int mode)
{
	int fd = open(path, mode | O_DIRECT | O_CLOEXEC);

	if (fd < 0 && errno == EINVAL)
		fd = open(path, mode | O_CLOEXEC);
	if (fd < 0)
		die(path);
	return fd;
}

static uint64_t *buffer(size_t bytes)
{
	void *p;

	if (posix_memalign(&p, 4096, bytes))
		die("memory");
	return p;
}

static void write_range(int fd, uint64_t *buf, uint64_t tag, uint64_t start, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		make(buf + i * WORDS, tag, start + i);
	ssize_t n = pwrite(fd, buf, count * SECTOR, (off_t)(start * SECTOR));

	if (n < 0)
		die("write");
	if ((uint64_t)n != count * SECTOR) {
		errno = ENOSPC;
		die("short write");
	}
}

static void fill(int fd, uint64_t tag, uint64_t start, uint64_t count, uint64_t bytes)
{
	uint64_t *buf = buffer(bytes);

	while (count) {
		uint64_t n = bytes / SECTOR < count ? bytes / SECTOR : count;

		write_range(fd, buf, tag, start, n);
		start += n;
		count -= n;
	}
	free(buf);
}

/* Walks over the places with a full period, so all are distinct without a record of any. */
static void scatter(int fd, uint64_t tag, uint64_t seed, uint64_t times, uint64_t bytes,
		    uint64_t limit)
{
	uint64_t each = bytes / SECTOR, places = limit / each, range = 1;
	uint64_t *buf = buffer(bytes);
	uint64_t at, done = 0;

	if (!each || times > places)
		usage();
	while (range < places)
		range <<= 1;
	at = mix(seed) & (range - 1);
	while (done < times) {
		at = (at * 5 + (seed | 1)) & (range - 1);
		if (at >= places)
			continue;
		write_range(fd, buf, tag, at * each, each);
		done++;
	}
	free(buf);
}

static void weave(int fd, uint64_t tag, uint64_t part, uint64_t of, uint64_t bytes, uint64_t limit)
{
	uint64_t each = bytes / SECTOR;
	uint64_t *buf = buffer(bytes);

	if (!each || !of)
		usage();
	for (uint64_t place = part; (place + 1) * each <= limit; place += of)
		write_range(fd, buf, tag, place * each, each);
	free(buf);
}

/*
 * A synchronous O_DSYNC write to a block device is a FUA write and then a
 * flush; an asynchronous one is the FUA write alone.
 */
static void fua(int fd, uint64_t tag, uint64_t start, uint64_t count)
{
	uint64_t *buf = buffer(count * SECTOR);
	struct iocb cb = { 0 }, *list = &cb;
	struct io_event event;
	aio_context_t context = 0;

	for (uint64_t i = 0; i < count; i++)
		make(buf + i * WORDS, tag, start + i);
	cb.aio_fildes = (uint32_t)fd;
	cb.aio_lio_opcode = IOCB_CMD_PWRITE;
	cb.aio_buf = (uint64_t)(uintptr_t)buf;
	cb.aio_nbytes = count * SECTOR;
	cb.aio_offset = (int64_t)(start * SECTOR);
	cb.aio_rw_flags = RWF_DSYNC;
	if (syscall(SYS_io_setup, 1, &context) || syscall(SYS_io_submit, context, 1, &list) != 1)
		die("submit");
	if (syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
		die("getevents");
	if (event.res != (int64_t)(count * SECTOR)) {
		errno = event.res < 0 ? (int)-event.res : EIO;
		die("write with FUA");
	}
	free(buf);
}

struct tally {
	uint64_t tag, sectors;
};

/* Calls a function of the caller with the content of every sector. */
static void walk(int fd, uint64_t start, uint64_t count,
		 void (*see)(void *, uint64_t, uint64_t), void *arg)
{
	uint64_t *buf = buffer(CHUNK);

	while (count) {
		uint64_t n = CHUNK / SECTOR < count ? CHUNK / SECTOR : count;
		ssize_t got = pread(fd, buf, n * SECTOR, (off_t)(start * SECTOR));

		if (got < 0)
			die("read");
		if ((uint64_t)got != n * SECTOR) {
			errno = EIO;
			die("short read");
		}
		for (uint64_t i = 0; i < n; i++)
			see(arg, start + i, judge(buf + i * WORDS, start + i));
		start += n;
		count -= n;
	}
	free(buf);
}

static void see_count(void *arg, uint64_t sector, uint64_t tag)
{
	struct tally *t = arg;

	(void)sector;
	for (int i = 0; i < TAGS_MAX; i++) {
		if (t[i].sectors && t[i].tag != tag)
			continue;
		t[i].tag = tag;
		t[i].sectors++;
		return;
	}
	errno = E2BIG;
	die("too many tags");
}

struct wanted {
	uint64_t tags[TAGS_MAX], bad;
	int n;
};

static void see_check(void *arg, uint64_t sector, uint64_t tag)
{
	struct wanted *w = arg;

	for (int i = 0; i < w->n; i++)
		if (w->tags[i] == tag)
			return;
	if (w->bad++ < 5) {
		if (tag == DAMAGED)
			printf("sector %llu is damaged or another's\n", (unsigned long long)sector);
		else
			printf("sector %llu has tag %llu\n", (unsigned long long)sector,
			       (unsigned long long)tag);
	}
}

static int by_tag(const void *a, const void *b)
{
	const struct tally *x = a, *y = b;

	return x->tag < y->tag ? -1 : x->tag > y->tag;
}

static int count_tags(int fd, uint64_t start, uint64_t count)
{
	struct tally t[TAGS_MAX] = { { 0 } };

	walk(fd, start, count, see_count, t);
	qsort(t, TAGS_MAX, sizeof(t[0]), by_tag);
	for (int i = 0; i < TAGS_MAX; i++) {
		if (t[i].sectors && t[i].tag == DAMAGED)
			printf("damaged %llu\n", (unsigned long long)t[i].sectors);
		else if (t[i].sectors)
			printf("%llu %llu\n", (unsigned long long)t[i].tag,
			       (unsigned long long)t[i].sectors);
	}
	return 0;
}

static int check_tags(int fd, char *list, uint64_t start, uint64_t count)
{
	struct wanted w = { .n = 0 };

	/* It would succeed whatever the device holds. */
	if (!count)
		usage();
	for (char *s = strtok(list, ","); s; s = strtok(NULL, ",")) {
		if (w.n == TAGS_MAX)
			usage();
		w.tags[w.n++] = number(s);
	}
	walk(fd, start, count, see_check, &w);
	if (w.bad)
		printf("%llu of %llu sectors are wrong\n", (unsigned long long)w.bad,
		       (unsigned long long)count);
	return w.bad != 0;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 2 ? argv[1] : "";
	int reads = !strcmp(verb, "check") || !strcmp(verb, "count");
	int fd, first = !strcmp(verb, "count") ? 3 : 4;
	uint64_t start = 0, count;

	if (argc < 3 || (argc < 4 && first == 4 && strcmp(verb, "sync")))
		usage();
	fd = open_device(argv[2], reads ? O_RDONLY : O_RDWR);
	count = size_of(fd);
	if (!strcmp(verb, "scatter") && argc >= 7) {
		scatter(fd, number(argv[3]), number(argv[4]), number(argv[5]), number(argv[6]),
			argc > 7 ? number(argv[7]) : count);
		return 0;
	}
	if (!strcmp(verb, "weave") && argc >= 7) {
		weave(fd, number(argv[3]), number(argv[4]), number(argv[5]), number(argv[6]),
		      argc > 7 ? number(argv[7]) : count);
		return 0;
	}
	if ((!strcmp(verb, "punch") || !strcmp(verb, "zero")) && argc == 5) {
		int mode = *verb == 'p' ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;

		if (fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, number(argv[3]) * SECTOR,
			      number(argv[4]) * SECTOR))
			die(verb);
		return 0;
	}
	if (argc > first + 1) {
		start = number(argv[first]);
		count = number(argv[first + 1]);
	}
	if (!strcmp(verb, "check"))
		return check_tags(fd, argv[3], start, count);
	if (!strcmp(verb, "count"))
		return count_tags(fd, start, count);
	if (!strcmp(verb, "fill"))
		fill(fd, number(argv[3]), start, count, argc > 6 ? number(argv[6]) : CHUNK);
	else if (!strcmp(verb, "fua"))
		fua(fd, number(argv[3]), start, count);
	else if (!strcmp(verb, "sync")) {
		if (fsync(fd))
			die("fsync");
	} else
		usage();
	return 0;
}
