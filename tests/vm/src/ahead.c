// SPDX-License-Identifier: GPL-2.0
/* ahead DEVICE SECTOR SECTORS: asks for read-ahead of a range, and does not wait for it. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int fd = argc == 4 ? open(argv[1], O_RDONLY) : -1, error;

	if (fd < 0) {
		fputs("ahead DEVICE SECTOR SECTORS\n", stderr);
		return 1;
	}
	error = posix_fadvise(fd, atoll(argv[2]) * 512, atoll(argv[3]) * 512, POSIX_FADV_WILLNEED);
	if (error)
		fprintf(stderr, "fadvise: %s\n", strerror(error));
	return error != 0;
}
