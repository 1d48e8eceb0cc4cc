// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* oom, partial: CO-RE for the limit, the perf buffer for the events. Needs BTF. */
#define REQUIRED CORE_FEAT_BTF
#include "oom_perf.h"
