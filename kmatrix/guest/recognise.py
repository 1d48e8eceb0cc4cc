"""Which variant a loader that is not ours is running, by what is in the kernel and was not before. Pure functions over data."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Entry = Mapping[str, Any]

NAME_KEPT = 15
"""Characters of a program's or map's name that the kernel keeps (BPF_OBJ_NAME_LEN - 1)."""
BUFFERS = {"ringbuf": "ringbuf", "perf": "perf_event_array"}
"""The map type of each transport."""


@dataclass
class Match:
    """How far a variant is what is in the kernel."""

    programs: dict[str, Entry] = field(default_factory=dict)
    """The kernel's entry of each program that is there, by its name in the manifest."""
    maps: dict[str, Entry] = field(default_factory=dict)
    """The same of maps; a buffer without a name is there as its transport."""
    missing: list[str] = field(default_factory=list)
    """What is required and not there, in words."""

    @property
    def whole(self) -> bool:
        """Whether all that is required is there."""
        return not self.missing


def match(variant: Mapping[str, Any], programs: Sequence[Entry], maps: Sequence[Entry], refuted: Collection[str]) -> Match:
    """How far `variant` is what `programs` and `maps` are.

    Names decide where the kernel keeps them. Before 4.15 it does not, and types are the same for many: then a variant is out that needs
    what the guest's probe did not find (`refuted`).
    """
    found = Match()
    free = list(programs)
    required = {program["name"] for program in variant["programs"] if program.get("required", True)}
    # The required ones choose first, and of those the ones that say most.
    for program in sorted(variant["programs"], key=lambda p: (p["name"] not in required, not p.get("tag"))):
        # The kernel cuts names off, and those of a collector may begin alike: where it says to what each is attached, that decides.
        alike = sorted((each for each in free if _is(program, each)), key=lambda each: not _is_at(program["hook"], each))
        entry = alike[0] if alike else None
        if entry is not None:
            free.remove(entry)
            found.programs[program["name"]] = entry
        elif program["name"] in required:
            found.missing.append(f"program {program['name']} ({program['type']})")
    transport, buffer = variant.get("transport"), variant.get("buffer")
    wanted = [(m["name"], m["name"], m["type"]) for m in variant.get("maps") or ()]
    if transport is not None:
        wanted.insert(0, (buffer or transport, buffer, BUFFERS[transport]))
    unused = list(maps)
    for key, name, kind in wanted:
        entry = next((each for each in unused if each["type"] == kind and (name is None or _named(name, each))), None)
        if entry is None:
            found.missing.append(f"map {name} ({kind})" if name else f"a {kind} map")
        else:
            found.maps[key] = entry
            if name is not None or transport is None:
                unused.remove(entry)
    if found.whole and any(not entry["name"] for entry in found.programs.values()):
        lacking = [name for name in variant.get("needs") or () if name in refuted]
        found.missing += [f"{name} (which it needs; names are not kept by this kernel)" for name in lacking]
    return found


def _is(program: Mapping[str, Any], entry: Entry) -> bool:
    return entry["type"] == program["type"] and _named(program["name"], entry) and program.get("tag") in (None, entry["tag"])


def _is_at(hook: str, entry: Entry) -> bool:
    return entry.get("hook") is not None and entry["hook"] == hook.rsplit("/", 1)[-1].split("+")[0]


def elsewhere(hook: str, told: str | None) -> bool:
    """Whether the kernel tells of a place (a tracepoint, a function) that is not the hook's; of other kinds of hooks it tells nothing alike.

    A loader may put a system call's prefix before a function's name (`__x64_sys_openat` for `sys_openat`), or leave it to whom it asks.
    """
    kind, _, name = hook.partition("/")
    if told is None or not name or kind not in ("tracepoint", "tp", "raw_tracepoint", "raw_tp", "kprobe", "kretprobe"):
        return False
    wanted, found = (re.sub(r"^__(x64|arm64|ia32)_(?=sys_)", "", text) for text in (name.rsplit("/", 1)[-1].split("+")[0], told))
    return found != wanted


def _named(name: str, entry: Entry) -> bool:
    """Whether the kernel's name for it is this one, or it has none to give."""
    return not entry["name"] or entry["name"] == name[:NAME_KEPT]


def new(before: Sequence[Entry], now: Sequence[Entry]) -> list[Entry]:
    """What of `now` was not there before, by id."""
    known = {entry["id"] for entry in before}
    return [entry for entry in now if entry["id"] not in known]


def in_words(programs: Sequence[Entry], maps: Sequence[Entry]) -> str:
    """What is there, for a person."""
    parts = [f"program {entry['name'] or '(no name)'} ({entry['type']})" for entry in programs]
    parts += [f"map {entry['name'] or '(no name)'} ({entry['type']})" for entry in maps]
    return ", ".join(parts) or "nothing"
