// SPDX-License-Identifier: GPL-2.0
/*
 * Power failures in a live kernel. Several writers load a union whose leaf, a
 * null_blk with a volatile cache, loses its power and with it all that was not
 * flushed. Then the union is attached again, every sector is compared with an
 * oracle, and the load continues from there. The power also fails while a union
 * is attached or detached. After every CHECKED-th failure, ubctl check looks at
 * the leaf before it is attached.
 *   powerfail ROOT LEAF POWER SEED FAILURES WRITERS QUEUES DISCARDED CHECKED [believe]
 * POWER is the leaf's file in configfs. DISCARDED: the tag that a discarded
 * slab reads as (0: zeroes, 1: the root's). "believe" takes completed writes
 * for durable: such a run must fail, otherwise the power did not fail.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include "control.h"
#include "load.h"

struct bench {
	struct load load;
	const char *root, *leaf, *power;
	uint32_t queues, id, due;
	uint64_t random, loads, creates, removes, full, operations, refills, checks;
	uint64_t *found;
};

static uint64_t below(struct bench *b, uint64_t n)
{
	b->random = b->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (b->random >> 33) % n;
}

static void attach(struct bench *b)
{
	uint32_t reason;
	int error = control_create(b->root, b->leaf, b->queues, &b->id, &reason);

	if (error) {
		printf("attach: %s, reason %u\n", strerror(error), reason);
		exit(1);
	}
}

static void power(struct bench *b, int on)
{
	control_write(b->power, on ? "1" : "0");
	if (on)
		close(control_open(b->leaf));
}

static void survey(struct bench *b)
{
	int error;

	b->load.fd = control_open_union(b->id);
	error = load_survey(&b->load, b->found);
	if (error) {
		printf("read of a union that was just attached: %s\n", strerror(error));
		exit(1);
	}
}

static void detach(struct bench *b, int wanted)
{
	int error;

	if (b->load.fd >= 0)
		close(b->load.fd);
	b->load.fd = -1;
	error = control_remove(b->id);
	if (error && (!wanted || error != EIO)) {
		printf("detach: %s\n", strerror(error));
		exit(1);
	}
}

/* Records that a detach has committed everything. */
static void all_durable(struct bench *b)
{
	oracle_flush_end(&b->load.oracle, oracle_flush_begin(&b->load.oracle));
}

struct call {
	struct bench *b;
	pthread_t thread;
	int error;
};

static void *call_create(void *arg)
{
	struct call *c = arg;

	c->error = control_create(c->b->root, c->b->leaf, c->b->queues, &c->b->id, NULL);
	return NULL;
}

static void *call_remove(void *arg)
{
	struct call *c = arg;

	c->error = control_remove(c->b->id);
	return NULL;
}

static void fail_during(struct bench *b, void *(*what)(void *), uint64_t within)
{
	struct call c = { .b = b };

	if (pthread_create(&c.thread, NULL, what, &c)) {
		perror("thread");
		exit(1);
	}
	usleep((useconds_t)below(b, within));
	power(b, 0);
	pthread_join(c.thread, NULL);
	if (what == call_remove && !c.error)
		all_durable(b);
	/* The union was made before the power failed, so it exists and must be removed. */
	if (what == call_create && !c.error)
		detach(b, 1);
}

/* Loads the union until the power fails, sometimes with nothing in flight. */
static void live(struct bench *b, int fails)
{
	load_go(&b->load, fails ? ~0ULL : 1 + below(b, 60));
	if (fails) {
		usleep((useconds_t)below(b, below(b, 4) ? 60000 : 400000));
		power(b, 0);
		/* Readers of the root alone would not notice the failure. */
		b->load.stop = 1;
	}
	load_join(&b->load);
}

/* Checks that a power failure has left no damage. No one else has the leaf now. */
static void look(struct bench *b)
{
	char command[256];
	int status;

	if (!b->due)
		return;
	snprintf(command, sizeof(command),
		 "ubctl check %s --root %s >/tmp/check 2>&1 || { s=$?; cat /tmp/check; exit $s; }",
		 b->leaf, b->root);
	b->checks++;
	status = system(command);
	if (status) {
		printf("ubctl check after a power failure: exit code %d\n",
		       WIFEXITED(status) ? WEXITSTATUS(status) : -1);
		exit(1);
	}
}

