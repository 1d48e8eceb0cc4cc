/* Raw tracepoints: arguments are numbers, read by BPF_CORE_READ. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

SEC("raw_tp/sched_switch")
int on_switch(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *previous = (void *)ctx->args[1];
	struct task_struct *next = (void *)ctx->args[2];

	if (BPF_CORE_READ(previous, flags) & 0x00200000)
		return 0;
	return BPF_CORE_READ(next, real_parent, pid);
}

SEC("raw_tracepoint/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm *binprm)
{
	const char *path = BPF_CORE_READ(binprm, filename);
	char name[32];

	(void)ctx;
	if (bpf_probe_read_kernel_str(name, sizeof(name), path) < 0)
		return 0;
	return BPF_CORE_READ(task, tgid) == old_pid;
}
