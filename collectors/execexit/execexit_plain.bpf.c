// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* execexit, fallback for kernels before 4.18, which have no bpf_get_current_cgroup_id: the cgroup id is absent, not invented. */
#include "execexit_plain.h"
