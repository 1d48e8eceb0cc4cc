/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A task's cgroup v2 id, by CO-RE: the number that bpf_get_current_cgroup_id() returns, and the file handle of the directory. */
#ifndef KMATRIX_CGROUP_ID_H
#define KMATRIX_CGROUP_ID_H

#include "vmlinux_minimal.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

static __always_inline __u64 task_cgroup_id(struct task_struct *task)
{
	struct kernfs_node *node = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);
	struct kernfs_node___before_5_5 *old = (void *)node;

	/* Decided when the object is loaded: of the two reads, one is dead code, and its relocation is never looked at.
	 * A test for the existence of union kernfs_node_id would do as well, but where vmlinux has no type of a name, libbpf goes through
	 * the BTF of every loaded module to look for it.
	 */
	if (bpf_core_field_exists(old->id.generation))
		return BPF_CORE_READ(old, id.id);
	return BPF_CORE_READ(node, id);
}

#endif
