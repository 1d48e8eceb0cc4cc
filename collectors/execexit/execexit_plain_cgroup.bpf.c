// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* execexit, fallback for kernels without BTF from 4.18 on: the cgroup id by the helper. */
#define CORE_COMPAT_CGROUP_ID_HELPER
#include "execexit_plain.h"
