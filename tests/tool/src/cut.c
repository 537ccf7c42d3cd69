// SPDX-License-Identifier: GPL-2.0
/*
 * Loaded before the C library, into the tool: records what it writes to the files
 * below a directory, and fails or kills it at one I/O. The environment says how:
 *   CUT_UNDER   the directory
 *   CUT_LOG     where the record goes
 *   CUT_KIND    "write": writes, flushes and changes of size are counted; "read"
 *   CUT_AT      at which of them, from 0; none if it is not set
 *   CUT_HOW     "error": it fails; "kill": the process is killed before it;
 *               "torn": half of a write is done before the kill; "wrong": the last
 *               byte of a read is not the one on the disk
 * A record is four 64-bit words, and the bytes of a write: kind (0 write, 1 flush,
 * 2 size, 3 read), offset or size, length, and the inode.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { WRITE, FLUSH, SIZE, READ };

static unsigned long counted;

static int is_ours(int fd)
{
	const char *under = getenv("CUT_UNDER");
	char link[64], path[4096];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = under ? readlink(link, path, sizeof(path) - 1) : -1;
	if (n < 0)
		return 0;
	path[n] = 0;
	return !strncmp(path, under, strlen(under));
}

static void record(int fd, int kind, uint64_t at, const void *data, uint64_t len)
{
	ssize_t (*write_)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
	const char *path = getenv("CUT_LOG");
	int log = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
	struct stat s = { 0 };
	uint64_t words[4];

	if (log < 0)
		return;
	fstat(fd, &s);
	words[0] = (uint64_t)kind;
	words[1] = at;
	words[2] = len;
	words[3] = s.st_ino;
	if (write_(log, words, sizeof(words)) != sizeof(words) ||
	    (data && write_(log, data, len) != (ssize_t)len))
		abort();
	close(log);
}

/*
 * Returns 1 if this I/O is to fail, 2 if half of it is to be done before the process is killed, and
 * 3 if it is to return a wrong byte.
 */
static int cut(int kind)
{
	const char *at = getenv("CUT_AT"), *how = getenv("CUT_HOW"), *what = getenv("CUT_KIND");
	int counts = what && !strcmp(what, "read") ? kind == READ : kind != READ;

	if (!at || !how || !counts || counted++ != strtoul(at, NULL, 10))
		return 0;
	if (!strcmp(how, "error"))
		return 1;
	if (!strcmp(how, "torn") && kind == WRITE)
		return 2;
	if (!strcmp(how, "wrong") && kind == READ)
		return 3;
	raise(SIGKILL);
	return 0;
}

static ssize_t writes(int fd, const void *data, size_t len, off64_t at)
{
	ssize_t (*next)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
	int how = is_ours(fd) ? cut(WRITE) : -1;

	if (how == 1) {
		errno = EIO;
		return -1;
	}
	if (how == 2) {
		next(fd, data, len / 2 / 512 * 512, at);
		raise(SIGKILL);
	}
	if (how >= 0)
		record(fd, WRITE, (uint64_t)at, data, len);
	return next(fd, data, len, at);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) { return writes(fd, data, len, at); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return writes(fd, data, len, at); }

static int flushes(const char *name, int fd)
{
	int (*next)(int) = dlsym(RTLD_NEXT, name);
	int how = is_ours(fd) ? cut(FLUSH) : -1;

	if (how == 1) {
		errno = EIO;
		return -1;
	}
	if (how >= 0)
		record(fd, FLUSH, 0, NULL, 0);
	return next(fd);
}

int fsync(int fd) { return flushes("fsync", fd); }
int fdatasync(int fd) { return flushes("fdatasync", fd); }

static int sizes(int fd, off64_t len)
{
	int (*next)(int, off64_t) = dlsym(RTLD_NEXT, "ftruncate64");
	int how = is_ours(fd) ? cut(SIZE) : -1;

	if (how == 1) {
		errno = EIO;
		return -1;
	}
	if (how >= 0)
		record(fd, SIZE, (uint64_t)len, NULL, 0);
	return next(fd, len);
}

int ftruncate64(int fd, off64_t len) { return sizes(fd, len); }
int ftruncate(int fd, off_t len) { return sizes(fd, len); }

static ssize_t reads(int fd, void *data, size_t len, off64_t at)
{
	ssize_t (*next)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
	int how = is_ours(fd) ? cut(READ) : -1;
	ssize_t n;

	if (how == 1) {
		errno = EIO;
		return -1;
	}
	if (how >= 0)
		record(fd, READ, (uint64_t)at, NULL, len);
	n = next(fd, data, len, at);
	if (how == 3 && n > 0)
		((unsigned char *)data)[n - 1] ^= 1;
	return n;
}

ssize_t pread64(int fd, void *data, size_t len, off64_t at) { return reads(fd, data, len, at); }
ssize_t pread(int fd, void *data, size_t len, off_t at) { return reads(fd, data, len, at); }
