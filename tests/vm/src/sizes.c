// SPDX-License-Identifier: GPL-2.0
/*
 * Calls the driver like programs that were built with an older or a newer
 * header: with structures of every size, which end at the end of a page that no
 * memory follows.
 *   sizes ROOT LEAF ID     a formatted pair, and the id of a union that exists
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <sys/mman.h>

#include "control.h"

#define FENCE (2 * UNIONBLK_SIZE_MAX)

static unsigned char *page;
static int failures;

static void judge(const char *what, size_t size, int got, int want)
{
	if (got == want)
		return;
	printf("FAIL: %s of %zu bytes: %s, not %s\n", what, size, got ? strerror(got) : "done",
	       want ? strerror(want) : "done");
	failures++;
}

/* Places a structure of this size at the end of the page: what fits from @from, then zeroes. */
static void *place(const void *from, size_t known, size_t size)
{
	unsigned char *at = page + FENCE - size;

	memset(page, 0xa5, FENCE);
	memset(at, 0, size);
	memcpy(at, from, size < known ? size : known);
	memcpy(at, &(uint32_t){ (uint32_t)size }, size < 4 ? size : 4);
	return at;
}

/* Checks that nothing before the structure was touched, and that its size is unchanged. */
static void judge_edges(const char *what, const unsigned char *at, size_t size)
{
	uint32_t stated = 0;

	memcpy(&stated, at, sizeof(stated));
	if (stated != size)
		judge("the size after a call", size, EINVAL, 0);
	for (const unsigned char *p = page; p < at; p++)
		if (*p != 0xa5) {
			judge(what, size, EFAULT, 0);
			return;
		}
}

struct call {
	const char *name;
	unsigned long number;
	size_t least, ours;
	const void *request;
	int answer;
};

static void call(const struct call *c, size_t size, int want)
{
	unsigned char *at = place(c->request, c->ours, size);

	judge(c->name, size, ioctl(control_file(), c->number, at) ? errno : 0, want);
	judge_edges(c->name, at, size);
}

static void every_size(const struct call *c)
{
	const size_t large[] = { c->ours + 1, c->ours + 64, c->ours + 65, UNIONBLK_SIZE_MAX };
	unsigned char *at;

	printf("%s\n", c->name);
	/* The driver needs a word of the structure to know its size. */
	at = place(c->request, c->ours, 3);
	judge(c->name, 3, ioctl(control_file(), c->number, at) ? errno : 0, EFAULT);
	call(c, 4, EINVAL);
	call(c, 8, EINVAL);
	call(c, c->least - 1, EINVAL);
	/* An older caller. */
	for (size_t size = c->least; size <= c->ours; size++)
		call(c, size, c->answer);
	/* A newer caller that asks for nothing new. */
	for (size_t i = 0; i < sizeof(large) / sizeof(*large); i++)
		call(c, large[i], c->answer);
	/* A newer caller that asks for something new, at each end of the unknown part. */
	for (size_t i = 0; i < sizeof(large) / sizeof(*large); i++)
		for (int last = 0; last < 2; last++) {
			at = place(c->request, c->ours, large[i]);
			at[last ? large[i] - 1 : c->ours] = 1;
			judge(c->name, large[i], ioctl(control_file(), c->number, at) ? errno : 0, E2BIG);
		}
	call(c, UNIONBLK_SIZE_MAX + 1, E2BIG);
	/* Sizes that are simply wrong. */
	at = place(c->request, c->ours, c->ours);
	memcpy(at, &(uint32_t){ (uint32_t)c->ours + 1 }, 4);
	judge(c->name, c->ours + 1, ioctl(control_file(), c->number, at) ? errno : 0, EFAULT);
	memset(at, 0xff, 4);
	judge(c->name, UINT32_MAX, ioctl(control_file(), c->number, at) ? errno : 0, E2BIG);
}

/* Checks that callers of all sizes get the same answer, as far as they can see it. */
static void same_status(uint32_t id)
{
	struct unionblk_status want = control_status(id);
	const size_t sizes[] = { UNIONBLK_STATUS_SIZE_VER0, sizeof(want), sizeof(want) + 100 };
	size_t from = offsetof(struct unionblk_status, root);

	printf("answers\n");
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		struct unionblk_status s = { .id = id };
		size_t common = sizes[i] < sizeof(want) ? sizes[i] : sizeof(want);
		unsigned char *at = place(&s, sizeof(s), sizes[i]);

		judge("status", sizes[i], ioctl(control_file(), UNIONBLK_IOC_STATUS, at) ? errno : 0, 0);
		if (memcmp(at + from, (char *)&want + from, common - from))
			judge("the answer", sizes[i], EINVAL, 0);
		for (size_t n = sizeof(want); n < sizes[i]; n++)
			if (at[n])
				judge("the tail of the answer", sizes[i], EINVAL, 0);
	}
}

