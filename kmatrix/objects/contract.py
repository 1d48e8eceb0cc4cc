"""A contract against its object: every name and value checked, and all of it as bytes and numbers, which is what the guest gets.

Everything that can be wrong is wrong here, before a VM starts.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kmatrix.guest.bpf import MAP_TYPES, PROG_TYPES
from kmatrix.host.errors import InputError
from kmatrix.host.later import later
from kmatrix.host.nearest import did_you_mean
from kmatrix.objects import values
from kmatrix.objects.btf import DATASEC, PTR, VAR, Btf
from kmatrix.objects.values import ValueMismatch

if TYPE_CHECKING:
    from elftools.elf import elffile
    from elftools.elf import sections as elf_sections

    from kmatrix.manifest.contract import Contract, Form, InnerMap, MapTerms, ProgramTerms
    from kmatrix.objects.compiled import ObjectInfo
else:
    elffile = later("elftools.elf.elffile")
    elf_sections = later("elftools.elf.sections")

Terms = dict[str, Any]
"""A contract as the guest gets it (docs/protocol.md)."""

_DATA = (".rodata", ".data", ".bss")
ATTACH_TYPES = (
    "cgroup_inet_ingress", "cgroup_inet_egress", "cgroup_inet_sock_create", "cgroup_sock_ops", "sk_skb_stream_parser",
    "sk_skb_stream_verdict", "cgroup_device", "sk_msg_verdict", "cgroup_inet4_bind", "cgroup_inet6_bind", "cgroup_inet4_connect",
    "cgroup_inet6_connect", "cgroup_inet4_post_bind", "cgroup_inet6_post_bind", "cgroup_udp4_sendmsg", "cgroup_udp6_sendmsg",
    "lirc_mode2", "flow_dissector", "cgroup_sysctl", "cgroup_udp4_recvmsg", "cgroup_udp6_recvmsg", "cgroup_getsockopt",
    "cgroup_setsockopt", "trace_raw_tp", "trace_fentry", "trace_fexit", "modify_return", "lsm_mac", "trace_iter",
    "cgroup_inet4_getpeername", "cgroup_inet6_getpeername", "cgroup_inet4_getsockname", "cgroup_inet6_getsockname", "xdp_devmap",
    "cgroup_inet_sock_release", "xdp_cpumap", "sk_lookup", "xdp", "sk_skb_verdict", "sk_reuseport_select",
    "sk_reuseport_select_or_migrate", "perf_event", "trace_kprobe_multi", "lsm_cgroup", "struct_ops", "netfilter", "tcx_ingress",
    "tcx_egress", "trace_uprobe_multi", "cgroup_unix_connect", "cgroup_unix_sendmsg", "cgroup_unix_recvmsg",
    "cgroup_unix_getpeername", "cgroup_unix_getsockname", "netkit_primary", "netkit_peer", "trace_kprobe_session",
)  # fmt: skip
"""enum bpf_attach_type (include/uapi/linux/bpf.h), as bpftool writes it: the position is the number."""
_OF_MAPS = ("array_of_maps", "hash_of_maps")
ATTACHABLE = (
    "fentry", "fexit", "fmod_ret", "lsm", "kprobe", "kretprobe", "ksyscall", "kretsyscall", "tp", "tracepoint", "raw_tp",
    "raw_tracepoint", "uprobe", "uretprobe",
)  # fmt: skip
"""What the section of a program begins with whose target a loader may choose."""


@dataclass(frozen=True)
class Variable:
    """A variable of .rodata, .data or .bss."""

    section: str
    offset: int
    size: int
    type: int
    """Its number in the object's BTF."""


def resolve(contract: Contract, info: ObjectInfo, *, where: str, folder: Path) -> Terms:
    """What the guest sets of the object. `where` names the contract in errors; its files are relative to `folder`.

    Raises InputError naming the key, and what the object has in place of what it says.
    """
    return _Resolver(contract, info, where, folder).terms()


