/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* dns: DNS queries and answers over IPv4, as they pass. All that it reads is the packet, so it has no CO-RE relocation in any variant: only the
 * way to user space differs.
 */
#ifndef KMATRIX_DNS_H
#define KMATRIX_DNS_H

#define CORE_COMPAT_FALLBACK
#include "../bpf_common/vmlinux_minimal.h"
#include "../bpf_common/helpers.h"
#include "../bpf_common/core_compat.h"

#define ETHERNET_HEADER 14
#define ETHERTYPE_IPV4 0x0800
#define PROTOCOL_UDP 17
#define PORT_DNS 53
#define QUESTION_LEN 64 /* a power of two */

/* Everything in network order, as it is in the packet. */
struct dns_event {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__be16 id;
	__be16 flags;
	char question[QUESTION_LEN]; /* length, label, length, label, … 0, and what follows */
};

struct ipv4_header {
	__u8 version_and_length; /* of the header, in words, in the low half */
	__u8 service;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 time_to_live;
	__u8 protocol;
	__sum16 checksum;
	__be32 saddr;
	__be32 daddr;
};

struct udp_header {
	__be16 sport;
	__be16 dport;
	__be16 length;
	__sum16 checksum;
};

struct dns_header {
	__be16 id;
	__be16 flags;
	__be16 counts[4];
};

/* 0 where the packet is a DNS message, and the event then is filled. */
static __always_inline int fill_event(struct dns_event *event, struct __sk_buff *skb)
{
	struct ipv4_header ip;
	struct udp_header udp;
	struct dns_header dns;
	__u32 at = ETHERNET_HEADER, size;

	if (skb->protocol != bpf_htons(ETHERTYPE_IPV4) || bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.protocol != PROTOCOL_UDP)
		return -1;
	at += (ip.version_and_length & 15) * 4;
	if (bpf_skb_load_bytes(skb, at, &udp, sizeof(udp)) || (udp.sport != bpf_htons(PORT_DNS) && udp.dport != bpf_htons(PORT_DNS)))
		return -1;
	at += sizeof(udp);
	if (bpf_skb_load_bytes(skb, at, &dns, sizeof(dns)))
		return -1;
	at += sizeof(dns);
	size = skb->len;
	if (size <= at)
		return -1;
	size = size - at - 1;
	if (size > QUESTION_LEN - 1)
		size = QUESTION_LEN - 1;
	/* From 1 to QUESTION_LEN, in words that the verifier of 4.14 understands too; the compiler, which knows it, would leave the mask out. */
	asm volatile("%0 &= %1" : "+r"(size) : "i"(QUESTION_LEN - 1));
	size += 1;
	if (bpf_skb_load_bytes(skb, at, event->question, size))
		return -1;
	event->saddr = ip.saddr;
	event->daddr = ip.daddr;
	event->sport = udp.sport;
	event->dport = udp.dport;
	event->id = dns.id;
	event->flags = dns.flags;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
