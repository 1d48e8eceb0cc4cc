"""What bpf(2) answered in older kernels: tables of what came when, and the answers that follow. Pure: nothing here asks a kernel.

`Past` is a kernel that never was: the one at hand without some features, or as of an older release. Given the bytes of a request, it
says which errno the older kernel would have returned, in the order in which that kernel's checks stand (kernel/bpf/syscall.c,
kernel/bpf/verifier.c), or 0 where it would have gone on, so that the kernel at hand may decide.

Sources of the numbers: order of the enums in include/uapi/linux/bpf.h of 4.14, 5.4, 5.15 and 6.1 (identifiers are only ever appended), the
release of each by the commit that added it, as listed in bcc's docs/kernel-versions.md and docs.ebpf.io; the ends of 4.14 and 5.4 were
compared with their headers and on booted 4.14.67 and 5.4.286 (docs/simulated-kernels.md).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Version = tuple[int, int]
Read = Callable[[int, int], bytes]
"""(address, size) → the bytes at that address of the process that asks; OSError where there is nothing."""

EPERM, ENOENT, E2BIG, EINVAL = 1, 2, 7, 22
NEVER: Version = (999, 0)

# enum bpf_cmd
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD, PROG_ATTACH, PROG_QUERY, RAW_TRACEPOINT_OPEN = 0, 1, 2, 5, 8, 16, 17
BTF_LOAD, BTF_GET_FD_BY_ID, MAP_FREEZE, BTF_GET_NEXT_ID, LINK_CREATE = 18, 19, 22, 23, 28

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

MAP_TYPES: tuple[tuple[int, Version], ...] = (
    (0, (3, 19)),  # hash, array: 0f8e4bd8a1fc, 28fbcfa08d8e
    (3, (4, 2)),  # prog array: 04fd61ab36ec
    (4, (4, 3)),  # perf event array: ea317b267e9d
    (5, (4, 6)),  # per-CPU hash and array, stack trace: 824bd0ce6c7c, a10423b87a7e, d5a3b1f69186
    (8, (4, 8)),  # cgroup array: 4ed8ec521ed5
    (9, (4, 10)),  # LRU: 29ba732acbee
    (11, (4, 11)),  # LPM trie: b95a5c4db09b
    (12, (4, 12)),  # array of maps, hash of maps: 56f668dfe00d
    (14, (4, 14)),  # devmap, sockmap: 546ac1ffb70d, 174a79ff9515
    (16, (4, 15)),  # cpumap: 6710e1126934
    (17, (4, 18)),  # xskmap, sockhash: fbfc504a24f5, 81110384441a
    (19, (4, 19)),  # cgroup storage, reuseport sockarray: de9cbbaadba5, 5dc4c4b7d4e8
    (21, (4, 20)),  # per-CPU cgroup storage, queue, stack: b741f1630346, f1a2e44a3aec
    (24, (5, 2)),  # socket storage: 6ac99e8f23d4
    (25, (5, 4)),  # devmap hash: 6f9d451ab1a3
    (26, (5, 6)),  # struct ops: 85d33df357b6
    (27, (5, 8)),  # ring buffer: 457f44363a88
    (28, (5, 10)),  # inode storage: 8ea636848aca
    (29, (5, 11)),  # task storage: 4cf1bc1f1045
    (30, (5, 16)),  # bloom filter: 9330986c0300
    (31, (6, 1)),  # user ring buffer: 583c1f420173
    (32, (6, 2)),  # cgroup storage: c4bcfb38a95e
    (33, (6, 9)),  # arena: 317460317a02
)

PROG_TYPES: tuple[tuple[int, Version], ...] = (
    (0, (3, 19)),  # socket filter: 89aa075832b0
    (2, (4, 1)),  # kprobe, classifier, action: 2541517c32be, e2e9b6541dd4
    (5, (4, 7)),  # tracepoint: 98b5c2c65c29
    (6, (4, 8)),  # XDP: 6a773a15a1e8
    (7, (4, 9)),  # perf event: 0515e5999a46
    (8, (4, 10)),  # cgroup skb and socket, LWT: 0e33661de493, 610236587600, 3a0af8fd61f9
    (13, (4, 13)),  # socket ops: 40304b2a1567
    (14, (4, 14)),  # sk_skb: b005fd189cec
    (15, (4, 15)),  # cgroup device: ebc614f68736
    (16, (4, 17)),  # sk_msg, raw tracepoint, cgroup socket address: 4f738adba30a, c4f6699dfcb8, 4fbac77d2d09
    (19, (4, 18)),  # LWT seg6local, LIRC: 004d4b274e2a, f4364dcfc86d
    (21, (4, 19)),  # sk_reuseport: 2dbb9b9e6df6
    (22, (4, 20)),  # flow dissector: d58e468b1112
    (23, (5, 2)),  # cgroup sysctl, writable raw tracepoint: 7b146cebe30c, 9df1c28bb752
    (25, (5, 3)),  # cgroup sockopt: 0d01da6afc54
    (26, (5, 5)),  # tracing: f1b9509c2fb0
    (27, (5, 6)),  # struct ops, extension: 27ae7997a661, be8704ff07d2
    (29, (5, 7)),  # LSM: fc611f47f218
    (30, (5, 9)),  # sk_lookup: e9ddbb7707ff
    (31, (5, 14)),  # syscall: 79a7f8bdb159
    (32, (6, 4)),  # netfilter: 84601d6ee68a
)

ATTACH_TYPES: tuple[tuple[int, Version], ...] = (
    (0, (4, 10)),  # cgroup ingress, egress, socket creation
    (3, (4, 13)),  # socket ops
    (4, (4, 14)),  # sk_skb parser and verdict
    (6, (4, 15)),  # cgroup device
    (7, (4, 17)),  # sk_msg, bind, connect, post-bind
    (14, (4, 18)),  # UDP sendmsg, LIRC
    (17, (4, 20)),  # flow dissector
    (18, (5, 2)),  # sysctl, UDP recvmsg
    (21, (5, 3)),  # sockopt
    (23, (5, 5)),  # raw tracepoint by BTF, fentry, fexit
    (26, (5, 7)),  # fmod_ret, LSM
    (28, (5, 8)),  # iterators, getpeername, getsockname, XDP on devmap
    (34, (5, 9)),  # socket release, XDP on cpumap, sk_lookup, XDP
    (38, (5, 13)),  # sk_skb verdict alone
    (39, (5, 14)),  # reuseport
    (41, (5, 15)),  # perf event
    (42, (5, 18)),  # kprobe_multi
    (43, (6, 0)),  # LSM of a cgroup
    (44, (6, 3)),  # struct ops
    (45, (6, 4)),  # netfilter
    (46, (6, 6)),  # tcx, uprobe_multi
    (49, (6, 7)),  # Unix sockets of a cgroup, netkit
    (56, (6, 10)),  # kprobe session: 535a3692ba72
)

HELPERS: tuple[tuple[int, Version], ...] = (
    (0, (3, 19)), (4, (4, 1)), (12, (4, 2)), (17, (4, 3)), (23, (4, 4)), (26, (4, 5)), (27, (4, 6)), (31, (4, 8)), (37, (4, 9)),
    (42, (4, 10)), (45, (4, 11)), (46, (4, 12)), (48, (4, 13)), (51, (4, 14)), (54, (4, 15)), (58, (4, 16)), (60, (4, 17)), (65, (4, 18)),
    (81, (4, 19)), (84, (4, 20)), (91, (5, 0)), (93, (5, 1)), (99, (5, 2)), (109, (5, 3)), (111, (5, 5)), (116, (5, 6)), (120, (5, 7)),
    (121, (5, 6)), (122, (5, 7)), (125, (5, 8)), (126, (5, 7)), (130, (5, 8)), (135, (5, 7)), (136, (5, 9)), (142, (5, 10)), (156, (5, 11)),
    (163, (5, 12)), (164, (5, 13)), (166, (5, 14)), (169, (5, 15)), (176, (5, 16)), (180, (5, 17)), (186, (5, 18)), (194, (5, 19)),
    (204, (6, 0)), (208, (6, 1)), (210, (6, 2)), (212, NEVER),
)  # fmt: skip
HELPER_COUNT = 212
"""From here on there are none (kernel functions took over): the kernel at hand refuses them in its own words, libbpf's poison too."""

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
    (14, (6, 7)),  # PATH_FD, VTYPE_OBJ_FD, TOKEN_FD…
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
_BTF_MEMBERS: Mapping[int, tuple[int, int]] = {  # kind → (bytes after each type, bytes for each of its members)
    1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12), 17: (4, 0), 19: (0, 12),
}  # fmt: skip

