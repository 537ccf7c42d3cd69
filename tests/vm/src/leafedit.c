// SPDX-License-Identifier: GPL-2.0
/*
 * Changes a field of both superblocks of a leaf and corrects their checksums: a
 * leaf as a later version of the format would write it.
 *   leafedit DEVICE version|incompat|ro_compat|compat|compat_bytes|unnamed_flags VALUE
 * Or as software with other rules for names would:
 *   leafedit DEVICE name NAME
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOT_BYTES 4096
#define SUPER_BYTES 512
#define CRC_AT 8

static const struct {
	const char *name;
	int at, bytes;
} fields[] = {
	{ "version", 12, 4 },
	{ "compat", 24, 8 },
	{ "ro_compat", 32, 8 },
	{ "incompat", 40, 8 },
	{ "compat_bytes", 192, 8 },
	{ "unnamed_flags", 110, 2 },
	{ "name", 160, 32 },
};

static uint32_t crc32c(const uint8_t *p, int n)
{
	uint32_t crc = ~0u;

	while (n--) {
		crc ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}

static void put(uint8_t *p, uint64_t v, int bytes)
{
	for (int i = 0; i < bytes; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

int main(int argc, char **argv)
{
	uint8_t super[SUPER_BYTES];
	int fd, changed = 0, field = -1;

	for (int i = 0; argc == 4 && i < (int)(sizeof(fields) / sizeof(fields[0])); i++)
		if (!strcmp(argv[2], fields[i].name))
			field = i;
	if (field < 0) {
		fprintf(stderr, "leafedit DEVICE version|incompat|ro_compat|compat|compat_bytes|unnamed_flags|name VALUE\n");
		return 2;
	}
	fd = open(argv[1], O_RDWR);
	for (int slot = 0; slot < 2; slot++) {
		if (pread(fd, super, SUPER_BYTES, slot * SLOT_BYTES) != SUPER_BYTES) {
			perror(argv[1]);
			return 1;
		}
		if (memcmp(super, "UNIONBLK", 8))
			continue;
		if (fields[field].bytes > 8)
			strncpy((char *)super + fields[field].at, argv[3], fields[field].bytes - 1);
		else
			put(super + fields[field].at, strtoull(argv[3], NULL, 0), fields[field].bytes);
		put(super + CRC_AT, 0, 4);
		put(super + CRC_AT, crc32c(super, SUPER_BYTES), 4);
		if (pwrite(fd, super, SUPER_BYTES, slot * SLOT_BYTES) != SUPER_BYTES) {
			perror(argv[1]);
			return 1;
		}
		changed++;
	}
	if (fsync(fd) || !changed) {
		fprintf(stderr, "leafedit: no superblock on %s\n", argv[1]);
		return 1;
	}
	return 0;
}
