// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* tcpconnect, full: CO-RE for the socket, the ring buffer for the events. Needs BTF, and 5.8 for the ring buffer. */
#include "tcpconnect.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024); /* a multiple of the page, which is up to 64 KiB on arm64 */
} events SEC(".maps");

SEC("kprobe/tcp_v4_connect")
int enter_connect(struct pt_regs *ctx)
{
	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF | CORE_FEAT_RINGBUF);
	return remember_socket(ctx);
}

SEC("kretprobe/tcp_v4_connect")
int exit_connect(struct pt_regs *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u64 *sock = bpf_map_lookup_elem(&connecting, &thread);
	struct connect_event *event;

	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF | CORE_FEAT_RINGBUF);
	if (!sock)
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (event) {
		fill_event(event, ctx, thread, *sock);
		bpf_ringbuf_submit(event, 0);
	}
	bpf_map_delete_elem(&connecting, &thread);
	return 0;
}