# src_reg of the two-word load: what its immediate stands for.
PSEUDO_LOADS: Mapping[int, Version] = {
    1: (3, 18),  # MAP_FD
    2: (5, 2),  # MAP_VALUE: d8eca5bbb2be
    3: (5, 10),  # BTF_ID: 4976b718c355
    4: (5, 13),  # FUNC: 69c087ba6225
    5: (5, 14),  # MAP_IDX, MAP_IDX_VALUE: 387544bfa291
    6: (5, 14),
}
# src_reg of a call: what its immediate stands for, a helper (0) apart.
PSEUDO_CALLS: Mapping[int, Version] = {1: (4, 16), 2: (5, 13)}  # cc8b0b92a169 (BPF functions), e6ac2450d6de (kernel functions)

_JMP32 = {code | 0x06 for code in range(0x10, 0xE0, 0x10)} | {code | 0x0E for code in range(0x10, 0xE0, 0x10)}
OPCODES: tuple[tuple[frozenset[int], Version, str], ...] = (
    (frozenset(_JMP32), (5, 1), "unknown insn class 6"),  # 092ed0968bb6
    (frozenset({0x81, 0x89, 0x91}), (6, 6), "BPF_LDX uses reserved fields"),  # 1f9a1ea821ff: sign-extending loads
    (frozenset({0xD7, 0x06}), (6, 6), "unknown opcode"),  # 0845c3db7bf5 (bswap), 4cd58e9af8b9 (32-bit goto)
)
ATOMICS_SINCE: Version = (5, 12)
"""Atomic operations other than adding (5ca419f2864a)."""

