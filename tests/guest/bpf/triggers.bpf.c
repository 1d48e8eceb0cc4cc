// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What the triggers do, as programs at tracepoints, kprobes and uprobes see it: all in one form of record. Loads on 4.14. */
#define CORE_COMPAT_FALLBACK
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

enum kind { ENTER = 1, EXIT, ENDED, SIGNALLED, NEW_TASK, MODULE, BLOCK, FAULT, WAITED, CALLED, RETURNED, WRITTEN, READ, LATE };

struct event {
	__u32 kind;
	__u32 pid;
	__u32 tgid;
	__u32 uid;
	__u64 id;
	__u64 args[6];
	char comm[16];
	char first[320];
	char second[320];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

/* A record is too big for the stack. */
struct {
	__uint(type, 6); /* BPF_MAP_TYPE_PERCPU_ARRAY */
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct event);
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} left SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} woken SEC(".maps");

/* Whether a thread is one of the triggers' (kmatrix-…), and not the agent (kmatrix-init). */
static __always_inline int ours(const char *comm)
{
	if (comm[8] == 'i')
		return 0;
	return comm[0] == 'k' && comm[1] == 'm' && comm[2] == 'a' && comm[3] == 't' && comm[4] == 'r' && comm[5] == 'i' && comm[6] == 'x';
}

/* A record of the current thread, where it is one of the triggers'. */
static __always_inline struct event *begin(__u32 kind)
{
	__u32 zero = 0;
	__u64 both = bpf_get_current_pid_tgid();
	struct event *event = bpf_map_lookup_elem(&scratch, &zero);

	if (!event)
		return 0;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	event->kind = kind;
	event->pid = both;
	event->tgid = both >> 32;
	event->uid = bpf_get_current_uid_gid();
	event->id = 0;
	__builtin_memset(event->args, 0, sizeof(event->args));
	event->first[0] = event->second[0] = 0;
	return event;
}

static __always_inline int send(void *context, struct event *event)
{
	bpf_perf_event_output(context, &events, BPF_F_CURRENT_CPU, event, sizeof(*event));
	return 0;
}

struct syscall {
	__u64 common;
	long id;
	unsigned long args[6]; /* of sys_exit: the result */
};

SEC("tracepoint/raw_syscalls/sys_enter")
int on_enter(struct syscall *record)
{
	struct event *event = begin(ENTER);

	if (!event || !ours(event->comm))
		return 0;
	event->id = record->id;
#pragma unroll
	for (int i = 0; i < 6; i++)
		event->args[i] = record->args[i];
	bpf_probe_read_str(event->first, sizeof(event->first), (void *)record->args[0]);
	bpf_probe_read_str(event->second, sizeof(event->second), (void *)record->args[1]);
	return send(record, event);
}

SEC("tracepoint/raw_syscalls/sys_exit")
int on_exit(struct syscall *record)
{
	struct event *event = begin(EXIT);

	if (!event || !ours(event->comm))
		return 0;
	event->id = record->id;
	event->args[0] = record->args[0];
	return send(record, event);
}

struct new_task {
	__u64 common;
	__u32 pid;
	char comm[16];
	unsigned long flags;
};

SEC("tracepoint/task/task_newtask")
int on_new_task(struct new_task *record)
{
	struct event *event = begin(NEW_TASK);

	if (!event || !ours(event->comm))
		return 0;
	event->args[0] = record->pid;
	event->args[1] = record->flags;
	return send(record, event);
}

SEC("kprobe/do_exit")
int on_end(struct pt_regs *regs)
{
	struct event *event = begin(ENDED);

	if (!event || !ours(event->comm))
		return 0;
	event->args[0] = PT_REGS_PARM1(regs);
	return send(regs, event);
}

struct signal {
	__u64 common;
	int sig;
	int error;
	int code;
	char comm[16];
	__u32 pid;
};

SEC("tracepoint/signal/signal_generate")
int on_signal(struct signal *record)
{
	struct event *event = begin(SIGNALLED);

	if (!event || !ours(event->comm))
		return 0;
	event->args[0] = record->sig;
	event->args[1] = record->pid;
	__builtin_memcpy(event->first, record->comm, 16);
	return send(record, event);
}

struct module {
	__u64 common;
	__u32 taints;
	__u32 name;
};

SEC("tracepoint/module/module_load")
int on_module(struct module *record)
{
	struct event *event = begin(MODULE);

	if (!event || !ours(event->comm))
		return 0;
	bpf_probe_read_str(event->first, 64, (char *)record + (record->name & 0xffff));
	return send(record, event);
}

