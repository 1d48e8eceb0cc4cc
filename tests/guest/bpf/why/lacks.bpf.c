// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Programs that use what older kernels do not have, or not there. Above each stands which kernels refuse it, and for what cause:
 * "< 5.11" or "all", the class, the cause. The first line that fits the kernel is it; where none does, the program loads and attaches.
 * The line of source that has to be named is the one that is marked by "here".
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct task_struct;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} next SEC(".maps");

// < 5.11: helper: helper bpf_get_current_task_btf, since 5.11
SEC("tracepoint/sched/sched_process_exec")
int task(void *ctx)
{
	struct task_struct *found;

	found = bpf_get_current_task_btf(); /* here */
	return found != 0;
}

// < 5.17: helper: helper bpf_strncmp, since 5.17
SEC("tracepoint/sched/sched_process_exec")
int compare(void *ctx)
{
	char name[16] = {};

	bpf_get_current_comm(name, sizeof(name));
	return bpf_strncmp(name, sizeof(name), "kmatrix") == 0; /* here */
}

// all: helper-type: helper bpf_get_stack is not for programs of type xdp on this kernel
SEC("xdp")
int stack(struct xdp_md *ctx)
{
	char addresses[64];

	return bpf_get_stack(ctx, addresses, sizeof(addresses), 0) > 3; /* here */
}

// < 5.10: helper: helper bpf_copy_from_user, since 5.10
// all: sleepable: helper bpf_copy_from_user may sleep, and the program may not
SEC("kprobe/do_nanosleep")
int from_user(void *ctx)
{
	char bytes[8] = {};

	return bpf_copy_from_user(bytes, sizeof(bytes), (void *)8) == 3; /* here */
}

// < 5.12: instruction: instruction atomic_fetch (an atomic operation whose old value is used), since 5.12
SEC("tracepoint/sched/sched_process_exec")
int number(void *ctx)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&next, &zero);

	if (!n)
		return 0;
	return __sync_fetch_and_add(n, 1) == 7; /* here */
}

static long each(void *map, __u32 *key, __u64 *value, void *ctx)
{
	*value += 1;
	return 0;
}

// < 5.13: callback: a reference to a function (a callback, as bpf_loop and bpf_for_each_map_elem take it), since 5.13
SEC("tracepoint/sched/sched_process_exec")
int callback(void *ctx)
{
	bpf_for_each_map_elem(&next, each, 0, 0); /* here */
	return 0;
}

// < 6.6: attach-type: attach type tcx_ingress, since 6.6
SEC("tcx/ingress")
int tcx(struct __sk_buff *skb)
{
	return -1;
}

// < 6.4: program-type: program type netfilter, since 6.4
SEC("netfilter")
int filter(void *ctx)
{
	return 1;
}

// < 5.14: program-type: program type syscall, since 5.14
SEC("syscall")
int called(void *ctx)
{
	return 0;
}

// < 5.18: flag: XDP programs for packets in several buffers (xdp.frags), since 5.18
SEC("xdp.frags")
int buffers(struct xdp_md *ctx)
{
	return XDP_PASS;
}

// all: symbol: symbol kmatrix_has_no_such_function: this kernel has no such function
SEC("kprobe/kmatrix_has_no_such_function")
int gone(void *ctx)
{
	return 0;
}

// all: symbol: symbol tcp_v4_connekt: this kernel has no such function, nor has a module that is loaded; the nearest in spelling is tcp_v4_connect
SEC("kprobe/tcp_v4_connekt")
int misspelt(void *ctx)
{
	return 0;
}

// all: symbol: symbol notifier_call_chain: this kernel has the function, and it may not be probed
SEC("kprobe/notifier_call_chain")
int forbidden(void *ctx)
{
	return 0;
}

// all: tracepoint: tracepoint sched/sched_no_such is not in this kernel
SEC("tracepoint/sched/sched_no_such")
int no_tracepoint(void *ctx)
{
	return 0;
}

// all: file: /usr/bin/python3 has no function kmatrix_no_such
SEC("uprobe//usr/bin/python3:kmatrix_no_such")
int no_function(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
