// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What a collector may watch of the network, one event for each: for the triggers on the network. Loads on 4.14.
 *
 * BREAK_PID, BREAK_PORTS and BREAK_SILENT are mistakes that collectors make, and that a trigger has to bring to light.
 */
#define CORE_COMPAT_FALLBACK
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include "helpers.h"
#include "tracepoints.h"
#include <bpf/bpf_helpers.h>

enum what { SOCKET = 1, CALL, PATH, BYTES, PACKET, INGRESS, EGRESS };

struct event {
	__u32 what;
	__u32 pid;
	__u32 tgid;
	__s32 ret;
	__u32 len;
	__u16 family;
	__u16 state;
	__u16 sport;
	__be16 dport;
	__u32 ifindex;
	__u8 saddr[16];
	__u8 daddr[16];
	char comm[TASK_COMM_LEN];
	char text[48];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

/* From a function's entry to its return: by thread, the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} sockets SEC(".maps");

/* The head of struct sock_common: from 4.14 to 6.12 the same on both arches, with CONFIG_NET_NS and CONFIG_IPV6. */
struct sock_common_head {
	__be32 daddr;
	__be32 rcv_saddr;
	__u32 hash;
	__be16 dport;
	__u16 num;
	__u16 family;
	__u8 state;
	__u8 unused[37];
	__u8 v6_daddr[16];
	__u8 v6_rcv_saddr[16];
};
_Static_assert(__builtin_offsetof(struct sock_common_head, v6_daddr) == 56, "behind skc_prot and skc_net");

#define AF_INET6 10

static __always_inline void tell(void *ctx, struct event *event)
{
#ifdef BREAK_SILENT
	return;
#endif
#ifdef BREAK_PORTS
	__u16 sport = event->sport;

	event->sport = __builtin_bswap16(event->dport);
	event->dport = __builtin_bswap16(sport);
#endif
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, event, sizeof(*event));
}

