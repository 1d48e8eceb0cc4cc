/* fentry and fexit, and the current task typed by bpf_get_current_task_btf(). */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct { u64 count; char last[16]; });
} seen SEC(".maps");

SEC("fentry/do_unlinkat")
int BPF_PROG(unlink_enter)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct cred *cred = task->cred;

	(void)ctx;
	return task->tgid + cred->uid.val + task->real_parent->pid;
}

SEC("fexit/vfs_open")
int BPF_PROG(open_exit, const struct path *path, struct file *file, int ret)
{
	if (ret || !file->f_inode)
		return 0;
	return (int)path->dentry->d_inode->i_ino;
}
