/* One object for kernels with and without ring buffers: the loader does not create the map that the kernel lacks, and CO-RE drops the call. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} perf SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_openat")
int on_openat(struct trace_event_raw_sys_enter *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	const char *path = (const char *)ctx->args[1];
	char start[16];

	if (bpf_probe_read_user_str(start, sizeof(start), path) <= 0)
		return 0;
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ringbuf_reserve)) {
		bpf_ringbuf_output(&ring, &id, sizeof(id), 0);
		return 0;
	}
	bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &id, sizeof(id));
	return 0;
}
