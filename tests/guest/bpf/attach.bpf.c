// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Programs of kinds that libbpf does not attach by itself, or that kernels attach and never run: each at the hook that its section names. */
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define NOTHING(section, name, value) SEC(section) int name(void *context) { (void)context; return value; }

NOTHING("tcx/ingress", tcx_in, -1)
NOTHING("tcx/egress", tcx_out, -1)
NOTHING("netkit/primary", kit_primary, -1)
NOTHING("netkit/peer", kit_peer, -1)
NOTHING("tc", clsact, 0)
NOTHING("tc/ingress", clsact_in, 0)
NOTHING("tc/egress", clsact_out, 0)
NOTHING("perf_event", sampled, 0)
NOTHING("lsm/file_open", lsm, 0)
NOTHING("xdp/devmap", in_devmap, 2)
NOTHING("xdp", on_xdp, 2)
NOTHING("sk_lookup", lookup, 1)
NOTHING("flow_dissector", dissect, 0)
NOTHING("netfilter", filter, 1)
NOTHING("sk_reuseport", reuseport, 1)
NOTHING("sk_msg", message, 1)
NOTHING("sk_skb/stream_verdict", verdict, 1)

struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} __attribute__((preserve_access_index));

SEC("iter/task")
int tasks(struct bpf_iter__task *ctx)
{
	static const char line[] = "task\n";

	if (ctx->task)
		bpf_seq_write(ctx->meta->seq, line, sizeof(line) - 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
