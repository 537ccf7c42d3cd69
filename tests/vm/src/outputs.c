// SPDX-License-Identifier: GPL-2.0
/*
 * Fills every output field with junk before each call. No junk may come back,
 * neither from a call that succeeds nor from one that fails. The program
 * includes only the header.
 *   outputs ROOT LEAF DAMAGED   a root, its leaf, and a leaf of it whose
 *                               superblocks are damaged; no union exists
 */
#define _GNU_SOURCE
#include <stddef.h>

#include "control.h"

#define JUNK 0xa5

static int failures;

static void judge(const char *what, unsigned long long got, unsigned long long want)
{
	if (got == want)
		return;
	printf("FAIL: %s: %llu, not %llu\n", what, got, want);
	failures++;
}

static int call(unsigned long request, void *arg)
{
	return ioctl(control_file(), request, arg) ? errno : 0;
}

/* Returns a request whose outputs are all junk. */
static struct unionblk_create create(const char *root, const char *leaf)
{
	struct unionblk_create c;

	memset(&c, 0, sizeof(c));
	c.size = sizeof(c);
	c.id = UNIONBLK_ID_ANY;
	c.flags = UNIONBLK_CREATE_READ_ONLY;
	strncpy(c.root, root, sizeof(c.root) - 1);
	strncpy(c.leaf, leaf, sizeof(c.leaf) - 1);
	c.reason = 0xa5a5a5a5;
	c.damaged_blocks = 0xa5a5a5a5;
	memset(c.reason_detail, JUNK, sizeof(c.reason_detail));
	memset(&c.lost_sectors, JUNK, sizeof(c.lost_sectors));
	return c;
}

static void creates(const char *what, struct unionblk_create c, int error, uint32_t reason)
{
	printf("%s\n", what);
	judge("errno", (unsigned int)call(UNIONBLK_IOC_CREATE, &c), (unsigned int)error);
	judge("reason", c.reason, reason);
	judge("damaged_blocks", c.damaged_blocks, 0);
	judge("lost_sectors", c.lost_sectors, 0);
	if (reason != UNIONBLK_REASON_OPEN && reason != UNIONBLK_REASON_DAMAGED) {
		judge("reason_detail[0]", c.reason_detail[0], 0);
		judge("reason_detail[1]", c.reason_detail[1], 0);
	}
	/* The request itself is unchanged. */
	judge("flags", c.flags & UNIONBLK_CREATE_READ_ONLY, UNIONBLK_CREATE_READ_ONLY);
	judge("size", c.size, sizeof(c));
}

static void creating(const char *root, const char *leaf, const char *damaged)
{
	struct unionblk_create c = create(root, leaf);

	c.id = 7;
	creates("create", c, 0, UNIONBLK_REASON_NONE);
	creates("create of a number that is taken", c, EEXIST, UNIONBLK_REASON_NONE);
	c = create(root, leaf);
	c.queues = 1000;
	creates("create with too many queues", c, EINVAL, UNIONBLK_REASON_NONE);
	c = create(root, leaf);
	c.flags |= 1u << 31;
	creates("create with an unknown flag", c, EINVAL, UNIONBLK_REASON_NONE);
	creates("create without a root", create("", leaf), EINVAL, UNIONBLK_REASON_NONE);
	creates("create on nothing", create("/dev/none", leaf), ENOENT, UNIONBLK_REASON_OPEN);
	creates("create of a damaged leaf", create(root, damaged), EUCLEAN, UNIONBLK_REASON_DAMAGED);
}

/* Checks that a failed status leaves nothing but the request. */
static void status_fails(const char *what, struct unionblk_status s, int error)
{
	static const struct unionblk_status zero;
	size_t from = offsetof(struct unionblk_status, mode);
	size_t to = offsetof(struct unionblk_status, reserved0);
	size_t behind = to + sizeof(s.reserved0);

	printf("%s\n", what);
	judge("errno", (unsigned int)call(UNIONBLK_IOC_STATUS, &s), (unsigned int)error);
	judge("answers", !!memcmp((char *)&s + from, (const char *)&zero + from, to - from), 0);
	judge("the last answers", !!memcmp((char *)&s + behind, (const char *)&zero + behind,
					   offsetof(struct unionblk_status, lost_sectors) +
					   sizeof(s.lost_sectors) - behind), 0);
}

static void status(void)
{
	struct unionblk_status junk, s;

	memset(&junk, JUNK, sizeof(junk));
	junk.size = sizeof(junk);
	junk.flags = 0;
	junk.id = 7;
	junk.reserved0 = 0;
	/* With an older header there are more fields behind it, which must be zero. */
	memset((char *)&junk + offsetof(struct unionblk_status, lost_sectors) + 8, 0,
	       sizeof(junk) - offsetof(struct unionblk_status, lost_sectors) - 8);
	s = junk;
	printf("status\n");
	judge("errno", (unsigned int)call(UNIONBLK_IOC_STATUS, &s), 0);
	judge("mode", s.mode, UNIONBLK_MODE_READ_ONLY_REQUESTED);
	judge("io_errors", s.io_errors, 0);
	judge("last_error", s.last_error, 0);
	judge("damaged_blocks", s.damaged_blocks, 0);
	judge("lost_sectors", s.lost_sectors, 0);
	judge("name", strlen(s.name), 0);
	s = junk;
	s.id = 8;
	status_fails("status of none", s, ENODEV);
	s.flags = 1u << 31;
	memset(&s.mode, JUNK, sizeof(s.mode));
	status_fails("status with an unknown flag", s, EINVAL);
}

