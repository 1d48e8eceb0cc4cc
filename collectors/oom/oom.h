/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* oom: whom the kernel kills for want of memory, for whom, and under which limit. The event, and what all variants do alike.
 *
 * That somebody is killed, and who, is a tracepoint, which every kernel has. Why, and under which limit, are arguments of a function of the
 * kernel's own: no kernel promises that there is one of that name, so that hook may be missing, and then the event comes without them.
 */
#ifndef KMATRIX_OOM_H
#define KMATRIX_OOM_H

#include "../bpf_common/vmlinux_minimal.h"
#include "../bpf_common/helpers.h"
#include "../bpf_common/core_compat.h"
#include "../bpf_common/tracepoints.h"

#define MESSAGE_LEN 32

struct oom_event {
	__u64 limit_pages; /* of the memory cgroup; 0 in the variant without BTF, and without the kprobe */
	__u32 victim;
	__u32 pid; /* who wanted memory */
	__u32 tgid;
	__u32 uid;
	char comm[TASK_COMM_LEN];
	char message[MESSAGE_LEN]; /* "" without the kprobe */
};

/* From the choice of a victim to its marking, in the same thread. */
struct oom_call {
	__u64 limit_pages;
	char message[MESSAGE_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct oom_call);
} calls SEC(".maps");

/* oom_kill_process(struct oom_control *, const char *message) */
static __always_inline int remember_call(struct pt_regs *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct oom_call call = {};

#ifdef CORE_COMPAT_FALLBACK
	/* Not probe_read_kernel_str: that is 5.5. */
	bpf_probe_read_str(call.message, sizeof(call.message), (void *)get_arg1(ctx));
#else
	bpf_probe_read_kernel_str(call.message, sizeof(call.message), (void *)get_arg1(ctx));
	call.limit_pages = BPF_CORE_READ((struct oom_control *)get_arg0(ctx), totalpages);
#endif
	bpf_map_update_elem(&calls, &thread, &call, BPF_ANY);
	return 0;
}

static __always_inline void fill_event(struct oom_event *event, const struct mark_victim_record *record)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct oom_call none = {}, *call = bpf_map_lookup_elem(&calls, &thread);

	if (!call)
		call = &none;
	event->limit_pages = call->limit_pages;
	event->victim = record->pid;
	event->pid = (__u32)thread;
	event->tgid = thread >> 32;
	event->uid = (__u32)bpf_get_current_uid_gid();
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	__builtin_memcpy(event->message, call->message, sizeof(event->message));
	bpf_map_delete_elem(&calls, &thread);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
