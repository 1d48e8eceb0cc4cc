// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* oom, full: CO-RE for the limit, the ring buffer for the events. Needs BTF, and 5.8 for the ring buffer. */
#include "oom.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024); /* a multiple of the page, which is up to 64 KiB on arm64 */
} events SEC(".maps");

SEC("tracepoint/oom/mark_victim")
int mark_victim(struct mark_victim_record *record)
{
	struct oom_event *event;

	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF | CORE_FEAT_RINGBUF);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	fill_event(event, record);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

SEC("kprobe/oom_kill_process")
int kill_process(struct pt_regs *ctx)
{
	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF | CORE_FEAT_RINGBUF);
	return remember_call(ctx);
}
