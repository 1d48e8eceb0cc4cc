"""What bpf(2) answered in older kernels: the answers that follow from the tables of what came when. Pure: nothing here asks a kernel.

`Past` is a kernel that never was: the one at hand without some features, or as of an older release. Given the bytes of a request, it
says which errno the older kernel would have returned, in the order in which that kernel's checks stand (kernel/bpf/syscall.c,
kernel/bpf/verifier.c), or 0 where it would have gone on, so that the kernel at hand may decide.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from .absent import Absent
from .fact import Fact, Version, release_of, since, size_at
from .flow import back_edge, reachable
from .table_helpers import HELPER_COUNT, HELPERS
from .table_hidden import GONE
from .table_insns import FORMS, MAX_INSNS_OLD, PSEUDO_CALLS, PSEUDO_LOADS, Form, insn_since
from .table_types import ATTACH_TYPES, LINK_OF, LINK_TYPES, MAP_TYPES, PROG_TYPES
from .table_uapi import (
    BTF_FLAG_SINCE,
    BTF_GET_NEXT_ID,
    BTF_KINDS,
    BTF_LINKAGE_SINCE,
    BTF_LOAD,
    BTF_MEMBERS,
    CHECKED_ATTACH_TYPES,
    COMMAND_COUNT,
    COMMANDS,
    LINK_CREATE,
    LINK_GET_FD_BY_ID,
    MAP_CREATE,
    MAP_CREATE_SIZE,
    MAP_FLAGS,
    PROG_ATTACH,
    PROG_FLAGS,
    PROG_LOAD,
    PROG_LOAD_SIZE,
    RAW_TRACEPOINT_OPEN,
    SMALLEST_UNION,
)

Read = Callable[[int, int], bytes]
"""(address, size) → the bytes at that address of the process that asks; OSError where there is nothing."""

EPERM, ENOENT, E2BIG, EINVAL = 1, 2, 7, 22
KPROBE, TRACING = 2, 26
TAIL_CALL = 12
_LOADS: Mapping[str, int] = {"map_value": 2, "ksym": 3, "callback": 4, "map_index": 5}
_CALLS: Mapping[str, int] = {"call_function": 1, "call_kfunc": 2}
_BY_FEATURE: Mapping[str, str] = {"bounded_loop": "bounded_loops", "large_program": "insns_1m"}
_ALWAYS_TAKEN = frozenset({"sk_reuseport_select", "sk_reuseport_select_or_migrate"})
"""Attach types that older kernels did not check: a simulated one does as its base."""
_LINKS = {row.name: row for row in LINK_TYPES}
_PROGRAMS_IN_MAPS: Mapping[int, Version] = {14: (5, 8), 25: (5, 8), 16: (5, 9)}
"""Maps of devices and CPUs, and since when a program may stand in their entries (which are twice as long then): fbee97feed9b, 9216477449f3."""

_ENUMERATOR = re.compile(rb"\0BPF_((?:FUNC|MAP_TYPE)_\w+)(?=\0)")
_NEGATIVE = re.compile(rb"[\x80-\xff]")


class Past:
    """A kernel as it would have been: as of an older release, without some features, or both."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """`spec`: {"as_of": [major, minor] or null, "hidden": [feature…], "release": text or null, "absent": text (see Absent) or null}."""
        given = spec.get("as_of")
        self.as_of: Version | None = (int(given[0]), int(given[1])) if given else None
        self.hidden = frozenset(spec.get("hidden") or ())
        self.release: str | None = spec.get("release")
        self.absent = Absent(spec.get("absent"))
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
        self._forms = [form for name, form in FORMS.items() if self._before(insn_since(name))]

    def _before(self, release: Version) -> bool:
        """Whether what came with `release` is not there yet."""
        return self.as_of is not None and self.as_of < release

    def _lacks(self, rows: tuple[Fact, ...], number: int) -> bool:
        return self.as_of is not None and self._before(release_of(rows, number))

    def _lacks_bit(self, table: tuple[tuple[int, Version], ...], bit: int) -> bool:
        return self.as_of is not None and self._before(since(table, bit))

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
        if self.absent.raw_tracepoints:
            wanted.add(RAW_TRACEPOINT_OPEN)
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
        if command == RAW_TRACEPOINT_OPEN:
            return self.absent.of_raw_tracepoint(attr, read), ""
        if command in (PROG_ATTACH, LINK_CREATE):
            kind: int = struct.unpack_from("=I", attr.ljust(16, b"\0"), 8)[0]
            gone = command == LINK_CREATE and self._no_link(kind)
            return (EINVAL if gone or self._lacks(ATTACH_TYPES, kind) else 0), ""
        return 0, ""

    def _no_link(self, attach_type: int) -> bool:
        """Whether there is no link for the attach type, be it hidden by name or too new."""
        link = _LINKS.get(LINK_OF.get(attach_type, ""))
        return attach_type in self._links or (link is not None and self._before(link.since))

    def _union_size(self) -> int:
        assert self.as_of is not None
        return max(SMALLEST_UNION, -(-size_at(PROG_LOAD_SIZE, self.as_of) // 8) * 8)

    def hides(self, kind: str, row: Fact) -> bool:
        """Whether a row of the tables is out of sight, so that a probe does not find what the kernel at hand has."""
        return self._HIDES[kind](self, row)

    def _hides_attach(self, row: Fact) -> bool:
        number = row.number
        if row.name in _ALWAYS_TAKEN:
            return self._before((4, 17))  # there was no place to say an attach type (5e43f899b03a)
        if not self._tracing_is_there(number):
            return True
        by_link = LINK_OF.get(number) not in (None, "cgroup", "sockmap", "netns")
        return self._lacks(ATTACH_TYPES, number) or (by_link and (bool(self.command(LINK_CREATE)) or number in self._links))

    def _tracing_is_there(self, attach_type: int) -> bool:
        """Whether the program type of a tracing or LSM attach type is there; for the others, yes."""
        if "fentry" in self.hidden and attach_type in (24, 25, 26):
            return False
        kinds = {**dict.fromkeys((23, 24, 25, 26, 28), 26), **dict.fromkeys((27, 43), 29)}
        kind = kinds.get(attach_type)
        return kind is None or not (kind in self._progs or self._lacks(PROG_TYPES, kind))

    def _hides_link(self, row: Fact) -> bool:
        if row.name in ("raw_tracepoint", "tracing"):
            return bool(self.command(LINK_GET_FD_BY_ID)) or (row.name == "tracing" and not self._tracing_is_there(24))
        types = [number for number, link in LINK_OF.items() if link == row.name]
        return bool(self.command(LINK_CREATE)) or all(self._no_link(n) or self._lacks(ATTACH_TYPES, n) for n in types)

    def _hides_insn(self, row: Fact) -> bool:
        if row.name in FORMS or row.name == "tail_call_in_function":
            return self._before(row.since)
        if row.name in _BY_FEATURE:
            return _BY_FEATURE[row.name] in self.hidden
        if row.name in _LOADS:
            return _LOADS[row.name] in self._loads or self._before(row.since)
        return _CALLS[row.name] in self._calls or self._before(row.since)

    _HIDES: Mapping[str, Callable[[Past, Fact], bool]] = {
        "helper": lambda past, row: row.number in past._helpers or past._lacks(HELPERS, row.number),
        "map": lambda past, row: row.number in past._maps or past._lacks(MAP_TYPES, row.number),
        "prog": lambda past, row: row.number in past._progs or past._lacks(PROG_TYPES, row.number),
        "kfunc": lambda past, _: 2 in past._calls or past._before(PSEUDO_CALLS[2]),
        "attach": _hides_attach,
        "link": _hides_link,
        "insn": _hides_insn,
    }

    def without_names(self, types: bytes) -> bytes:
        """The kernel's BTF without the enumerators of the helpers and map types that are out of sight, for which CO-RE tests.

        They are there by another name of the same length, so that every number stays what it is.
        """
        gone = {f"FUNC_{row.name}" for row in HELPERS if self.hides("helper", row)}
        gone |= {f"MAP_TYPE_{row.name.upper()}" for row in MAP_TYPES if self.hides("map", row)}

        def renamed(found: re.Match[bytes]) -> bytes:
            return b"\0GONE" + found[0][5:] if found[1].decode() in gone else found[0]

        return _ENUMERATOR.sub(renamed, types) if gone else types

    # -- maps ----------------------------------------------------------------------------------------------------------------

    def _map_create(self, attr: bytes, memlock: int | None) -> int:
        kind, key, value, entries, flags = struct.unpack_from("=IIIII", attr)
        if self.as_of is not None and any(attr[size_at(MAP_CREATE_SIZE, self.as_of) :]):
            return EINVAL
        if "prog_names" in self.hidden and any(attr[28:44]):
            return E2BIG
        if kind in self._maps or self._lacks(MAP_TYPES, kind):
            return EINVAL
        if value == 8 and kind in _PROGRAMS_IN_MAPS and self._before(_PROGRAMS_IN_MAPS[kind]):
            return EINVAL
        if flags & self._map_flags or any(self._lacks_bit(MAP_FLAGS, bit) for bit in _bits(flags)):
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
            once, each = BTF_MEMBERS.get(kind, (0, 0))
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
        if any(self._lacks_bit(PROG_FLAGS, bit) for bit in _bits(flags)):
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
        for form in self._forms:
            for code in present & form.codes:
                found |= {at: form.words for at in _places(codes, code) if _of_form(form, insns, at)}
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
        if self._before(insn_since("tail_call_in_function")):
            found |= _tail_calls_beside_functions(insns, codes)
        return {at: words for at, words in found.items() if at not in wide}

    def log(self, at_fault: str) -> bytes:
        """What stands in the log buffer after a refusal."""
        return f"{at_fault}\n".encode() + b"\0"


def _of_form(form: Form, insns: bytes, at: int) -> bool:
    """Whether the instruction, whose opcode is one of the form's, has the field that tells it."""
    if not form.field:
        return True
    _, registers, off, imm = struct.unpack_from("=BBhi", insns, at * 8)
    value = {"off": off, "imm": imm, "src": registers >> 4}[form.field]
    return value in form.values if form.values else value != 0


def _tail_calls_beside_functions(insns: bytes, codes: bytes) -> dict[int, str]:
    """The tail calls of a program that calls BPF functions too."""
    calls = {at: (insns[at * 8 + 1] >> 4, *struct.unpack_from("=i", insns, at * 8 + 4)) for at in _places(codes, 0x85)}
    if not any(source == 1 for source, _ in calls.values()):
        return {}
    words = "tail_calls are not allowed in programs with bpf-to-bpf calls"
    return {at: words for at, call in calls.items() if call == (0, TAIL_CALL)}


def _bits(flags: int) -> list[int]:
    return [bit for bit in range(32) if flags >> bit & 1]


def _places(codes: bytes, code: int) -> list[int]:
    """Where an opcode stands. Searching bytes is fast where each of Python's own steps is not (an emulated CPU)."""
    found, at = [], codes.find(code)
    while at >= 0:
        found.append(at)
        at = codes.find(code, at + 1)
    return found
