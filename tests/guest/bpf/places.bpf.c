// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Programs whose place the guest has to have: a library's function, a route, a filter, another program. */
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

#define NOTHING(section, name, value) SEC(section) int name(void *context) { (void)context; return value; }

NOTHING("uprobe", bare, 0)
NOTHING("uprobe/libc.so.6:getpid", in_libc, 0)
NOTHING("uretprobe/libc.so.6:getpid", from_libc, 0)
NOTHING("uprobe//opt/agent:main", absent, 0)
NOTHING("lwt_in", tunnel_in, 0)
NOTHING("lwt_out", tunnel_out, 0)
NOTHING("lwt_xmit", tunnel_xmit, 0)
NOTHING("lwt_seg6local", segment, 0)
NOTHING("action", acts, 0)
NOTHING("syscall", run, 7)
NOTHING("raw_tp.w/bpf_test_finish", writable, 0)
NOTHING("xdp", on_xdp, 2)
NOTHING("cgroup/sysctl", on_sysctl, 1)
NOTHING("lirc_mode2", infrared, 0)

__attribute__((noinline)) int replaced(struct __sk_buff *skb)
{
	asm volatile("" : "+r"(skb));
	return skb ? 1 : 0;
}

SEC("tc")
int target(struct __sk_buff *skb)
{
	return replaced(skb);
}

SEC("freplace/replaced")
int replacement(struct __sk_buff *skb)
{
	asm volatile("" : "+r"(skb));
	return 2;
}

SEC("freplace/of_another_object")
int without_target(struct __sk_buff *skb)
{
	asm volatile("" : "+r"(skb));
	return 2;
}

char LICENSE[] SEC("license") = "GPL";
