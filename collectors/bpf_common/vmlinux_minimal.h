/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The kernel's types, as much of them as collectors read, under the kernel's own names, and which arch this is compiled for.
 *
 * Every kernel structure is preserve_access_index: its layout here does not matter, only its name and those of the members that are
 * read, which libbpf looks up in the running kernel's BTF. Nothing from the system's headers is needed beside this.
 *
 * In the fallback variant (CORE_COMPAT_FALLBACK defined before this is included) nothing is relocated, so a layout taken from here
 * would be an invented one: kernel structures are then only declared, and reading a member of one does not compile. What a kernel
 * promises to leave as it is stays complete: pt_regs, __sk_buff, the numbers of bpf(2).
 *
 * Who prefers bpftool's whole vmlinux.h includes it before this header (or compiles with -include vmlinux.h); then nothing that it has
 * is defined here. In a fallback variant that takes -DBPF_NO_PRESERVE_ACCESS_INDEX as well.
 */
#ifndef KMATRIX_VMLINUX_MINIMAL_H
#define KMATRIX_VMLINUX_MINIMAL_H

/* bpf2go and libbpf's bpf_tracing.h know the arch by __TARGET_ARCH_…; a compiler (or an editor) that targets the host by its own. */
#if defined(__TARGET_ARCH_x86) || (defined(__x86_64__) && !defined(__TARGET_ARCH_arm64))
#define ARCH_X86_64 1
#elif defined(__TARGET_ARCH_arm64) || defined(__aarch64__)
#define ARCH_ARM64 1
#endif

#ifdef __VMLINUX_H__

#if defined(CORE_COMPAT_FALLBACK) && !defined(BPF_NO_PRESERVE_ACCESS_INDEX)
#error "a fallback variant has no CO-RE relocation: compile it with -DBPF_NO_PRESERVE_ACCESS_INDEX for vmlinux.h, or with vmlinux_minimal.h alone"
#endif

#else

/* What libbpf's bpf_tracing.h goes by to use the kernel's register names (di, ax) and not those of user space (rdi, rax), of which no
 * kernel's BTF knows. That it also turns away a whole vmlinux.h included later is as well: the two do not go together.
 */
#define __VMLINUX_H__

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u16 __le16;
typedef __u32 __le32;
typedef __u16 __sum16;
typedef __u32 __wsum;
typedef int pid_t;
typedef __u32 uid_t;

/* include/uapi/linux/bpf.h: numbers of the stable interface, the same on every kernel. */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
};

#define BPF_F_CURRENT_CPU 0xffffffffULL

#define TASK_COMM_LEN 16

/* The context of programs on packets, as bpf(2) shows it: not a kernel structure. The verifier rewrites each access to it, by offset. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol; /* in network order */
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
};

struct xdp_md {
	__u32 data;
	__u32 data_end;
};

#if !defined(CORE_COMPAT_FALLBACK) && !defined(BPF_NO_PRESERVE_ACCESS_INDEX)
#define KMATRIX_RELOCATED
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#endif

/* The registers, whole and in their places: the context of kprobes, which is read directly and needs no relocation to be right. */
#if defined(ARCH_X86_64)
struct pt_regs {
	unsigned long r15;
	unsigned long r14;
	unsigned long r13;
	unsigned long r12;
	unsigned long bp;
	unsigned long bx;
	unsigned long r11;
	unsigned long r10;
	unsigned long r9;
	unsigned long r8;
	unsigned long ax;
	unsigned long cx;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
	unsigned long ip;
	unsigned long cs;
	unsigned long flags;
	unsigned long sp;
	unsigned long ss;
};
#elif defined(ARCH_ARM64)
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
	__u64 pstate;
};

struct pt_regs {
	union {
		struct user_pt_regs user_regs;
		struct {
			__u64 regs[31];
			__u64 sp;
			__u64 pc;
			__u64 pstate;
		};
	};
	__u64 orig_x0;
};
#else
struct pt_regs;
#endif

#ifdef CORE_COMPAT_FALLBACK

struct task_struct;
struct sock;
struct oom_control;

#else

struct kernfs_node {
	__u64 id; /* since 5.5; before, see core_compat.h */
};

struct cgroup {
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp; /* the cgroup in the v2 hierarchy; subsys[] are v1's or v2's, as they happen to be mounted */
};

struct task_struct {
	pid_t pid;
	pid_t tgid;
	struct task_struct *real_parent;
	int exit_code;
	struct css_set *cgroups;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num; /* the local port, in host order */
	unsigned short skc_family;
};

struct sock {
	struct sock_common __sk_common;
};

struct oom_control {
	unsigned long totalpages;
	struct task_struct *chosen;
};

#endif

#ifdef KMATRIX_RELOCATED
#undef KMATRIX_RELOCATED
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */

#endif
