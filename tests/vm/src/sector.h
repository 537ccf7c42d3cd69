/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sectors that say where they belong and which write wrote them. A sector that
 * holds another sector's data, stale bytes or a mixture is distinguished from
 * one that is merely old.
 *
 * Each sector is 64 words: a magic number, a tag, its number, and a stream
 * derived from the last two. Tag 0 stands for a sector of zeroes.
 */
#ifndef SECTOR_H
#define SECTOR_H

#include <stdint.h>
#include <string.h>

#define SECTOR 512
#define WORDS (SECTOR / 8)
#define MAGIC 0x726f746365736275ULL
#define DAMAGED (~0ULL)

static inline uint64_t mix(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x7fb5d329728ea185ULL;
	x ^= x >> 27;
	return x;
}

static inline void make(uint64_t *w, uint64_t tag, uint64_t sector)
{
	uint64_t x = mix(tag * 0x9e3779b97f4a7c15ULL + sector);

	if (!tag) {
		memset(w, 0, SECTOR);
		return;
	}
	w[0] = MAGIC;
	w[1] = tag;
	w[2] = sector;
	for (int i = 3; i < WORDS; i++)
		w[i] = x + (uint64_t)i * 0x2545f4914f6cdd1dULL;
}

/* Returns the tag of a sector's content, or DAMAGED. */
static inline uint64_t judge(const uint64_t *w, uint64_t sector)
{
	uint64_t want[WORDS];
	uint64_t tag = w[0] == MAGIC ? w[1] : 0;

	make(want, tag, sector);
	return memcmp(w, want, SECTOR) ? DAMAGED : tag;
}

#endif
