// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Forms of one program, placeholders whose target a loader sets, and programs that it may leave out. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

#define NOTHING(section, name) SEC(section) int name(void *ctx) { (void)ctx; return 0; }

NOTHING("fentry/tcp_v4_connect", connect_fentry)
NOTHING("kprobe/tcp_v4_connect", connect_kprobe)
NOTHING("fentry/placeholder", open_fentry)
NOTHING("kprobe/placeholder", open_kprobe)
NOTHING("tracepoint/syscalls/sys_enter_no_such", gone)
NOTHING("?tracepoint/syscalls/sys_enter_openat", optional)
NOTHING("tracepoint/syscalls/sys_enter_openat", always)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
