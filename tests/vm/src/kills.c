// SPDX-License-Identifier: GPL-2.0
/*
 * Loads a union in a machine that may be killed at any moment. The program
 * writes notes with O_DIRECT to a disk that survives the machine: before an operation
 * is sent, after it has completed, and after a flush. The next machine reads
 * the notes, checks every sector, and continues.
 *   kills begin ROOT LEAF NOTES SEED WRITERS    the first time; then as "go"
 *   kills go    ROOT LEAF NOTES SEED WRITERS    checks, then until it is killed
 *   kills last  ROOT LEAF NOTES SEED WRITERS    checks
 */
#define _GNU_SOURCE
#include "control.h"
#include "load.h"

#define NOTES_MAGIC 0x73657469724b4255ULL
#define AREA (4096 * SECTOR) /* of one writer's notes, behind the map */
#define MAP (1024 * 1024)

/* A note is a sector. Notes lie one after another; the first note of another boot ends them. */
struct note {
	uint64_t magic, boot, kind;
	uint64_t start, count, done, tag, fua;
	uint64_t pad[WORDS - 8];
};

enum { BEGUN = 1, ENDED, FLUSHED };

struct head {
	uint64_t magic, boot, sectors, tag;
	uint64_t pad[WORDS - 4];
};

static struct head head __attribute__((aligned(4096)));
static int notes;
static struct note *note_of[64];
static uint64_t written[64];

static void put(const void *what, size_t bytes, uint64_t at)
{
	if (pwrite(notes, what, bytes, (off_t)at) != (ssize_t)bytes) {
		perror("notes");
		exit(1);
	}
}

static uint64_t area(unsigned int w, uint64_t n) { return MAP + w * (uint64_t)AREA + n * SECTOR; }

static void note(struct hand *h, uint64_t kind, const struct operation *d, uint64_t covered)
{
	unsigned int w = (unsigned int)(h - h->load->hands);
	struct note *n = note_of[w];

	/* The area is full, so this boot has done enough. */
	if (written[w] == AREA / SECTOR) {
		h->left = 1;
		return;
	}
	*n = (struct note){ .magic = NOTES_MAGIC, .boot = head.boot, .kind = kind, .done = covered };
	if (d) {
		n->start = d->start;
		n->count = d->count;
		n->tag = d->tag;
		n->fua = d->fua;
		n->done = d->done;
	}
	put(n, SECTOR, area(w, written[w]++));
}

static void tell(struct load *l, struct hand *h, const struct operation *d, uint64_t covered)
{
	(void)l;
	note(h, d ? ENDED : FLUSHED, d, covered);
}

static void about_to(struct hand *h, const struct operation *d) { note(h, BEGUN, d, 0); }

/* Reads what the previous machine has noted. */
static void remember(struct load *l)
{
	uint64_t operations = 0;

	for (unsigned int w = 0; w < l->oracle.writers; w++) {
		struct history *s = &l->oracle.histories[w];
		struct note *n = note_of[w];

		for (uint64_t i = 0; i < AREA / SECTOR; i++) {
			if (pread(notes, n, SECTOR, (off_t)area(w, i)) != SECTOR)
				exit(1);
			if (n->magic != NOTES_MAGIC || n->boot != head.boot)
				break;
			if (n->kind == BEGUN)
				oracle_begin(s, n->start, n->count, (uint32_t)n->tag);
			else if (n->kind == FLUSHED)
				oracle_flush_end(&l->oracle, n->done);
			else if (s->n) {
				s->operations[s->n - 1].done = n->done;
				s->operations[s->n - 1].fua = (uint32_t)n->fua;
			}
		}
		operations += s->n;
	}
	printf("# operations=%llu flushed=%llu\n", (unsigned long long)operations,
	       (unsigned long long)l->oracle.flushed);
}

/* The next boot begins with the state that this one found. */
static void restart(struct load *l, const uint64_t *found)
{
	size_t bytes = (l->oracle.sectors * sizeof(uint32_t) + 4095) / 4096 * 4096;
	uint32_t *map;

	oracle_restart(&l->oracle, found);
	l->oracle.flushed = 0;
	if (bytes > MAP - 4096 || posix_memalign((void **)&map, 4096, bytes))
		exit(1);
	memcpy(map, l->oracle.known, l->oracle.sectors * sizeof(uint32_t));
	put(map, bytes, 4096);
	free(map);
	head.magic = NOTES_MAGIC;
	head.sectors = l->oracle.sectors;
	head.boot++;
	head.tag = head.boot << 16;
	put(&head, SECTOR, 0);
}

static void recall(struct load *l)
{
	size_t bytes = (l->oracle.sectors * sizeof(uint32_t) + 4095) / 4096 * 4096;
	uint32_t *map;

	if (pread(notes, &head, SECTOR, 0) != SECTOR || head.magic != NOTES_MAGIC ||
	    head.sectors != l->oracle.sectors || posix_memalign((void **)&map, 4096, bytes) ||
	    pread(notes, map, bytes, 4096) != (ssize_t)bytes) {
		printf("not ok 2 - no notes\n");
		exit(1);
	}
	memcpy(l->oracle.known, map, l->oracle.sectors * sizeof(uint32_t));
	free(map);
	remember(l);
}

int main(int argc, char **argv)
{
	struct unionblk_status s;
	uint32_t id, reason;
	struct load l;
	uint64_t *found;
	int error;

	if (argc != 7) {
		fputs("kills begin|go|last ROOT LEAF NOTES SEED WRITERS\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	notes = control_open(argv[4]);
	error = control_create(argv[2], argv[3], 2, &id, &reason);
	if (error) {
		printf("not ok 2 - attach: %s, reason %u\n", strerror(error), reason);
		return 1;
	}
	s = control_status(id);
	load_make(&l, s.sectors, (unsigned int)atoi(argv[6]), strtoull(argv[5], NULL, 0));
	l.slab = s.slab_sectors;
	l.tell = tell;
	l.about_to = about_to;
	for (unsigned int w = 0; w < l.oracle.writers; w++)
		if (posix_memalign((void **)&note_of[w], 4096, SECTOR))
			return 1;
	found = oracle_memory(NULL, s.sectors * sizeof(*found));
	l.fd = control_open_union(id);
	if (load_survey(&l, found)) {
		printf("not ok 2 - read\n");
		return 1;
	}
	if (strcmp(argv[1], "begin")) {
		recall(&l);
		if (oracle_judge(&l.oracle, found)) {
			printf("not ok 2 - sectors are wrong in boot %llu\n", (unsigned long long)head.boot);
			return 1;
		}
	}
	restart(&l, found);
	/* The guest's report is in KTAP, and the first result is that of ubctl check. */
	printf("ok 2 - every sector is as it must be\n");
	if (!strcmp(argv[1], "last"))
		return 0;
	l.tag = (uint32_t)head.tag;
	load_start(&l, ~0ULL);
	load_join(&l);
	if (l.wrong)
		printf("# wrong data\n");
	/* The notes are full. Waits for the kill. */
	while (!l.wrong)
		pause();
	return 1;
}
