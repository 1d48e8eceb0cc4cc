"""What one profile says of its kernel: helpers, types, hooks, options. An answer of None is: the profile does not tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from kmatrix.guest.facts import FACTS
from kmatrix.guest.spelling import GIVEN, nearly
from kmatrix.host.version import Version
from kmatrix.matrix import history
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.parameters import SAME, BadName, feature
from kmatrix.predict.pack import Meta, Pack

TYPED_TRACEPOINT = "tbtf_trace_"
"""How a profile names the typedef that a kernel's BTF has for a tracepoint."""
_TRACING = ("fentry", "fexit", "fmod_ret", "tp_btf", "iter")


_SLEEPING = ("bpf_copy_from_user", "bpf_copy_from_user_task")
"""Helpers that a program may call if it sleeps: a profile knows of kprobes those that do not."""


class Kernel:
    """A profile of a pack, by its number there."""

    def __init__(self, pack: Pack, number: int) -> None:
        self.pack, self.number, self.bit = pack, number, 1 << number
        self.meta: Meta = pack.metas[number]
        self.name: str = self.meta["name"]
        self.arch: Arch = self.meta["arch"]
        self.version: Version = (self.meta["version"][0], self.meta["version"][1])
        self.btf: bool = self.meta["btf"]
        self._facts: dict[str, bool] = {**dict.fromkeys(self.meta["has"], True), **dict.fromkeys(self.meta["lacks"], False)}
        self._knows = frozenset(self.meta["knows"])

    def __str__(self) -> str:
        return self.name

    # -- by name -------------------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether it has a feature that a release brings (`insn:jmp32`, `link:tcx`, `global_data`): as probed, else as its release has it upstream."""
        found = self._facts.get(name, self._facts.get(SAME.get(name, "")))
        if found is not None:
            return found
        try:
            return feature(name).default(self.version, self.arch, self._options)
        except BadName:
            return False

    @cached_property
    def _options(self) -> Mapping[str, bool]:
        return (
            {name: self.option(name) in ("y", "m") for name in ("BPF_LSM", "DEBUG_INFO_BTF", "XDP_SOCKETS", "CGROUP_BPF")}
            if self.knows("config")
            else {}
        )

    def knows(self, part: str) -> bool:
        """Whether the profile has that part: config, events, symbols, traceable, blacklist."""
        return part in self._knows

    @property
    def configured(self) -> bool:
        """Whether a loader finds the configuration: in /proc/config.gz, or beside the image on a host. A guest has no /boot."""
        if self.meta["from"] == "guest":
            return self.option("IKCONFIG_PROC") == "y"
        return self.knows("config")

    def option(self, name: str) -> str:
        """An option of the configuration; `n` where it is not set."""
        return next(iter(self._texts("config", name)), "n")

    def names(self, table: str) -> Iterator[str]:
        """Everything that it has of a table, by name."""
        return (name for name, values in self.pack.lines(table) if any(mask & self.bit for mask, _ in values))

    def values(self, table: str) -> Iterator[tuple[str, str]]:
        """Everything that it has of a table, by name: the first value of each."""
        for name, values in self.pack.lines(table):
            for mask, value in values:
                if mask & self.bit:
                    yield name, value
                    break

    def _texts(self, table: str, name: str) -> list[str]:
        return [value for mask, value in self.pack.get(table, name) if mask & self.bit]

    @cached_property
    def version_code(self) -> int:
        """LINUX_KERNEL_VERSION as libbpf puts it in (get_kernel_version of its libbpf_probes.c): Debian's and Ubuntu's are those of upstream."""
        found = re.search(r" Debian (\d+)\.(\d+)\.(\d+)", self.meta["built"]) or re.match(
            r"(\d+)\.(\d+)\.?(\d+)?", self.meta["release"]
        )
        major, minor, patch = (int(part or 0) for part in found.groups()) if found else (*self.version, 0)
        return major << 16 | minor << 8 | min(patch, 255)

    # -- helpers and types ---------------------------------------------------------------------------------------------------

    def may_call(self, number: int, program: str, section_kind: str, sleepable: bool) -> bool:
        """Whether programs of a type may call a helper; of tracing and LSM those of that section."""
        way, known = program, history.helper(number)
        if program == "kprobe" and sleepable and known is not None and known[0] in _SLEEPING:
            return self.version >= known[1]
        if program == "tracing":
            way = f"tracing/{section_kind if section_kind in _TRACING else 'fentry'}{'.s' if sleepable and section_kind == 'iter' else ''}"
        elif program == "lsm" and sleepable:
            way = "lsm/lsm.s"
        helpers = self.meta["helpers"]
        if way not in helpers and "/" in way:
            way = next((each for each in helpers if each.startswith(program)), way)
        if way in helpers:
            return bool(int(helpers[way], 16) >> number & 1)
        return known is not None and self.version >= known[1]

    def takes_map(self, kind: str) -> bool:
        """Whether maps of that type can be made."""
        types = self.meta["map_types"]
        return (
            kind in types
            if types is not None and kind != "struct_ops"
            else self.has(f"map:{kind}")
            if kind in FACTS["map"]
            else True
        )

    def takes_program(self, kind: str) -> bool:
        """Whether programs of that type load."""
        types = self.meta["prog_types"]
        if types is None or kind in ("ext", "netfilter", "struct_ops", "sk_reuseport", "lsm", "tracing"):
            return self.has(f"prog:{kind}")
        return kind in types

    # -- functions and hooks -------------------------------------------------------------------------------------------------

    def symbol(self, name: str) -> Symbol | None:
        """What it has of that name; None where it has nothing."""
        text = next(iter(self._texts("names", name)), None)
        return Symbol.parsed(text) if text is not None else None

    def function(self, name: str) -> Symbol | None:
        """A function of its BTF, or of a loaded module's."""
        found = self.symbol(name)
        return found if found is not None and found.btf else None

    def probes(self, name: str) -> bool | None:
        """Whether a kprobe can be put on a function of that name (register_kprobe, __register_trace_kprobe)."""
        found = self.symbol(name)
        if not self.knows("symbols"):
            return True if found is not None and found.btf else None
        return found is not None and self.takes_probe(found)

    def takes_probe(self, found: Symbol) -> bool:
        """The same of a symbol at hand, where the profile has the symbols."""
        if "S" not in found.flags or "B" in found.flags:
            return False
        # Since 4.20 (45408c4f9250) what ftrace cannot trace is refused. Upstream says so of CONFIG_KPROBES_ON_FTRACE alone, which arm64 has not;
        # 5.4 to 6.18 were seen to refuse it on both arches.
        checked = self.version >= (4, 20) and self.option("KPROBE_EVENTS_ON_NOTRACE") != "y"
        if checked and self.knows("traceable") and "T" not in found.flags:
            return False
        # From 6.6 on (b022f0c7e404) a name that several functions have is refused, and the stable releases took that up.
        return not ("D" in found.flags and self._unique_symbols)

    @cached_property
    def _unique_symbols(self) -> bool:
        return self.version >= (6, 6) or (self.version in ((5, 10), (5, 15), (6, 1), (5, 4)) and self.version_code & 0xFF >= 60)

    def traces(self, name: str) -> bool | None:
        """Whether a trampoline can be put at a function's entry."""
        found = self.symbol(name)
        if not self.knows("traceable"):
            return None
        return found is not None and "T" in found.flags

    def tracepoint(self, name: str) -> bool | None:
        """Whether it has a tracepoint of that name (`sched/sched_switch`)."""
        return bool(self._texts("events", name)) if self.knows("events") else None

    def typed_tracepoint(self, name: str) -> bool:
        """Whether its BTF has a raw tracepoint of that name."""
        return bool(self._texts("types", TYPED_TRACEPOINT + name))

    def raw_tracepoint(self, name: str) -> bool | None:
        """Whether it has a raw tracepoint of that name."""
        if self.typed_tracepoint(name):
            return True
        found = self.symbol(name)
        if found is not None and "R" in found.flags:
            return True
        if not self.knows("events"):
            return None
        return any(event.endswith(f"/{name}") for event in self.names("events"))

    @property
    def runs_lsm(self) -> bool:
        """Whether bpf is in its list of LSMs."""
        names = self.meta["lsm"]
        return names is None or "bpf" in names.split(",")

    def alike(self, table: str, name: str, prefix: str = "") -> list[str]:
        """Names of a table that begin with `name` or have it in them, the nearest first."""
        found = {
            key.removeprefix(prefix)
            for key in self.pack.near(table, prefix + name)
            if key.startswith(prefix) and any(mask & self.bit for mask, _ in self.pack.get(table, key))
        }
        return nearest(found - {name}, name)

    def spelled(self, table: str, name: str) -> list[str]:
        """Names of a table that are spelled nearly like `name`, of those that stand around it in the alphabet."""
        near = nearly(name, self.pack.around(table, name), 2 * GIVEN)
        return [each for each in near if any(mask & self.bit for mask, _ in self.pack.get(table, each))]


class Symbol:
    """A function, variable or raw tracepoint of a kernel."""

    def __init__(self, btf: str, flags: str) -> None:
        self.btf, self.flags = btf, flags

    @classmethod
    def parsed(cls, text: str) -> Symbol:
        """Of a value of the table `names`."""
        return cls(*[*text.split("/"), ""][:2])

    @property
    def arguments(self) -> int:
        """How many a function of the BTF has."""
        return int(re.match(r"\d+", self.btf)[0]) if self.btf else 0  # type: ignore[index]


def nearest(names: Iterable[str], name: str) -> list[str]:
    """At most five of the names that have `name` in them: those that begin with it first, and the shorter ones before the longer."""
    return sorted(names, key=lambda each: (not each.startswith(name), len(each), each))[:5]