static void one(struct bench *b)
{
	uint64_t how = below(b, 20);

	live(b, how < 15);
	if (how < 15) {
		b->loads++;
		detach(b, 1);
	} else if (how < 17) {
		/* Either everything dirty has been committed now, or not. */
		b->removes++;
		close(b->load.fd);
		b->load.fd = -1;
		fail_during(b, call_remove, 20000);
	} else {
		detach(b, 0);
		all_durable(b);
		b->creates++;
		fail_during(b, call_create, 20000);
	}
	for (unsigned int w = 0; w < b->load.oracle.writers; w++)
		b->operations += b->load.oracle.histories[w].n;
	power(b, 1);
	look(b);
	/* Fails the power again while attach recovers from the failure. */
	if (!below(b, 8)) {
		b->creates++;
		fail_during(b, call_create, 20000);
		power(b, 1);
		look(b);
	}
	attach(b);
}

/* On a full leaf, checks that the space of a discard is there for the next write. */
static void refill(struct bench *b)
{
	struct load *l = &b->load;
	struct hand *h = &l->hands[0];
	uint64_t at = (h->from + l->slab - 1) / l->slab * l->slab, full = h->full;
	int error;

	while (at + l->slab <= h->to && load_needs_space(l, at, l->slab))
		at += l->slab;
	if (at + l->slab > h->to)
		return;
	error = load_change(h, at, l->slab, 1);
	error = error ? error : load_write(h, at, l->slab < LOAD_MOST ? l->slab : LOAD_MOST, 2);
	if (error || h->full != full) {
		printf("no write after a discard: %s\n", strerror(error ? error : ENOSPC));
		exit(1);
	}
	b->refills++;
}

static void prepare(struct bench *b, char **argv)
{
	struct unionblk_status s;

	b->root = argv[1];
	b->leaf = argv[2];
	b->power = argv[3];
	b->queues = (uint32_t)atoi(argv[7]);
	attach(b);
	s = control_status(b->id);
	load_make(&b->load, s.sectors, (unsigned int)atoi(argv[6]), strtoull(argv[4], NULL, 0));
	b->load.slab = s.slab_sectors;
	b->load.discarded = (uint32_t)atoi(argv[8]);
	b->random = mix(strtoull(argv[4], NULL, 0));
	b->found = oracle_memory(NULL, s.sectors * sizeof(*b->found));
}

int main(int argc, char **argv)
{
	struct bench b = { .load.fd = -1 };
	long failures, checked, n;

	if (argc < 10) {
		fputs("powerfail ROOT LEAF POWER SEED FAILURES WRITERS QUEUES DISCARDED CHECKED [believe]\n",
		      stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	prepare(&b, argv);
	failures = atol(argv[5]);
	checked = atol(argv[9]);
	survey(&b);
	b.load.oracle.believe = argc > 10;
	oracle_restart(&b.load.oracle, b.found);
	load_rewind(&b.load);
	for (n = 0; n < failures; n++) {
		b.due = (n + 1) % checked == 0;
		one(&b);
		survey(&b);
		if (oracle_judge(&b.load.oracle, b.found) || b.load.wrong)
			break;
		oracle_restart(&b.load.oracle, b.found);
		load_rewind(&b.load);
		if (load_sum(&b.load, offsetof(struct hand, full)))
			refill(&b);
	}
	b.full = load_sum(&b.load, offsetof(struct hand, full));
	if (n < failures)
		printf("power failure %ld of seed %s\n", n, argv[4]);
	else
		detach(&b, 0);
	printf("power-failures: %ld\nchecks: %llu\n", n < failures ? n + 1 : n,
	       (unsigned long long)b.checks);
	printf("operations=%llu load=%llu create=%llu remove=%llu nospace=%llu refills=%llu\n",
	       (unsigned long long)b.operations, (unsigned long long)b.loads,
	       (unsigned long long)b.creates, (unsigned long long)b.removes,
	       (unsigned long long)b.full, (unsigned long long)b.refills);
	return n < failures;
}
