/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What each sector of a disk with a volatile cache may hold after a power
 * failure: its last durable content, or that of any later write to it.
 *
 * Each writer has sectors that no other writer writes, and one operation at a time.
 * So the order of operations to one sector is the order in which its writer sent
 * them. A flush makes durable what had completed, by any writer, before the flush
 * was sent.
 */
#ifndef ORACLE_H
#define ORACLE_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sector.h"

struct operation {
	uint64_t start, count;
	uint64_t done; /* the clock at success; 0: it has not completed, or failed */
	uint32_t tag;
	uint32_t fua;
};

struct history {
	struct operation *operations;
	size_t n, room;
};

struct oracle {
	uint64_t sectors;
	uint32_t *known; /* the tag of each sector at the last quiet moment */
	unsigned char *ok;
	struct history *histories;
	unsigned int writers;
	_Atomic uint64_t clock, flushed;
	int believe; /* what completed is taken for durable: the oracle must notice */
};

static inline void *oracle_memory(void *old, size_t bytes)
{
	void *p = realloc(old, bytes);

	if (!p) {
		perror("memory");
		exit(1);
	}
	return p;
}

static inline void oracle_make(struct oracle *o, uint64_t sectors, unsigned int writers)
{
	memset(o, 0, sizeof(*o));
	o->sectors = sectors;
	o->writers = writers;
	o->known = oracle_memory(NULL, sectors * sizeof(*o->known));
	o->ok = oracle_memory(NULL, sectors);
	o->histories = oracle_memory(NULL, writers * sizeof(*o->histories));
	memset(o->histories, 0, writers * sizeof(*o->histories));
}

/* Records a write before it is sent. From now on its content may be found. */
static inline size_t oracle_begin(struct history *s, uint64_t start, uint64_t count, uint32_t tag)
{
	if (s->n == s->room) {
		s->room = s->room ? 2 * s->room : 256;
		s->operations = oracle_memory(s->operations, s->room * sizeof(*s->operations));
	}
	s->operations[s->n] = (struct operation){ .start = start, .count = count, .tag = tag };
	return s->n++;
}

/* Records that a write has succeeded; with FUA the write itself is durable. */
static inline void oracle_end(struct oracle *o, struct history *s, size_t n, int fua)
{
	s->operations[n].fua = fua != 0;
	s->operations[n].done = atomic_fetch_add(&o->clock, 1) + 1;
}

/* Called around a flush: returns what it covers, and records that it has succeeded. */
static inline uint64_t oracle_flush_begin(struct oracle *o) { return atomic_load(&o->clock); }

static inline void oracle_flush_end(struct oracle *o, uint64_t covered)
{
	uint64_t old = atomic_load(&o->flushed);

	while (old < covered && !atomic_compare_exchange_weak(&o->flushed, &old, covered))
		;
}

static inline int oracle_durable(const struct oracle *o, const struct operation *d)
{
	return d->done && (d->fua || o->believe || d->done <= o->flushed);
}

/* Prints, for the reader of a failure, what this sector could have held. */
static inline void oracle_explain(const struct oracle *o, uint64_t sector)
{
	printf("    before %u;", o->known[sector]);
	for (unsigned int w = 0; w < o->writers; w++) {
		const struct history *s = &o->histories[w];

		for (size_t i = 0; i < s->n; i++) {
			const struct operation *d = &s->operations[i];

			if (sector - d->start < d->count)
				printf(" %u%s (sectors %llu+%llu)", d->tag,
				       oracle_durable(o, d) ? " durable" :
				       d->done ? " completed" : " not completed",
				       (unsigned long long)d->start, (unsigned long long)d->count);
		}
	}
	printf("\n");
}

/* Compares what was found with what is allowed; returns how many sectors are wrong. */
static inline uint64_t oracle_judge(struct oracle *o, const uint64_t *found)
{
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < o->sectors; i++)
		o->ok[i] = found[i] == o->known[i];
	for (unsigned int w = 0; w < o->writers; w++) {
		const struct history *s = &o->histories[w];

		for (size_t n = 0; n < s->n; n++) {
			const struct operation *d = &s->operations[n];
			int durable = oracle_durable(o, d);

			for (uint64_t i = d->start; i < d->start + d->count; i++)
				o->ok[i] = found[i] == d->tag || (!durable && o->ok[i]);
		}
	}
	for (uint64_t i = 0; i < o->sectors; i++) {
		if (o->ok[i] || wrong++ >= 5)
			continue;
		if (found[i] == DAMAGED)
			printf("  sector %llu is damaged or another's\n", (unsigned long long)i);
		else
			printf("  sector %llu holds tag %llu\n", (unsigned long long)i,
			       (unsigned long long)found[i]);
		oracle_explain(o, i);
	}
	return wrong;
}

/* At a quiet moment, makes what was found the present content. */
static inline void oracle_restart(struct oracle *o, const uint64_t *found)
{
	for (uint64_t i = 0; i < o->sectors; i++)
		o->known[i] = (uint32_t)found[i];
	for (unsigned int w = 0; w < o->writers; w++)
		o->histories[w].n = 0;
}

#endif
