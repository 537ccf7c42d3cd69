// SPDX-License-Identifier: GPL-2.0
/*
 * Dirties memory, more than the machine has if asked, and checks it again.
 *   press MIB [FILE]      anonymous memory, or a shared mapping of a file
 * Every page holds its number. First all pages are written, in an order without
 * a pattern; then all are checked, a third written anew, and all checked again.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sector.h"

#define PAGE 4096
#define EACH (PAGE / 8)

static uint64_t *memory;
static uint64_t pages;

/* Walks over all pages: the step is prime to their number. */
static uint64_t place(uint64_t i)
{
	return i * 7919 % pages;
}

static void dirty(uint64_t tag, uint64_t of)
{
	for (uint64_t i = 0; i < pages; i += of)
		make(memory + place(i) * EACH, tag, place(i));
}

static uint64_t wrong(uint64_t first, uint64_t second, uint64_t of)
{
	uint64_t bad = 0;

	for (uint64_t i = 0; i < pages; i++)
		bad += judge(memory + place(i) * EACH, place(i)) != (i % of ? first : second);
	return bad;
}

int main(int argc, char **argv)
{
	int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS;
	uint64_t bad;

	if (argc < 2 || argc > 3) {
		fputs("press MIB [FILE]\n", stderr);
		return 2;
	}
	pages = strtoull(argv[1], NULL, 0) * 256 + 1;
	pages += pages % 7919 == 0;
	if (argc == 3) {
		flags = MAP_SHARED;
		fd = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 || ftruncate(fd, (off_t)(pages * PAGE))) {
			perror(argv[2]);
			return 1;
		}
	}
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (memory == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	/* Only the page that is needed is read, because readahead would evict others. */
	if (madvise(memory, pages * PAGE, MADV_RANDOM))
		perror("madvise");
	dirty(1, 1);
	bad = wrong(1, 1, 1);
	dirty(2, 3);
	if (fd >= 0 && msync(memory, pages * PAGE, MS_SYNC)) {
		perror("msync");
		return 1;
	}
	bad += wrong(1, 2, 3);
	if (bad)
		printf("%llu pages are wrong\n", (unsigned long long)bad);
	return bad != 0;
}
