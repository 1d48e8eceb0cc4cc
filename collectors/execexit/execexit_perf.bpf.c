// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* execexit, partial: CO-RE for parent, exit code and cgroup id, the perf buffer for the events. Needs BTF. */
#include "execexit_core.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("tracepoint/sched/sched_process_exec")
int handle_exec(struct sched_process_exec_record *record)
{
	struct process_event event = {};

	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF);
	fill_event(&event, PROCESS_EXEC);
	fill_from_task(&event);
	bpf_probe_read_kernel_str(event.filename, sizeof(event.filename), exec_filename(record));
	bpf_perf_event_output(record, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}

SEC("tracepoint/sched/sched_process_exit")
int handle_exit(void *record)
{
	struct process_event event = {};

	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF);
	fill_event(&event, PROCESS_EXIT);
	fill_from_task(&event);
	bpf_perf_event_output(record, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}
