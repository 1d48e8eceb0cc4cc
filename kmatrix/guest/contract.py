"""What the host says that a loader sets: between opening and loading, and between loading and attaching.

The host has resolved it against the object's BTF (kmatrix.objects.contract): names are the object's, values are bytes.
"""

from __future__ import annotations

import base64
import ctypes
import os
import struct
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from . import bpf, libbpf, limit
from .kernel import EXTERNAL_BTF
from .library import DEFAULT, CannotSet, Opened, Refused, Report, opener
from .opened import created_maps
from .reach import Features, Reach, possible_cpus

Terms = Mapping[str, Any]
NOTHING: Terms = {"values": {}, "maps": {}, "programs": {}, "one_of": [], "kconfig": None, "btf": None}
BTF_FILE = "/tmp/kmatrix-contract.btf"
CORE_BTF_FILE = "/tmp/kmatrix-core.btf"

PERF_EVENT_ARRAY = bpf.MAP_TYPES.index("perf_event_array")
_PER_CPU = ("percpu_hash", "percpu_array", "lru_percpu_hash", "percpu_cgroup_storage")


class Contract:
    """The loader's part for one object. Without terms it opens an object and sets nothing."""

    def __init__(
        self,
        terms: Terms | None,
        data: bytes,
        name: str,
        features: Features,
        library: str = DEFAULT,
        core_btf: str | None = None,
    ) -> None:
        self._core_btf = core_btf
        self._library = library
        self._terms = {**NOTHING, **(terms or {})}
        self.given = terms is not None
        self._data, self._name, self._features = data, name, features
        self.off: dict[str, str] = {}
        """The programs that are not loaded, and why."""
        self.chosen: list[Report] = []
        """Of each group: `forms` (the names in each), `ran` (those of the one that is loaded; None: none can be), `why` (not the others)."""
        self._targets: dict[str, str] = {}

    # -- before opening --------------------------------------------------------------------------------------------------------

    def open(self) -> Opened:
        """The object opened, with what is to be said while opening. Raises Refused."""
        btf = self._terms["btf"]
        if btf is not None:
            with open(BTF_FILE, "wb") as file:
                file.write(base64.b64decode(btf))
        given = EXTERNAL_BTF if os.path.exists(EXTERNAL_BTF) else None  # by the circumstance btf=FILE; a contract's own comes first
        if btf is None and given is None and self._core_btf is not None:
            with open(given := CORE_BTF_FILE, "wb") as file:
                file.write(base64.b64decode(self._core_btf))
        return opener(self._library)(
            self._data, self._name, kconfig=self._terms["kconfig"], btf=BTF_FILE if btf is not None else given
        )

    def give_up_core_btf(self) -> bool:
        """Open with all of the kernel's BTF from now on; whether it was otherwise until now, so that what failed may not fail again."""
        given, self._core_btf = self._core_btf, None
        return given is not None

    def choose(self, opened: Opened) -> None:
        """Decide which programs of the object are loaded (`off` has the others) and where those attach whose target has alternatives."""
        sections = {name: opened.section(name) for name in opened.programs}
        for name, terms in self._terms["programs"].items():
            if terms["load"] is False:
                self.off[name] = "the contract says autoload = false"
        if self.given:
            named = {p for group in self._terms["one_of"] for form in group for p in form["programs"]}
            named |= {name for name, terms in self._terms["programs"].items() if terms["load"]}
            for name in opened.programs:
                if not opened.autoload(name) and name not in named:
                    self.off.setdefault(name, "its section begins with ?, and the contract does not say autoload = true")
        reach = Reach(self._features)
        try:
            for name, terms in self._terms["programs"].items():
                if terms["to"]:
                    self._targets[name] = reach.target(sections[name], terms["to"])[0] or terms["to"][0]
            for group in self._terms["one_of"]:
                self._choose_form(group, sections, reach)
        finally:
            reach.close()

    def _choose_form(self, group: Sequence[Mapping[str, Any]], sections: Mapping[str, str], reach: Reach) -> None:
        ran: list[str] | None = None
        reasons: list[str] = []
        for form in group:
            fits, why = self._fits(form, sections, reach)
            if fits or (fits is None and self._loads(form["programs"])):
                ran = list(form["programs"])
                break
            reasons.append(f"{' + '.join(form['programs'])}: {why or 'does not load'}")
        self.chosen.append({"forms": [list(form["programs"]) for form in group], "ran": ran, "why": reasons})
        instead = (
            "no form can run here"
            if ran is None
            else f"{' + '.join(ran)} runs in its place"
            if ran
            else "none of its group can run here"
        )
        for form in group:
            for name in form["programs"]:
                if ran is None or name not in ran:
                    self.off[name] = f"one_of: {instead}"

    def _fits(self, form: Mapping[str, Any], sections: Mapping[str, str], reach: Reach) -> tuple[bool | None, str]:
        """Whether the kernel meets what the form needs: declared, or what its programs attach to. None where it has to be tried."""
        if form["needs"] is not None:
            lacking = reach.lacking(form["needs"])
            return not lacking, f"the kernel lacks {', '.join(lacking)}"
        known: bool | None = True
        for name in form["programs"]:
            to = self._terms["programs"].get(name, {}).get("to", ())
            _, there, why = reach.target(sections[name], to)
            if there is False:
                return False, why
            known = known if there else None
        return known, ""

    def _loads(self, names: Collection[str]) -> bool:
        """Whether these programs load, and nothing else of the object with them."""
        with ExitStack() as resources, suppress(Refused, OSError, CannotSet):
            opened = self.open()
            resources.callback(opened.close)
            opened.choose(names)
            self.apply(opened, names, resources)
            opened.load(limit.SECONDS)
            return True
        return self.give_up_core_btf() and self._loads(names)

    # -- between opening and loading -------------------------------------------------------------------------------------------

    def apply(self, opened: Opened, names: Collection[str], resources: ExitStack) -> None:
        """Set it all for an object of which the programs `names` will be loaded. Raises CannotSet."""
        for section, writes in self._terms["values"].items():
            for offset, text in writes:
                opened.set_bytes(section, offset, bytes.fromhex(text))
        for name, terms in self._terms["maps"].items():
            if name not in opened.maps:
                raise CannotSet(f"maps.{name}: the loader finds no such map in the object")
            self._set_map(opened, name, terms, resources)
        for name, terms in self._terms["programs"].items():
            if name in names:
                self._set_program(opened, name, terms)

    def _set_map(self, opened: Opened, name: str, terms: Terms, resources: ExitStack) -> None:
        if not terms["autocreate"]:
            opened.leave_out(name)
        if terms["type"]:
            kind = next((k for k in terms["type"] if libbpf.probe_map_type(k, None) == 1), terms["type"][-1])
            opened.set_map(name, "type", kind)
            if kind == PERF_EVENT_ARRAY:  # its keys are CPUs and its values are fds
                opened.set_map(name, "key_size", 4)
                opened.set_map(name, "value_size", 4)
                opened.set_map(name, "max_entries", 0)  # the library makes that the number of CPUs
        for key in ("key_size", "value_size"):
            if terms[key] is not None:
                opened.set_map(name, key, terms[key])
        if terms["max_entries"] is not None:
            opened.set_map(name, "max_entries", _count(terms["max_entries"]))
        if terms["inner"] is not None:
            opened.set_inner(name, {**terms["inner"], "max_entries": _count(terms["inner"]["max_entries"])}, resources)
        if terms["pin"] is not None:
            os.makedirs(os.path.dirname(terms["pin"]), exist_ok=True)
            opened.set_pin(name, terms["pin"])
            if not os.path.exists(terms["pin"]):
                resources.callback(_unpin, terms["pin"])

    def _set_program(self, opened: Opened, name: str, terms: Terms) -> None:
        if terms["type"] is not None:
            opened.set_program(name, "type", terms["type"])
        if terms["attach_type"] is not None:
            opened.set_program(name, "expected_attach_type", terms["attach_type"])
        if name in self._targets and opened.wanted(name)["type"] in ("tracing", "lsm"):
            opened.set_program(
                name, "attach_to", self._targets[name].rpartition(":")[2]
            )  # modules are looked through by the library

    # -- between loading and attaching -----------------------------------------------------------------------------------------

    def fill(self, opened: Opened) -> None:
        """Put into maps what they hold before anything is attached. Raises CannotSet."""
        there = created_maps(opened)
        for name, terms in self._terms["maps"].items():
            for key, content in terms["entries"] if name in there else ():
                if content.get("program") in self.off:
                    continue
                with ExitStack() as fds:
                    value = _value(opened, name, content, terms, fds)
                    try:
                        _update(opened.map_fd(name), bytes.fromhex(key), value)
                    except OSError as error:
                        raise CannotSet(f"contents of map {name}: {error.strerror}", error.errno) from None

    def attaches(self, name: str) -> bool:
        """Whether the program is attached once it is loaded."""
        return self._terms["programs"].get(name, {}).get("attach") is not False

    def target(self, name: str) -> str | None:
        """Where it attaches in place of what its section says; None: there."""
        return self._targets.get(name)


