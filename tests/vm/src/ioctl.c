// SPDX-License-Identifier: GPL-2.0
/*
 * Calls the control device as no correct program would. Each call must fail
 * with the errno that the header promises. The program includes only the
 * header, so it also proves that C programs can use it.
 *   ioctl ROOT LEAF ID     a formatted pair, and the id of a union that exists
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "uapi/unionblk.h"

static int control, failures;

static void judge(const char *what, int got, int want)
{
	if (got == want)
		return;
	printf("FAIL: %s: %s, not %s\n", what, got ? strerror(got) : "done",
	       want ? strerror(want) : "done");
	failures++;
}

static int call(unsigned long request, void *arg)
{
	return ioctl(control, request, arg) ? errno : 0;
}

static struct unionblk_create create(const char *root, const char *leaf)
{
	struct unionblk_create c;

	memset(&c, 0, sizeof(c));
	c.size = sizeof(c);
	c.id = UNIONBLK_ID_ANY;
	strncpy(c.root, root, sizeof(c.root) - 1);
	strncpy(c.leaf, leaf, sizeof(c.leaf) - 1);
	return c;
}

static void features(void)
{
	struct unionblk_features f = { .size = sizeof(f) };

	judge("features", call(UNIONBLK_IOC_FEATURES, &f), 0);
	if (f.abi_version != UNIONBLK_ABI_VERSION || f.size != sizeof(f) || f.unions != 1)
		judge("features' answer", EINVAL, 0);
	memset(&f, 0, sizeof(f));
	judge("features of size 0", call(UNIONBLK_IOC_FEATURES, &f), EINVAL);
	f.size = sizeof(f);
	judge("features of no memory", call(UNIONBLK_IOC_FEATURES, NULL), EFAULT);
	judge("an unknown call", call(_IO(UNIONBLK_IOC_TYPE, 0x1f), &f), ENOTTY);
	judge("a size in the number", call(_IOWR(UNIONBLK_IOC_TYPE, 0x00, uint64_t), &f), ENOTTY);
	judge("a call of another driver", call(_IO(0xb5, 0x02), &f), ENOTTY);
	judge("features after all", call(UNIONBLK_IOC_FEATURES, &f), 0);
}

static void creating(const char *root, const char *leaf, uint32_t taken)
{
	struct unionblk_create c = create(root, leaf);

	c.size = 8;
	judge("create of another size", call(UNIONBLK_IOC_CREATE, &c), EINVAL);
	c = create(root, leaf);
	c.flags = 1u << 31;
	judge("create with an unknown flag", call(UNIONBLK_IOC_CREATE, &c), EINVAL);
	c = create(root, leaf);
	memset(c.root, 'x', sizeof(c.root));
	judge("create with an endless path", call(UNIONBLK_IOC_CREATE, &c), EINVAL);
	c = create("", leaf);
	judge("create with an empty path", call(UNIONBLK_IOC_CREATE, &c), EINVAL);
	c = create("/dev/no-such-device", leaf);
	judge("create on nothing", call(UNIONBLK_IOC_CREATE, &c), ENOENT);
	judge("the reason", (int)c.reason, UNIONBLK_REASON_OPEN);
	c = create("/dev/zero", leaf);
	judge("create on what is no disk", call(UNIONBLK_IOC_CREATE, &c), ENOTBLK);
	c = create(root, root);
	judge("create on one device", call(UNIONBLK_IOC_CREATE, &c), EINVAL);
	judge("the reason", (int)c.reason, UNIONBLK_REASON_SAME_DEVICE);
	c = create(root, leaf);
	c.id = taken;
	judge("create with an id that is taken", call(UNIONBLK_IOC_CREATE, &c), EEXIST);
	judge("create at an address that is none", call(UNIONBLK_IOC_CREATE, (void *)8), EFAULT);
	c = create(root, leaf);
	c.queues = 1u << 30;
	judge("create with a billion queues", call(UNIONBLK_IOC_CREATE, &c), EINVAL);
}

static void others(uint32_t taken)
{
	struct unionblk_remove r = { .size = sizeof(r), .id = 4000000 };
	struct unionblk_status s = { .size = sizeof(s), .id = 4000000 };
	struct unionblk_lost l = { .size = sizeof(l), .id = taken };

	judge("remove of none", call(UNIONBLK_IOC_REMOVE, &r), ENODEV);
	judge("status of none", call(UNIONBLK_IOC_STATUS, &s), ENODEV);
	s.flags = UNIONBLK_STATUS_NEXT;
	judge("status after the last", call(UNIONBLK_IOC_STATUS, &s), ENODEV);
	s.flags = 2;
	judge("status with an unknown flag", call(UNIONBLK_IOC_STATUS, &s), EINVAL);
	memset(&s, 0, sizeof(s));
	s.size = sizeof(s);
	s.flags = UNIONBLK_STATUS_NEXT;
	judge("status of the first", call(UNIONBLK_IOC_STATUS, &s), 0);
	judge("the first's id", (int)s.id, (int)taken);
	r.id = taken;
	r.reserved0 = 1;
	judge("remove with a reserved field", call(UNIONBLK_IOC_REMOVE, &r), EINVAL);
	r.reserved0 = 0;
	s.reserved0 = 1;
	judge("status with a reserved field", call(UNIONBLK_IOC_STATUS, &s), EINVAL);
	l.flags = 1;
	judge("lost with an unknown flag", call(UNIONBLK_IOC_LOST, &l), EINVAL);
	l.flags = 0;
	l.reserved0 = 1;
	judge("lost with a reserved field", call(UNIONBLK_IOC_LOST, &l), EINVAL);
	l.reserved0 = 0;
	l.id = 4000000;
	judge("lost of none", call(UNIONBLK_IOC_LOST, &l), ENODEV);
	r.flags = 1;
	judge("remove with an unknown flag", call(UNIONBLK_IOC_REMOVE, &r), EINVAL);
}

/* The calls that change the leaf of a union, none of which comes so far. */
static void changing(const char *leaf, uint32_t taken)
{
	struct unionblk_freeze f = { .size = sizeof(f), .id = taken };
	struct unionblk_reset r = { .size = sizeof(r), .id = 4000000 };
	struct unionblk_limit l = { .size = sizeof(l), .id = 4000000, .slabs = 1 };

	judge("freeze with an empty path", call(UNIONBLK_IOC_FREEZE, &f), EINVAL);
	memset(f.leaf, 'x', sizeof(f.leaf));
	judge("freeze with an endless path", call(UNIONBLK_IOC_FREEZE, &f), EINVAL);
	memset(f.leaf, 0, sizeof(f.leaf));
	strncpy(f.leaf, "/dev/no-such-device", sizeof(f.leaf) - 1);
	judge("freeze onto nothing", call(UNIONBLK_IOC_FREEZE, &f), ENOENT);
	judge("the reason", (int)f.reason, UNIONBLK_REASON_OPEN);
	f.flags = 2;
	judge("freeze with an unknown flag", call(UNIONBLK_IOC_FREEZE, &f), EINVAL);
	f.flags = 0;
	f.id = 4000000;
	strncpy(f.leaf, leaf, sizeof(f.leaf) - 1);
	judge("freeze of none", call(UNIONBLK_IOC_FREEZE, &f), ENODEV);
	judge("freeze of no memory", call(UNIONBLK_IOC_FREEZE, NULL), EFAULT);

	judge("reset of none", call(UNIONBLK_IOC_RESET, &r), ENODEV);
	judge("reset of no memory", call(UNIONBLK_IOC_RESET, NULL), EFAULT);
	r.id = taken;
	r.uuid[0] = r.uuid[15] = 0xa5;
	judge("reset of another leaf", call(UNIONBLK_IOC_RESET, &r), ESTALE);
	r.flags = 1;
	judge("reset with an unknown flag", call(UNIONBLK_IOC_RESET, &r), EINVAL);

	judge("limit of none", call(UNIONBLK_IOC_LIMIT, &l), ENODEV);
	judge("limit of no memory", call(UNIONBLK_IOC_LIMIT, NULL), EFAULT);
	l.id = taken;
	l.uuid[0] = l.uuid[15] = 0xa5;
	judge("limit of another leaf", call(UNIONBLK_IOC_LIMIT, &l), ESTALE);
	l.flags = 1;
	judge("limit with an unknown flag", call(UNIONBLK_IOC_LIMIT, &l), EINVAL);
	l.flags = 0;
	l.reserved0 = 1;
	judge("limit with a reserved field", call(UNIONBLK_IOC_LIMIT, &l), EINVAL);
}

