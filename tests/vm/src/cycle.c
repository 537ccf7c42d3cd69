// SPDX-License-Identifier: GPL-2.0
/*
 * Attaches and detaches a union many times, by the control device alone.
 * Measures what a call costs without the start of the tool.
 *   cycle ROOT LEAF TIMES [WRITE]    prints the mean of each in microseconds
 * WRITE: also writes 4 KiB each time, to one of 50 places.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "uapi/unionblk.h"

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void write_somewhere(unsigned int id, long n)
{
	char path[64], *data = aligned_alloc(4096, 4096);
	int fd, tries;

	if (!data)
		err(1, "memory");
	snprintf(path, sizeof(path), "/dev/unionblk%u", id);
	/* A kernel thread makes the node. */
	for (tries = 0; (fd = open(path, O_RDWR | O_DIRECT)) < 0; tries++) {
		if (errno != ENOENT || tries == 3000)
			err(1, "%s", path);
		usleep(1000);
	}
	memset(data, (int)n, 4096);
	if (pwrite(fd, data, 4096, n % 50 * 65536) != 4096 || fsync(fd))
		err(1, "write to %s", path);
	close(fd);
	free(data);
}

int main(int argc, char **argv)
{
	double created = 0, removed = 0, start;
	int control = open("/dev/unionblk-control", O_RDWR);
	long n, times;

	if (argc < 4)
		errx(2, "cycle ROOT LEAF TIMES [WRITE]");
	if (control < 0)
		err(1, "/dev/unionblk-control");
	times = atol(argv[3]);
	for (n = 0; n < times; n++) {
		struct unionblk_create c = { .size = sizeof(c), .id = UNIONBLK_ID_ANY };
		struct unionblk_remove r = { .size = sizeof(r) };

		strncpy(c.root, argv[1], sizeof(c.root) - 1);
		strncpy(c.leaf, argv[2], sizeof(c.leaf) - 1);
		start = now();
		if (ioctl(control, UNIONBLK_IOC_CREATE, &c))
			err(1, "create %ld", n);
		created += now() - start;
		if (argc > 4)
			write_somewhere(c.id, n);
		r.id = c.id;
		start = now();
		/* A program that looks at a new disk, such as udev, has it open for a moment. */
		while (ioctl(control, UNIONBLK_IOC_REMOVE, &r)) {
			if (errno != EBUSY)
				err(1, "remove %ld", n);
			usleep(1000);
			start = now();
		}
		removed += now() - start;
	}
	printf("create %.0f us, remove %.0f us\n", created / times, removed / times);
	return 0;
}
