/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The marks around what is counted: NOPs with an operand that no compiler
 * makes. A guest program executes them, and the counter in QEMU sees them.
 */
#ifndef BENCH_MARK_H
#define BENCH_MARK_H

#define MARK_BEGIN 0x4e474542
#define MARK_END 0x2e444e45

/* nopl OPERAND(%rax): these three bytes, then the operand. */
#define MARK_NOP 0x0f, 0x1f, 0x80
#define MARK_SIZE 7

#endif
