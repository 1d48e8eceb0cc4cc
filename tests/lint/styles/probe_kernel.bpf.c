/* Reads by bpf_probe_read_kernel of relocated fields, whole structures, arrays and strings; a pointer as a map's key. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u64);
} by_inode SEC(".maps");

SEC("kprobe/vfs_unlink")
int BPF_KPROBE(on_unlink, struct inode *dir, struct dentry *dentry)
{
	const unsigned char *name ;
	struct qstr entry = {};
	char comm[16], text[32];
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	u64 key = (u64)dir, *count;
	unsigned long number;

	bpf_probe_read_kernel(&entry, sizeof(entry), &dentry->d_name);
	name = entry.name;
	bpf_probe_read_kernel_str(text, sizeof(text), name);
	bpf_probe_read_kernel_str(comm, sizeof(comm), task->comm);
	if (bpf_probe_read_kernel(&number, sizeof(number), &dir->i_ino))
		return 0;
	count = bpf_map_lookup_elem(&by_inode, &key);
	if (count)
		*count += number;
	return BPF_CORE_READ_BITFIELD_PROBED(task, in_iowait) + text[0] + comm[0];
}
