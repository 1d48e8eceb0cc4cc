/* A sampler on perf events, stacks, and a version section, which kernels before 5.0 wanted of kprobes. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#ifndef PERF_MAX_STACK_DEPTH
#define PERF_MAX_STACK_DEPTH 127
#endif

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 1024);
	__uint(key_size, sizeof(u32));
	__uint(value_size, PERF_MAX_STACK_DEPTH * sizeof(u64));
} stacks SEC(".maps");

__u32 _version SEC("version") = 0x00040e00;

SEC("perf_event")
int sample(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct css_set *sets = BPF_CORE_READ(task, cgroups);
	struct cgroup *own = BPF_CORE_READ(sets, dfl_cgrp);

	if (!own)
		return 0;
	return bpf_get_stackid(ctx, &stacks, 0) > 0 && (task ? BPF_CORE_READ(task, mm) : 0) != 0;
}

char LICENSE[] SEC("license") = "GPL";
