// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
// Who opens files. Compiled three times: RINGBUF (5.8), PERF (4.18), and neither (4.14: no cgroup id). No CO-RE: it reads no kernel structs.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct event {
	__u64 cgroup_id; /* 0 where the kernel cannot say */
	__u32 pid;
	__u32 tgid;
	__u32 uid;
	char comm[16];
	__u32 _unused;
};

/* Each has a name of its own: that is how one is told from another in the kernel. */
#if defined(RINGBUF)
#define PROGRAM open_ringbuf
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");
#else
#ifdef PERF
#define PROGRAM open_perf
#else
#define PROGRAM open_plain
#endif
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");
#endif

SEC("tracepoint/syscalls/sys_enter_openat")
int PROGRAM(void *ctx)
{
	struct event e = {};
	__u64 id = bpf_get_current_pid_tgid();

	e.pid = id;
	e.tgid = id >> 32;
	e.uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(&e.comm, sizeof(e.comm));
#if defined(RINGBUF) || defined(PERF)
	e.cgroup_id = bpf_get_current_cgroup_id();
#endif
#ifdef RINGBUF
	(void)ctx;
	bpf_ringbuf_output(&events, &e, sizeof(e), 0);
#else
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &e, sizeof(e));
#endif
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