/* The oldest caller makes a union and a newer one removes it. */
static void old_and_new(const char *root, const char *leaf)
{
	struct unionblk_create c = { .id = 9 };
	struct unionblk_remove r = { .id = 9 };
	void *at;

	printf("create and remove\n");
	strncpy(c.root, root, sizeof(c.root) - 1);
	strncpy(c.leaf, leaf, sizeof(c.leaf) - 1);
	at = place(&c, sizeof(c), UNIONBLK_CREATE_SIZE_VER0);
	judge("create", UNIONBLK_CREATE_SIZE_VER0,
	      ioctl(control_file(), UNIONBLK_IOC_CREATE, at) ? errno : 0, 0);
	judge_edges("create", at, UNIONBLK_CREATE_SIZE_VER0);
	at = place(&r, sizeof(r), sizeof(r) + 64);
	for (int tries = 0; tries < 5000; tries++) {
		if (!ioctl(control_file(), UNIONBLK_IOC_REMOVE, at))
			return;
		if (errno != EBUSY)
			break;
		usleep(1000);
	}
	judge("remove", sizeof(r) + 64, errno, 0);
}

/* An answer that cannot be written is refused before anything is done. */
static void no_answer(const char *root, const char *leaf)
{
	struct unionblk_create c = { .id = 9 };
	void *at;

	printf("no answer\n");
	strncpy(c.root, root, sizeof(c.root) - 1);
	strncpy(c.leaf, leaf, sizeof(c.leaf) - 1);
	at = place(&c, sizeof(c), sizeof(c));
	if (mprotect(page, FENCE, PROT_READ))
		perror("mprotect");
	judge("create", sizeof(c), ioctl(control_file(), UNIONBLK_IOC_CREATE, at) ? errno : 0, EFAULT);
	if (mprotect(page, FENCE, PROT_READ | PROT_WRITE))
		perror("mprotect");
}

int main(int argc, char **argv)
{
	struct unionblk_features f = { 0 };
	struct unionblk_create c = { .flags = UNIONBLK_CREATE_READ_ONLY };
	struct unionblk_remove r = { .id = 4000000 };
	struct unionblk_status s = { 0 };
	struct unionblk_lost l = { 0 };
	/* Of no union, so that no call changes a leaf. */
	struct unionblk_freeze freeze = { .id = 4000000 };
	struct unionblk_reset reset = { .id = 4000000 };
	struct unionblk_limit limit = { .id = 4000000, .slabs = 1 };

	if (argc != 4) {
		fprintf(stderr, "sizes ROOT LEAF ID\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	page = mmap(NULL, FENCE + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED || mprotect(page + FENCE, 4096, PROT_NONE)) {
		perror("mmap");
		return 1;
	}
	c.id = s.id = l.id = (uint32_t)strtoul(argv[3], NULL, 0);
	strncpy(c.root, argv[1], sizeof(c.root) - 1);
	strncpy(c.leaf, argv[2], sizeof(c.leaf) - 1);
	strncpy(freeze.leaf, argv[2], sizeof(freeze.leaf) - 1);

#define EVERY(name, NAME, request, answer) \
	every_size(&(struct call){ #name, UNIONBLK_IOC_##NAME, UNIONBLK_##NAME##_SIZE_VER0, \
				   sizeof(request), &(request), answer })
	EVERY(features, FEATURES, f, 0);
	EVERY(create, CREATE, c, EEXIST);
	EVERY(remove, REMOVE, r, ENODEV);
	EVERY(status, STATUS, s, 0);
	EVERY(lost, LOST, l, 0);
	EVERY(freeze, FREEZE, freeze, ENODEV);
	EVERY(reset, RESET, reset, ENODEV);
	EVERY(limit, LIMIT, limit, ENODEV);
	same_status(s.id);
	old_and_new(argv[1], argv[2]);
	no_answer(argv[1], argv[2]);
	return failures != 0;
}