static __always_inline void name(struct event *event)
{
	__u64 id = bpf_get_current_pid_tgid();

	event->pid = (__u32)id;
	event->tgid = id >> 32;
#ifdef BREAK_PID
	event->pid = event->tgid;
#endif
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

static __always_inline int on_socket(void *ctx, __u64 sock, __u32 len, int ret)
{
	struct event event = { .what = SOCKET, .len = len, .ret = ret };
	struct sock_common_head head = {};

	if (!sock)
		return 0;
	name(&event);
	bpf_probe_read(&head, sizeof(head), (void *)sock);
	event.family = head.family;
	event.state = head.state;
	event.sport = head.num;
	event.dport = head.dport;
	if (head.family == AF_INET6) {
		__builtin_memcpy(event.saddr, head.v6_rcv_saddr, 16);
		__builtin_memcpy(event.daddr, head.v6_daddr, 16);
	} else {
		__builtin_memcpy(event.saddr, &head.rcv_saddr, 4);
		__builtin_memcpy(event.daddr, &head.daddr, 4);
	}
	tell(ctx, &event);
	return 0;
}

/* The function's first argument is the socket; and of some, another is a number of bytes. */
#define ON_ENTRY(function, bytes)                                                                                                       \
	SEC("kprobe/" #function) int function(struct pt_regs *ctx)                                                                       \
	{                                                                                                                                \
		return on_socket(ctx, get_arg0(ctx), bytes, 0);                                                                          \
	}
/* The same with what it returns: the socket is only then complete. */
#define ON_RETURN(function)                                                                                                              \
	SEC("kprobe/" #function) int enter_##function(struct pt_regs *ctx)                                                               \
	{                                                                                                                                \
		__u64 thread = bpf_get_current_pid_tgid(), sock = get_arg0(ctx);                                                         \
		bpf_map_update_elem(&sockets, &thread, &sock, BPF_ANY);                                                                  \
		return 0;                                                                                                                \
	}                                                                                                                                \
	SEC("kretprobe/" #function) int exit_##function(struct pt_regs *ctx)                                                             \
	{                                                                                                                                \
		__u64 thread = bpf_get_current_pid_tgid(), *sock = bpf_map_lookup_elem(&sockets, &thread);                               \
		return on_socket(ctx, sock ? *sock : 0, 0, (int)get_return_value(ctx));                                                  \
	}

ON_RETURN(tcp_v4_connect)
ON_RETURN(tcp_v6_connect)
ON_RETURN(inet_csk_listen_start)
ON_ENTRY(tcp_close, 0)
ON_ENTRY(tcp_sendmsg, (__u32)get_arg2(ctx))
ON_ENTRY(tcp_cleanup_rbuf, (__u32)get_arg1(ctx))
ON_ENTRY(tcp_retransmit_skb, 0)
ON_ENTRY(tcp_send_active_reset, 0)
ON_ENTRY(tcp_reset, 0)
ON_ENTRY(udp_sendmsg, (__u32)get_arg2(ctx))
ON_ENTRY(udpv6_sendmsg, (__u32)get_arg2(ctx))
ON_ENTRY(skb_consume_udp, (__u32)get_arg2(ctx))

SEC("kretprobe/inet_csk_accept")
int inet_csk_accept(struct pt_regs *ctx)
{
	return on_socket(ctx, get_return_value(ctx), 0, 0);
}

/* A system call's result. */
#define ON_CALL(call)                                                                                                                    \
	SEC("tracepoint/syscalls/sys_exit_" #call) int call(struct sys_exit_record *ctx)                                                 \
	{                                                                                                                                \
		struct event event = { .what = CALL, .ret = ctx->ret };                                                                  \
		name(&event);                                                                                                            \
		tell(ctx, &event);                                                                                                       \
		return 0;                                                                                                                \
	}

ON_CALL(accept4)
ON_CALL(connect)
ON_CALL(listen)
ON_CALL(sendto)
ON_CALL(recvfrom)

/* events/sock/inet_sock_set_state (4.16), as far as it is the same to 6.12; `len` is the state before. */
struct set_state_record {
	__u64 common;
	__u64 sock;
	__s32 before;
	__s32 after;
	__u16 sport;
	__u16 dport;
	__u16 family;
};

SEC("tracepoint/sock/inet_sock_set_state")
int state(struct set_state_record *ctx)
{
	struct event event = { .what = SOCKET, .len = ctx->before, .state = ctx->after, .family = ctx->family };

	name(&event);
	event.sport = ctx->sport;
	event.dport = __builtin_bswap16(ctx->dport);
	tell(ctx, &event);
	return 0;
}

/* events/tcp/tcp_retransmit_skb (with the state: 4.17). */
struct retransmit_record {
	__u64 common;
	__u64 skb;
	__u64 sock;
	__s32 state;
	__u16 sport;
	__u16 dport;
};

SEC("tracepoint/tcp/tcp_retransmit_skb")
int retransmit(struct retransmit_record *ctx)
{
	struct event event = { .what = SOCKET, .state = ctx->state, .sport = ctx->sport, .dport = __builtin_bswap16(ctx->dport) };

	tell(ctx, &event);
	return 0;
}

/* events/tcp/tcp_receive_reset (4.15). */
struct reset_record {
	__u64 common;
	__u64 sock;
	__u16 sport;
	__u16 dport;
};

SEC("tracepoint/tcp/tcp_receive_reset")
int reset(struct reset_record *ctx)
{
	struct event event = { .what = SOCKET, .sport = ctx->sport, .dport = __builtin_bswap16(ctx->dport) };

	tell(ctx, &event);
	return 0;
}

/* struct sockaddr_un, copied into the kernel already: the path is behind the family. */
static __always_inline int on_path(void *ctx, __u64 address, __u32 len)
{
	struct event event = { .what = PATH, .len = len };

	name(&event);
	bpf_probe_read(&event.family, sizeof(event.family), (void *)address);
	bpf_probe_read_str(event.text, sizeof(event.text), (void *)(address + 2));
	tell(ctx, &event);
	return 0;
}

SEC("kprobe/unix_stream_connect")
int unix_stream_connect(struct pt_regs *ctx)
{
	return on_path(ctx, get_arg1(ctx), 0);
}

SEC("kprobe/unix_dgram_sendmsg")
int unix_dgram_sendmsg(struct pt_regs *ctx)
{
	__u64 address = 0;

	bpf_probe_read(&address, sizeof(address), (void *)get_arg1(ctx)); /* msg_name, the first of struct msghdr */
	return on_path(ctx, address, (__u32)get_arg2(ctx));
}

/* The bytes that a process sends. */
SEC("tracepoint/syscalls/sys_enter_sendto")
int bytes(struct sys_enter_record *ctx)
{
	struct event event = { .what = BYTES, .len = ctx->args[2] };

	name(&event);
	bpf_probe_read(event.text, sizeof(event.text), (void *)ctx->args[1]);
	tell(ctx, &event);
	return 0;
}

/* A UDP datagram in an Ethernet frame: what of it is at fixed places. */
struct udp_header {
	__be16 source;
	__be16 dest;
	__be16 len;
	__be16 check;
};

static __always_inline int parse(struct event *event, void *data, void *end)
{
	__u8 *frame = data;
	struct udp_header *udp;

	if ((void *)(frame + 14 + 20 + sizeof(*udp) + 32) > end)
		return 0;
	if (frame[12] == 0x08 && frame[13] == 0x00 && frame[14 + 9] == 17) {
		event->family = 2;
		__builtin_memcpy(event->saddr, frame + 14 + 12, 4);
		__builtin_memcpy(event->daddr, frame + 14 + 16, 4);
		udp = (void *)(frame + 14 + 20);
	} else if (frame[12] == 0x86 && frame[13] == 0xdd && frame[14 + 6] == 17) {
		if ((void *)(frame + 14 + 40 + sizeof(*udp) + 32) > end)
			return 0;
		event->family = AF_INET6;
		__builtin_memcpy(event->saddr, frame + 14 + 8, 16);
		__builtin_memcpy(event->daddr, frame + 14 + 24, 16);
		udp = (void *)(frame + 14 + 40);
	} else {
		return 0;
	}
	event->sport = __builtin_bswap16(udp->source);
	event->dport = udp->dest;
	event->len = __builtin_bswap16(udp->len) - sizeof(*udp);
	if ((void *)(udp + 1) + 40 > end)
		__builtin_memcpy(event->text, udp + 1, 32);
	else
		__builtin_memcpy(event->text, udp + 1, 40);
	return 1;
}

SEC("xdp")
int on_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(__u64)ctx->data, *end = (void *)(__u64)ctx->data_end;
	struct event event = { .what = PACKET };

	if (parse(&event, data, end)) {
		event.ret = end - data;
		tell(ctx, &event);
	}
	return 2; /* XDP_PASS */
}

#define ON_TC(name, section, number)                                                                                                     \
	SEC(section) int name(struct __sk_buff *ctx)                                                                                     \
	{                                                                                                                                \
		struct event event = { .what = number, .ifindex = ctx->ifindex };                                                        \
		if (parse(&event, (void *)(__u64)ctx->data, (void *)(__u64)ctx->data_end)) {                                             \
			event.ret = ctx->len;                                                                                            \
			tell(ctx, &event);                                                                                               \
		}                                                                                                                        \
		return -1; /* TC_ACT_UNSPEC, TCX_NEXT */                                                                                 \
	}

ON_TC(on_ingress, "classifier/ingress", INGRESS)
ON_TC(on_egress, "classifier/egress", EGRESS)
ON_TC(on_tcx_ingress, "tcx/ingress", INGRESS)
ON_TC(on_tcx_egress, "tcx/egress", EGRESS)

char LICENSE[] SEC("license") = "GPL";
