// SPDX-License-Identifier: GPL-2.0
/*
 * Freezes the leaf of a union live, while the n-th lower I/O of a kind fails, of
 * the old leaf or of the new one; for n = 1, 2, 3 and so on, until a freeze has
 * seen no failure. If the device is dead from there on, the power of both leaves
 * fails too, and takes all that was not flushed. After each:
 *
 * - either the old leaf is frozen, and the union continues in the new leaf; or it
 *   is not, it continues in the old leaf, and the new leaf is refused;
 * - a freeze that was reported has happened;
 * - every sector holds what the oracle allows, and no layer has changed.
 *
 * Reads of layers fail too: such a read fails alone, and the union continues.
 *   freezefail ROOT DEVICES SEED QUICK [believe]
 * The leaves are /dev/mapper/ubn0, ubn1, ..., targets nth of the labels n0, n1,
 * ... on /dev/ubl0, ubl1, ... A QUICK of 1 skips most n above 3 and some kinds.
 * "believe" takes completed writes for durable: such a run must fail.
 */
#define _GNU_SOURCE
#include <signal.h>

#include "freeze.h"

#define PARAMETERS "/sys/module/dm_nth/parameters/"

enum { OLD, NEW, LAYER };
static const char *const names[] = { "old leaf", "new leaf", "layer" };

static const struct scenario {
	const char *kind, *mode;
	int where, quick;
} scenarios[] = {
	{ "write", "dead", OLD, 1 },   { "flush", "dead", OLD, 1 },	  { "write", "dead", NEW, 1 },
	{ "write", "once", OLD, 1 },   { "write", "landed", OLD, 1 }, { "write", "once", NEW, 0 },
	{ "flush", "once", OLD, 0 },   { "flush", "landed", OLD, 0 }, { "flush", "once", NEW, 0 },
	{ "write", "landed", NEW, 0 }, { "read", "once", NEW, 0 },	  { "read", "once", OLD, 0 },
	{ "flush", "dead", NEW, 0 },   { "read", "dead", NEW, 0 },
	{ "read", "kind", LAYER, 1 },
};

struct bench {
	struct load load;
	struct stack stack;
	const struct scenario *now;
	unsigned int n, fired, writable;
	unsigned int injections, power_failures, frozen, kept, lost_reads;
	uint64_t *found;
};

static void die(const struct bench *b, const char *what)
{
	char text[256];

	snprintf(text, sizeof(text), "%s %s %u %s: %s", names[b->now->where], b->now->kind, b->n,
		 b->now->mode, what);
	freeze_die(text);
}

static int is_dead(const struct bench *b) { return !strcmp(b->now->mode, "dead"); }

static void arm(int device, const char *kind, unsigned int n, const char *mode)
{
	char text[64];

	snprintf(text, sizeof(text), "n%d %s %u %s", device, kind, n, mode);
	control_write(PARAMETERS "arm", text);
}

/* Returns how many I/Os of a device have failed. */
static unsigned int failed(int device)
{
	char label[16], wanted[16];
	unsigned int count, fails, sum = 0;
	FILE *f = fopen(PARAMETERS "seen", "r");

	snprintf(wanted, sizeof(wanted), "n%d", device);
	while (f && fscanf(f, "%15s %u %u", label, &count, &fails) == 3)
		sum += strcmp(label, wanted) ? 0 : fails;
	if (f)
		fclose(f);
	return sum;
}

static void survey(struct bench *b)
{
	if (load_survey(&b->load, b->found))
		die(b, "a read failed without a fault");
	if (oracle_judge(&b->load.oracle, b->found) || b->load.wrong)
		die(b, "sectors are wrong");
	oracle_restart(&b->load.oracle, b->found);
	load_rewind(&b->load);
}

static void some(struct bench *b)
{
	struct hand *h = &b->load.hands[0];

	for (int n = 0; n < 20; n++)
		if (load_one(h) || b->load.wrong)
			die(b, "an operation failed without a fault");
}

/* Removes the union. If the leaf has not failed, everything is durable then. */
static void detach(struct bench *b)
{
	int error;

	close(b->load.fd);
	b->load.fd = -1;
	error = control_remove(FREEZE_ID);
	if (!error)
		freeze_durable(&b->load);
	else if (error != EIO || b->writable)
		die(b, strerror(error));
}

