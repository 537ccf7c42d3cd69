// SPDX-License-Identifier: GPL-2.0
/*
 * Runs a short workload on a union, from attach to detach, in which the n-th lower
 * I/O of a kind fails, or the n-th allocation; for n = 1, 2, 3 and so on, until a
 * workload has no failure. After each workload, attaches the union again and
 * compares every sector with an oracle.
 *   faults io     LEAF-POWER SEED ROUNDS QUICK
 *   faults memory LEAF-POWER SEED ROUNDS QUICK
 * Runs over /dev/mapper/ubnroot and ubnleaf, of the nth target on /dev/ubroot
 * and /dev/ubleaf. A QUICK of 1 skips most n above 3.
 */
#define _GNU_SOURCE
#include <signal.h>

#include "control.h"
#include "load.h"

#define ROOT "/dev/mapper/ubnroot"
#define LEAF "/dev/mapper/ubnleaf"
#define PARAMETERS "/sys/module/dm_nth/parameters/"
#define NTH "/proc/thread-self/fail-nth"

static const struct scenario {
	const char *label, *kind, *mode;
} io[] = {
	{ "leaf", "write", "once" },	{ "leaf", "flush", "once" },
	{ "leaf", "read", "once" },	{ "root", "read", "once" },
	{ "leaf", "write", "landed" },	{ "leaf", "flush", "landed" },
	{ "leaf", "discard", "once" },	{ "leaf", "discard", "landed" },
	{ "leaf", "write", "kind" },	{ "leaf", "flush", "kind" },
	{ "leaf", "read", "kind" },	{ "root", "read", "kind" },
	{ "leaf", "write", "dead" },	{ "leaf", "flush", "dead" },
	{ "leaf", "read", "dead" },
}, memory[] = {
	{ "create", "allocation", "once" },
	{ "I/O", "allocation", "once" },
	{ "remove", "allocation", "once" },
};

struct bench {
	struct load load;
	const char *power;
	const struct scenario *now;
	unsigned int n, id, fired, ready, workloads;
	unsigned int failures, attach_failed, ops_failed, read_only;
	uint64_t *found;
};

static void failed(struct bench *b, const char *what, const char *more)
{
	printf("%s %s %u %s: %s %s\n", b->now->label, b->now->kind, b->n, b->now->mode,
	       what, more);
	b->failures++;
}

static int is_memory(const struct bench *b) { return b->now->kind[0] == 'a'; }

/* --- the faults --- */

static void disarm(void)
{
	control_write(PARAMETERS "arm", "leaf write 0 once");
	control_write(PARAMETERS "arm", "root write 0 once");
}

static void arm_io(struct bench *b)
{
	char text[64];

	snprintf(text, sizeof(text), "%s %s %u %s", b->now->label, b->now->kind, b->n,
		 b->now->mode);
	control_write(PARAMETERS "arm", text);
}

static void note_io(struct bench *b)
{
	char label[16];
	unsigned int count, fails;
	FILE *f = fopen(PARAMETERS "seen", "r");

	while (f && fscanf(f, "%15s %u %u", label, &count, &fails) == 3)
		b->fired += strcmp(label, b->now->label) ? 0 : fails;
	if (f)
		fclose(f);
}

/* Arms the n-th allocation of this thread in one of the three steps. */
static void arm_memory(struct bench *b, const char *step)
{
	char text[16];

	if (!is_memory(b) || strcmp(step, b->now->label))
		return;
	snprintf(text, sizeof(text), "%u", b->n);
	control_write(NTH, text);
}

static void note_memory(struct bench *b, const char *step)
{
	char text[16] = "";
	int fd;

	if (!is_memory(b) || strcmp(step, b->now->label))
		return;
	fd = open(NTH, O_RDONLY);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0) {
		perror(NTH);
		exit(1);
	}
	close(fd);
	b->fired += atoi(text) == 0;
	control_write(NTH, "0");
}

