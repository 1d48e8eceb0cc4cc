// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* execexit, full: CO-RE for parent, exit code and cgroup id, the ring buffer for the events. Needs BTF, and 5.8 for the ring buffer. */
#include "execexit_core.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024); /* a multiple of the page, which is up to 64 KiB on arm64 */
} events SEC(".maps");

SEC("tracepoint/sched/sched_process_exec")
int handle_exec(struct sched_process_exec_record *record)
{
	struct process_event *event;

	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF | CORE_FEAT_RINGBUF);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	fill_event(event, PROCESS_EXEC);
	fill_from_task(event);
	bpf_probe_read_kernel_str(event->filename, sizeof(event->filename), exec_filename(record));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

SEC("tracepoint/sched/sched_process_exit")
int handle_exit(void *record)
{
	struct process_event *event;

	(void)record;
	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF | CORE_FEAT_RINGBUF);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	fill_event(event, PROCESS_EXIT);
	fill_from_task(event);
	bpf_ringbuf_submit(event, 0);
	return 0;
}