MAX_INSNS_OLD = 4096
CHECKED_ATTACH_TYPES: Mapping[int, Version] = {9: (4, 17), 18: (4, 17), 8: (5, 0), 25: (5, 3)}
"""Program types of which the expected attach type is checked at load, and since when; others took any number."""

KPROBE, TRACING = 2, 26


@dataclass(frozen=True)
class Gone:
    """What goes out of sight with a feature that is hidden by name."""

    commands: frozenset[int] = frozenset()
    map_types: frozenset[int] = frozenset()
    prog_types: frozenset[int] = frozenset()
    helpers: frozenset[int] = frozenset()
    map_flags: int = 0
    pseudo_loads: frozenset[int] = frozenset()
    pseudo_calls: frozenset[int] = frozenset()
    links: frozenset[int] = frozenset()
    """Attach types of BPF_LINK_CREATE."""
    masks: tuple[str, ...] = ()
    """Files and folders that are covered."""


def _set(*parts: int | range) -> frozenset[int]:
    return frozenset(n for part in parts for n in ([part] if isinstance(part, int) else part))


TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
BTF_FOLDER = "/sys/kernel/btf"

GONE: Mapping[str, Gone] = {
    "btf": Gone(
        commands=_set(BTF_GET_NEXT_ID),
        prog_types=_set(26, 27, 28, 29),
        map_types=_set(26),
        helpers=_set(156, 157, 158),
        pseudo_loads=_set(3),
        pseudo_calls=_set(2),
        masks=(BTF_FOLDER,),
    ),
    "ringbuf": Gone(map_types=_set(27, 31), helpers=_set(range(130, 135), 198, 199, 200, 209)),
    "perf_buffer": Gone(map_types=_set(4), helpers=_set(22, 25, 55, 111, 121)),
    "global_data": Gone(commands=_set(MAP_FREEZE), map_flags=1 << 7 | 1 << 8, pseudo_loads=_set(2, 6)),
    "prog_names": Gone(),  # nonzero names are E2BIG
    "bpf2bpf": Gone(pseudo_calls=_set(1), pseudo_loads=_set(4)),
    "bounded_loops": Gone(),  # a jump back is EINVAL
    "insns_1m": Gone(),  # more than 4096 instructions are E2BIG
    "raw_tracepoint": Gone(prog_types=_set(17, 24)),
    "lsm": Gone(prog_types=_set(29), links=_set(27, 43)),
    "fentry": Gone(),  # programs of type tracing that expect fentry, fexit or fmod_ret are EINVAL
    "task_storage": Gone(map_types=_set(29), helpers=_set(156, 157)),
    "cgroup_id_helper": Gone(helpers=_set(80)),
    "probe_read_kernel": Gone(helpers=_set(range(112, 116))),
    "current_task_btf": Gone(helpers=_set(158)),
    "kprobes": Gone(masks=(*(f"{root}/kprobe_events" for root in TRACEFS), "/sys/devices/kprobe")),
    "uprobes": Gone(masks=(*(f"{root}/uprobe_events" for root in TRACEFS), "/sys/devices/uprobe")),
    "kprobe_pmu": Gone(masks=("/sys/devices/kprobe", "/sys/devices/uprobe")),
    "kprobe_multi": Gone(links=_set(42, 48, 56)),
    "syscall_tracepoints": Gone(masks=tuple(f"{root}/events/syscalls" for root in TRACEFS)),
    "bpf_link": Gone(commands=_set(28, 29, 30, 31, 33, 34)),
    "perf_link": Gone(links=_set(41)),
    "btf_load": Gone(commands=_set(BTF_LOAD, BTF_GET_FD_BY_ID, BTF_GET_NEXT_ID)),
    "btf_modules": Gone(),  # all of BTF_FOLDER but vmlinux
    "memcg_accounting": Gone(),  # what is over RLIMIT_MEMLOCK is EPERM
}
"""The features that can be hidden. The others are the kernel's own (cgroup file systems, the clsact qdisc): no answer of bpf(2) hides them."""

