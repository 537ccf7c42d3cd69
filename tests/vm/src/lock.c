// SPDX-License-Identifier: GPL-2.0
/*
 * Keeps a file locked for so many seconds.
 *   lock FILE SECONDS         by flock
 *   lock FILE SECONDS BYTE    one byte of it, as QEMU does: shared, by the open file
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int fd = argc == 3 || argc == 4 ? open(argv[1], O_RDONLY) : -1;
	struct flock byte = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_len = 1 };

	if (argc == 4)
		byte.l_start = atoll(argv[3]);
	if (fd < 0 || (argc == 4 ? fcntl(fd, F_OFD_SETLK, &byte) : flock(fd, LOCK_EX))) {
		perror("lock");
		return 1;
	}
	puts("locked");
	fflush(stdout);
	usleep((useconds_t)(atof(argv[2]) * 1e6));
	return 0;
}
