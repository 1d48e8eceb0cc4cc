/* LSM: typed arguments, paths, a decision. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define EPERM 1

char LICENSE[] SEC("license") = "GPL";

SEC("lsm/file_open")
int BPF_PROG(restrict_open, struct file *file)
{
	struct dentry *dentry = file->f_path.dentry;
	const unsigned char *name = dentry->d_name.name;
	char start[8] = {};

	if (bpf_probe_read_kernel_str(start, sizeof(start), name) < 0)
		return 0;
	return start[0] == '!' ? -EPERM : 0;
}

SEC("lsm.s/bprm_check_security")
int BPF_PROG(check_exec, struct linux_binprm *bprm)
{
	return bprm->file->f_inode->i_ino == 1 ? -EPERM : 0;
}
