// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* execexit, fallback for kernels without BTF from 4.18 on: the cgroup id by the helper. */
#include "execexit_plain.h"

static __always_inline __u64 current_cgroup_id(void)
{
	return bpf_get_current_cgroup_id();
}
