/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* openat: what is opened, by whom, and with what result. The event, and what all variants do alike. */
#ifndef KMATRIX_OPENAT_H
#define KMATRIX_OPENAT_H

#include "../bpf_common/vmlinux_minimal.h"
#include "../bpf_common/helpers.h"
#include "../bpf_common/core_compat.h"
#include "../bpf_common/tracepoints.h"
#include <bpf/bpf_helpers.h>

#define PATH_LEN 256

struct open_event {
	__u32 pid;
	__u32 tgid;
	__u32 ppid; /* 0 in the variant without BTF */
	__u32 uid;
	__s32 flags;
	__s32 ret; /* a file descriptor, or minus an errno */
	char comm[TASK_COMM_LEN];
	char path[PATH_LEN];
};

/* From the system call's entry to its exit. The path is read at the exit: by then the kernel has read it, so its page is there. */
struct open_call {
	__u64 path;
	__s32 flags;
	__u32 unused; /* the verifier wants every byte of a map's value to be initialised */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct open_call);
} calls SEC(".maps");

static __always_inline int remember_call(struct sys_enter_record *record)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct open_call call = { .path = record->args[1], .flags = (__s32)record->args[2] };

	bpf_map_update_elem(&calls, &thread, &call, BPF_ANY);
	return 0;
}

/* Everything of the event but its path and its parent. */
static __always_inline void fill_event(struct open_event *event, const struct open_call *call, __u64 thread, __s64 ret)
{
	event->pid = (__u32)thread;
	event->tgid = thread >> 32;
	event->ppid = 0;
	event->uid = (__u32)bpf_get_current_uid_gid();
	event->flags = call->flags;
	event->ret = (__s32)ret;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
