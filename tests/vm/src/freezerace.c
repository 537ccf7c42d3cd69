// SPDX-License-Identifier: GPL-2.0
/*
 * Freezes the leaf of a union again and again, while several writers load it
 * with writes, FUA, zeroing, discards, flushes and reads that are checked at
 * once. No request may fail. Then every sector is compared, also after the union
 * was attached again, and every layer with its copy from right after its freeze.
 *   freezerace load   ROOT PREFIX DEVICES SEED WRITERS
 *   freezerace remove ROOT PREFIX DEVICES SEED
 *   freezerace twice  ROOT PREFIX DEVICES SEED
 * The leaves are PREFIX0, PREFIX1, and so on. "remove" removes the union while it
 * is frozen, "twice" freezes it by two calls at once; one of both must win.
 */
#define _GNU_SOURCE
#include <signal.h>

#include "freeze.h"

#define OPERATIONS 120 /* that the writers complete between two freezes */

struct bench {
	struct load load;
	struct stack stack;
	uint64_t *found, random;
};

static uint64_t below(struct bench *b, uint64_t n)
{
	b->random = b->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (b->random >> 33) % n;
}

/* Compares each sector with what its writer knows. */
static void compare(struct bench *b, const char *when)
{
	struct load *l = &b->load;
	int error = load_survey(l, b->found);

	if (error) {
		printf("%s: read: %s\n", when, strerror(error));
		exit(1);
	}
	for (uint64_t i = 0; i < l->oracle.sectors; i++)
		if (b->found[i] != l->current[i])
			load_wrong(l, when, i, b->found[i]);
	if (l->wrong || !freeze_unchanged(&b->stack)) {
		printf("%s: %u sectors are wrong\n", when, l->wrong);
		exit(1);
	}
}

static void opens(struct bench *b) { b->load.fd = control_open_union(FREEZE_ID); }

static void detach(struct bench *b)
{
	int error;

	close(b->load.fd);
	b->load.fd = -1;
	error = control_remove(FREEZE_ID);
	if (error) {
		printf("detach: %s\n", strerror(error));
		exit(1);
	}
}

static void attach(struct bench *b)
{
	if (freeze_attach(&b->stack, b->stack.leaf))
		freeze_die("attach");
	opens(b);
}

static void begin(struct bench *b, unsigned int writers)
{
	struct unionblk_status s;

	freeze_begin(&b->stack);
	s = control_status(FREEZE_ID);
	load_make(&b->load, s.sectors, writers, b->random);
	b->load.slab = s.slab_sectors;
	b->load.discarded = 0;
	b->found = oracle_memory(NULL, s.sectors * sizeof(*b->found));
	opens(b);
	if (load_survey(&b->load, b->found))
		exit(1);
	oracle_restart(&b->load.oracle, b->found);
	load_rewind(&b->load);
}

/* Waits until the writers have done so much, at most for two minutes. */
static void progress(struct bench *b, uint64_t more)
{
	uint64_t wanted = load_sum(&b->load, offsetof(struct hand, done)) + more;

	for (int tries = 0; tries < 120000; tries++) {
		if (load_sum(&b->load, offsetof(struct hand, done)) >= wanted)
			return;
		for (unsigned int w = 0; w < b->load.oracle.writers; w++) {
			if (!b->load.hands[w].error)
				continue;
			printf("writer %u: %s\n", w, strerror(b->load.hands[w].error));
			exit(1);
		}
		if (b->load.wrong)
			exit(1);
		usleep(1000);
	}
	printf("the writers hang\n");
	exit(1);
}

static void under_load(struct bench *b)
{
	int next, freezes = 0;

	load_go(&b->load, ~0ULL);
	progress(b, OPERATIONS);
	while ((next = freeze_blank(&b->stack)) >= 0) {
		if (freeze_live(&b->stack, next))
			freeze_die("freeze");
		freezes++;
		freeze_keep(&b->stack, next);
		/* Sometimes the next freeze follows at once. */
		progress(b, below(b, 4) ? OPERATIONS : 1);
	}
	b->load.stop = 1;
	load_join(&b->load);
	for (unsigned int w = 0; w < b->load.oracle.writers; w++) {
		if (!b->load.hands[w].error)
			continue;
		printf("writer %u: %s\n", w, strerror(b->load.hands[w].error));
		exit(1);
	}
	compare(b, "after the load");
	detach(b);
	attach(b);
	compare(b, "attached again");
	printf("freezes: %d\n", freezes);
}

