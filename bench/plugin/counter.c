// SPDX-License-Identifier: GPL-2.0
/*
 * A plugin of QEMU that counts each instruction that an emulated processor
 * executes between two marks (mark.h), by its address.
 *
 *	qemu-system-x86_64 ... -plugin counter.so,out=FILE
 *
 * FILE gets a paragraph for each such section, in their order:
 *
 *	section NUMBER
 *	ADDRESS COUNT [indirect]	of the kernel; "indirect" is a branch whose
 *					target is in a register or in memory
 *	user COUNT			of all programs together
 *
 * One processor is counted. Counters are added to by the translated code itself,
 * for each instruction and not for each block, because an exception ends a block
 * early.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mark.h"
#include "qemu.h"

EXPORT int qemu_plugin_version = INTERFACE_VERSION;

/*
 * A hash table of addresses, whose places are the counters' places. A boot and
 * a benchmark execute some 300,000 different instructions of the kernel. Place 0
 * belongs to user space.
 */
#ifndef PLACE_BITS
#define PLACE_BITS 21
#endif
#define PLACES (1u << PLACE_BITS)
#define USER 0

static struct qemu_plugin_scoreboard *score;
static uint64_t addresses[PLACES];
static bool indirect[PLACES];
static unsigned int taken;
static FILE *out;
static unsigned int sections;
static bool counting;

static void die(const char *why)
{
	fprintf(stderr, "counter: %s\n", why);
	exit(1);
}

static unsigned int place_of(uint64_t address)
{
	unsigned int place = address * 0x9e3779b97f4a7c15 >> (64 - PLACE_BITS);

	/* The kernel's half of the addresses. */
	if (!(address >> 63))
		return USER;
	for (;; place = (place + 1) % PLACES) {
		if (place == USER)
			continue;
		if (addresses[place] == address)
			return place;
		if (!addresses[place])
			break;
	}
	if (++taken > PLACES / 4 * 3)
		die("too many different instructions: make PLACE_BITS larger");
	addresses[place] = address;
	return place;
}

static uint64_t *counts(void)
{
	return qemu_plugin_scoreboard_find(score, 0);
}

static void begin(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	if (counting)
		die("a section begins in another one");
	counting = true;
	memset(counts(), 0, sizeof(uint64_t) * PLACES);
}

static void end(unsigned int vcpu, void *data)
{
	const uint64_t *count = counts();

	(void)vcpu;
	(void)data;
	if (!counting)
		die("a section ends that did not begin");
	counting = false;
	fprintf(out, "section %u\n", ++sections);
	for (unsigned int i = 0; i < PLACES; i++) {
		if (i != USER && count[i])
			fprintf(out, "%llx %llu%s\n", (unsigned long long)addresses[i],
				(unsigned long long)count[i], indirect[i] ? " indirect" : "");
	}
	fprintf(out, "user %llu\n", (unsigned long long)count[USER]);
	if (fflush(out))
		die("cannot write the counts");
}

/* Calls and jumps through a register or memory are FF /2 to FF /5, behind prefixes. */
static bool is_indirect(const uint8_t *code, size_t size)
{
	size_t i = 0;

	while (i < size && (code[i] == 0x2e || code[i] == 0x3e || code[i] == 0xf2 || code[i] >> 4 == 4))
		i++;
	return i + 1 < size && code[i] == 0xff && (code[i + 1] >> 3 & 7) >= 2 && (code[i + 1] >> 3 & 7) <= 5;
}

/* Returns the operand of a mark, or 0. */
static uint32_t mark_of(const uint8_t *code, size_t size)
{
	static const uint8_t nop[] = { MARK_NOP };
	uint32_t operand;

	if (size != MARK_SIZE || memcmp(code, nop, sizeof(nop)))
		return 0;
	memcpy(&operand, code + sizeof(nop), sizeof(operand));
	return operand;
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb);

	(void)id;
	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		unsigned int place = place_of(qemu_plugin_insn_vaddr(insn));
		qemu_plugin_u64 counter = { score, place * sizeof(uint64_t) };
		uint8_t code[16];
		size_t size = qemu_plugin_insn_data(insn, code, sizeof(code));
		uint32_t mark = place == USER ? mark_of(code, size) : 0;

		/* The kernel patches itself, so the latest translation counts. */
		indirect[place] = is_indirect(code, size);
		if (mark == MARK_BEGIN)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, begin, QEMU_PLUGIN_CB_NO_REGS, NULL);
		if (mark == MARK_END)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, end, QEMU_PLUGIN_CB_NO_REGS, NULL);
		qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, QEMU_PLUGIN_INLINE_ADD_U64, counter, 1);
	}
}

static void finish(qemu_plugin_id_t id, void *data)
{
	(void)id;
	(void)data;
	if (counting)
		fputs("counter: the last section did not end\n", stderr);
	fclose(out);
}

int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info, int argc, char **argv)
{
	(void)info;
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fputs("counter: wants the argument out=FILE\n", stderr);
		return 1;
	}
	out = fopen(argv[0] + 4, "w");
	if (!out) {
		perror(argv[0] + 4);
		return 1;
	}
	score = qemu_plugin_scoreboard_new(sizeof(uint64_t) * PLACES);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	qemu_plugin_register_atexit_cb(id, finish, NULL);
	return 0;
}
