// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* CO-RE accesses to what a kernel does not have. lacks.bpf.c says how to read the comments. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

struct task_struct {
	long state;
	int no_such_field;
} __attribute__((preserve_access_index));

struct no_such_struct {
	int a;
} __attribute__((preserve_access_index));

struct sock;

enum hrtimer_mode { HRTIMER_NO_SUCH = 5 };

// < 5.14: ok
// all: btf-field: CO-RE: btf:task_struct.state is not in this kernel, or of another kind; the nearest is __state
SEC("raw_tp/sched_switch")
int renamed(void *ctx)
{
	struct task_struct *t = (void *)bpf_get_current_task();
	long state;

	state = BPF_CORE_READ(t, state); /* here */
	return state == 3;
}

// all: btf-field: CO-RE: btf:task_struct.no_such_field is not in this kernel, or of another kind
SEC("raw_tp/sched_switch")
int field(void *ctx)
{
	struct task_struct *t = (void *)bpf_get_current_task();

	return BPF_CORE_READ(t, no_such_field); /* here */
}

// all: btf-type: CO-RE: btf:struct no_such_struct is not in this kernel
SEC("raw_tp/sched_switch")
int type(void *ctx)
{
	struct no_such_struct *t = (void *)bpf_get_current_task();

	return BPF_CORE_READ(t, a);
}

// all: btf-enum: CO-RE: btf:enum hrtimer_mode has no HRTIMER_NO_SUCH on this kernel
SEC("raw_tp/sched_switch")
int value(void *ctx)
{
	return bpf_core_enum_value(enum hrtimer_mode, HRTIMER_NO_SUCH); /* here */
}

char LICENSE[] SEC("license") = "GPL";
