// SPDX-License-Identifier: GPL-2.0
/*
 * Turns a formatted leaf into one that does harm, with correct checksums.
 *   hostile DEVICE ranges    a ring full of Zero records of 2^26 slabs each
 *   hostile DEVICE whole     a ring full of Zero and Reset, a table page each
 *   hostile DEVICE pages     a directory that names every page, all of zeroes
 *   hostile DEVICE claims    a superblock that names blocks that are not there
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096
#define SUPER_BYTES 512
#define PER_DIRECTORY 508
#define EMPTY_PAGE_CRC 0x98f94189u

static uint32_t table[256];
static uint8_t super[SUPER_BYTES];
static int fd;

static uint64_t get(const uint8_t *p, int bytes)
{
	uint64_t v = 0;

	while (bytes--)
		v = v << 8 | p[bytes];
	return v;
}

static void put(uint8_t *p, uint64_t v, int bytes)
{
	for (int i = 0; i < bytes; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static void seal(uint8_t *p, int bytes, int at)
{
	uint32_t crc = ~0u;

	put(p + at, 0, 4);
	for (int i = 0; i < bytes; i++)
		crc = table[(crc ^ p[i]) & 0xff] ^ crc >> 8;
	put(p + at, ~crc, 4);
}

static void out(uint64_t block, const uint8_t *p, int bytes)
{
	if (pwrite(fd, p, bytes, block * BLOCK) != bytes) {
		perror("hostile: write");
		exit(1);
	}
}

static uint64_t div_up(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

static void ring(uint64_t blocks, int ranges, uint64_t table_pages)
{
	uint8_t block[BLOCK];
	uint64_t tail = get(super + 112, 4), number = get(super + 120, 8), said = 0;

	for (uint64_t n = 0; n < blocks; n++) {
		memset(block, 0, BLOCK);
		memcpy(block, "UBjn", 4);
		put(block + 8, number + n, 8);
		memcpy(block + 16, super + 64, 8);
		put(block + 28, PER_DIRECTORY, 2);
		put(block + 30, 1, 2);
		for (int i = 0; i < PER_DIRECTORY; i++, said++) {
			uint64_t slab = said % 8 % table_pages * 1024, less = 1023;

			if (ranges)
				slab = 0, less = 0x3ffffff;
			put(block + 32 + 8 * i, slab << 32 | less << 6 | (4 + said / 8 % 2 * !ranges), 8);
		}
		seal(block, BLOCK, 4);
		out(2 + (tail + n) % blocks, block, BLOCK);
	}
}

static void directory(uint64_t start, uint64_t pages)
{
	uint8_t block[BLOCK];

	for (uint64_t at = 0; at * PER_DIRECTORY < pages; at++) {
		memset(block, 0, BLOCK);
		memcpy(block, "UBdr", 4);
		put(block + 8, at, 4);
		memcpy(block + 24, super + 64, 8);
		for (int i = 0; i < PER_DIRECTORY && at * PER_DIRECTORY + i < pages; i++) {
			put(block + 32 + 8 * i, EMPTY_PAGE_CRC, 4);
			block[32 + 8 * i + 4] = 1;
		}
		seal(block, BLOCK, 4);
		out(start + at, block, BLOCK);
	}
}

int main(int argc, char **argv)
{
	uint64_t slab, journal, table_pages, pages, blocks;
	const char *what = argc == 3 ? argv[2] : "";

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t v = i;

		for (int bit = 0; bit < 8; bit++)
			v = v >> 1 ^ (v & 1 ? 0x82f63b78u : 0);
		table[i] = v;
	}
	if (argc != 3) {
		fputs("hostile DEVICE ranges|whole|pages|claims\n", stderr);
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0 || pread(fd, super, SUPER_BYTES, 0) != SUPER_BYTES) {
		perror(argv[1]);
		return 1;
	}
	if (memcmp(super, "UNIONBLK", 8)) {
		fprintf(stderr, "hostile: %s is no leaf\n", argv[1]);
		return 1;
	}
	slab = get(super + 100, 4);
	journal = get(super + 104, 4);
	table_pages = div_up(div_up(get(super + 80, 8), slab), 1024);
	pages = table_pages + div_up(get(super + 88, 8), 32768);
	blocks = div_up(pages, PER_DIRECTORY);
	/* The superblock is not clean, so there is something to replay. */
	put(super + 108, get(super + 108, 4) & ~1ul, 4);
	if (!strcmp(what, "ranges") || !strcmp(what, "whole"))
		ring(journal, !strcmp(what, "ranges"), table_pages);
	else if (!strcmp(what, "pages"))
		directory(2 + journal, pages);
	else if (strcmp(what, "claims"))
		return 2;
	if (!strcmp(what, "pages") || !strcmp(what, "claims"))
		for (uint64_t at = 0; at < blocks; at++)
			super[256 + at / 4] |= 1 << at % 4 * 2;
	seal(super, SUPER_BYTES, 8);
	out(0, super, SUPER_BYTES);
	out(1, super, SUPER_BYTES);
	return fsync(fd) ? 1 : 0;
}
