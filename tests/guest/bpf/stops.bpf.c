// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* One program that needs one feature: NEEDS_<feature> says which. Compiled by tests/guest/test_stops.py. */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define TRACEPOINT "tracepoint/syscalls/sys_enter_openat"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#if defined(NEEDS_ringbuf)
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} map SEC(".maps");
#elif defined(NEEDS_task_storage)
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, long);
} map SEC(".maps");
#endif

#if defined(NEEDS_btf)
struct task_struct {
	int pid;
} __attribute__((preserve_access_index));

SEC(TRACEPOINT)
int enter(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, pid);
}
#elif defined(NEEDS_global_data)
int total;

SEC(TRACEPOINT)
int enter(void *ctx)
{
	return ++total;
}
#elif defined(NEEDS_bpf2bpf)
static __attribute__((noinline)) int called(int number)
{
	return number * 3 + bpf_get_smp_processor_id();
}

SEC(TRACEPOINT)
int enter(void *ctx)
{
	return called(bpf_ktime_get_ns()) + called(2);
}
#elif defined(NEEDS_bounded_loops)
SEC(TRACEPOINT)
int enter(void *ctx)
{
	int total = 0;

#pragma clang loop unroll(disable)
	for (int number = 0; number < 100; number++)
		total += bpf_get_smp_processor_id();
	return total;
}
#elif defined(NEEDS_insns_1m)
#define TEN(step) step step step step step step step step step step

SEC(TRACEPOINT)
int enter(void *ctx)
{
	int total = 0;

	TEN(TEN(TEN(total += bpf_get_smp_processor_id(); total += bpf_get_smp_processor_id(); total += bpf_get_smp_processor_id();)))
	return total;
}
#elif defined(NEEDS_cgroup_id_helper)
SEC(TRACEPOINT)
int enter(void *ctx)
{
	return bpf_get_current_cgroup_id();
}
#elif defined(NEEDS_current_task_btf)
SEC(TRACEPOINT)
int enter(void *ctx)
{
	return bpf_get_current_task_btf() != 0;
}
#else
#if defined(NEEDS_raw_tracepoint)
SEC("raw_tp/sched_switch")
#elif defined(NEEDS_lsm)
SEC("lsm/file_open")
#elif defined(NEEDS_fentry)
SEC("fentry/do_exit")
#elif defined(NEEDS_kprobes)
SEC("kprobe/do_exit")
#elif defined(NEEDS_kprobe_multi)
SEC("kprobe.multi/do_exi*")
#elif defined(NEEDS_cgroup_v2)
SEC("cgroup_skb/egress")
#else
SEC(TRACEPOINT)
#endif
int enter(void *ctx)
{
	return 0;
}
#endif
