/* Fields that moved: flavours of the type, and tests where kernels differ. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct task_struct___o {
	volatile long int state;
} __attribute__((preserve_access_index));

static __always_inline long get_task_state(void *t)
{
	struct task_struct *new = t;
	struct task_struct___o *old = t;

	if (bpf_core_field_exists(new->__state))
		return BPF_CORE_READ(new, __state);
	return BPF_CORE_READ(old, state);
}

static __always_inline struct gendisk *get_disk(void *request)
{
	struct request___before_5_17 *old = request;

	if (bpf_core_field_exists(old->rq_disk))
		return BPF_CORE_READ(old, rq_disk);
	return BPF_CORE_READ((struct request *)request, q, disk);
}

SEC("kprobe/blk_mq_start_request")
int BPF_KPROBE(on_request, struct request *request)
{
	struct gendisk *disk = get_disk(request);
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	bool cgroups = bpf_core_field_exists(task->cgroups);

	return disk && cgroups ? BPF_CORE_READ(disk, major) : get_task_state(task);
}
