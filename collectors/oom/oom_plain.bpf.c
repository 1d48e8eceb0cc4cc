// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* oom, fallback: no relocation, no global data, nothing after 4.14. What the limit is it cannot say. */
#define CORE_COMPAT_FALLBACK
#define REQUIRED 0
#include "oom_perf.h"
