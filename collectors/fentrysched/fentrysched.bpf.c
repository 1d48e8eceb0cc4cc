// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* fentrysched: who is placed on a CPU anew by the scheduler because it executes a program, with its cgroup. It has one variant, for
 * kernels with fentry, bpf_get_current_task_btf and the ring buffer; elsewhere it refuses: the kernel does not load it. So nothing is
 * required here by REQUIRE_CORE_FEATURES: on 5.10, which has fentry and lacks the helper, that would load, attach and say nothing.
 *
 * What such a kernel hands to the program are pointers whose types it knows, so structures are read directly here, and the verifier
 * checks each step; a NULL on the way reads as 0. Still relocated: where a member is differs from kernel to kernel.
 */
#include "../bpf_common/vmlinux_minimal.h"
#include "../bpf_common/helpers.h"
#include <bpf/bpf_tracing.h>

struct sched_event {
	__u64 cgroup_id;
	__u32 pid;
	__u32 tgid;
	__u32 ppid;
	__u32 uid;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024); /* a multiple of the page, which is up to 64 KiB on arm64 */
} events SEC(".maps");

SEC("fentry/sched_exec")
int BPF_PROG(at_exec)
{
	struct sched_event *event;
	struct task_struct *task;

	(void)ctx;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	task = bpf_get_current_task_btf();
	event->cgroup_id = cgroup_below_root(task->cgroups->dfl_cgrp->kn->id);
	event->pid = task->pid;
	event->tgid = task->tgid;
	event->ppid = task->real_parent->tgid;
	event->uid = (__u32)bpf_get_current_uid_gid();
	bpf_ringbuf_submit(event, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
