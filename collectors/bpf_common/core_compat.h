/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the running kernel can do, decided when the object is loaded, and the cgroup of a task.
 *
 * A feature test is a CO-RE relocation: libbpf replaces it by a constant before the verifier sees the program, and the verifier drops
 * the branch that is never taken. No global variable, no map, nothing to initialise, no race; what stays of a test in every run is the
 * load of a constant, and its jump where both ways meet again. docs/headers.md has each name, docs/overhead.md what it was measured to cost.
 *
 * Three things no test inside a program can do:
 *  - find out whether there is BTF: without it, libbpf refuses every object with a relocation. So what must run there is an object of its
 *    own, compiled with CORE_COMPAT_FALLBACK, in which nothing of this is relocated;
 *  - keep a map from being created: a ring buffer in the object fails on 5.4 whether it is used or not. It is in an object of its own
 *    too, or the loader is told not to create it (bpf_map__set_autocreate);
 *  - tell user space that it does nothing: a program that REQUIRE_CORE_FEATURES ends at once is loaded, attached and silent. Choosing
 *    the right object is the loader's work; this is what keeps a program that was wrongly chosen from doing harm.
 */
#ifndef KMATRIX_CORE_COMPAT_H
#define KMATRIX_CORE_COMPAT_H

#include "vmlinux_minimal.h"
#include "helpers.h"
#include <bpf/bpf_helpers.h>
#ifndef CORE_COMPAT_FALLBACK
#include <bpf/bpf_core_read.h>
#endif

#define CORE_FEAT_BTF (1U << 0)
#define CORE_FEAT_RINGBUF (1U << 1) /* 5.8 */
#define CORE_FEAT_TASK_CGROUPS (1U << 2) /* a task's cgroup can be read: CONFIG_CGROUPS */
#define CORE_FEAT_PROBE_READ_KERNEL (1U << 3) /* bpf_probe_read_kernel, _user: 5.5 (libbpf makes them bpf_probe_read before) */
#define CORE_FEAT_CURRENT_TASK_BTF (1U << 4) /* bpf_get_current_task_btf: 5.11 */
#define CORE_FEAT_TASK_STORAGE (1U << 5) /* 5.11 */
#define CORE_FEAT_ALL ((1U << 6) - 1)

/* g_core_features.has_ringbuf and the rest: an expression, true or false by the time the verifier sees it. Not a variable. */
struct core_features {
	_Bool has_btf;
	_Bool has_ringbuf;
	_Bool has_task_cgroups;
	_Bool has_probe_read_kernel;
	_Bool has_current_task_btf;
	_Bool has_task_storage;
};

#define g_core_features (core_compat_features())

#ifdef CORE_COMPAT_FALLBACK

static __always_inline struct core_features core_compat_features(void)
{
	struct core_features none = {0};

	return none;
}

/* Nothing can be tested without a relocation. A requirement would delete the program on every kernel, so it does not compile. */
#define REQUIRE_CORE_FEATURES(mask)                                                                                                      \
	_Static_assert((mask) == 0, "a fallback variant (CORE_COMPAT_FALLBACK) cannot require a feature: do without it here")

#else

/* The helpers' numbers, flavoured: libbpf drops what follows ___, of the type's name and of the enumerator's. So these go with any
 * vmlinux.h, also an old one that lacks them. Every kernel's BTF has this enum: no search through the modules' BTF for it.
 */
enum bpf_func_id___core_compat {
	BPF_FUNC_probe_read_kernel___core_compat = 113,
	BPF_FUNC_ringbuf_reserve___core_compat = 131,
	BPF_FUNC_task_storage_get___core_compat = 156,
	BPF_FUNC_get_current_task_btf___core_compat = 158,
};

#define KMATRIX_HELPER_EXISTS(name) bpf_core_enum_value_exists(enum bpf_func_id___core_compat, BPF_FUNC_##name##___core_compat)

static __always_inline struct core_features core_compat_features(void)
{
	struct core_features found = {
		/* True wherever the object loads. A relocation nevertheless: an object that asks must not load without BTF. */
		.has_btf = bpf_core_type_exists(struct task_struct),
		.has_ringbuf = KMATRIX_HELPER_EXISTS(ringbuf_reserve),
		.has_task_cgroups = bpf_core_field_exists(((struct task_struct *)0)->cgroups) &&
				    bpf_core_field_exists(((struct css_set *)0)->dfl_cgrp),
		.has_probe_read_kernel = KMATRIX_HELPER_EXISTS(probe_read_kernel),
		.has_current_task_btf = KMATRIX_HELPER_EXISTS(get_current_task_btf),
		.has_task_storage = KMATRIX_HELPER_EXISTS(task_storage_get),
	};

	return found;
}

#undef KMATRIX_HELPER_EXISTS

/* Ends the program with its type's neutral value where the kernel lacks one of the features. After INIT_CORE_COMPAT.
 *
 * An instruction for each test (two for a helper's) is left in the loaded program, and no jump: where a test is true, nothing leads to
 * the refusal, and the verifier drops it with the jump that leads there. For that the refusal is its own end of the program, written in
 * assembly: a `return` would be merged with the others, and then the jump to it stays.
 */
