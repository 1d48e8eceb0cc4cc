// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* An iterator over the tasks, global variables, and a raw tracepoint that is run on a context. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

struct seq_file;

struct task {
	int pid;
	int tgid;
	char comm[16];
};

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct task_struct___it {
	int pid;
	int tgid;
	char comm[16];
} __attribute__((preserve_access_index));

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct___it *task;
} __attribute__((preserve_access_index));

__u32 seen;
__u64 last_argument;

SEC("iter/task")
int dump(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct___it *task = ctx->task;
	static const char form[] = "%d %s\n";
	__u64 arguments[2];

	if (!task)
		return 0;
	seen += 1;
	arguments[0] = task->pid;
	arguments[1] = (__u64)task->comm;
	bpf_seq_printf(seq, form, sizeof(form), arguments, sizeof(arguments));
	return 0;
}

SEC("raw_tp/sched_switch")
int on_switch(__u64 *ctx)
{
	if (ctx[0] == 0x4711)
		last_argument = ctx[1];
	return ctx[0] == 0x4711 ? 5 : 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
