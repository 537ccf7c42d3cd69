// SPDX-License-Identifier: GPL-2.0
/*
 * Loads a union over dm-log-writes, with marks in the log for what is durable
 * from there on: "fN" for all that had completed when the clock was N, "dTAG"
 * for a FUA write. The union is detached and attached again between rounds. At
 * the end all operations are written to OUT. With the operations and the log, every
 * moment can be checked elsewhere (tests/crash/src/points.rs reads both).
 *   record ROOT LOGGED-LEAF LOG-NAME SEED OPERATIONS WRITERS ROUNDS OUT
 */
#define _GNU_SOURCE
#include <linux/dm-ioctl.h>

#include "control.h"
#include "load.h"

static const char *log_name;

/* The header of OUT, followed by the operations. Native byte order. */
struct header {
	char magic[8];
	uint64_t union_sectors, root_sectors, leaf_sectors, operations;
};

struct record {
	uint64_t start, count, done;
	uint32_t writer, tag, fua, reserved;
};

static void mark(char kind, uint64_t n)
{
	static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
	static int fd = -1;
	struct {
		struct dm_ioctl head;
		uint64_t sector; /* struct dm_target_msg */
		char text[64];
	} message = { .sector = 0 };

	message.head.version[0] = DM_VERSION_MAJOR;
	message.head.data_size = sizeof(message);
	message.head.data_start = offsetof(typeof(message), sector);
	strncpy(message.head.name, log_name, sizeof(message.head.name) - 1);
	snprintf(message.text, sizeof(message.text), "mark %c%llu", kind, (unsigned long long)n);
	pthread_mutex_lock(&one);
	if (fd < 0)
		fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, DM_TARGET_MSG, &message)) {
		perror("mark");
		exit(1);
	}
	pthread_mutex_unlock(&one);
}

static void tell(struct load *l, struct hand *h, const struct operation *d, uint64_t covered)
{
	(void)l;
	(void)h;
	if (!d)
		mark('f', covered);
	else if (d->fua)
		mark('d', d->tag);
}

static void put(int fd, const void *what, size_t bytes)
{
	if (write(fd, what, bytes) != (ssize_t)bytes) {
		perror("operations");
		exit(1);
	}
}

static void save(const struct load *l, const struct unionblk_status *s, const char *out)
{
	struct header head = { .union_sectors = s->sectors, .root_sectors = s->root_sectors,
			       .leaf_sectors = s->leaf_sectors };
	int fd = open(out, O_WRONLY | O_CLOEXEC);

	memcpy(head.magic, "UBOPLOG1", sizeof(head.magic));
	for (unsigned int w = 0; w < l->oracle.writers; w++)
		head.operations += l->oracle.histories[w].n;
	put(fd, &head, sizeof(head));
	for (unsigned int w = 0; w < l->oracle.writers; w++) {
		for (size_t n = 0; n < l->oracle.histories[w].n; n++) {
			const struct operation *d = &l->oracle.histories[w].operations[n];
			struct record r = { .start = d->start, .count = d->count, .done = d->done,
					    .writer = w, .tag = d->tag, .fua = d->fua };

			put(fd, &r, sizeof(r));
		}
	}
	if (fsync(fd) || close(fd)) {
		perror(out);
		exit(1);
	}
	printf("operations=%llu nospace=%llu\n", (unsigned long long)head.operations,
	       (unsigned long long)load_sum(l, offsetof(struct hand, full)));
}

static uint32_t attach(char **argv)
{
	uint32_t id, reason;
	int error = control_create(argv[1], argv[2], 2, &id, &reason);

	if (error) {
		printf("attach: %s, reason %u\n", strerror(error), reason);
		exit(1);
	}
	return id;
}

int main(int argc, char **argv)
{
	struct unionblk_status s;
	struct load l;
	uint32_t id;

	if (argc != 9) {
		fputs("record ROOT LEAF LOG SEED OPERATIONS WRITERS ROUNDS OUT\n", stderr);
		return 2;
	}
	log_name = argv[3];
	id = attach(argv);
	s = control_status(id);
	load_make(&l, s.sectors, (unsigned int)atoi(argv[6]), strtoull(argv[4], NULL, 0));
	l.slab = s.slab_sectors;
	l.discarded = s.discard == UNIONBLK_DISCARD_REVEAL;
	l.tell = tell;
	for (uint64_t i = 0; i < s.sectors; i++)
		l.oracle.known[i] = 1;
	load_rewind(&l);
	for (int rounds = atoi(argv[7]); rounds > 0; rounds--) {
		l.fd = control_open_union(id);
		load_go(&l, strtoull(argv[5], NULL, 0));
		load_join(&l);
		close(l.fd);
		for (unsigned int w = 0; w < l.oracle.writers; w++) {
			if (!l.hands[w].error)
				continue;
			printf("%s\n", strerror(l.hands[w].error));
			return 1;
		}
		if (l.wrong || control_remove(id))
			return 1;
		/* Marks what a detach has committed. */
		mark('f', oracle_flush_begin(&l.oracle));
		id = attach(argv);
	}
	save(&l, &s, argv[8]);
	return control_remove(id);
}