/* Makes both leaves lose what was not flushed. */
static void power_failure(struct bench *b, const int device[2])
{
	char path[64];

	if (freeze_command("dmsetup remove ubn%d && dmsetup remove ubn%d", device[0], device[1]))
		die(b, "dmsetup remove");
	for (int n = 0; n < 4; n++) {
		snprintf(path, sizeof(path), "/sys/kernel/config/nullb/ubl%d/power", device[n % 2]);
		control_write(path, n < 2 ? "0" : "1");
	}
	for (int n = 0; n < 2; n++) {
		int d = device[n];

		snprintf(path, sizeof(path), "/dev/ubl%d", d);
		close(control_open(path));
		if (freeze_command("dmsetup create ubn%d --table \"0 $(cat /sys/block/ubl%d/size) nth "
				   "/dev/ubl%d n%d\" && dmsetup mknodes", d, d, d, d))
			die(b, "dmsetup create");
	}
	b->power_failures++;
}

/* The union is detached: attaches the leaf in which it continues, and checks the other one. */
static void settle(struct bench *b, int next, int code)
{
	struct stack *c = &b->stack, with = *c;
	int old = c->leaf;

	with.layer[with.layers++].device = old;
	if (freeze_attach(&with, next)) {
		/* The old leaf was never frozen, so the new one lists a layer that does not exist. */
		if (!code)
			die(b, "the freeze was reported, and the new leaf is refused");
		if (freeze_attach(c, old))
			die(b, "neither leaf can be attached");
		b->kept++;
		b->load.fd = control_open_union(FREEZE_ID);
		survey(b);
		return;
	}
	freeze_keep(c, next);
	b->frozen++;
	b->load.fd = control_open_union(FREEZE_ID);
	survey(b);
	b->writable = 1;
	detach(b);
	with = *c;
	with.layers--;
	if (!freeze_attach(&with, old))
		die(b, "both leaves can be attached");
	if (!freeze_said("frozen"))
		die(b, "the old leaf is refused for another reason");
	if (freeze_attach(c, c->leaf))
		die(b, "the new leaf cannot be attached again");
	b->load.fd = control_open_union(FREEZE_ID);
	survey(b);
}

/* Reads of a layer fail: the n-th, and from the n-th on. */
static void reads_of_layers(struct bench *b)
{
	static const struct scenario as = { "read", "once", LAYER, 1 };
	const struct scenario *before = b->now;
	unsigned int n = b->n;
	struct load *l = &b->load;
	struct hand *h = &l->hands[0];

	b->now = &as;
	for (int layer = 0; layer < b->stack.layers; layer++) {
		unsigned int errors = 0;

		b->n = 1 + (unsigned int)layer % 3;
		arm(b->stack.layer[layer].device, "read", b->n, layer % 2 ? "kind" : "once");
		for (uint64_t at = 0; at < l->oracle.sectors; at += 64)
			errors += load_check(h, at, l->oracle.sectors - at < 64 ? l->oracle.sectors - at : 64) != 0;
		if (l->wrong || errors > failed(b->stack.layer[layer].device))
			die(b, "reads of a layer");
		b->lost_reads += errors;
		b->injections += errors != 0;
		arm(b->stack.layer[layer].device, "read", 0, "once");
		if (control_status(FREEZE_ID).mode != UNIONBLK_MODE_WRITABLE)
			die(b, "the union is read-only because a layer could not be read");
	}
	some(b);
	b->now = before;
	b->n = n;
}

/* Returns a blank device; if there is none, everything begins anew. */
static int blank(struct bench *b)
{
	int next = freeze_blank(&b->stack);

	if (next >= 0)
		return next;
	reads_of_layers(b);
	if (!freeze_unchanged(&b->stack))
		die(b, "a layer has changed");
	b->writable = 1;
	detach(b);
	freeze_begin(&b->stack);
	b->load.fd = control_open_union(FREEZE_ID);
	if (load_survey(&b->load, b->found))
		die(b, "a read of a blank union failed");
	oracle_restart(&b->load.oracle, b->found);
	load_rewind(&b->load);
	return freeze_blank(&b->stack);
}

