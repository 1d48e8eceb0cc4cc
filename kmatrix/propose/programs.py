"""programs(): the [[program]] entries of a manifest, and which of them are forms of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kmatrix.matrix.arch import Arch
from kmatrix.objects import sections
from kmatrix.propose.found import Group
from kmatrix.propose.hooks import ONLY_X86, place, reached_of

_TARGETED = (
    "tracepoint", "tp", "raw_tracepoint", "raw_tp", "raw_tracepoint.w", "raw_tp.w", "tp_btf", "kprobe", "kretprobe", "kprobe.multi", "kretprobe.multi",
    "kprobe.session", "ksyscall", "kretsyscall", "fentry", "fexit", "fmod_ret", "lsm", "lsm_cgroup", "iter", "usdt",
)  # fmt: skip
"""Sections that name what the program attaches to."""
_UPROBES = ("uprobe", "uretprobe", "uprobe.multi", "uretprobe.multi", "uprobe.session")
_NEVER = ("freplace", "struct_ops", "syscall")
_FORMS: Mapping[str, int] = {
    **dict.fromkeys(("fentry", "fexit", "fmod_ret", "tp_btf"), 0),
    **dict.fromkeys(("kprobe.multi", "kretprobe.multi", "kprobe.session"), 1),
    **dict.fromkeys(("kprobe", "kretprobe", "ksyscall", "kretsyscall", "raw_tp", "raw_tracepoint", "tracepoint", "tp"), 2),
}
"""Ways to attach of which a collector uses one at a time, the best first: what costs least in each event."""


@dataclass(frozen=True)
class Entry:
    """One [[program]]."""

    name: str
    hook: str
    variants: tuple[str, ...]
    """Those that have it, where not all have."""
    attach: bool = True
    fires: bool = True
    arches: tuple[Arch, ...] = ()
    remark: str = ""
    """Why it is not attached, or not there on an arch."""


def entries(named: Sequence[tuple[str, Group]], trigger: str | None) -> list[Entry]:
    """The programs of all variants, which are given with their names."""
    having: dict[tuple[str, str], list[str]] = {}
    for variant, group in named:
        for name, section in group.programs.items():
            having.setdefault((name, section), []).append(variant)
    reached = reached_of(trigger, [section for _, section in having]) if trigger is not None else None
    return [
        _entry(name, section, () if len(variants) == len(named) else tuple(variants), fires=reached is None or section in reached)
        for (name, section), variants in having.items()
    ]


def _entry(name: str, section: str, variants: tuple[str, ...], *, fires: bool) -> Entry:
    why = _why_not_attached(section)
    arches: tuple[Arch, ...] = ()
    if why:
        return Entry(name, section, variants, attach=False, remark=why)
    if (here := place(section)) in ONLY_X86:
        arches = ("x86_64",)
    return Entry(name, section, variants, fires=fires, arches=arches, remark=ONLY_X86.get(here, ""))


def _why_not_attached(section: str) -> str:
    """Why a loader cannot attach a program by its section alone; empty where it can."""
    read = sections.read(section)
    if (read.kind in _TARGETED and not read.target) or (read.kind in _UPROBES and ":" not in read.target):
        return "the section does not say what it attaches to: the agent decides"
    if read.kind in _NEVER:
        return "it is not attached by itself"
    return ""


def forms(group: Group) -> list[list[str]]:
    """The forms of which a loader takes one, best first; none where the object has no two programs for one place in different ways."""
    at: dict[str, dict[int, list[str]]] = {}
    for name, section in group.programs.items():
        form = _FORMS.get(sections.read(section).kind)
        if form is not None and not _why_not_attached(section):
            at.setdefault(place(section), {}).setdefault(form, []).append(name)
    found: dict[int, list[str]] = {}
    for ways in at.values():
        if len(ways) > 1:
            for form, names in ways.items():
                found.setdefault(form, []).extend(names)
    return [found[form] for form in sorted(found)]
