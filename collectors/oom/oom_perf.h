/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The programs of the variants with the perf buffer. */
#ifndef KMATRIX_OOM_PERF_H
#define KMATRIX_OOM_PERF_H

#include "oom.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("tracepoint/oom/mark_victim")
int mark_victim(struct mark_victim_record *record)
{
	struct oom_event event = {};

	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(REQUIRED);
	fill_event(&event, record);
	bpf_perf_event_output(record, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}

SEC("kprobe/oom_kill_process")
int kill_process(struct pt_regs *ctx)
{
	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(REQUIRED);
	return remember_call(ctx);
}

#endif
