// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Where a trigger's process is, by the kernel's own structures: its pid in its own namespace, its namespaces, its cgroup. From 5.5 on. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct upid {
	int nr;
};
struct pid {
	unsigned int level;
	struct upid numbers[1];
};
struct ns_common {
	unsigned int inum;
};
struct net {
	struct ns_common ns;
};
struct uts_namespace {
	struct ns_common ns;
};
struct pid_namespace {
	struct ns_common ns;
};
struct nsproxy {
	struct net *net_ns;
	struct uts_namespace *uts_ns;
	struct pid_namespace *pid_ns_for_children;
};
struct task_struct___where {
	struct pid *thread_pid;
	struct nsproxy *nsproxy;
};
#pragma clang attribute pop

struct event {
	__u32 tgid;
	__u32 ns_pid;
	__u32 pid_ns;
	__u32 net_ns;
	__u32 uts_ns;
	__u32 padding;
	__u64 cgroup;
	__u64 parent;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

static __always_inline int tell(void *record, int ancestor)
{
	struct task_struct___where *task = (void *)bpf_get_current_task();
	struct event event = {};
	char comm[16];
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	unsigned int level = BPF_CORE_READ(pid, level);
	void *numbers = (void *)pid + bpf_core_field_offset(struct pid, numbers);

	bpf_get_current_comm(comm, sizeof(comm));
	if (comm[0] != 'k' || comm[7] != '-' || comm[8] != 'c' || comm[9] != 'r')
		return 0;
	event.tgid = bpf_get_current_pid_tgid() >> 32;
	bpf_probe_read_kernel(&event.ns_pid, sizeof(event.ns_pid), numbers + level * bpf_core_type_size(struct upid));
	event.pid_ns = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, ns.inum);
	event.net_ns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	event.uts_ns = BPF_CORE_READ(task, nsproxy, uts_ns, ns.inum);
	event.cgroup = bpf_get_current_cgroup_id();
	if (ancestor)
		event.parent = bpf_get_current_ancestor_cgroup_id(1);
	bpf_perf_event_output(record, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_openat")
int where(void *record)
{
	return tell(record, 0);
}

/* Tracing programs may ask for a cgroup above their own later than 5.10, and by 5.15. */
SEC("tracepoint/syscalls/sys_exit_openat")
int below_what(void *record)
{
	return tell(record, 1);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
