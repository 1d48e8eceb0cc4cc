/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* tcpconnect: who opens a TCP connection over IPv4, from where to where. The event, and what all variants do alike.
 *
 * The socket is an argument, the result is what the function returns: two registers, which are called differently on x86_64 and arm64. What
 * the socket holds is read at the return, for only then does it have a port of its own.
 */
#ifndef KMATRIX_TCPCONNECT_H
#define KMATRIX_TCPCONNECT_H

#include "../bpf_common/vmlinux_minimal.h"
#include "../bpf_common/helpers.h"
#include "../bpf_common/core_compat.h"

struct connect_event {
	__u32 pid;
	__u32 tgid;
	__u32 uid;
	__s32 ret; /* 0, or minus an errno */
	__be32 saddr;
	__be32 daddr;
	__u16 sport;
	__be16 dport;
	__u16 family;
	__u16 unused; /* the verifier wants every byte that is sent to be initialised */
	char comm[TASK_COMM_LEN];
};

/* From the function's entry to its return: by thread, the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} connecting SEC(".maps");

static __always_inline int remember_socket(struct pt_regs *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u64 sock = get_arg0(ctx);

	bpf_map_update_elem(&connecting, &thread, &sock, BPF_ANY);
	return 0;
}

#ifdef CORE_COMPAT_FALLBACK

/* The head of struct sock_common as it is on 4.14, and as the cells of this collector have found it on every kernel to 6.12, on both arches: what
 * the lookup of a connection compares comes first. No kernel promises that, so this is for kernels that do not tell.
 */
struct sock_common_head {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__u32 skc_hash;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
};

static __always_inline void fill_from_socket(struct connect_event *event, __u64 sock)
{
	struct sock_common_head head = {};

	/* Not probe_read_kernel: that is 5.5. */
	bpf_probe_read(&head, sizeof(head), (void *)sock);
	event->saddr = head.skc_rcv_saddr;
	event->daddr = head.skc_daddr;
	event->sport = head.skc_num;
	event->dport = head.skc_dport;
	event->family = head.skc_family;
}

#else

static __always_inline void fill_from_socket(struct connect_event *event, __u64 sock)
{
	struct sock_common *common = &((struct sock *)sock)->__sk_common;

	event->saddr = BPF_CORE_READ(common, skc_rcv_saddr);
	event->daddr = BPF_CORE_READ(common, skc_daddr);
	event->sport = BPF_CORE_READ(common, skc_num);
	event->dport = BPF_CORE_READ(common, skc_dport);
	event->family = BPF_CORE_READ(common, skc_family);
}

#endif

static __always_inline void fill_event(struct connect_event *event, struct pt_regs *ctx, __u64 thread, __u64 sock)
{
	event->pid = (__u32)thread;
	event->tgid = thread >> 32;
	event->uid = (__u32)bpf_get_current_uid_gid();
	event->ret = (__s32)get_return_value(ctx);
	event->unused = 0;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	fill_from_socket(event, sock);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
