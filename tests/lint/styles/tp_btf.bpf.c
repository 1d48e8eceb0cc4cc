/* BTF tracepoints: arguments are typed, and followed directly, over several hops and through a helper function. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, 1);
	__type(key, int);
	__type(value, u64);
} starts SEC(".maps");

static __always_inline int parent_of(struct task_struct *task)
{
	return task->real_parent->tgid;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	u64 *start = bpf_task_storage_get(&starts, child, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (start)
		*start = child->start_time;
	return parent->pid == parent_of(child) ? 0 : parent->group_leader->pid;
}

SEC("tp_btf/task_newtask")
int on_newtask(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];

	return task->pid;
}