/* The file was opened by root, but the caller's capabilities count. */
static void unprivileged(const char *root, const char *leaf, uint32_t taken)
{
	struct unionblk_create c = create(root, leaf);
	struct unionblk_remove r = { .size = sizeof(r), .id = taken };
	struct unionblk_status s = { .size = sizeof(s), .id = taken };
	struct unionblk_features f = { .size = sizeof(f) };
	struct unionblk_lost l = { .size = sizeof(l), .id = taken };
	struct unionblk_freeze freeze = { .size = sizeof(freeze), .id = taken };
	struct unionblk_reset reset = { .size = sizeof(reset), .id = taken };
	struct unionblk_limit limit = { .size = sizeof(limit), .id = taken, .slabs = 1 };

	strncpy(freeze.leaf, leaf, sizeof(freeze.leaf) - 1);
	if (setgid(65534) || setuid(65534)) {
		perror("setuid");
		exit(1);
	}
	judge("create without the capability", call(UNIONBLK_IOC_CREATE, &c), EPERM);
	judge("remove without the capability", call(UNIONBLK_IOC_REMOVE, &r), EPERM);
	judge("status without the capability", call(UNIONBLK_IOC_STATUS, &s), EPERM);
	judge("features without the capability", call(UNIONBLK_IOC_FEATURES, &f), EPERM);
	judge("lost without the capability", call(UNIONBLK_IOC_LOST, &l), EPERM);
	judge("freeze without the capability", call(UNIONBLK_IOC_FREEZE, &freeze), EPERM);
	judge("reset without the capability", call(UNIONBLK_IOC_RESET, &reset), EPERM);
	judge("limit without the capability", call(UNIONBLK_IOC_LIMIT, &limit), EPERM);
}

int main(int argc, char **argv)
{
	uint32_t taken;

	if (argc != 4) {
		fprintf(stderr, "ioctl ROOT LEAF ID\n");
		return 2;
	}
	taken = (uint32_t)strtoul(argv[3], NULL, 0);
	control = open("/dev/unionblk-control", O_RDWR);
	if (control < 0) {
		perror("/dev/unionblk-control");
		return 1;
	}
	features();
	creating(argv[1], argv[2], taken);
	others(taken);
	changing(argv[2], taken);
	unprivileged(argv[1], argv[2], taken);
	return failures != 0;
}