/* --- a workload --- */

static void judge_attach(struct bench *b, int error, uint32_t reason)
{
	int memory = is_memory(b);

	b->attach_failed++;
	if (!b->fired)
		failed(b, "attach without a fault:", strerror(error));
	/* If there is no memory for the name of the disk, add_disk() fails with EINVAL. */
	else if (memory && error != ENOMEM && !(error == EINVAL && reason == UNIONBLK_REASON_OS))
		failed(b, "attach without memory:", strerror(error));
	else if (!memory && (error != EIO || reason != UNIONBLK_REASON_IO))
		failed(b, "attach over a fault:", strerror(error));
}

/* Checks status and disk after the map could not be committed. */
static void judge_read_only(struct bench *b, const struct unionblk_status *s)
{
	char command[128];
	int ro = 0;

	b->read_only++;
	for (int tries = 0; tries < 2000 && !ro; tries++) {
		if (ioctl(b->load.fd, BLKROGET, &ro))
			break;
		usleep(1000);
	}
	if (!ro)
		failed(b, "the disk does not say that it is read-only", "");
	if (s->last_error == UNIONBLK_REASON_NONE)
		failed(b, "status does not say why it is read-only", "");
	if (b->ready)
		return;
	b->ready = 1;
	snprintf(command, sizeof(command),
		 "ubctl status unionblk%u >/tmp/ubctl.out 2>&1; grep -qi read-only /tmp/ubctl.out", b->id);
	if (system(command))
		failed(b, "ubctl does not say that it is read-only", "");
}

static void operate(struct bench *b, int operations)
{
	struct hand *h = &b->load.hands[0];
	unsigned int errors = 0;
	struct unionblk_status s;

	load_rewind(&b->load);
	arm_memory(b, "I/O");
	while (operations-- && !b->load.wrong) {
		if (!load_one(h))
			continue;
		errors++;
		load_forget(h);
	}
	note_memory(b, "I/O");
	if (!is_memory(b))
		note_io(b);
	s = control_status(b->id);
	b->ops_failed += errors;
	if (errors && !b->fired)
		failed(b, "an error without a fault", "");
	if (errors && is_memory(b))
		failed(b, "an error for lack of memory", "");
	if (errors > 1 && s.mode == UNIONBLK_MODE_WRITABLE &&
	    (!strcmp(b->now->mode, "once") || !strcmp(b->now->mode, "landed")))
		failed(b, "one lower error failed several requests", "");
	if (s.mode == UNIONBLK_MODE_READ_ONLY)
		judge_read_only(b, &s);
	if (b->load.wrong)
		failed(b, "wrong data", "");
}

static void all_durable(struct bench *b)
{
	oracle_flush_end(&b->load.oracle, oracle_flush_begin(&b->load.oracle));
}

static void leave(struct bench *b)
{
	int error;

	close(b->load.fd);
	b->load.fd = -1;
	arm_memory(b, "remove");
	error = control_remove(b->id);
	note_memory(b, "remove");
	if (!is_memory(b)) {
		b->fired = 0;
		note_io(b);
	}
	/* A detach that succeeds promises that everything is durable. */
	if (!error)
		all_durable(b);
	else if (error != EIO || !b->fired || is_memory(b))
		failed(b, "detach:", strerror(error));
}

static void command(const char *what)
{
	if (system(what)) {
		printf("%s\n", what);
		exit(1);
	}
}

/* Makes the leaf lose what was not flushed. */
static void power_failure(struct bench *b)
{
	command("dmsetup remove ubnleaf");
	control_write(b->power, "0");
	control_write(b->power, "1");
	close(control_open("/dev/ubleaf"));
	command("dmsetup create ubnleaf --table "
		"\"0 $(cat /sys/block/ubleaf/size) nth /dev/ubleaf leaf\" && dmsetup mknodes");
}

