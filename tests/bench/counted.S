/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A program without a kernel, which QEMU loads as it loads a multiboot kernel:
 * it executes two marked sections, and turns the machine off. The second one runs
 * in the kernel's half of the addresses. counter.sh knows what must be counted.
 */
#include "../../bench/plugin/mark.h"

	.set multiboot, 0x1badb002
	.set high, -0x80000000

	.text
	.balign 4
	.long multiboot, 0, -multiboot

	/* Into long mode, with the first GiB in both halves, in pages of 2 MiB. */
	.code32
	.globl _start
_start:
	movl $third + 3, top
	movl $third + 3, top + 511 * 8
	movl $second + 3, third
	movl $second + 3, third + 510 * 8
	xor %ecx, %ecx
1:	mov %ecx, %eax
	shl $21, %eax
	or $0x83, %eax
	mov %eax, second(, %ecx, 8)
	inc %ecx
	cmp $512, %ecx
	jne 1b
	mov $top, %eax
	mov %eax, %cr3
	mov $0x20, %eax
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	rdmsr
	or $0x100, %eax
	wrmsr
	mov %cr0, %eax
	or $0x80000000, %eax
	mov %eax, %cr0
	lgdt gdtr
	ljmp $8, $low

	.code64
low:
	mov $stack, %esp
	mov $kernel, %eax
	mov $high, %rbx
	or %rax, %rbx
	mov $function, %eax
	mov $high, %r8
	or %rax, %r8

	nopl MARK_BEGIN(%rax)
	mov $1000, %ecx
1:	dec %ecx
	jnz 1b
	nopl MARK_END(%rax)

	nopl MARK_BEGIN(%rax)
	jmp *%rbx
back:	nopl MARK_END(%rax)

	mov $0x604, %dx
	mov $0x2000, %ax
	outw %ax, %dx
1:	hlt
	jmp 1b

	.globl kernel
kernel:
	/* No mark is seen here. */
	nopl MARK_END(%rax)
	mov $7, %ecx
1:	call *%r8
	dec %ecx
	jnz 1b
	mov $back, %eax
	jmp *%rax
function:
	nop
	ret

	.balign 8
gdt:	.quad 0, 0x00209a0000000000
gdtr:	.word 15
	.long gdt

	.bss
	.balign 4096
top:	.skip 4096
third:	.skip 4096
second:	.skip 4096
	.skip 4096
stack:
