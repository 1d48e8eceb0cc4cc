/* A congestion control: struct_ops, typed arguments, tcp_sock by cast. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

static struct tcp_sock *tcp_sk(const struct sock *sk)
{
	return (struct tcp_sock *)sk;
}

SEC("struct_ops/sample_ssthresh")
u32 BPF_PROG(sample_ssthresh, struct sock *sk)
{
	return tcp_sk(sk)->snd_cwnd > 2 ? tcp_sk(sk)->snd_cwnd / 2 : 2;
}

SEC("struct_ops/sample_undo_cwnd")
u32 BPF_PROG(sample_undo_cwnd, struct sock *sk)
{
	return tcp_sk(sk)->snd_cwnd;
}

SEC(".struct_ops")
struct tcp_congestion_ops sample = {
	.ssthresh = (void *)sample_ssthresh,
	.undo_cwnd = (void *)sample_undo_cwnd,
	.name = "bpf_sample",
};
