/* SPDX-License-Identifier: GPL-2.0 */
/* Makes and removes unions by the control device, for programs that do it often. */
#ifndef CONTROL_H
#define CONTROL_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "uapi/unionblk.h"

static inline int control_file(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = open("/dev/unionblk-control", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		perror("/dev/unionblk-control");
		exit(1);
	}
	return fd;
}

/* Returns an errno; stores the union's number in *id. */
static inline int control_create(const char *root, const char *leaf, uint32_t queues, uint32_t *id,
				 uint32_t *reason)
{
	struct unionblk_create c = { .size = sizeof(c), .id = UNIONBLK_ID_ANY, .queues = queues };
	int error;

	strncpy(c.root, root, sizeof(c.root) - 1);
	strncpy(c.leaf, leaf, sizeof(c.leaf) - 1);
	error = ioctl(control_file(), UNIONBLK_IOC_CREATE, &c) ? errno : 0;
	*id = c.id;
	if (reason)
		*reason = c.reason;
	return error;
}

/*
 * Returns an errno. A program that looks at a new disk, such as udev, has it open for a moment, and
 * a union whose leaf is being frozen cannot be removed.
 */
static inline int control_remove(uint32_t id)
{
	struct unionblk_remove r = { .size = sizeof(r), .id = id };

	for (int tries = 0; tries < 5000; tries++) {
		if (!ioctl(control_file(), UNIONBLK_IOC_REMOVE, &r))
			return 0;
		if (errno != EBUSY && errno != EINPROGRESS)
			return errno;
		usleep(1000);
	}
	return EBUSY;
}

static inline struct unionblk_status control_status(uint32_t id)
{
	struct unionblk_status s = { .size = sizeof(s), .id = id };

	if (ioctl(control_file(), UNIONBLK_IOC_STATUS, &s)) {
		perror("status");
		exit(1);
	}
	return s;
}

/* Waits for the node, because a kernel thread makes it. */
static inline int control_open(const char *path)
{
	for (int tries = 0; tries < 5000; tries++) {
		int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);

		if (fd >= 0)
			return fd;
		if (errno != ENOENT && errno != ENXIO)
			break;
		usleep(1000);
	}
	perror(path);
	exit(1);
}

static inline int control_open_union(uint32_t id)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/unionblk%u", id);
	return control_open(path);
}

static inline void control_write(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
		perror(file);
		exit(1);
	}
	close(fd);
}

/* Ends the program: a handler of SIGALRM. */
static inline void hung(int signal)
{
	static const char text[] = "something hangs\n";

	(void)signal;
	if (write(1, text, sizeof(text) - 1))
		_exit(1);
	_exit(1);
}

#endif
