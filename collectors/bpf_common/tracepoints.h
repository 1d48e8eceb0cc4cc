/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The tracepoints' records, as their `format` files give them. That form is what perf hands to the program; it needs no relocation and
 * is the same on x86_64 and arm64 and on every kernel from 4.14 on, so the variants without BTF can use it too.
 */
#ifndef KMATRIX_TRACEPOINTS_H
#define KMATRIX_TRACEPOINTS_H

#include "vmlinux_minimal.h"

/* events/syscalls/sys_enter_NAME */
struct sys_enter_record {
	__u64 common;
	__u64 nr; /* an int and its padding */
	__u64 args[6];
};

/* events/syscalls/sys_exit_NAME */
struct sys_exit_record {
	__u64 common;
	__u64 nr;
	__s64 ret;
};

/* events/sched/sched_process_exec */
struct sched_process_exec_record {
	__u64 common;
	__u32 filename; /* __data_loc: the low half is the string's offset from the start of the record */
	pid_t pid;
	pid_t old_pid;
};

/* events/oom/mark_victim. Newer kernels have more after it. */
struct mark_victim_record {
	__u64 common;
	pid_t pid; /* of the victim, which is not who runs */
};

#endif
