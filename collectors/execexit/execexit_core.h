/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the variants with BTF read of the task. */
#ifndef KMATRIX_EXECEXIT_CORE_H
#define KMATRIX_EXECEXIT_CORE_H

#include "execexit.h"
#include <bpf/bpf_core_read.h>

static __always_inline void fill_from_task(struct process_event *event)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	event->ppid = BPF_CORE_READ(task, real_parent, tgid);
	event->exit_code = BPF_CORE_READ(task, exit_code);
}

#endif
