// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What a loader sets before it loads, of every kind. The verifier itself checks the constants: a wrong one leaves a bad access in reach. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

enum mode { OFF, FAST = 5, SLOW };

struct limit {
	__u32 least;
	struct {
		__u16 port;
		_Bool on;
	};
	__u32 one_bit : 1;
};

const volatile int target_pid = -1;
const volatile _Bool strict;
const volatile __u64 mask;
const volatile char name[16] = "before";
const volatile enum mode mode;
const volatile __u16 ports[3];
const volatile struct limit limit = {.least = 9};
const volatile __u8 raw[4];
void *const volatile pointer;

int level = 3;
int counter;

extern int CONFIG_KMATRIX_TEST __kconfig __weak;

struct key {
	__u32 a;
	__u32 b;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 0); /* its loader sets it */
	__type(key, struct key);
	__type(value, __u64);
} table SEC(".maps");

struct {
	__uint(type, 6); /* BPF_MAP_TYPE_PERCPU_ARRAY */
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} percpu SEC(".maps");

struct {
	__uint(type, 12); /* BPF_MAP_TYPE_ARRAY_OF_MAPS */
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__uint(value_size, 4);
} outer SEC(".maps");

struct {
	__uint(type, 3); /* BPF_MAP_TYPE_PROG_ARRAY */
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} jumps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

struct event {
	__u32 pid;
	__u32 which;
	__u32 level;
	__u32 counter;
	__u64 entry;
	__u32 share;
	__u32 inner;
};

static __always_inline int constants_are_set(void)
{
	return target_pid == 42 && strict && mask == 0xfffffffffffff000ULL && name[0] == 'b' && name[3] == 'h' && !name[4] &&
	       mode == SLOW && ports[0] == 80 && ports[1] == 443 && limit.least == 9 && limit.port == 8080 && limit.on && raw[1] == 0xab;
}

SEC("tracepoint/syscalls/sys_enter_swapon")
int checked(void *ctx)
{
	(void)ctx;
	if (!constants_are_set())
		return *(volatile int *)0;
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_swapon")
int configured(void *ctx)
{
	(void)ctx;
	if (CONFIG_KMATRIX_TEST != 7)
		return *(volatile int *)0;
	return 0;
}

static __always_inline void tell(void *ctx, __u32 which)
{
	struct event e = {};
	struct key key = {1, 2};
	__u32 one = 1;
	__u64 *entry = bpf_map_lookup_elem(&table, &key);
	__u32 *share = bpf_map_lookup_elem(&percpu, &one);
	void *inner = bpf_map_lookup_elem(&outer, &one);

	e.pid = bpf_get_current_pid_tgid() >> 32;
	e.which = which;
	e.level = level;
	e.counter = counter;
	e.entry = entry ? *entry : 0;
	e.share = share ? *share : 0;
	e.inner = inner ? 1 : 0;
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &e, sizeof(e));
}

SEC("tracepoint/syscalls/sys_enter_openat")
int enter(void *ctx)
{
	tell(ctx, 1);
	bpf_tail_call(ctx, &jumps, 2);
	return 0;
}

SEC("tracepoint")
int called(void *ctx)
{
	tell(ctx, 2);
	return 0;
}

SEC("socket")
int of_another_type(void *ctx)
{
	(void)ctx;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