/* Freezes once. Returns whether the fault occurred. */
static int once(struct bench *b)
{
	int next = blank(b), device[2] = { b->stack.leaf, next }, code;
	int at = device[b->now->where == NEW];
	uint64_t covered;

	alarm(120);
	b->writable = 1;
	some(b);
	if (b->now->where == LAYER) {
		/* A freeze needs nothing of the layers below. */
		if (!b->stack.layers)
			return 0;
		at = b->stack.layer[0].device;
	}
	/* Over a used device the tool would write zeroes, hundreds of times. */
	freeze_command("/usr/sbin/blkdiscard -f %s%d", b->stack.prefix, next);
	covered = oracle_flush_begin(&b->load.oracle);
	arm(at, b->now->kind, b->n, b->now->mode);
	code = freeze_live(&b->stack, next);
	/* The union uses the device from here on. If it was dead before, its power fails below. */
	if (!is_dead(b) || !code)
		arm(at, b->now->kind, 0, b->now->mode);
	b->fired = failed(at);
	if (code && (!b->fired || b->now->where == LAYER))
		die(b, "a freeze failed without a fault of its leaves");
	if (!code)
		oracle_flush_end(&b->load.oracle, covered);
	b->writable = control_status(FREEZE_ID).mode == UNIONBLK_MODE_WRITABLE;
	/* If the old leaf has not failed, the union continues as if there had been no freeze. */
	if (b->now->where != OLD && code && !b->writable)
		die(b, "the union is read-only although its leaf has not failed");
	/* The union may notice only at the next write that its leaf is dead. */
	if (is_dead(b) && b->fired && !(b->now->where != OLD && code))
		b->writable = 0;
	if (b->writable)
		some(b);
	detach(b);
	arm(at, b->now->kind, 0, b->now->mode);
	if (is_dead(b) || b->n % 3 == 1)
		power_failure(b, device);
	settle(b, next, code);
	b->injections += b->fired != 0;
	return b->fired != 0;
}

static void begin(struct bench *b, char **argv)
{
	struct unionblk_status s;

	b->stack.root = argv[1];
	b->stack.prefix = "/dev/mapper/ubn";
	b->stack.devices = atoi(argv[2]);
	if (b->stack.devices > FREEZE_LEAVES)
		exit(2);
	freeze_begin(&b->stack);
	s = control_status(FREEZE_ID);
	load_make(&b->load, s.sectors, 1, strtoull(argv[3], NULL, 0));
	b->load.slab = s.slab_sectors;
	b->load.discarded = 0;
	b->load.fd = control_open_union(FREEZE_ID);
	b->found = oracle_memory(NULL, s.sectors * sizeof(*b->found));
	if (load_survey(&b->load, b->found))
		exit(1);
	oracle_restart(&b->load.oracle, b->found);
	load_rewind(&b->load);
}

int main(int argc, char **argv)
{
	struct bench b = { .injections = 0 };
	int quick, n;

	if (argc < 5) {
		fputs("freezefail ROOT DEVICES SEED QUICK [believe]\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGALRM, hung);
	begin(&b, argv);
	b.load.oracle.believe = argc > 5;
	quick = atoi(argv[4]);
	for (n = 0; n < (int)(sizeof(scenarios) / sizeof(scenarios[0])); n++) {
		unsigned int step = 1;

		b.now = &scenarios[n];
		if (quick && !b.now->quick)
			continue;
		for (b.n = 1; once(&b); b.n += step)
			if (quick && b.n >= 3)
				step *= 3;
		printf("%s %s %s: clean at %u\n", names[b.now->where], b.now->kind, b.now->mode, b.n);
	}
	reads_of_layers(&b);
	if (!freeze_unchanged(&b.stack))
		return 1;
	b.writable = 1;
	detach(&b);
	printf("injections: %u\npower-failures: %u\n", b.injections, b.power_failures);
	printf("frozen=%u not-frozen=%u failed-reads=%u\n", b.frozen, b.kept, b.lost_reads);
	if (!b.frozen || !b.kept || !b.lost_reads) {
		printf("it has not tried both ends of a freeze\n");
		return 1;
	}
	return 0;
}