struct request {
	__u64 common;
	__u32 dev;
	__u64 sector;
	__u32 sectors;
	__u32 bytes;
};

SEC("tracepoint/block/block_rq_issue")
int on_block(struct request *record)
{
	struct event *event = begin(BLOCK);

	if (!event)
		return 0;
	event->args[0] = record->dev;
	event->args[1] = record->sector;
	event->args[2] = record->sectors;
	event->args[3] = record->bytes;
	return send(record, event);
}

SEC("kprobe/handle_mm_fault")
int on_fault(struct pt_regs *regs)
{
	struct event *event = begin(FAULT);

	if (!event || !ours(event->comm) || event->comm[8] != 'p' || event->comm[9] != 'a')
		return 0;
	event->args[0] = PT_REGS_PARM2(regs);
	return send(regs, event);
}

/* kmatrix-off_cpu or kmatrix-run_queue: every process waits now and then. */
static __always_inline int waits(const char *comm)
{
	return ours(comm) && ((comm[8] == 'o' && comm[9] == 'f') || (comm[8] == 'r' && comm[9] == 'u'));
}

struct wakeup {
	__u64 common;
	char comm[16];
	__u32 pid;
};

SEC("tracepoint/sched/sched_wakeup")
int on_wakeup(struct wakeup *record)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 pid = record->pid;

	if (waits(record->comm))
		bpf_map_update_elem(&woken, &pid, &now, BPF_ANY);
	return 0;
}

struct switched {
	__u64 common;
	char prev_comm[16];
	__u32 prev;
	int prev_prio;
	long prev_state;
	char next_comm[16];
	__u32 next;
};

static __always_inline void waited(struct switched *record, void *map, __u32 kind, __u64 now)
{
	__u32 pid = record->next;
	__u64 *since = bpf_map_lookup_elem(map, &pid);
	struct event *event = begin(kind);

	if (!since || !event)
		return;
	event->pid = pid;
	event->args[0] = now - *since;
	event->args[1] = record->prev;
	bpf_map_delete_elem(map, &pid);
	send(record, event);
}

SEC("tracepoint/sched/sched_switch")
int on_switch(struct switched *record)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 prev = record->prev;

	if (waits(record->next_comm)) {
		waited(record, &left, WAITED, now);
		waited(record, &woken, LATE, now);
	}
	if (waits(record->prev_comm))
		bpf_map_update_elem(&left, &prev, &now, BPF_ANY);
	return 0;
}

SEC("uprobe//tmp/kmatrix/kmatrix-victim:kmatrix_victim")
int on_call(struct pt_regs *regs)
{
	struct event *event = begin(CALLED);

	if (!event)
		return 0;
	event->args[0] = (int)PT_REGS_PARM1(regs);
	event->args[1] = PT_REGS_PARM2(regs);
	event->args[2] = PT_REGS_PARM3(regs);
	bpf_probe_read_str(event->first, sizeof(event->first), (void *)PT_REGS_PARM3(regs));
	return send(regs, event);
}

SEC("uretprobe//tmp/kmatrix/kmatrix-victim:kmatrix_victim")
int on_return(struct pt_regs *regs)
{
	struct event *event = begin(RETURNED);

	if (!event)
		return 0;
	event->args[0] = (int)PT_REGS_RC(regs);
	return send(regs, event);
}

SEC("uprobe/libssl.so.3:SSL_write_ex")
int on_tls_write(struct pt_regs *regs)
{
	struct event *event = begin(WRITTEN);

	if (!event)
		return 0;
	event->args[0] = PT_REGS_PARM3(regs);
	bpf_probe_read_str(event->first, sizeof(event->first), (void *)PT_REGS_PARM2(regs));
	return send(regs, event);
}

/* Where the other end's bytes are put: read when the function has returned. */
SEC("uprobe/libssl.so.3:SSL_read_ex")
int on_tls_read(struct pt_regs *regs)
{
	__u32 pid = bpf_get_current_pid_tgid();
	__u64 buffer = PT_REGS_PARM2(regs);

	bpf_map_update_elem(&left, &pid, &buffer, BPF_ANY);
	return 0;
}

SEC("uretprobe/libssl.so.3:SSL_read_ex")
int on_tls_returned(struct pt_regs *regs)
{
	__u32 pid = bpf_get_current_pid_tgid();
	__u64 *buffer = bpf_map_lookup_elem(&left, &pid);
	struct event *event = begin(READ);

	if (!event || !buffer)
		return 0;
	event->args[0] = PT_REGS_RC(regs);
	bpf_probe_read_str(event->first, sizeof(event->first), (void *)*buffer);
	return send(regs, event);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
