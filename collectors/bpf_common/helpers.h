/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What is read of registers on either arch, byte order, and printing for whoever debugs.
 *
 * Byte order is libbpf's (bpf_ntohs and the rest), included from here, so that it does not matter who includes it first.
 */
#ifndef KMATRIX_HELPERS_H
#define KMATRIX_HELPERS_H

#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

/* get_arg0(ctx) … get_arg5(ctx): the arguments of the function that a kprobe is on; get_return_value(ctx): in a kretprobe, what it returns.
 *
 * A kprobe's ctx is the program's context, not a kernel pointer: it is read directly (one load, checked by the verifier), with and
 * without BTF, under the kernel's register names. Not for other pointers to registers, such as the one that __x64_sys_openat() and
 * __arm64_sys_openat() get: those are read with PT_REGS_PARMn_CORE_SYSCALL of bpf_tracing.h.
 */
#if defined(ARCH_X86_64)
#define KMATRIX_READ_REGISTER(name, x86, arm64)                                                                                          \
	static __always_inline unsigned long name(const struct pt_regs *ctx)                                                             \
	{                                                                                                                                \
		return ctx->x86;                                                                                                         \
	}
#elif defined(ARCH_ARM64)
#define KMATRIX_READ_REGISTER(name, x86, arm64)                                                                                          \
	static __always_inline unsigned long name(const struct pt_regs *ctx)                                                             \
	{                                                                                                                                \
		return ((const struct user_pt_regs *)ctx)->arm64;                                                                        \
	}
#else
/* Programs that read no register need no arch. */
#define KMATRIX_READ_REGISTER(name, x86, arm64)                                                                                          \
	unsigned long name(const struct pt_regs *ctx)                                                                                    \
		__attribute__((unavailable("which register that is depends on the arch: compile with -D__TARGET_ARCH_x86 or -D__TARGET_ARCH_arm64")));
#endif

KMATRIX_READ_REGISTER(get_arg0, di, regs[0])
KMATRIX_READ_REGISTER(get_arg1, si, regs[1])
KMATRIX_READ_REGISTER(get_arg2, dx, regs[2])
KMATRIX_READ_REGISTER(get_arg3, cx, regs[3])
KMATRIX_READ_REGISTER(get_arg4, r8, regs[4])
KMATRIX_READ_REGISTER(get_arg5, r9, regs[5])
KMATRIX_READ_REGISTER(get_return_value, ax, regs[0])

#undef KMATRIX_READ_REGISTER

/* bpf_debug_printk(format, up to three values): a line in the kernel's trace (/sys/kernel/tracing/trace_pipe) in objects compiled with
 * -DBPF_DEBUG, and nothing at all, not an instruction, in others (what it is given is checked all the same). Up to 127 characters.
 *
 * The format stands on the program's stack and not in .rodata, which is a map of its own and takes 5.2. It is written there word by word:
 * for an array that is initialised with a text, clang leaves that text in .rodata.str, although nothing refers to it.
 */
#ifdef BPF_DEBUG
#define KMATRIX_DEBUG 1
#else
#define KMATRIX_DEBUG 0
#endif

#define KMATRIX_BYTE(text, at) ((at) < sizeof(text) ? (__u64)(__u8)(text)[(at) < sizeof(text) ? (at) : 0] << ((at) % 8 * 8) : 0)
#define KMATRIX_WORD(text, at)                                                                                                           \
	(KMATRIX_BYTE(text, at) | KMATRIX_BYTE(text, (at) + 1) | KMATRIX_BYTE(text, (at) + 2) | KMATRIX_BYTE(text, (at) + 3) |           \
	 KMATRIX_BYTE(text, (at) + 4) | KMATRIX_BYTE(text, (at) + 5) | KMATRIX_BYTE(text, (at) + 6) | KMATRIX_BYTE(text, (at) + 7))

#define bpf_debug_printk(format, ...)                                                                                                    \
	do {                                                                                                                             \
		_Static_assert(sizeof(format) <= 128, "too long for the stack of a program");                                            \
		if (KMATRIX_DEBUG) {                                                                                                     \
			volatile __u64 ____format[(sizeof(format) + 7) / 8];                                                             \
                                                                                                                                         \
			_Pragma("unroll") for (__u32 ____i = 0; ____i < sizeof(____format) / 8; ____i++)                                 \
				____format[____i] = KMATRIX_WORD(format, ____i * 8);                                                     \
			bpf_trace_printk((const char *)____format, sizeof(format), ##__VA_ARGS__);                                       \
		}                                                                                                                        \
	} while (0)

/* The root of the v2 hierarchy has the inode number 1. A process in it is in no cgroup that means anything: a kernel thread; or any process at
 * all, where a host has only v1's hierarchies mounted. An id that all share would be taken for one cgroup: it is left out instead.
 */
static __always_inline __u64 cgroup_below_root(__u64 id)
{
	return (__u32)id == 1 ? 0 : id;
}

#endif