IMPLIED: Mapping[str, tuple[str, ...]] = {
    "btf": ("fentry", "lsm", "current_task_btf", "btf_modules"),
    "btf_load": ("btf", "fentry", "lsm", "task_storage", "current_task_btf", "btf_modules"),
    "kprobes": ("kprobe_pmu", "kprobe_multi"),
    "bpf_link": ("perf_link", "kprobe_multi"),
}
"""What cannot be there without a feature, and is hidden with it."""


def hidden_with(names: Iterable[str]) -> frozenset[str]:
    """The features, and those that go with them."""
    return frozenset(each for name in names for each in (name, *IMPLIED.get(name, ())))


def since(table: tuple[tuple[int, Version], ...], number: int) -> Version:
    """The release that brought the number."""
    found = NEVER
    for first, release in table:
        if number < first:
            break
        found = release
    return found


def size_at(table: tuple[tuple[int, Version], ...], as_of: Version) -> int:
    """How long a command's attributes were."""
    return max(size for size, release in table if release <= as_of or size == table[0][0])


_NEGATIVE = re.compile(rb"[\x80-\xff]")


class Past:
    """A kernel as it would have been: as of an older release, without some features, or both."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """`spec`: {"as_of": [major, minor] or null, "hidden": [feature…], "release": text or null}."""
        given = spec.get("as_of")
        self.as_of: Version | None = (int(given[0]), int(given[1])) if given else None
        self.hidden = frozenset(spec.get("hidden") or ())
        self.release: str | None = spec.get("release")
        known = [GONE[name] for name in sorted(self.hidden) if name in GONE]
        self._maps = frozenset().union(*(gone.map_types for gone in known))
        self._progs = frozenset().union(*(gone.prog_types for gone in known))
        self._helpers = frozenset().union(*(gone.helpers for gone in known))
        self._loads = frozenset().union(*(gone.pseudo_loads for gone in known))
        self._calls = frozenset().union(*(gone.pseudo_calls for gone in known))
        self._links = frozenset().union(*(gone.links for gone in known))
        self.gone_commands = frozenset().union(*(gone.commands for gone in known))
        self._map_flags = 0
        for gone in known:
            self._map_flags |= gone.map_flags
        self.masks = tuple(dict.fromkeys(path for gone in known for path in gone.masks))
        self._bad_opcodes = {code: words for codes, release, words in OPCODES if self._before(release) for code in codes}

    def _before(self, release: Version) -> bool:
        """Whether what came with `release` is not there yet."""
        return self.as_of is not None and self.as_of < release

    def _lacks(self, table: tuple[tuple[int, Version], ...], number: int) -> bool:
        return self.as_of is not None and self._before(since(table, number))

    # -- the command itself --------------------------------------------------------------------------------------------------

    @cached_property
    def commands(self) -> int:
        """How many commands there are: from this number on, bpf(2) answers EINVAL."""
        return min((first for first, release in COMMANDS if self._before(release)), default=COMMAND_COUNT)

    def command(self, number: int) -> int:
        """What bpf(2) answers to the command whatever its attributes: an errno, or 0."""
        if number >= COMMAND_COUNT:
            return 0
        if number == BTF_GET_NEXT_ID and self.commands > number and "btf_load" not in self.hidden:
            return ENOENT if self.hidden & {"btf", "btf_modules"} else 0  # the end of an empty list
        return EINVAL if number >= self.commands or number in self.gone_commands else 0

    @cached_property
    def answered(self) -> tuple[int, ...]:
        """The commands of which `answer` must see each request; the others are there as they are, or not at all."""
        wanted = {MAP_CREATE, PROG_LOAD, LINK_CREATE} | ({PROG_ATTACH} if self.as_of else set())
        if self._before(BTF_KINDS[-1][1]):
            wanted.add(BTF_LOAD)
        return tuple(sorted(command for command in wanted - self.gone_commands if command < self.commands))

    def answer(self, command: int, attr: bytes, read: Read, memlock: int | None = None) -> tuple[int, str]:
        """The errno of the older kernel (0: it goes on), and the verifier's words for the log.

        `attr` is all that the caller passed; `memlock` its RLIMIT_MEMLOCK in bytes, None for none.
        """
        if self.as_of is not None and any(attr[self._union_size() :]):
            return E2BIG, ""
        if command == MAP_CREATE:
            return self._map_create(attr.ljust(80, b"\0"), memlock), ""
        if command == PROG_LOAD:
            return self._prog_load(attr.ljust(160, b"\0"), read, memlock)
        if command == BTF_LOAD:
            return self._btf_load(attr.ljust(32, b"\0"), read), ""
        if command in (PROG_ATTACH, LINK_CREATE):
            kind: int = struct.unpack_from("=I", attr.ljust(16, b"\0"), 8)[0]
            gone = command == LINK_CREATE and kind in self._links
            return (EINVAL if gone or self._lacks(ATTACH_TYPES, kind) else 0), ""
        return 0, ""

    def _union_size(self) -> int:
        assert self.as_of is not None
        return max(SMALLEST_UNION, -(-size_at(PROG_LOAD_SIZE, self.as_of) // 8) * 8)

    # -- maps ----------------------------------------------------------------------------------------------------------------

    def _map_create(self, attr: bytes, memlock: int | None) -> int:
        kind, key, value, entries, flags = struct.unpack_from("=IIIII", attr)
        if self.as_of is not None and any(attr[size_at(MAP_CREATE_SIZE, self.as_of) :]):
            return EINVAL
        if "prog_names" in self.hidden and any(attr[28:44]):
            return E2BIG
        if kind in self._maps or self._lacks(MAP_TYPES, kind):
            return EINVAL
        if flags & self._map_flags or any(self._lacks(MAP_FLAGS, bit) for bit in _bits(flags)):
            return EINVAL
        return EPERM if self._too_big((key + value) * entries, memlock) else 0

    def _too_big(self, size: int, memlock: int | None) -> bool:
        """Whether an object of `size` bytes is over the limit (before 5.11 BPF memory counts against RLIMIT_MEMLOCK, in whole pages)."""
        return memlock is not None and "memcg_accounting" in self.hidden and (size // 4096 + 1) * 4096 > memlock

    def _btf_load(self, attr: bytes, read: Read) -> int:
        """Whether the types are all of kinds that there were."""
        at, _, size = struct.unpack_from("=QQI", attr)
        try:
            data = read(at, min(size, 1 << 24))
        except OSError:
            return 0
        if len(data) < 24:
            return 0
        start, types_at, types_size = struct.unpack_from("=4xIII", data)
        at, end = start + types_at, min(start + types_at + types_size, len(data))
        kinds = max(first for first, release in BTF_KINDS if not self._before(release)) if self.as_of else 0
        last = next((first for first, _ in BTF_KINDS if first > kinds), 32)
        strict = self._before(BTF_LINKAGE_SINCE), self._before(BTF_FLAG_SINCE)
        while at + 12 <= end:
            (info,) = struct.unpack_from("=I", data, at + 4)
            kind, count = info >> 24 & 31, info & 0xFFFF
            if kind >= last or (strict[0] and kind == 12 and count) or (strict[1] and info >> 31):
                return EINVAL
            once, each = _BTF_MEMBERS.get(kind, (0, 0))
            at += 12 + once + each * count
        return 0

    # -- programs ------------------------------------------------------------------------------------------------------------

    def _prog_load(self, attr: bytes, read: Read, memlock: int | None) -> tuple[int, str]:
        kind, count, insns_at = struct.unpack_from("=IIQ", attr)
        version, flags = struct.unpack_from("=II", attr, 40)
        (expected,) = struct.unpack_from("=I", attr, 68)
        if self.as_of is not None and any(attr[size_at(PROG_LOAD_SIZE, self.as_of) :]):
            return EINVAL, ""
        if "prog_names" in self.hidden and any(attr[48:64]):
            return E2BIG, ""
        if any(self._lacks(PROG_FLAGS, bit) for bit in _bits(flags)):
            return EINVAL, ""
        if "insns_1m" in self.hidden and count > MAX_INSNS_OLD:
            return E2BIG, ""
        if self._before((5, 0)) and kind == KPROBE and version == 0:
            return EINVAL, ""  # it had to be the running kernel's (6c4fc209fcf9)
        if self.as_of is not None and self._attach_type_refused(kind, expected):
            return EINVAL, ""
        if self._too_big(count * 8, memlock):
            return EPERM, ""
        if kind in self._progs or self._lacks(PROG_TYPES, kind):
            return EINVAL, ""
        if "fentry" in self.hidden and kind == TRACING and expected in (24, 25, 26):
            return EINVAL, ""
        try:
            insns = read(insns_at, min(count, 1_000_000) * 8)
        except OSError:
            return 0, ""  # the kernel will say EFAULT
        fault = self.fault(insns)
        return (EINVAL, fault) if fault is not None else (0, "")

    def _attach_type_refused(self, kind: int, expected: int) -> bool:
        checked = CHECKED_ATTACH_TYPES.get(kind)
        return checked is not None and not self._before(checked) and self._lacks(ATTACH_TYPES, expected)

    def fault(self, insns: bytes) -> str | None:
        """Why the older verifier refuses these instructions, in its words; None where it does not, or not for want of a feature.

        Only what can be reached counts: verifiers never looked at branches that are constantly not taken, which is what a CO-RE test for
        a helper becomes.
        """
        if "bounded_loops" in self.hidden and _NEGATIVE.search(insns[3::8]) and (edge := back_edge(insns)) is not None:
            return f"back-edge from insn {edge[0]} to {edge[1]}"
        suspects = self._suspects(insns)
        if not suspects:
            return None
        live = reachable(insns)
        for at in sorted(suspects):
            if at in live:
                return suspects[at]
        return None

    def _suspects(self, insns: bytes) -> dict[int, str]:
        """Instructions that the older kernel does not know, and what its verifier says of them."""
        codes = insns[0::8]
        present = set(codes)
        found: dict[int, str] = {}
        for code in present & self._bad_opcodes.keys():
            found |= dict.fromkeys(_places(codes, code), self._bad_opcodes[code])
        wide: set[int] = set()
        for at in _places(codes, 0x18):
            wide.add(at + 1)
            source = insns[at * 8 + 1] >> 4
            if source in self._loads or self._before(PSEUDO_LOADS.get(source, (3, 18))):
                found[at] = "unrecognized bpf_ld_imm64 insn"
        for at in _places(codes, 0x85):
            (imm,) = struct.unpack_from("=i", insns, at * 8 + 4)
            source = insns[at * 8 + 1] >> 4
            if source == 0:
                if imm in self._helpers or (0 <= imm < HELPER_COUNT and self._lacks(HELPERS, imm)):
                    found[at] = f"invalid func unknown#{imm}"
            elif source in self._calls or self._before(PSEUDO_CALLS.get(source, (3, 18))):
                found[at] = "BPF_CALL uses reserved fields"
        if self._before(ATOMICS_SINCE):
            for code in (0xC3, 0xDB):
                for at in _places(codes, code):
                    if any(insns[at * 8 + 4 : at * 8 + 8]):
                        found[at] = "BPF_XADD uses reserved fields"
        return {at: words for at, words in found.items() if at not in wide}

    def log(self, at_fault: str) -> bytes:
        """What stands in the log buffer after a refusal."""
        return f"{at_fault}\n".encode() + b"\0"


def _bits(flags: int) -> list[int]:
    return [bit for bit in range(32) if flags >> bit & 1]


def _places(codes: bytes, code: int) -> list[int]:
    """Where an opcode stands. Searching bytes is fast where each of Python's own steps is not (an emulated CPU)."""
    found, at = [], codes.find(code)
    while at >= 0:
        found.append(at)
        at = codes.find(code, at + 1)
    return found


