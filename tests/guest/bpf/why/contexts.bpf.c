// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Reads of contexts, and hooks of another arch, that kernels do not have. lacks.bpf.c says how to read the comments. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

// < 5.7: context: context field __sk_buff.gso_size, since 5.7
SEC("tc")
int segments(struct __sk_buff *skb)
{
	return skb->gso_size > 1; /* here */
}

// < 5.16: context: context field __sk_buff.hwtstamp, since 5.16
SEC("tc")
int stamp(struct __sk_buff *skb)
{
	return skb->hwtstamp > 1; /* here */
}

// < 5.18: context: context field __sk_buff.tstamp_type, since 5.18
SEC("tc")
int kind_of_stamp(struct __sk_buff *skb)
{
	return skb->tstamp_type; /* here */
}

// all: context: __sk_buff.tc_classid is not for programs of type socket_filter
SEC("socket")
int class_of(struct __sk_buff *skb)
{
	return skb->tc_classid > 1; /* here */
}

// < 5.10: context: context field bpf_sock_ops.skb_len, since 5.10
SEC("sockops")
int length(struct bpf_sock_ops *ops)
{
	return ops->skb_len > 1; /* here */
}

// < 5.8: context: context field xdp_md.egress_ifindex, since 5.8
// all: context: xdp_md.egress_ifindex is not for programs of type xdp
SEC("xdp")
int egress(struct xdp_md *xdp)
{
	return xdp->egress_ifindex > 1; /* here */
}

struct record {
	__u64 common[40];
};

// all: context: the program reads beyond (byte 240) the record of tracepoint sched/sched_process_exec
SEC("tracepoint/sched/sched_process_exec")
int beyond(struct record *record)
{
	if (record->common[1] == 7)
		return 1;
	return record->common[30] == 3; /* here */
}

// all: symbol: symbol __riscv_sys_openat: this kernel has no such function
SEC("kprobe/__riscv_sys_openat")
int no_arch(void *ctx)
{
	return 0;
}

// all: symbol: symbol sys_openat: this kernel has no such function; the nearest is __
SEC("kprobe/sys_openat")
int bare_call(void *ctx)
{
	return 0;
}

__attribute__((noinline)) void says(int number)
{
	bpf_printk("%d", number);
}

// < 5.5: ok
// all: global-function: global function says() does not return a number
SEC("kprobe/do_exit")
int calls(void *ctx)
{
	says(3);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
