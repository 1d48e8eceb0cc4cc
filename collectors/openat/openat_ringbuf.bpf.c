// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* openat, full: CO-RE for the parent, the ring buffer for the events. Needs BTF, and 5.8 for the ring buffer. */
#include "openat.h"
#include <bpf/bpf_core_read.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024); /* a multiple of the page, which is up to 64 KiB on arm64 */
} events SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_openat")
int enter_openat(struct sys_enter_record *record)
{
	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF | CORE_FEAT_RINGBUF);
	return remember_call(record);
}

SEC("tracepoint/syscalls/sys_exit_openat")
int exit_openat(struct sys_exit_record *record)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct open_call *call = bpf_map_lookup_elem(&calls, &thread);
	struct open_event *event;

	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF | CORE_FEAT_RINGBUF);
	if (!call)
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (event) {
		struct task_struct *task = (void *)bpf_get_current_task();

		fill_event(event, call, thread, record->ret);
		event->ppid = BPF_CORE_READ(task, real_parent, tgid);
		if (bpf_probe_read_user_str(event->path, sizeof(event->path), (void *)call->path) < 0)
			event->path[0] = 0;
		bpf_ringbuf_submit(event, 0);
	}
	bpf_map_delete_elem(&calls, &thread);
	return 0;
}
