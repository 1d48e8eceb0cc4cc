// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* tcpconnect, partial: CO-RE for the socket, the perf buffer for the events. Needs BTF. */
#define REQUIRED CORE_FEAT_BTF
#include "tcpconnect_perf.h"
