// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A record with all that a struct can hold, out of a ring or perf buffer. Compiled by tests/sinks/test_records.py. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum kind {
	KIND_OPEN = 7,
	KIND_CLOSE = 8,
};

struct id {
	__u32 pid;
	__u32 tgid;
};

struct event {
	__u64 ticks;
	struct id id;
	__u32 flag : 1;
	__u32 level : 5;
	__s32 down : 4;
	enum kind kind;
	union {
		__u32 v4;
		__u8 v6[16];
	} addr;
	__be16 port;
	__u16 marks[3];
	char comm[16];
#ifdef WIDER_ON_ARM64
#ifdef __TARGET_ARCH_arm64
	__u32 gap;
#endif
#endif
	__u32 uid;
};

const struct event *unused_event __attribute__((unused));

struct other {
	__u32 pid;
	__u32 mark;
};

struct text {
	__u32 pid;
	__u32 length;
	char words[];
};

const struct other *unused_other __attribute__((unused));
const struct text *unused_text __attribute__((unused));

#ifdef USE_RINGBUF
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");
#define SEND(record, size) bpf_ringbuf_output(&events, record, size, 0)
#else
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");
#define SEND(record, size) bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, record, size)
#endif

#ifndef SENT
#define SENT sizeof(struct event)
#endif

SEC("tracepoint/syscalls/sys_enter_openat")
int enter(void *ctx)
{
	struct {
		struct event event;
		__u64 more;
	} whole = {};
	struct event *event = &whole.event;
	__u64 id = bpf_get_current_pid_tgid();

	event->ticks = 0x1122334455667788ULL;
	event->id.pid = (__u32)id;
	event->id.tgid = id >> 32;
	event->flag = 1;
	event->level = 21;
	event->down = -3;
	event->kind = KIND_OPEN;
	event->addr.v4 = 0x0100007f;
	event->port = __builtin_bswap16(443);
	event->marks[1] = 11;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	event->uid = (__u32)bpf_get_current_uid_gid();
	SEND(&whole, SENT);

#ifdef SEND_OTHERS
	struct other other = { .pid = (__u32)id, .mark = 99 };
	struct {
		__u32 pid;
		__u32 length;
		char words[13];
	} text = { .pid = (__u32)id, .length = 6, .words = "hello" };

	SEND(&other, sizeof(other));
	SEND(&text, 8 + 13);
#endif
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
