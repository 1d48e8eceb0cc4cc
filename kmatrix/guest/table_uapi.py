"""bpf(2) itself, by release: its commands, flags, attribute sizes and kinds of BTF. For simulated kernels.

Sources of the numbers: order of the enums in include/uapi/linux/bpf.h of 4.14, 5.4, 5.15 and 6.1 (identifiers are only ever appended to), the
release of each by the commit that added it. The ends of 4.14 and 5.4 were compared with their headers and on booted 4.14.67 and 5.4.286
(docs/simulated-kernels.md).
"""

from __future__ import annotations

from collections.abc import Mapping

from .fact import Version

# enum bpf_cmd
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD, PROG_ATTACH, PROG_QUERY, RAW_TRACEPOINT_OPEN = 0, 1, 2, 5, 8, 16, 17
BTF_LOAD, BTF_GET_FD_BY_ID, MAP_FREEZE, BTF_GET_NEXT_ID, LINK_CREATE, LINK_GET_FD_BY_ID = 18, 19, 22, 23, 28, 30

# (first number, release): from that number on, up to the next line's, the release that brought them.
COMMANDS: tuple[tuple[int, Version], ...] = (
    (0, (3, 18)),  # maps and programs: 99c55f7d47c0, 09756af46893
    (6, (4, 4)),  # OBJ_PIN, OBJ_GET: b2197755b263
    (8, (4, 10)),  # PROG_ATTACH, PROG_DETACH: f4324551489e
    (10, (4, 12)),  # PROG_TEST_RUN: 1cf1cae963c2
    (11, (4, 13)),  # *_GET_NEXT_ID, *_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD: 34ad5580f8f9, bd5f5f4ecb78, 1e2709769086
    (16, (4, 15)),  # PROG_QUERY: 468e2f64d220
    (17, (4, 17)),  # RAW_TRACEPOINT_OPEN: c4f6699dfcb8
    (18, (4, 18)),  # BTF_LOAD, BTF_GET_FD_BY_ID, TASK_FD_QUERY: 69b693f0aefa, 41bdc4b40ed6
    (21, (4, 20)),  # MAP_LOOKUP_AND_DELETE_ELEM: bd513cd08f10
    (22, (5, 2)),  # MAP_FREEZE: 87df15de441b
    (23, (5, 4)),  # BTF_GET_NEXT_ID: 1b9ed84ecf26
    (24, (5, 6)),  # MAP_*_BATCH: cb4d03ab499d
    (28, (5, 7)),  # LINK_CREATE, LINK_UPDATE: af6eea57437a
    (30, (5, 8)),  # LINK_GET_FD_BY_ID, LINK_GET_NEXT_ID, ENABLE_STATS, ITER_CREATE: 2d602c8cf40d, d46edd671a14, ac51d99bf81c
    (34, (5, 9)),  # LINK_DETACH: 73b11c2ab072
    (35, (5, 10)),  # PROG_BIND_MAP: ef15314aa5de
    (36, (6, 9)),  # TOKEN_CREATE: 35f96de04127
)
COMMAND_COUNT = 37
"""Commands from this number on are not known here, and left to the kernel."""