# -- flow --------------------------------------------------------------------------------------------------------------------

_COMPARE: Mapping[int, Callable[[int, int], bool]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: bool(a & b),
    0x50: lambda a, b: a != b,
    0x60: lambda a, b: _signed(a) > _signed(b),
    0x70: lambda a, b: _signed(a) >= _signed(b),
    0xA0: lambda a, b: a < b,
    0xB0: lambda a, b: a <= b,
    0xC0: lambda a, b: _signed(a) < _signed(b),
    0xD0: lambda a, b: _signed(a) <= _signed(b),
}
_MASK = (1 << 64) - 1
Registers = dict[int, int]
"""What is known of the registers: constants only."""


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _decode(insns: bytes) -> list[tuple[int, int, int, int, int]]:
    return [(code, regs & 15, regs >> 4, off, imm) for code, regs, off, imm in struct.iter_unpack("=BBhi", insns)]


def reachable(insns: bytes) -> set[int]:
    """The instructions that can be reached, constants in registers taken into account where they decide a jump."""
    code = _decode(insns)
    states: dict[int, Registers] = {}
    work: list[tuple[int, Registers]] = [(0, {})]
    while work:
        at, known = work.pop()
        if not 0 <= at < len(code):
            continue
        if at in states:
            old = states[at]
            kept = {reg: value for reg, value in old.items() if known.get(reg) == value}
            if len(kept) == len(old):
                continue
            known = kept
        states[at] = known
        work += _after(code, at, dict(known))
    return set(states)


