// SPDX-License-Identifier: GPL-2.0
/* lock FILE SECONDS: keeps a file locked by flock for so many seconds. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int fd = argc == 3 ? open(argv[1], O_RDONLY) : -1;

	if (fd < 0 || flock(fd, LOCK_EX)) {
		perror("lock");
		return 1;
	}
	puts("locked");
	fflush(stdout);
	usleep((useconds_t)(atof(argv[2]) * 1e6));
	return 0;
}
