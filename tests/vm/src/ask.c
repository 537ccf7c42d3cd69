// SPDX-License-Identifier: GPL-2.0
/*
 * Asks for the state of all unions again and again, by STATUS, LOST and sysfs,
 * until it is killed. The answer of another call must hold although one of these
 * is under way.
 *   ask JOBS    forks, and never ends by itself
 */
#define _GNU_SOURCE
#include <glob.h>
#include <signal.h>
#include <sys/prctl.h>

#include "control.h"

static void read_sysfs(void)
{
	char value[4096];
	glob_t files;
	size_t n;

	if (glob("/sys/block/unionblk*/union/*", 0, NULL, &files))
		return;
	for (n = 0; n < files.gl_pathc; n++) {
		int fd = open(files.gl_pathv[n], O_RDONLY);

		/* The union may be gone by now. */
		if (fd < 0)
			continue;
		if (read(fd, value, sizeof(value)) < 0)
			value[0] = 0;
		close(fd);
	}
	globfree(&files);
}

static void ask(void)
{
	struct unionblk_status s = { .size = sizeof(s), .flags = UNIONBLK_STATUS_NEXT };

	while (!ioctl(control_file(), UNIONBLK_IOC_STATUS, &s)) {
		struct unionblk_lost l = { .size = sizeof(l), .id = s.id };

		ioctl(control_file(), UNIONBLK_IOC_LOST, &l);
		s.id++;
		s.flags = UNIONBLK_STATUS_NEXT;
	}
}

int main(int argc, char **argv)
{
	int n, jobs = argc > 1 ? atoi(argv[1]) : 0;
	unsigned int turn = 0;

	if (jobs < 1) {
		fprintf(stderr, "ask JOBS\n");
		return 2;
	}
	for (n = 1; n < jobs; n++) {
		if (fork())
			continue;
		/* All of them end with the first. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		break;
	}
	for (;;) {
		ask();
		if (turn++ % 16 == 0)
			read_sysfs();
	}
}