def _after(code: list[tuple[int, int, int, int, int]], at: int, known: Registers) -> list[tuple[int, Registers]]:
    """Where it goes on from an instruction, and what is known there."""
    op, dst, src, off, imm = code[at]
    kind = op & 7
    if op == 0x18:
        known.pop(dst, None)
        if src == 0 and at + 1 < len(code):
            known[dst] = (imm & 0xFFFFFFFF) | (code[at + 1][4] & 0xFFFFFFFF) << 32
        if src == 4:  # the address of a function, which may be called
            return [(at + 2, known), (at + 1 + imm, {})]
        return [(at + 2, known)]
    if kind in (4, 7):  # 32- and 64-bit arithmetic: constants are only moved
        value = known.get(src) if op & 8 else imm & _MASK
        known.pop(dst, None)
        if op & 0xF0 == 0xB0 and value is not None:
            known[dst] = value if kind == 7 else value & 0xFFFFFFFF
        return [(at + 1, known)]
    if op in (0x05, 0x06):
        return [(at + 1 + (off if op == 0x05 else imm), known)]
    if op == 0x95:
        return []
    if op == 0x85:
        for reg in range(6):
            known.pop(reg, None)
        return [(at + 1, known)] + ([(at + 1 + imm, {})] if src == 1 else [])
    if kind in (5, 6):
        left, right = known.get(dst), known.get(src) if op & 8 else imm & _MASK
        if kind == 6:
            left, right = (None if side is None else side & 0xFFFFFFFF for side in (left, right))
        test = _COMPARE.get(op & 0xF0)
        if test is not None and left is not None and right is not None and (kind == 5 or op & 0xF0 < 0x60):
            return [(at + 1 + (off if test(left, right) else 0), known)]
        return [(at + 1, known), (at + 1 + off, dict(known))]
    if kind == 1 or kind == 0:  # loads
        known.pop(dst if kind == 1 else 0, None)
    return [(at + 1, known)]


