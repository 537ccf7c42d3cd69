// SPDX-License-Identifier: GPL-2.0
/*
 * Marks fio's measured sections, from within fio (LD_PRELOAD). fio runs the
 * commands exec_prerun and exec_postrun by system(), right before and after the
 * I/O of a section. The marks lie behind the first command and before the
 * second, so neither is counted, nor is the start of any process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mark.h"

#define MARK(operand) __asm__ volatile("nopl %c0(%%rax)" : : "i"(operand) : "memory")

/*
 * Has malloc() write to what it allocates: else the first read into each page of
 * fio's buffers would count a page fault.
 */
__attribute__((constructor)) static void touch_at_allocation(void)
{
	mallopt(M_PERTURB, 1);
}

int system(const char *command)
{
	int (*next)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "system");
	int status;

	if (!next) {
		fputs("mark: the C library has no system()\n", stderr);
		abort();
	}
	/* fio appends "> SECTION.prerun.txt" or "> SECTION.postrun.txt". */
	if (command && strstr(command, ".postrun.txt"))
		MARK(MARK_END);
	status = next(command);
	if (command && strstr(command, ".prerun.txt"))
		MARK(MARK_BEGIN);
	return status;
}