#define REQUIRE_CORE_FEATURES(mask)                                                                                                      \
	do {                                                                                                                             \
		_Static_assert(((mask) & ~CORE_FEAT_ALL) == 0, "an unknown CORE_FEAT_…");                                                \
		KMATRIX_REQUIRE(mask, CORE_FEAT_BTF, has_btf);                                                                           \
		KMATRIX_REQUIRE(mask, CORE_FEAT_RINGBUF, has_ringbuf);                                                                   \
		KMATRIX_REQUIRE(mask, CORE_FEAT_TASK_CGROUPS, has_task_cgroups);                                                         \
		KMATRIX_REQUIRE(mask, CORE_FEAT_PROBE_READ_KERNEL, has_probe_read_kernel);                                               \
		KMATRIX_REQUIRE(mask, CORE_FEAT_CURRENT_TASK_BTF, has_current_task_btf);                                                 \
		KMATRIX_REQUIRE(mask, CORE_FEAT_TASK_STORAGE, has_task_storage);                                                         \
	} while (0)
#define KMATRIX_REQUIRE(mask, feature, has)                                                                                              \
	do {                                                                                                                             \
		if (((mask) & (feature)) && !g_core_features.has) {                                                                      \
			bpf_debug_printk("core_compat: one of the features 0x%x is missing", mask);                                      \
			asm volatile("r0 = %0\n\texit" : : "i"(INIT_CORE_COMPAT_comes_first) : "r0");                                     \
			__builtin_unreachable();                                                                                         \
		}                                                                                                                        \
	} while (0)

#endif

/* INIT_CORE_COMPAT_FOR(type), at the start of a program, says what "do nothing" is for its type; INIT_CORE_COMPAT() is that of tracing
 * programs. It makes no instruction.
 *
 * 0 is right for tracing. Elsewhere it is a verdict: XDP aborts, cgroup hooks deny, a socket filter drops, tc ends the search for
 * a classifier that has more to say.
 */
#define INIT_CORE_COMPAT_FOR(type)                                                                                                       \
	enum {                                                                                                                           \
		INIT_CORE_COMPAT_comes_first = CORE_COMPAT_NEUTRAL_##type                                                                \
	}
#define INIT_CORE_COMPAT() INIT_CORE_COMPAT_FOR(tracing)

#define CORE_COMPAT_NEUTRAL_tracing 0 /* kprobe, tracepoint, raw and BTF tracepoints, fentry, fexit, perf_event */
#define CORE_COMPAT_NEUTRAL_lsm 0 /* as if it were not there: allow */
#define CORE_COMPAT_NEUTRAL_socket_filter (-1) /* the length to keep: all of it */
#define CORE_COMPAT_NEUTRAL_cgroup_skb 1 /* allow; so in all hooks on cgroups */
#define CORE_COMPAT_NEUTRAL_cgroup_sock 1
#define CORE_COMPAT_NEUTRAL_cgroup_sock_addr 1
#define CORE_COMPAT_NEUTRAL_cgroup_device 1
#define CORE_COMPAT_NEUTRAL_cgroup_sysctl 1
#define CORE_COMPAT_NEUTRAL_cgroup_sockopt 1
#define CORE_COMPAT_NEUTRAL_sock_ops 1
#define CORE_COMPAT_NEUTRAL_tc (-1) /* TC_ACT_UNSPEC, TCX_NEXT: as if it were not there (in direct-action mode) */
#define CORE_COMPAT_NEUTRAL_xdp 2 /* XDP_PASS */

/* safe_cgroup_id_extraction(task): the id of the task's cgroup in the v2 hierarchy, as bpf_get_current_cgroup_id() gives it and as the
 * directory's file handle has it (from 5.5 on that is the inode number; before, the inode number with a generation in the upper half).
 * 0 where it cannot be told: no cgroup has that id.
 *
 * Four reads of kernel memory, and up to eight instructions for telling the layouts apart. For the current task bpf_get_current_cgroup_id() (4.18) is cheaper, and needs no BTF.
 *
 * In the fallback variant it is that helper, where the variant says that it is for kernels that have it (CORE_COMPAT_CGROUP_ID_HELPER) and
 * the task is the current one; else 0. Before 4.18 there is no way to tell.
 */
#ifndef CORE_COMPAT_FALLBACK

/* kernfs_node.id is a u64 since 5.5 (67c0496e87d1); before, a union of an inode number and a generation. libbpf takes both for the kernel's
 * kernfs_node, and each is read only where it fits.
 */
struct kernfs_node___since_5_5 {
	__u64 id;
} __attribute__((preserve_access_index));

union kernfs_node_id___before_5_5 {
	struct {
		__u32 ino;
		__u32 generation;
	};
	__u64 id;
} __attribute__((preserve_access_index));

struct kernfs_node___before_5_5 {
	union kernfs_node_id___before_5_5 id;
} __attribute__((preserve_access_index));

static __always_inline __u64 safe_cgroup_id_extraction(struct task_struct *task)
{
	void *node;

	if (!g_core_features.has_task_cgroups)
		return 0;
	/* A NULL on the way ends in a read that fails, and a read that fails gives 0. */
	node = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);
	/* Of the two reads, one is dead code, and its relocation is never looked at. A test for the existence of the union would do as
	 * well, but where vmlinux has no type of a name, libbpf goes through the BTF of every loaded module to look for it.
	 */
	if (bpf_core_field_exists(((struct kernfs_node___before_5_5 *)0)->id.generation))
		return BPF_CORE_READ((struct kernfs_node___before_5_5 *)node, id.id);
	return BPF_CORE_READ((struct kernfs_node___since_5_5 *)node, id);
}

#elif defined(CORE_COMPAT_CGROUP_ID_HELPER)

static __always_inline __u64 safe_cgroup_id_extraction(struct task_struct *task)
{
	return (__u64)task == bpf_get_current_task() ? bpf_get_current_cgroup_id() : 0;
}

#else

static __always_inline __u64 safe_cgroup_id_extraction(struct task_struct *task)
{
	(void)task;
	return 0;
}

#endif

#endif
