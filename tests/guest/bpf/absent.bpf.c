// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Programs on functions that no kernel has, beside one that is good. */
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

#define NOTHING(section, name, value) SEC(section) int name(void *context) { (void)context; return value; }

NOTHING("fentry/kmatrix_no_such_function", kmatrix_no_such_function, 0)
NOTHING("fexit/kmatrix_no_such_either", second, 0)
NOTHING("fentry/hrtimer_nanosleep", good, 0)

char LICENSE[] SEC("license") = "GPL";
