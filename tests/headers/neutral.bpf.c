// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Programs on the network that would drop everything, if it were not for a requirement that 5.4 does not meet. */
#include "vmlinux_minimal.h"
#include "helpers.h"
#include "core_compat.h"

#ifdef NEUTRAL_AS_IN_THE_STANDARD /* 0 for all */
#undef INIT_CORE_COMPAT_FOR
#define INIT_CORE_COMPAT_FOR(type) INIT_CORE_COMPAT_AS(tracing)
#define INIT_CORE_COMPAT_AS(type)                                                                                                        \
	enum {                                                                                                                           \
		INIT_CORE_COMPAT_comes_first = CORE_COMPAT_NEUTRAL_##type                                                                \
	}
#endif

#define DROPPING(section, name, type, drop)                                                                                              \
	SEC(section) int name(void *packet)                                                                                              \
	{                                                                                                                                \
		(void)packet;                                                                                                            \
		INIT_CORE_COMPAT_FOR(type);                                                                                              \
		REQUIRE_CORE_FEATURES(CORE_FEAT_RINGBUF);                                                                                \
		return drop;                                                                                                             \
	}

DROPPING("socket", on_socket, socket_filter, 0)
DROPPING("cgroup_skb/egress", on_cgroup, cgroup_skb, 0)
DROPPING("xdp", on_xdp, xdp, 1)
DROPPING("tc", on_tc, tc, 2)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