def _count(number: int | str) -> int:
    return possible_cpus() if number == "cpus" else int(number)


def _inner_map(terms: Terms) -> int:
    try:
        return bpf.map_create(
            int(terms["type"]),
            int(terms["key_size"]),
            int(terms["value_size"]),
            _count(terms["max_entries"]),
            flags=int(terms["flags"]),
        )
    except OSError as error:
        raise CannotSet(f"inner map: {error.strerror}", error.errno) from None


def _value(opened: Opened, name: str, content: Mapping[str, Any], terms: Terms, fds: ExitStack) -> bytes:
    """The bytes of an entry, for a map of programs or maps an fd."""
    if "value" in content:
        data = bytes.fromhex(content["value"])
        if opened.asked_of(name)["type"] in _PER_CPU:
            return data.ljust((len(data) + 7) // 8 * 8, b"\0") * possible_cpus()
        return data
    if "program" in content:
        fd = opened.fd(content["program"])
        if fd < 0:
            raise CannotSet(f"contents of map {name}: program {content['program']} is not loaded")
    elif "map" in content:
        fd = opened.map_fd(content["map"])
    else:
        fd = _inner_map(terms["inner"])
        fds.callback(os.close, fd)
    return struct.pack("=i", fd)


def _update(fd: int, key: bytes, value: bytes) -> None:
    """bpf_map_update_elem, whatever is there."""
    keys, held = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    bpf.bpf(bpf.MAP_UPDATE_ELEM, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(keys), ctypes.addressof(held), 0))


def _unpin(path: str) -> None:
    """What was pinned for this one try goes with it."""
    with suppress(OSError):
        os.unlink(path)