/* A few operations, of which some are not durable yet. */
static void some(struct bench *b)
{
	struct hand *h = &b->load.hands[0];

	for (int n = 0; n < 25; n++) {
		int error = load_one(h);

		if (error || b->load.wrong) {
			printf("an operation beside no other: %s\n", strerror(error));
			exit(1);
		}
	}
}

static pid_t in_background(struct bench *b, int next, const char *output)
{
	char line[256];
	pid_t child = fork();

	snprintf(line, sizeof(line), "ubctl --no-wait freeze unionblk%d --leaf %s%d --force >%s 2>&1", FREEZE_ID,
		 b->stack.prefix, next, output);
	if (child)
		return child;
	execl("/bin/sh", "sh", "-c", line, (char *)NULL);
	_exit(127);
}

static int status_of(pid_t child)
{
	int status;

	if (child < 0 || waitpid(child, &status, 0) < 0) {
		perror("ubctl freeze");
		exit(1);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Attaches whichever leaf is not frozen; `next` must be void if the old one is not frozen. */
static void settle(struct bench *b, int next, int reported)
{
	struct stack *c = &b->stack, with = *c;

	with.layer[with.layers++].device = c->leaf;
	if (!freeze_attach(&with, next)) {
		freeze_keep(c, next);
	} else {
		if (!reported)
			freeze_die("a freeze that was reported did not happen");
		if (freeze_attach(c, c->leaf))
			freeze_die("neither leaf can be attached");
	}
	opens(b);
}

static void beside_remove(struct bench *b)
{
	unsigned int frozen = 0, removed = 0;
	uint64_t longest = 400000;
	int next;

	for (int n = 0; n < 40 && (next = freeze_blank(&b->stack)) >= 0; n++) {
		int layers = b->stack.layers, code, error;
		pid_t child;

		some(b);
		close(b->load.fd);
		b->load.fd = -1;
		child = in_background(b, next, FREEZE_OUTPUT);
		usleep((useconds_t)below(b, longest));
		/* It must end in any case; if the freeze has won, the new union is removed. */
		error = control_remove(FREEZE_ID);
		if (error) {
			printf("remove beside a freeze: %s\n", strerror(error));
			exit(1);
		}
		code = status_of(child);
		settle(b, next, code);
		frozen += b->stack.layers > layers;
		removed += b->stack.layers == layers;
		compare(b, "after a freeze and a remove");
		/* Aims at the delay at which either of the two may win. */
		longest = b->stack.layers > layers ? longest * 3 / 4 + 1 : longest * 5 / 4;
	}
	detach(b);
	printf("frozen first: %u, removed first: %u\n", frozen, removed);
	if (!frozen || !removed) {
		printf("one of both has always won\n");
		exit(1);
	}
}

static void twice(struct bench *b)
{
	unsigned int both = 0, one = 0;
	int next;

	while ((next = freeze_blank(&b->stack)) >= 0 && next + 1 < b->stack.devices) {
		pid_t first, second;
		int codes[2];

		some(b);
		first = in_background(b, next, "/tmp/freeze.first");
		second = in_background(b, next + 1, "/tmp/freeze.second");
		codes[0] = status_of(first);
		codes[1] = status_of(second);
		if (codes[0] && codes[1])
			freeze_die("of two freezes at once, none has succeeded");
		both += !codes[0] && !codes[1];
		one += !codes[0] != !codes[1];
		if (!codes[0] && !codes[1])
			break;
		freeze_keep(&b->stack, codes[0] ? next + 1 : next);
		compare(b, "after two freezes at once");
		detach(b);
		attach(b);
		compare(b, "after two freezes at once, attached again");
	}
	detach(b);
	printf("one: %u, both in turn: %u\n", one, both);
}

int main(int argc, char **argv)
{
	struct bench b = { .load.fd = -1 };
	int load = argc == 7 && !strcmp(argv[1], "load");

	if (!load && !(argc == 6 && (!strcmp(argv[1], "remove") || !strcmp(argv[1], "twice")))) {
		fputs("freezerace load ROOT PREFIX DEVICES SEED WRITERS\n"
		      "freezerace remove|twice ROOT PREFIX DEVICES SEED\n",
		      stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGALRM, hung);
	alarm(900);
	b.stack.root = argv[2];
	b.stack.prefix = argv[3];
	b.stack.devices = atoi(argv[4]);
	if (b.stack.devices > FREEZE_LEAVES)
		return 2;
	b.random = mix(strtoull(argv[5], NULL, 0));
	begin(&b, load ? (unsigned int)atoi(argv[6]) : 1);
	if (load)
		under_load(&b);
	else if (!strcmp(argv[1], "remove"))
		beside_remove(&b);
	else
		twice(&b);
	return 0;
}
