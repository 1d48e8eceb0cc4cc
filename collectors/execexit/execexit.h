/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* execexit: programs that start and processes that end, each with its cgroup. Two kinds of event in one buffer. */
#ifndef KMATRIX_EXECEXIT_H
#define KMATRIX_EXECEXIT_H

#include "../bpf_common/vmlinux_minimal.h"
#include "../bpf_common/helpers.h"
#include "../bpf_common/core_compat.h"
#include "../bpf_common/tracepoints.h"
#include <bpf/bpf_helpers.h>

#define FILENAME_LEN 128

enum process_event_kind {
	PROCESS_EXEC = 1,
	PROCESS_EXIT = 2,
};

struct process_event {
	__u64 cgroup_id; /* 0 where the variant cannot tell, and where cgroup v2 is not in use */
	__u32 kind;
	__u32 pid;
	__u32 tgid;
	__u32 ppid; /* 0 in the variants without BTF */
	__u32 uid;
	__s32 exit_code; /* of an exit, as wait(2) gives it: status << 8 | signal; 0 in the variants without BTF */
	char comm[TASK_COMM_LEN];
	char filename[FILENAME_LEN]; /* of an exec */
};

static __always_inline void fill_event(struct process_event *event, __u32 kind)
{
	__u64 thread = bpf_get_current_pid_tgid();

	event->cgroup_id = cgroup_below_root(safe_cgroup_id_extraction((struct task_struct *)bpf_get_current_task()));
	event->kind = kind;
	event->pid = (__u32)thread;
	event->tgid = thread >> 32;
	event->ppid = 0;
	event->uid = (__u32)bpf_get_current_uid_gid();
	event->exit_code = 0;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	event->filename[0] = 0;
}

/* Where the record of an exec has the program's path. */
static __always_inline const void *exec_filename(const struct sched_process_exec_record *record)
{
	return (const char *)record + (record->filename & 0xffff);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
