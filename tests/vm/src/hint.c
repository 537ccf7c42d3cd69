// SPDX-License-Identifier: GPL-2.0
/*
 * Makes one direct write of 4 KiB with a hint of how long the data will live.
 *   hint DEVICE SECTOR TAG HINT     1 none, 2 short ... 5 extreme
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "sector.h"

#define EACH 8

int main(int argc, char **argv)
{
	uint64_t hint, sector, *area;
	int fd;

	if (argc != 5) {
		fputs("hint DEVICE SECTOR TAG HINT\n", stderr);
		return 2;
	}
	sector = strtoull(argv[2], NULL, 0);
	hint = strtoull(argv[4], NULL, 0);
	fd = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0 || posix_memalign((void **)&area, 4096, EACH * SECTOR)) {
		perror(argv[1]);
		return 1;
	}
	for (uint64_t i = 0; i < EACH; i++)
		make(area + i * WORDS, strtoull(argv[3], NULL, 0), sector + i);
	if (fcntl(fd, F_SET_RW_HINT, &hint)) {
		perror("hint");
		return 1;
	}
	if (pwrite(fd, area, EACH * SECTOR, (off_t)(sector * SECTOR)) != EACH * SECTOR) {
		perror("write");
		return 1;
	}
	return 0;
}
