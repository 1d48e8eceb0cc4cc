// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* One event an openat(2), by fentry: which arm64 has only from 6.4 on. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct event {
	__u32 tgid;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

SEC("fentry/do_sys_openat2")
int enter(void *ctx)
{
	struct event event = { .tgid = bpf_get_current_pid_tgid() >> 32 };

	(void)ctx;
	bpf_ringbuf_output(&events, &event, sizeof(event), 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
