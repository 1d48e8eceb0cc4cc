"""A real machine: what was there before this agent came, and what others make meanwhile, is told apart from what is ours.

In a VM all that is new is ours. On a machine that others use, a program, map or link that appears may be somebody else's: one that a process
outside the agent's cgroup holds open, that is pinned in the machine's own BPF file system, or that such a program uses. The agent's own
namespaces (`rooms`) keep the rest apart: its pins, its interfaces and its files are nobody else's.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ctypes import addressof, create_string_buffer
from typing import cast

from . import bpf, observe
from .cell_facts import Entry, Inventory
from .processes import bpf_files, fdinfo, held

MARK = "KMATRIX_REAL"
"""The environment variable by which the agent knows where it is."""
PINS = "/run/kmatrix/pins"
"""Where the agent sees the machine's own BPF file system."""
_COMMANDS = {
    "programs": (bpf.PROG_GET_NEXT_ID, bpf.PROG_GET_FD_BY_ID),
    "maps": (bpf.MAP_GET_NEXT_ID, bpf.MAP_GET_FD_BY_ID),
    "links": (bpf.LINK_GET_NEXT_ID, bpf.LINK_GET_FD_BY_ID),
}
_KINDS = tuple(_COMMANDS)

_before: dict[str, set[int]] = {}
_probes: list[str] = []
_theirs: set[tuple[str, int]] = set()
"""Of what has appeared since, what was found to be somebody else's."""
_held: dict[tuple[int, int], frozenset[tuple[object, ...]]] = {}
"""By process and descriptor: what it was, when it was looked at last."""


def is_real() -> bool:
    """Whether the agent runs on a real machine."""
    return MARK in os.environ


def begin(probes: list[str]) -> None:
    """All that is there now is somebody else's; `probes` are the kprobes and uprobes of tracefs."""
    _theirs.clear()
    _probes[:] = probes
    _before.update(snapshot())
    observe.sieve[:] = [ours]


def snapshot() -> dict[str, set[int]]:
    """The ids of all programs, maps and links that there are now."""
    return {kind: set(bpf.ids(next_id)) for kind, (next_id, _) in _COMMANDS.items()}


def by_id(kind: str, ident: int) -> int:
    """A descriptor of the program, map or link. Raises OSError where it is gone."""
    return bpf.bpf(_COMMANDS[kind][1], struct.pack("=III", ident, 0, 0))


def ours(found: Inventory) -> Inventory:
    """Of an inventory, what is not somebody else's."""
    if not _before:
        return found
    new = {
        kind: [each for each in cast("list[Entry]", found[kind]) if each["id"] not in _before.get(kind, ())]  # type: ignore[literal-required]
        for kind in _KINDS
    }
    _look_at({(kind, each["id"]) for kind in _KINDS for each in new[kind]} - _theirs)
    for link in new["links"]:  # a link whose program is somebody else's is theirs too
        if ("programs", link["prog_id"]) in _theirs or link["prog_id"] in _before.get("programs", ()):
            _theirs.add(("links", link["id"]))
    mine = {kind: [each for each in new[kind] if (kind, each["id"]) not in _theirs] for kind in _KINDS}
    return cast(Inventory, {**found, **mine, "kprobe_events": [line for line in found["kprobe_events"] if line not in _probes]})


def _look_at(unknown: set[tuple[str, int]]) -> None:
    """Find out which of `unknown` are somebody else's. What is not is asked for again at the next look: whoever had it may have been ending."""
    if unknown:
        _theirs.update(unknown & _had_by(_others(), PINS, unknown))