static void features(void)
{
	struct unionblk_features f;

	memset(&f, 0, sizeof(f));
	f.size = sizeof(f);
	memset(&f.abi_version, JUNK, sizeof(f.abi_version));
	memset(&f.features, JUNK, sizeof(f.features));
	printf("features\n");
	judge("errno", (unsigned int)call(UNIONBLK_IOC_FEATURES, &f), 0);
	judge("abi_version", f.abi_version, UNIONBLK_ABI_VERSION);
	judge("features", f.features, 0);
}

#ifdef UNIONBLK_IOC_LOST
static void lost(void)
{
	struct unionblk_lost l;

	memset(&l, JUNK, sizeof(l));
	l.size = sizeof(l);
	l.flags = l.reserved0 = 0;
	l.id = 8;
	l.from = 1;
	printf("lost of none\n");
	judge("errno", (unsigned int)call(UNIONBLK_IOC_LOST, &l), ENODEV);
	judge("answers", l.sector | l.sectors | l.unnamed, 0);
	memset(&l.sector, JUNK, sizeof(l.sector));
	memset(&l.sectors, JUNK, sizeof(l.sectors));
	l.id = 7;
	printf("lost of a whole leaf\n");
	judge("errno", (unsigned int)call(UNIONBLK_IOC_LOST, &l), 0);
	judge("answers", l.sector | l.sectors | l.unnamed, 0);
	judge("from", l.from, 1);
}
#else
static void lost(void) { }
#endif

/*
 * Judges a call that fails, made with junk in all answers: the errno, the reason, and that nothing
 * is left of the junk.
 */
#define FAILS(what, NAME, request, error, wanted)                                                  \
	do {                                                                                       \
		(request).reason = 0xa5a5a5a5;                                                     \
		memset((request).reason_detail, JUNK, sizeof((request).reason_detail));            \
		printf("%s\n", what);                                                              \
		judge("errno", (unsigned int)call(UNIONBLK_IOC_##NAME, &(request)), error);        \
		judge("reason", (request).reason, wanted);                                         \
		judge("reason_detail[0]", (request).reason_detail[0], 0);                          \
		judge("reason_detail[1]", (request).reason_detail[1], 0);                          \
		judge("size", (request).size, sizeof(request));                                    \
	} while (0)

/* The calls that change the leaf of a union. The union 7 is read-only. */
static void changing(const char *leaf)
{
	struct unionblk_freeze f = { .size = sizeof(f), .id = 8 };
	struct unionblk_reset r = { .size = sizeof(r), .id = 8 };
	struct unionblk_limit l = { .size = sizeof(l), .id = 8, .slabs = 1 };

	strncpy(f.leaf, leaf, sizeof(f.leaf) - 1);
	FAILS("freeze of none", FREEZE, f, ENODEV, UNIONBLK_REASON_NONE);
	FAILS("reset of none", RESET, r, ENODEV, UNIONBLK_REASON_NONE);
	FAILS("limit of none", LIMIT, l, ENODEV, UNIONBLK_REASON_NONE);
	f.id = r.id = l.id = 7;
	FAILS("freeze of a read-only union", FREEZE, f, EROFS, UNIONBLK_REASON_READ_ONLY_UNION);
	FAILS("reset of a read-only union", RESET, r, EROFS, UNIONBLK_REASON_READ_ONLY_UNION);
	FAILS("limit of a read-only union", LIMIT, l, EROFS, UNIONBLK_REASON_READ_ONLY_UNION);
	r.uuid[0] = l.uuid[0] = 1;
	FAILS("reset of another leaf", RESET, r, ESTALE, UNIONBLK_REASON_NONE);
	FAILS("limit of another leaf", LIMIT, l, ESTALE, UNIONBLK_REASON_NONE);
	f.flags = r.flags = l.flags = 1u << 31;
	FAILS("freeze with an unknown flag", FREEZE, f, EINVAL, UNIONBLK_REASON_NONE);
	FAILS("reset with an unknown flag", RESET, r, EINVAL, UNIONBLK_REASON_NONE);
	FAILS("limit with an unknown flag", LIMIT, l, EINVAL, UNIONBLK_REASON_NONE);
	judge("the limit itself", l.slabs, 1);
}
int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "outputs ROOT LEAF DAMAGED\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	features();
	creating(argv[1], argv[2], argv[3]);
	status();
	lost();
	changing(argv[2]);
	return failures != 0;
}
