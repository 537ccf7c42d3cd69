// SPDX-License-Identifier: GPL-2.0
/*
 * Calls the control device without the checks of the tool. Prints the reason, and
 * the number of the layer that it is about.
 *   direct create ROOT LEAF [LAYER]...    - as ROOT: no root
 *   direct view ROOT LEAF [LAYER]...      read-only
 *   direct freeze ID LEAF
 *   direct reset ID UUID
 *   direct limit ID UUID SLABS
 */
#define _GNU_SOURCE
#include "control.h"

static int create(uint32_t flags, int argc, char **argv)
{
	struct unionblk_layer layers[8] = { 0 };
	struct unionblk_create c = {
		.size = sizeof(c), .flags = flags, .id = UNIONBLK_ID_ANY,
		.layers = (uintptr_t)layers, .layers_count = (uint32_t)argc - 2,
	};
	int error;

	if (c.layers_count > 8)
		return 2;
	if (strcmp(argv[0], "-"))
		strncpy(c.root, argv[0], sizeof(c.root) - 1);
	else
		c.flags |= UNIONBLK_CREATE_NO_ROOT;
	strncpy(c.leaf, argv[1], sizeof(c.leaf) - 1);
	for (uint32_t n = 0; n < c.layers_count; n++)
		strncpy(layers[n].path, argv[2 + n], sizeof(layers[n].path) - 1);
	error = ioctl(control_file(), UNIONBLK_IOC_CREATE, &c) ? errno : 0;
	printf("%s, reason %u (%llu, %llu), layer %u\n", error ? strerror(error) : "done", c.reason,
	       (unsigned long long)c.reason_detail[0], (unsigned long long)c.reason_detail[1], c.layer);
	return error != 0;
}

static int freeze(const char *id, const char *leaf)
{
	struct unionblk_freeze f = { .size = sizeof(f), .id = (uint32_t)atoi(id), .seal = { 1 } };
	int error;

	strncpy(f.leaf, leaf, sizeof(f.leaf) - 1);
	error = ioctl(control_file(), UNIONBLK_IOC_FREEZE, &f) ? errno : 0;
	printf("%s, reason %u (%llu, %llu)\n", error ? strerror(error) : "done", f.reason,
	       (unsigned long long)f.reason_detail[0], (unsigned long long)f.reason_detail[1]);
	return error != 0;
}

/* Reads a UUID with or without its dashes. */
static int uuid_of(const char *text, uint8_t uuid[16])
{
	for (int n = 0; n < 16; n++) {
		text += *text == '-';
		if (sscanf(text, "%2hhx", &uuid[n]) != 1)
			return -1;
		text += 2;
	}
	return *text ? -1 : 0;
}

static int reset(const char *id, const char *uuid)
{
	struct unionblk_reset r = { .size = sizeof(r), .id = (uint32_t)atoi(id) };
	int error;

	if (uuid_of(uuid, r.uuid))
		return 2;
	error = ioctl(control_file(), UNIONBLK_IOC_RESET, &r) ? errno : 0;
	printf("%s, reason %u\n", error ? strerror(error) : "done", r.reason);
	return error != 0;
}

static int limit(const char *id, const char *uuid, const char *slabs)
{
	struct unionblk_limit l = {
		.size = sizeof(l), .id = (uint32_t)atoi(id), .slabs = (uint32_t)atoi(slabs),
	};
	int error;

	if (uuid_of(uuid, l.uuid))
		return 2;
	error = ioctl(control_file(), UNIONBLK_IOC_LIMIT, &l) ? errno : 0;
	printf("%s, reason %u\n", error ? strerror(error) : "done", l.reason);
	return error != 0;
}

int main(int argc, char **argv)
{
	if (argc >= 4 && !strcmp(argv[1], "create"))
		return create(0, argc - 2, argv + 2);
	if (argc >= 4 && !strcmp(argv[1], "view"))
		return create(UNIONBLK_CREATE_READ_ONLY, argc - 2, argv + 2);
	if (argc == 4 && !strcmp(argv[1], "freeze"))
		return freeze(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "reset"))
		return reset(argv[2], argv[3]);
	if (argc == 5 && !strcmp(argv[1], "limit"))
		return limit(argv[2], argv[3], argv[4]);
	fputs("direct create|view ROOT|- LEAF [LAYER]... | direct freeze ID LEAF | "
	      "direct reset ID UUID | direct limit ID UUID SLABS\n", stderr);
	return 2;
}
