/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The programs of the variants without BTF: no relocation, no global data, nothing after 4.14 but the helper that tells the cgroup, where the
 * variant says that it is for kernels that have it. Parent and exit code they cannot tell.
 */
#ifndef KMATRIX_EXECEXIT_PLAIN_H
#define KMATRIX_EXECEXIT_PLAIN_H

#define CORE_COMPAT_FALLBACK
#include "execexit.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("tracepoint/sched/sched_process_exec")
int handle_exec(struct sched_process_exec_record *record)
{
	struct process_event event = {};

	fill_event(&event, PROCESS_EXEC);
	/* Not probe_read_kernel_str: that is 5.5. */
	bpf_probe_read_str(event.filename, sizeof(event.filename), exec_filename(record));
	bpf_perf_event_output(record, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}

SEC("tracepoint/sched/sched_process_exit")
int handle_exit(void *record)
{
	struct process_event event = {};

	fill_event(&event, PROCESS_EXIT);
	bpf_perf_event_output(record, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}

#endif