MAP_FLAGS: tuple[tuple[int, Version], ...] = (
    (0, (4, 6)),  # bit 0, NO_PREALLOC: 6c9059817432
    (1, (4, 10)),  # NO_COMMON_LRU: 29ba732acbee
    (2, (4, 14)),  # NUMA_NODE: 96eabe7a40aa
    (3, (4, 15)),  # RDONLY, WRONLY: 6e71b04a8224
    (5, (4, 17)),  # STACK_BUILD_ID: 615755a77b24
    (6, (5, 0)),  # ZERO_SEED: 96b3b6c9091d
    (7, (5, 2)),  # RDONLY_PROG, WRONLY_PROG: 591fe9888d78
    (9, (5, 4)),  # CLONE: 8f51dfc73bf1
    (10, (5, 5)),  # MMAPABLE: fc9702273e2e
    (11, (5, 10)),  # PRESERVE_ELEMS, INNER_MAP: 792caccc4526, 4a8f87e60f6d
    (13, (6, 4)),  # LINK: 8fb1a76a0f35
    (14, (6, 5)),  # PATH_FD: cb8edce28073
    (15, (6, 9)),  # VTYPE_BTF_OBJ_FD, TOKEN_FD, SEGV_ON_FAULT, NO_USER_CONV: fcc2c1fb0651, a177fc2bf6fd, 317460317a02
    (19, (6, 19)),  # RB_OVERWRITE
)
PROG_FLAGS: tuple[tuple[int, Version], ...] = (
    (0, (4, 12)),  # bit 0, STRICT_ALIGNMENT: e07b98d9bffe
    (1, (4, 20)),  # ANY_ALIGNMENT: e9ee9efc0d17
    (2, (5, 3)),  # TEST_RND_HI32: c240eff63a1c
    (3, (5, 4)),  # TEST_STATE_FREQ: 10d274e880eb
    (4, (5, 10)),  # SLEEPABLE: 1e6c62a88215
    (5, (5, 18)),  # XDP_HAS_FRAGS: c2f2cdbeffda
    (6, (6, 3)),  # XDP_DEV_BOUND_ONLY: 2b3486bc2d23
)

# Bytes of union bpf_attr that a command takes, by release: nonzero bytes after them are EINVAL, after the union E2BIG.
MAP_CREATE_SIZE: tuple[tuple[int, Version], ...] = (
    (20, (3, 19)),  # map_flags (4.6)
    (24, (4, 12)),  # inner_map_fd
    (28, (4, 14)),  # numa_node
    (44, (4, 15)),  # map_name
    (48, (4, 16)),  # map_ifindex
    (60, (4, 18)),  # btf_fd, key and value type
    (64, (5, 6)),  # btf_vmlinux_value_type_id
    (72, (5, 16)),  # map_extra
    (80, (6, 9)),  # value_type_btf_obj_fd, map_token_fd
)
PROG_LOAD_SIZE: tuple[tuple[int, Version], ...] = (
    (44, (3, 19)),  # kern_version (4.1)
    (48, (4, 12)),  # prog_flags
    (64, (4, 15)),  # prog_name
    (68, (4, 16)),  # prog_ifindex
    (72, (4, 17)),  # expected_attach_type
    (92, (4, 20)),  # prog_btf_fd, func_info
    (108, (5, 0)),  # line_info
    (116, (5, 5)),  # attach_btf_id, attach_prog_fd
    (128, (5, 14)),  # fd_array
    (140, (5, 17)),  # core_relos
    (144, (6, 4)),  # log_true_size
    (148, (6, 9)),  # prog_token_fd
)
SMALLEST_UNION = 48
"""bpf_attr's size where PROG_LOAD is not its longest member (test.duration ends there)."""

# BTF kinds from 12 on, and since when BPF_BTF_LOAD takes them.
BTF_KINDS: tuple[tuple[int, Version], ...] = (
    (0, (4, 18)),  # int to restrict: 69b693f0aefa
    (12, (4, 20)),  # function and its prototype: 2667a2626f4d
    (14, (5, 2)),  # variable, data section: 1dc92851849c
    (16, (5, 13)),  # float: b1828f0b0482
    (17, (5, 16)),  # declaration tag: b5ea834dde6b
    (18, (5, 17)),  # type tag: 8c42d2fa4eeb
    (19, (6, 0)),  # 64-bit enum: 6089fb325cf7
)
BTF_LINKAGE_SINCE: Version = (5, 6)
"""Functions say whether they are global (51c39bb1d5d1)."""
BTF_FLAG_SINCE: Version = (5, 0)
"""Structs say that they have bit fields (9d5f9f701b18)."""
BTF_MEMBERS: Mapping[int, tuple[int, int]] = {  # kind → (bytes after each type, bytes for each of its members)
    1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12), 17: (4, 0), 19: (0, 12),
}  # fmt: skip

CHECKED_ATTACH_TYPES: Mapping[int, Version] = {9: (4, 17), 18: (4, 17), 8: (5, 0), 25: (5, 3), 26: (5, 5), 29: (5, 7), 30: (5, 9)}
"""Program types of which the expected attach type is checked at load, and since when; others took any number."""
