// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Small collectors for what the triggers do, each sound or broken in one way. Compiled by tests/cells/test_watched.py. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
#if defined(FLOOD) && !defined(BREAK)
	__uint(max_entries, 65536);
#else
	__uint(max_entries, 4096);
#endif
} events SEC(".maps");

struct event {
	__u32 tgid;
	__u32 what;
	__u64 number;
	char text[256];
};

static __always_inline int send(__u32 what, __u64 number, const char *text)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return 0;
	event->tgid = bpf_get_current_pid_tgid() >> 32;
	event->what = what;
	event->number = number;
	event->text[0] = 0;
	if (text)
		bpf_probe_read_user_str(event->text, sizeof(event->text), text);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#ifdef SIGNALS
struct signal {
	__u64 common;
	int sig;
	int error;
	int code;
	char comm[16];
	__u32 pid;
};

SEC("tracepoint/signal/signal_generate")
int watch(struct signal *record)
{
#ifdef BREAK
	return send(record->sig, bpf_get_current_pid_tgid() >> 32, 0); /* the one that kills for the one that is killed */
#else
	return send(record->sig, record->pid, 0);
#endif
}
#endif

#ifdef NAMES
struct enter {
	__u64 common;
	__u64 nr;
	const char *old;
	const char *new;
};

#ifdef BREAK
SEC("tracepoint/syscalls/sys_enter_renameat2") /* which rename(2) does not pass */
#else
SEC("tracepoint/syscalls/sys_enter_rename")
#endif
int watch(struct enter *record)
{
	return send(0, 0, record->new);
}
#endif

#ifdef BLOCKS
struct request {
	__u64 common;
	__u32 dev;
	__u64 sector;
	__u32 sectors;
	__u32 bytes;
};

SEC("tracepoint/block/block_rq_issue")
int watch(struct request *record)
{
#ifdef BREAK
	return send(record->dev, record->sector >> 3, 0); /* pages for sectors */
#else
	return send(record->dev, record->sector, 0);
#endif
}
#endif

#ifdef FLOOD
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} dropped SEC(".maps");

struct big {
	struct event event;
#ifdef BREAK
	char more[2400]; /* no two of them have room in 4096 bytes */
#endif
};

SEC("tracepoint/syscalls/sys_enter_openat")
int watch(void *record)
{
	struct big *big;
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&dropped, &zero);

	(void)record;
	if ((__u32)bpf_get_current_uid_gid() != 4201) /* the triggers' user */
		return 0;
	big = bpf_ringbuf_reserve(&events, sizeof(*big), 0);
	if (!big) {
		if (count)
			*count += 1;
		return 0;
	}
	big->event.tgid = bpf_get_current_pid_tgid() >> 32;
	bpf_ringbuf_submit(big, 0);
	return 0;
}
#endif

char LICENSE[] SEC("license") = "Dual BSD/GPL";
