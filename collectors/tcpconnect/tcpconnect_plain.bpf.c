// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* tcpconnect, fallback: the socket by offsets, no relocation, no global data, nothing after 4.14. */
#define CORE_COMPAT_FALLBACK
#define REQUIRED 0
#include "tcpconnect_perf.h"
