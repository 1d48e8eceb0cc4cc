/* Kernel functions give typed pointers. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

extern struct task_struct *bpf_task_from_pid(int pid) __ksym;
extern void bpf_task_release(struct task_struct *task) __ksym;

char LICENSE[] SEC("license") = "GPL";

SEC("tp_btf/task_newtask")
int BPF_PROG(on_new, struct task_struct *task)
{
	struct task_struct *parent = bpf_task_from_pid(task->real_parent->pid);
	int tgid = 0;

	if (!parent)
		return 0;
	tgid = parent->tgid;
	bpf_task_release(parent);
	return tgid;
}
