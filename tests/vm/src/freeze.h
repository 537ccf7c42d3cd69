/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Unions that are frozen live, for programs that look at what becomes of each
 * leaf. The tool makes the unions and freezes them. The caller has as many
 * devices as leaves are wanted. A copy of each frozen leaf is kept, and compared.
 */
#ifndef FREEZE_H
#define FREEZE_H

#include <stdarg.h>
#include <sys/wait.h>

#include "control.h"
#include "load.h"

#define FREEZE_LEAVES 32
#define FREEZE_OUTPUT "/tmp/freeze.out"
#define FREEZE_ID 0

struct layer {
	int device;
	uint64_t bytes;
	void *content;
};

struct stack {
	const char *root, *prefix; /* the devices are PREFIX0, PREFIX1, ... */
	int devices, leaf;	   /* the number of devices, and which of them is the leaf */
	int layers;
	struct layer layer[FREEZE_LEAVES];
};

__attribute__((format(printf, 1, 2))) static inline int freeze_command(const char *format, ...)
{
	char line[2048];
	va_list list;
	int n, status;

	va_start(list, format);
	n = vsnprintf(line, sizeof(line), format, list);
	va_end(list);
	if (n < 0 || (size_t)n + sizeof(" >" FREEZE_OUTPUT " 2>&1") > sizeof(line)) {
		fputs("a command is too long\n", stderr);
		exit(2);
	}
	strcat(line, " >" FREEZE_OUTPUT " 2>&1");
	status = system(line);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Prints what the last command has printed, and ends. */
static inline void freeze_die(const char *what)
{
	char text[512];
	FILE *f = fopen(FREEZE_OUTPUT, "r");

	printf("%s\n", what);
	while (f && fgets(text, sizeof(text), f))
		printf("  %s", text);
	exit(1);
}

/* Returns whether the last command has printed this. */
static inline int freeze_said(const char *what)
{
	char text[4096];
	FILE *f = fopen(FREEZE_OUTPUT, "r");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;

	if (f)
		fclose(f);
	text[n] = 0;
	return strstr(text, what) != NULL;
}

/* Reads a device past the page cache, which does not know what the driver writes. */
static inline void *freeze_content(const struct stack *c, int device, uint64_t *bytes)
{
	char path[64];
	void *p;
	int fd;

	snprintf(path, sizeof(path), "%s%d", c->prefix, device);
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, bytes) || posix_memalign(&p, 4096, *bytes)) {
		perror(path);
		exit(1);
	}
	for (uint64_t at = 0; at < *bytes; at += 1 << 20) {
		uint64_t n = *bytes - at < 1 << 20 ? *bytes - at : 1 << 20;

		if (pread(fd, (char *)p + at, n, (off_t)at) != (ssize_t)n) {
			perror(path);
			exit(1);
		}
	}
	close(fd);
	return p;
}

/* Keeps a copy of the leaf, which is frozen now. The device becomes the leaf. */
static inline void freeze_keep(struct stack *c, int device)
{
	struct layer *l = &c->layer[c->layers++];

	l->device = c->leaf;
	l->content = freeze_content(c, c->leaf, &l->bytes);
	c->leaf = device;
}

/* Returns whether no layer has changed. */
static inline int freeze_unchanged(const struct stack *c)
{
	uint64_t bytes;
	int same = 1;

	for (int n = 0; n < c->layers; n++) {
		void *now = freeze_content(c, c->layer[n].device, &bytes);
		uint64_t at = 0;

		while (at < bytes && !memcmp((char *)now + at, (char *)c->layer[n].content + at, SECTOR))
			at += SECTOR;
		if (at < bytes)
			printf("layer %d, %s%d: sector %llu was written after the freeze\n", n + 1, c->prefix,
			       c->layer[n].device, (unsigned long long)(at / SECTOR));
		same &= at >= bytes;
		free(now);
	}
	return same;
}

static inline void freeze_forget(struct stack *c)
{
	while (c->layers)
		free(c->layer[--c->layers].content);
	c->leaf = 0;
}

/* Prints the options that name the layers. */
static inline const char *freeze_options(const struct stack *c)
{
	static char text[FREEZE_LEAVES * 48];
	int n = 0;

	text[0] = 0;
	for (int i = 0; i < c->layers; i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, " --layer %s%d", c->prefix,
			      c->layer[i].device);
	return text;
}

/* Attaches a leaf on the layers; returns the tool's exit code. */
static inline int freeze_attach(const struct stack *c, int leaf)
{
	return freeze_command("ubctl create --id %d --root %s%s --leaf %s%d", FREEZE_ID, c->root,
			      freeze_options(c), c->prefix, leaf);
}

/* Freezes the union's leaf; returns the tool's exit code. The union continues in device `next`. */
static inline int freeze_live(const struct stack *c, int next)
{
	return freeze_command("ubctl freeze unionblk%d --leaf %s%d --force", FREEZE_ID, c->prefix, next);
}

/* Returns a device that is neither the leaf nor a layer; -1: there is none. */
static inline int freeze_blank(const struct stack *c)
{
	for (int n = 0; n < c->devices; n++) {
		int used = n == c->leaf;

		for (int i = 0; i < c->layers; i++)
			used |= c->layer[i].device == n;
		if (!used)
			return n;
	}
	return -1;
}

/* Makes the first device the leaf, blank, on nothing but the root. */
static inline void freeze_begin(struct stack *c)
{
	freeze_forget(c);
	if (freeze_command("ubctl format --force --root %s %s0 --slab-size 16K --journal-size 64K", c->root,
			   c->prefix))
		freeze_die("format");
	if (freeze_attach(c, 0))
		freeze_die("the first attach");
}

/* Records that everything that has completed is durable. */
static inline void freeze_durable(struct load *l)
{
	oracle_flush_end(&l->oracle, oracle_flush_begin(&l->oracle));
}

#endif
