// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The smallest collector, and the ways to break it: one event an openat(2), no CO-RE. Compiled by tests/cells/broken.py. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct event {
	__u32 tgid;
	__u32 uid;
};

#ifdef USE_RINGBUF
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");
#else
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");
#endif

#ifdef BREAK_PIN
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, 1); /* LIBBPF_PIN_BY_NAME */
} left_behind SEC(".maps");
#endif

#if defined(USE_LOOP) && defined(USE_RINGBUF)
static long (*loop)(__u32 times, void *callback, void *ctx, __u64 flags) = (void *)181; /* bpf_loop, 5.17 */

static long add_nothing(__u32 index, void *ctx)
{
	(void)index;
	(void)ctx;
	return 0;
}
#endif

#ifdef CALLS_NEXT
int next(void *ctx);

/* Filled by the loader: libbpf loads `enter` only where `next` is loaded too. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *ctx));
} calls SEC(".maps") = { .values = { (void *)&next } };

SEC("tracepoint/syscalls/sys_enter_openat")
int next(void *ctx)
{
	(void)ctx;
	return 0;
}
#endif

SEC("tracepoint/syscalls/sys_enter_openat")
int enter(void *ctx)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct event event = { .tgid = id >> 32, .uid = (__u32)bpf_get_current_uid_gid() };

#ifdef BREAK_SILENT
	return 0;
#endif
#if defined(USE_LOOP) && defined(USE_RINGBUF)
	loop(1, add_nothing, &event, 0);
#endif
#ifdef BREAK_VALUE
	event.uid += 1;
#endif
#if defined(BREAK_LOAD_ON_ARM64) && defined(__TARGET_ARCH_arm64)
	/* A pointer that no verifier lets a program follow. */
	event.uid = *(volatile __u32 *)id;
#endif
#ifdef BREAK_PIN
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&left_behind, &zero);

	if (count)
		*count += 1;
#endif
#ifdef USE_RINGBUF
	bpf_ringbuf_output(&events, &event, sizeof(event), 0);
#else
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
#endif
#ifdef CALLS_NEXT
	bpf_tail_call(ctx, &calls, 0);
#endif
	return 0;
}

#ifdef HOOK_IDLE
SEC("tracepoint/syscalls/sys_enter_swapoff")
int idle(void *ctx)
{
	(void)ctx;
	return 0;
}
#endif

char LICENSE[] SEC("license") = "Dual BSD/GPL";