def nobodys(new: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Of what is new, what no process holds open and nobody has pinned. Asked from outside the agent's namespaces, when it is gone."""
    return new - _had_by((int(entry) for entry in os.listdir("/proc") if entry.isdigit()), "/sys/fs/bpf", new) if new else new


def _had_by(processes: Iterable[int], pins: str, among: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Of `among`, what these processes hold open, what is pinned below `pins`, and the maps that such programs use.

    What a descriptor is, is looked up once; again where something of `among` is nobody's, for a descriptor may be another thing by now.
    """
    pids, pinned = list(processes), _pinned(pins)
    found = _among(pinned | _open_in(pids), among)
    if among - found:
        _held.clear()
        found = _among(pinned | _open_in(pids), among)
    return found


def _open_in(pids: Iterable[int]) -> set[tuple[object, ...]]:
    """What these processes hold open: (kind, id), or its form where the kernel does not say which it is."""
    found: set[tuple[object, ...]] = set()
    for pid in pids:
        for fd, kind in bpf_files(pid).items():
            if (pid, fd) not in _held:
                _held[pid, fd] = _told(pid, fd, kind)
            found |= _held[pid, fd]
    return found


_FORM = ("map_type", "key_size", "value_size", "max_entries", "map_flags")


def _told(pid: int, fd: int, kind: str) -> frozenset[tuple[object, ...]]:
    """What a descriptor is. 4.14 does not say its id (4.19 does), but the form of a map and the tag of a program.

    What is ours is taken for theirs then where it is of the same form.
    """
    with suppress(OSError, ValueError):
        said = fdinfo(pid, fd)
        if "map_type" in said and "map_id" not in said:
            return frozenset([("maps", *(int(said[key], 0) for key in _FORM))])
        if "prog_tag" in said and "prog_id" not in said:
            return frozenset([("programs", "tag", said["prog_tag"])])
    return frozenset((name, ident) for name, ids in held(pid, {fd: kind}).items() for ident in ids)


def _form(kind: str, ident: int) -> tuple[object, ...] | None:
    """The form of what has an id, as `_told` has it; None where it is gone, or is a link (which came in 5.7, with ids)."""
    if kind == "links":
        return None
    with suppress(OSError):
        fd = by_id(kind, ident)
        try:
            return ("maps", *bpf.map_form(fd)) if kind == "maps" else ("programs", "tag", bpf.prog_info(fd).tag)
        finally:
            os.close(fd)
    return None


def _among(had: set[tuple[object, ...]], among: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Of `among`, what is in `had` by its id or its form, and the maps that such programs use."""
    by_form = any(len(each) > 2 for each in had)
    found = {each for each in among if each in had or (by_form and _form(*each) in had)}
    used = {("maps", each) for kind, ident in found if kind == "programs" for each in maps_of(ident)}
    return found | used & among


def _others() -> Iterator[int]:
    """The processes outside the agent's cgroup: seen from its cgroup namespace, their paths lead out of it."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError), open(f"/proc/{entry}/cgroup") as file:
                if any(line.startswith("0::/..") for line in file):
                    yield int(entry)


def _pinned(pins: str) -> set[tuple[str, int]]:
    found: set[tuple[str, int]] = set()
    for folder, _, files in os.walk(pins):
        for name in files:
            with suppress(OSError):
                found |= _identity(os.path.join(folder, name))
    return found


def _identity(path: str) -> set[tuple[str, int]]:
    """What is pinned at a path: (kind, id). What it is, the kernel says in the fdinfo of an open one."""
    name = create_string_buffer(path.encode())
    fd = bpf.bpf(bpf.OBJ_GET, struct.pack("=QII", addressof(name), 0, 0))
    try:
        said = fdinfo(os.getpid(), fd)
        if "map_type" in said:  # a map and a program say their own ids: 4.14's fdinfo does not
            return {("maps", bpf.map_info(fd).id)}
        if "prog_type" in said:
            return {("programs", bpf.prog_info(fd).id)}
        return {(kind, ident) for kind, ids in held(os.getpid(), {fd: ""}).items() for ident in ids}
    finally:
        os.close(fd)


def maps_of(program: int) -> list[int]:
    """The ids of the maps that a program uses; empty where it is gone."""
    with suppress(OSError):
        fd = by_id("programs", program)
        try:
            many = 64  # MAX_USED_MAPS
            room, info = create_string_buffer(4 * many), create_string_buffer(256)
            # struct bpf_prog_info: created_by_uid and nr_map_ids stand at 48 and 52, the pointer map_ids at 56.
            struct.pack_into("=IQ", info, 52, many, addressof(room))
            bpf.bpf(bpf.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, 256, addressof(info)))
            count = min(struct.unpack_from("=I", info, 52)[0], many)
            return list(struct.unpack_from(f"={count}I", room))
        finally:
            os.close(fd)
    return []


def unregister(map_id: int) -> None:
    """Unregister a struct_ops without a link, which holds itself (BPF_STRUCT_OPS, 27ae7997a661, 5.6). Raises OSError."""
    fd = by_id("maps", map_id)
    try:
        if bpf.map_info(fd).type == "struct_ops":
            key = create_string_buffer(4)
            bpf.bpf(bpf.MAP_DELETE_ELEM, struct.pack("=I4xQ", fd, addressof(key)))
    finally:
        os.close(fd)