class _Resolver:
    def __init__(self, contract: Contract, info: ObjectInfo, where: str, folder: Path) -> None:
        self.contract, self.info, self.where, self.folder = contract, info, where, folder
        elf = elffile.ELFFile(BytesIO(info.data))
        section = elf.get_section_by_name(".BTF")
        self.btf = Btf(section.data()) if section is not None and info.has_btf else None
        self.elf = elf
        self.maps = self._maps()

    def terms(self) -> Terms:
        contract = self.contract
        return {
            "values": self._values(),
            "maps": {name: self._map(name, terms) for name, terms in contract.maps.items()},
            "programs": self._programs(),
            "one_of": [self._group(group) for group in contract.one_of],
            "kconfig": contract.kconfig,
            "btf": None if contract.btf is None else self._btf_file(contract.btf),
        }

    def _wrong(self, key: str, message: str, fix: str) -> NoReturn:
        raise InputError(message, where=f"{self.where}: {key}", fix=fix)

    def _known(self, key: str, kind: str, name: str, known: Iterable[str]) -> None:
        """Raise InputError unless the object has it."""
        names = sorted(known)
        if name not in names:
            some = ", ".join(names[:30]) + (" …" if len(names) > 30 else "")
            self._wrong(
                key, f"{self.info.path.name} has no {kind} {name!r}{did_you_mean(name, names)}", f"it has: {some or 'none'}"
            )

    # -- variables -------------------------------------------------------------------------------------------------------------

    def _values(self) -> dict[str, list[list[Any]]]:
        if not self.contract.variables:
            return {}
        if self.btf is None:
            self._wrong(
                "variables", f"{self.info.path.name} has no BTF, so the types of its variables are unknown", "compile it with -g"
            )
        variables = self._variables(self.btf)
        found: dict[str, list[list[Any]]] = {}
        for path, value in self.contract.variables.items():
            name, inner = values.nested(path, value)
            key = f"variables.{path}"
            self._known(key, "variable", name, variables)
            variable = variables[name]
            try:
                written = values.writes(self.btf, variable.type, inner)
            except ValueMismatch as error:
                self._wrong(key, str(error), f"{name} is {values.describe(self.btf, variable.type)}")
            for offset, data in written:
                found.setdefault(variable.section, []).append([variable.offset + offset, data.hex()])
        return found

    def _variables(self, btf: Btf) -> dict[str, Variable]:
        """By name. Where it lies is the symbol table's to say: in BTF, the loader puts that in."""
        types = {
            (section.name, btf.types[number].name): btf.types[number].ref
            for section in btf.types
            if section.kind == DATASEC
            for _, number, _ in section.members
            if btf.types[number].kind == VAR
        }
        names = {number: section.name for number, section in enumerate(self.elf.iter_sections())}
        found = {}
        for table in self.elf.iter_sections():
            if not isinstance(table, elf_sections.SymbolTableSection):
                continue
            for symbol in table.iter_symbols():
                section = names.get(symbol["st_shndx"], "") if isinstance(symbol["st_shndx"], int) else ""
                if section.startswith(_DATA) and (type_ := types.get((section, symbol.name))) is not None:
                    found[symbol.name] = Variable(section, symbol["st_value"], symbol["st_size"], type_)
        return found

    # -- maps ------------------------------------------------------------------------------------------------------------------

    def _maps(self) -> dict[str, Mapping[str, int]]:
        """What __uint() and __type() gave each map of .maps: numbers as they are, types by their number in BTF."""
        if self.btf is None:
            return {name: {} for name in self.info.maps}
        found: dict[str, Mapping[str, int]] = {name: {} for name in self.info.maps}
        numbers = self.btf.map_numbers()
        for section in self.btf.types:
            for _, number, _ in section.members if section.kind == DATASEC and section.name == ".maps" else ():
                variable = self.btf.types[number]
                shape = self.btf.types[self.btf.bare(variable.ref)]
                members = {name: self.btf.types[self.btf.bare(type_)] for name, type_, _ in shape.members}
                types = {name: m.ref for name, m in members.items() if name in ("key", "value") and m.kind == PTR}
                uints = {name: n for name, n in numbers.get(variable.name, {}).items() if name not in types}
                found[variable.name] = uints | types
        return found

    def _map(self, name: str, terms: MapTerms) -> dict[str, Any]:
        key = f"maps.{name}"
        self._known(key, "map", name, self.maps)
        kind = terms.type[0] if terms.type else self._kind(name)
        if terms.programs and kind not in (None, "prog_array"):
            self._wrong(f"{key}.programs", f"{name} is a map of type {kind}", "slots with programs are for a prog_array")
        if terms.inner is not None and kind not in (None, *_OF_MAPS):
            self._wrong(f"{key}.inner", f"{name} is a map of type {kind}", f"inner is for {' and '.join(_OF_MAPS)}")
        return {
            "max_entries": terms.max_entries,
            "type": [self._number(f"{key}.type", "map type", each, MAP_TYPES) for each in terms.type],
            "key_size": terms.key_size,
            "value_size": terms.value_size,
            "autocreate": terms.autocreate,
            "pin": terms.pin,
            "inner": None if terms.inner is None else self._inner(f"{key}.inner", terms.inner),
            "entries": [*self._entries(name, terms, kind), *self._slots(name, terms)],
        }

    def _kind(self, name: str) -> str | None:
        number = self.maps[name].get("type")
        return None if number is None else MAP_TYPES[number] if number < len(MAP_TYPES) else f"type {number}"

    def _number(self, key: str, kind: str, name: str, known: tuple[str, ...]) -> int:
        if name not in known:
            self._wrong(key, f"no {kind} {name!r}{did_you_mean(name, known)}", f"one of: {', '.join(known)}")
        return known.index(name)

    def _inner(self, key: str, inner: InnerMap) -> dict[str, Any]:
        return inner.model_dump() | {"type": self._number(f"{key}.type", "map type", inner.type, MAP_TYPES)}

    def _slots(self, name: str, terms: MapTerms) -> list[list[Any]]:
        most = terms.max_entries or self.maps[name].get("max_entries")
        found = []
        for slot, program in terms.programs.items():
            key = f"maps.{name}.programs.{slot}"
            self._known(key, "program", program, self.info.programs)
            if isinstance(most, int) and int(slot) >= most:
                self._wrong(key, f"{name} has {most} slots, 0 to {most - 1}", "use another slot, or set max_entries")
            found.append([int(slot).to_bytes(4, "little").hex(), {"program": program}])
        return found

    def _entries(self, name: str, terms: MapTerms, kind: str | None) -> list[list[Any]]:
        found: list[list[Any]] = []
        for index, entry in enumerate(terms.contents):
            key = f"maps.{name}.contents[{index}]"
            data = self._encoded(f"{key}.key", name, "key", entry.key, terms.key_size).hex()
            if kind in _OF_MAPS:
                found.append([data, self._inner_of(f"{key}.value", name, terms, entry.value)])
            else:
                found.append([data, {"value": self._encoded(f"{key}.value", name, "value", entry.value, terms.value_size).hex()}])
        return found

    def _inner_of(self, key: str, name: str, terms: MapTerms, value: object) -> dict[str, Any]:
        if value == "inner":
            if terms.inner is None:
                self._wrong(
                    key,
                    '"inner" is one more map as inner says, and nothing says it',
                    f"add maps.{name}.inner, or name a map of the object",
                )
            return {"inner": True}
        if not isinstance(value, str):
            self._wrong(key, f"{value!r} is no map; {name} holds maps", 'name a map of the object, or write "inner"')
        self._known(key, "map", value, self.maps)
        return {"map": value}

    def _encoded(self, key: str, name: str, part: str, value: object, size: int | None) -> bytes:
        """A key or value by its BTF type; where only its size is known, a number or bytes."""
        type_ = self.maps[name].get(part) if size is None else None
        try:
            if type_ is not None and self.btf is not None:
                return values.encode(self.btf, type_, value)
            wanted = size or self.maps[name].get(f"{part}_size")
            if isinstance(value, str) and value.startswith(values.HEX):
                data = bytes.fromhex(value.removeprefix(values.HEX))
            elif isinstance(value, int) and wanted:
                data = int(value).to_bytes(wanted, "little", signed=value < 0)
            else:
                self._wrong(key, f"{value!r}: the type of {name}'s {part} is unknown", f"write its bytes: {values.HEX}…")
        except ValueMismatch as error:
            assert type_ is not None, "its size alone mismatches nothing"
            assert self.btf is not None, "it has a type"
            self._wrong(key, str(error), f"{name}'s {part} is {values.describe(self.btf, type_)}")
        except (ValueError, OverflowError) as error:
            self._wrong(key, f"{value!r}: {error}", f"write its bytes: {values.HEX}…")
        if wanted and len(data) != wanted:
            self._wrong(key, f"{value!r} is {len(data)} bytes; {name}'s {part} is {wanted}", "correct it")
        return data

    # -- programs --------------------------------------------------------------------------------------------------------------

    def _programs(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for of_map in self.contract.maps.values():
            for program in of_map.programs.values():  # a tail call's target is called, and not attached
                found[program] = {"load": None, "attach": False, "to": [], "type": None, "attach_type": None}
        for name, terms in self.contract.programs.items():
            key = f"programs.{name}"
            self._known(key, "program", name, self.info.programs)
            slot = found.get(name, {"attach": None})
            found[name] = {
                "load": terms.autoload,
                "attach": slot["attach"] if terms.autoattach is None else terms.autoattach,
                "to": list(terms.attach_to),
                "type": None if terms.type is None else self._number(f"{key}.type", "program type", terms.type, PROG_TYPES),
                "attach_type": self._attach_type(f"{key}.expected_attach_type", terms),
            }
            self._check_target(key, name, terms)
        return found

    def _attach_type(self, key: str, terms: ProgramTerms) -> int | None:
        wanted = terms.expected_attach_type
        return self._number(key, "attach type", wanted, ATTACH_TYPES) if isinstance(wanted, str) else wanted

    def _check_target(self, key: str, name: str, terms: ProgramTerms) -> None:
        """Raise InputError where what the program's section names is nothing that a target could be given for."""
        kind = self.info.programs[name].lstrip("?").partition("/")[0].removesuffix(".s")
        if terms.attach_to and terms.type is None and kind not in ATTACHABLE:
            self._wrong(
                f"{key}.attach_to",
                f"{name} is in section {self.info.programs[name]!r}, whose programs take no target",
                f"attach_to is for sections {', '.join(ATTACHABLE)}",
            )
        for target in terms.attach_to:
            if kind in ("tp", "tracepoint") and target.count("/") != 1:
                self._wrong(f"{key}.attach_to", f"{target!r} is no tracepoint", "write category/name, such as sched/sched_switch")
            if kind in ("uprobe", "uretprobe") and ":" not in target:
                self._wrong(
                    f"{key}.attach_to", f"{target!r} names no function of a file", "write path:function, such as /bin/sh:main"
                )

    def _group(self, group: tuple[Form, ...]) -> list[dict[str, Any]]:
        for form in group:
            for name in form.programs:
                self._known("one_of", "program", name, self.info.programs)
            self._check_form(form)
        return [{"programs": list(form.programs), "needs": None if form.needs is None else list(form.needs)} for form in group]

    def _check_form(self, form: Form) -> None:
        """Raise InputError where a form has an fentry and a kprobe program of one function: these are meant as forms of one another."""
        seen: dict[str, str] = {}
        for name in form.programs:
            kind, _, target = self.info.programs[name].lstrip("?").partition("/")
            when = "return" if kind.startswith(("fexit", "kretprobe")) else "entry"
            if not target or not kind.startswith(("fentry", "fexit", "kprobe", "kretprobe")):
                continue
            other = seen.setdefault(f"{when} {target}", name)
            if other != name and kind != self.info.programs[other].lstrip("?").partition("/")[0]:
                self._wrong(
                    "one_of",
                    f"one form has both {other} and {name}, which are two forms of one program: both attach to {target}",
                    f'a group of its own for the two: [[one_of]] forms = ["{other}", "{name}"]',
                )

    def _btf_file(self, name: str) -> str:
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            self._wrong("btf", f"{path}: {error.strerror}", "name a BTF file relative to the file that says it")
        if not (data.startswith((b"\x9f\xeb", b"\x7fELF"))):
            self._wrong(
                "btf", f"{path} is neither BTF nor an ELF file with BTF", "bpftool btf dump file FILE says what a BTF file is"
            )
        return base64.b64encode(data).decode()