/* Checks, without a fault, that everything is there. */
static void judge_all(struct bench *b)
{
	uint32_t reason;
	int error = control_create(ROOT, LEAF, 1, &b->id, &reason);

	if (error) {
		failed(b, "attach after it:", strerror(error));
		exit(1);
	}
	b->load.fd = control_open_union(b->id);
	error = load_survey(&b->load, b->found);
	if (error)
		failed(b, "read after it:", strerror(error));
	else if (oracle_judge(&b->load.oracle, b->found))
		failed(b, "sectors are wrong", "");
	oracle_restart(&b->load.oracle, b->found);
	close(b->load.fd);
	b->load.fd = -1;
	error = control_remove(b->id);
	if (error)
		failed(b, "detach after it:", strerror(error));
}

/* Returns whether the fault occurred. */
static int run_workload(struct bench *b)
{
	uint32_t reason;
	int error;

	alarm(120);
	b->fired = 0;
	b->workloads++;
	if (!is_memory(b))
		arm_io(b);
	arm_memory(b, "create");
	error = control_create(ROOT, LEAF, 1, &b->id, &reason);
	note_memory(b, "create");
	if (error) {
		if (!is_memory(b))
			note_io(b);
		judge_attach(b, error, reason);
	} else {
		/* Attach flushes before it makes its first superblock active. */
		if (!strcmp(b->now->kind, "flush") && b->n == 1 && strcmp(b->now->mode, "landed"))
			failed(b, "attach although its flush has failed", "");
		b->load.fd = control_open_union(b->id);
		/* Few requests need memory: only those of many runs. */
		operate(b, is_memory(b) && !strcmp(b->now->label, "I/O") ? 300 : 30);
		leave(b);
	}
	disarm();
	if (!is_memory(b) && b->n % 3 == 1)
		power_failure(b);
	judge_all(b);
	return b->fired != 0;
}

static void prepare(struct bench *b, char **argv)
{
	struct unionblk_status s;
	uint32_t reason;

	disarm();
	b->power = argv[2];
	if (control_create(ROOT, LEAF, 1, &b->id, &reason)) {
		perror("create");
		exit(1);
	}
	s = control_status(b->id);
	load_make(&b->load, s.sectors, 1, strtoull(argv[3], NULL, 0));
	b->load.slab = s.slab_sectors;
	b->load.fd = control_open_union(b->id);
	b->found = oracle_memory(NULL, s.sectors * sizeof(*b->found));
	if (load_survey(&b->load, b->found))
		exit(1);
	oracle_restart(&b->load.oracle, b->found);
	close(b->load.fd);
	control_remove(b->id);
}

int main(int argc, char **argv)
{
	struct bench b = { .failures = 0 };
	int is_io = argc > 1 && !strcmp(argv[1], "io");
	const struct scenario *first = is_io ? io : memory;
	size_t many = is_io ? sizeof(io) / sizeof(io[0]) : sizeof(memory) / sizeof(memory[0]);
	unsigned int injections = 0, step;

	if (argc != 6) {
		fputs("faults io|memory LEAF-POWER SEED ROUNDS QUICK\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGALRM, hung);
	prepare(&b, argv);
	for (long round = atol(argv[4]); round > 0; round--) {
		for (size_t s = 0; s < many && !b.failures; s++) {
			b.now = &first[s];
			b.ready = 0;
			step = 1;
			for (b.n = 1; !b.failures && run_workload(&b); b.n += step) {
				injections++;
				if (atoi(argv[5]) && b.n >= 3)
					step *= 3;
			}
			printf("%s %s %s: clean at %u\n", b.now->label, b.now->kind, b.now->mode, b.n);
		}
	}
	printf("injections: %u\nlives=%u attach=%u requests=%u readonly=%u failures=%u\n", injections,
	       b.workloads, b.attach_failed, b.ops_failed, b.read_only, b.failures);
	return b.failures != 0;
}