def back_edge(insns: bytes) -> tuple[int, int] | None:
    """A jump back to an instruction on the way to it (which made check_cfg refuse a program before 5.3), or None."""
    code = _decode(insns)
    seen: dict[int, int] = {}  # 1 while on the way, 2 when done
    starts = [0, *(at + 1 + imm for at, (op, _, src, _, imm) in enumerate(code) if op == 0x85 and src == 1)]
    for start in starts:
        stack = [(start, iter(_successors(code, start)))] if start not in seen else []
        seen.setdefault(start, 1)
        while stack:
            at, ways = stack[-1]
            for way in ways:
                if not 0 <= way < len(code):
                    continue
                if seen.get(way) == 1:
                    return at, way
                if way not in seen:
                    seen[way] = 1
                    stack.append((way, iter(_successors(code, way))))
                    break
            else:
                seen[at] = 2
                stack.pop()
    return None


def _successors(code: list[tuple[int, int, int, int, int]], at: int) -> list[int]:
    if not 0 <= at < len(code):
        return []
    op, _, _, off, imm = code[at]
    if op == 0x18:
        return [at + 2]
    if op == 0x95:
        return []
    if op in (0x05, 0x06):
        return [at + 1 + (off if op == 0x05 else imm)]
    if op & 7 in (5, 6) and op != 0x85:
        return [at + 1, at + 1 + off]
    return [at + 1]
