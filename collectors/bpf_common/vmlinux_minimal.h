/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The kernel's types, as much of them as the collectors read, under the kernel's own names.
 *
 * Every kernel structure is preserve_access_index: its layout here does not matter, only its name and those of the members that are
 * read, which libbpf looks up in the running kernel's BTF. Nothing from the system's headers is needed beside this.
 */
#ifndef KMATRIX_VMLINUX_MINIMAL_H
#define KMATRIX_VMLINUX_MINIMAL_H

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

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#endif

/* kernfs_node.id is a u64 since 5.5 (67c0496e87d1); before, a union of an inode number and a generation. The suffix after ___ is
 * dropped when libbpf looks the type up: both flavours mean the kernel's kernfs_node, and each is read only where it fits.
 */
struct kernfs_node {
	__u64 id;
};

union kernfs_node_id {
	struct {
		__u32 ino;
		__u32 generation;
	};
	__u64 id;
};

struct kernfs_node___before_5_5 {
	union kernfs_node_id id;
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

struct trace_entry {
	unsigned short type;
	unsigned char flags;
	unsigned char preempt_count;
	int pid;
};

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif
