"""What the kernel has of the names in a failure: facts for the diagnosis, asked only where something failed."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ctypes import c_uint32, string_at

from . import confine, libbpf, simulate, spelling

STRUCT, UNION, ENUM, TYPEDEF, FUNC, ENUM64 = 4, 5, 6, 8, 12, 19
KINDS = {"struct": STRUCT, "union": UNION, "enum": ENUM, "enum64": ENUM64}
"""BTF_KIND_* of the types that CO-RE relocations name (Documentation/bpf/btf.rst)."""
_QUALIFIERS = (8, 9, 10, 11, 18)
"""Typedef, volatile, const, restrict, type tag: what stands before a type."""
FOLDER = "/sys/kernel/btf"

_RELOCATION = re.compile(r"CO-RE relocation <\w+> \[\d+\] (struct|union|enum64|enum) (\w+)(?:\.([\w.]+))?")
_ARGUMENT = re.compile(r"func '(\w+)' doesn't have \d+-th argument")
_NO_FUNCTION = re.compile(r"failed to find kernel BTF type ID of '(\w+)'")
_SUFFIXES = (".isra.0", ".constprop.0", ".part.0", ".isra.0.cold", ".cold")
"""What compilers add to a function's name where they change its form (GCC's IPA passes)."""
_CALLS = ("__x64_sys_", "__arm64_sys_", "sys_", "SyS_")
"""What the functions of system calls begin with: on x86_64 from 4.17 on, on arm64 from 4.19 on, before."""
TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
END = 64 << 10
"""Bytes of what was said that are looked at: a verifier's log has its cause at its end."""
ALIKE = 5
"""How many names are given at most."""


def facts(text: str) -> dict[str, object]:
    """What vmlinux's BTF has of the type or function that `text` (libbpf's lines and the verifier's) fails at.

    `type`: kind, name, whether it is there, names like it, and `members` like the one that is missing. `function`: name and number of
    arguments, or names like it where it is not there (`alike`; where there are none, `spelled`: those that are spelled nearly like it).
    """
    return confine.outside(lambda: _facts(text[-END:]))


def _facts(text: str) -> dict[str, object]:
    relocation, argument, missing = _RELOCATION.search(text), _ARGUMENT.search(text), _NO_FUNCTION.search(text)
    if not (relocation or argument or missing):
        return {}
    found: dict[str, object] = {}
    with _vmlinux() as btf:
        if btf is None:
            return found
        if relocation:
            kind, name, path = relocation.groups()
            name = name.split("___")[0]  # what follows is the flavour, which the kernel's name has not
            ident = libbpf.btf_find_by_name_kind(btf, name.encode(), KINDS[kind])
            there = ident > 0
            found["type"] = {"kind": kind, "name": name, "there": there, "alike": [] if there else _alike(name)}
            if there and path:
                found["type"]["members"] = _members_like(btf, ident, path.split("."))  # type: ignore[index]
        if argument:
            found["function"] = {"name": argument[1], "arguments": _arguments(btf, argument[1])}
        elif missing:
            found["function"] = {"name": missing[1], "arguments": None, **_in_its_place(btf, missing[1])}
    return found


def hook(section: str, code: int | None) -> dict[str, object]:
    """What the kernel has in the place of the function or tracepoint of a section that it refused; {} where that was not it.

    `symbol`: whether it is there, and functions like it, as in `facts`. `tracepoint`: those of its group that are like it. `record`: the size and fields of the
    tracepoint's record, where the kernel said EACCES: the program may read beyond it.
    """
    return confine.outside(lambda: _hook(section, code))


def _hook(section: str, code: int | None) -> dict[str, object]:
    kind, _, target = section.partition("/")
    if re.fullmatch(r"k(ret)?probe", kind) and code in (errno.ENOENT, errno.EINVAL):
        name = target.partition("+")[0]
        there = code == errno.EINVAL  # what may not be probed is EINVAL, since 4.17 (9afe33ada275)
        return {"symbol": {"name": name, "there": there, **({"alike": []} if there else _symbols_like(name))}}
    if kind in ("tp", "tracepoint") and code == errno.ENOENT:
        return {"tracepoint": {"name": target, "alike": _tracepoints_like(target)}}
    if kind in ("tp", "tracepoint") and code == errno.EACCES:
        return _record(target)
    return {}


def _record(target: str) -> dict[str, object]:
    """Bytes and fields of a tracepoint's record, without those that every record begins with; {} where that cannot be read."""
    for root in TRACEFS:
        with suppress(OSError), open(f"{root}/events/{target}/format") as file:
            fields = re.findall(r"field:[^;]*?(\w+)(?:\[\d*\])?;\s*offset:(\d+);\s*size:(\d+);", file.read())
            size = max((int(at) + int(length) for _, at, length in fields), default=0)
            own = [name for name, _, _ in fields if not name.startswith("common_")]
            return {"record": {"name": target, "size": size, "fields": own}}
    return {}


def of_functions(names: Iterable[str]) -> dict[str, dict[str, object]]:
    """What `facts` says of each of these functions that are not there."""

    def found() -> dict[str, dict[str, object]]:
        with _vmlinux() as btf:
            return {
                name: {"function": {"name": name, "arguments": None, **_in_its_place(btf, name)}} if btf is not None else {}
                for name in names
            }

    return confine.outside(found)


def absent(functions: Iterable[str]) -> set[str]:
    """Those of the functions that are in the BTF of neither the kernel nor a module that is loaded; none where that cannot be told."""
    with _vmlinux() as btf:
        if btf is None:
            return set()
        missing = {name for name in functions if libbpf.btf_find_by_name_kind(btf, name.encode(), FUNC) <= 0}
    modules = [each for each in os.listdir(FOLDER) if each != "vmlinux"] if missing else []
    for module in modules:
        with suppress(OSError), open(f"{FOLDER}/{module}", "rb") as file:
            data = file.read()
            missing = {name for name in missing if b"\0" + name.encode() + b"\0" not in data}
    return missing


@contextmanager
def _vmlinux() -> Iterator[int | None]:
    with libbpf.said():
        btf = libbpf.btf_load_vmlinux()
    try:
        yield btf or None
    finally:
        if btf:
            libbpf.btf_free(btf)


def _nearest(names: set[str], name: str) -> list[str]:
    return sorted(names - {name}, key=lambda each: (not each.startswith(name), len(each), each))[:ALIKE]


def _strings_with(name: str) -> set[str]:
    """The strings of the kernel's BTF that contain `name`."""
    return _strings(name.encode())


def _strings(*parts: bytes) -> set[str]:
    """The strings of the kernel's BTF that contain one of the `parts`; a part that begins or ends with a null is at a string's end."""
    try:
        with open(f"{FOLDER}/vmlinux", "rb") as file:
            data = file.read()
    except OSError:
        return set()
    return {each for part in parts for each in strings_with(data, part)}


def strings_with(data: bytes, wanted: bytes) -> set[str]:
    """The words between two nulls of `data` that contain `wanted`, which may have one of the nulls."""
    found, at = set(), 0
    while (at := data.find(wanted, at)) >= 0:
        start, end = data.rfind(b"\0", 0, at + 1) + 1, data.find(b"\0", at + 1)
        text = data[start:end]
        if re.fullmatch(rb"\w+", text):
            found.add(text.decode())
        at = end if end > at else at + 1
    return found


def _alike(name: str) -> list[str]:
    """Names in the kernel's BTF that begin with `name`: what a renamed type is called now."""
    return _nearest({each for each in _strings_with(name) if each.startswith(name)}, name)


def _functions_like(btf: int, name: str) -> list[str]:
    """Functions in the kernel's BTF whose names contain `name`."""
    calls = [each for each in _system_call(name) if libbpf.btf_find_by_name_kind(btf, each.encode(), FUNC) > 0]
    if calls:
        return calls
    names = _strings_with(name) - {name}
    return _nearest({each for each in names if libbpf.btf_find_by_name_kind(btf, each.encode(), FUNC) > 0}, name)


def _in_its_place(btf: int, name: str) -> dict[str, list[str]]:
    """What may be meant by the name of a function that is not in the BTF: functions like it; where there are none, of nearly that spelling."""
    alike = _functions_like(btf, name)
    return {"alike": alike, "spelled": [] if alike else _functions_spelled_like(btf, name)}


def _functions_spelled_like(btf: int, name: str) -> list[str]:
    """Functions in the kernel's BTF whose names are spelled nearly like `name`."""
    if len(name) < spelling.FEWEST:
        return []
    first, last = spelling.ends(name)
    near = spelling.nearly(name, _strings(b"\0" + first.encode(), last.encode() + b"\0"), 2 * spelling.GIVEN)
    return [each for each in near if libbpf.btf_find_by_name_kind(btf, each.encode(), FUNC) > 0][: spelling.GIVEN]


def _symbols_like(name: str) -> dict[str, list[str]]:
    """Functions that may be probed in the place of `name`: what the compiler made of it, else what the BTF has with that name in it.

    (/proc/kallsyms would tell all, in seconds where the CPU is emulated.)
    """
    made = [name + suffix for suffix in _SUFFIXES if _may_be_probed(name + suffix)]
    if made or not name:
        return {"alike": made}
    bare = name.partition(".")[0]
    if bare != name and _may_be_probed(bare):
        return {"alike": [bare]}
    if calls := [each for each in _system_call(name) if _may_be_probed(each)]:
        return {"alike": calls}
    with _vmlinux() as btf:
        return {"alike": []} if btf is None else _in_its_place(btf, bare)


def _system_call(name: str) -> list[str]:
    """What other arches and releases call the function of a system call; [] where the name is of none."""
    call = re.fullmatch(r"(?:__x64_|__arm64_|__ia32_|__se_)?(?:sys|SyS)_(\w+)", name)
    return [f"{prefix}{call[1]}" for prefix in _CALLS if f"{prefix}{call[1]}" != name] if call else []


def _may_be_probed(symbol: str) -> bool:
    """Whether the kernel takes a kprobe at the symbol: one is defined through tracefs, and taken away again."""
    if simulate.past().absent.of_symbol(symbol):
        return False
    for root in TRACEFS:
        try:
            _define(f"{root}/kprobe_events", f"p:kmatrix_why/it {symbol}")
        except OSError as error:
            if error.errno == errno.ENOENT and not os.path.exists(f"{root}/kprobe_events"):
                continue
            return False
        with suppress(OSError):
            _define(f"{root}/kprobe_events", "-:kmatrix_why/it")
        return True
    return False


def _define(path: str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


def _tracepoints_like(target: str) -> list[str]:
    """The tracepoints of the group whose names contain the one that is missing, or a long part of it."""
    group, _, name = target.partition("/")
    for root in TRACEFS:
        with suppress(OSError):
            names = set(os.listdir(f"{root}/events/{group}"))
            parts = [name, name.rpartition("_")[0]]
            told = (_nearest({e for e in names if part in e}, name) for part in parts if part not in ("", "sys_enter", "sys_exit"))
            return next((found for found in told if found), []) or difflib.get_close_matches(name, names, n=ALIKE, cutoff=0.85)
    return []


def _bare(btf: int, ident: int) -> int:
    """The type without typedefs and qualifiers."""
    while True:
        _, info, ref = _words(libbpf.btf_type_by_id(btf, ident))
        if info >> 24 & 0x1F not in _QUALIFIERS:
            return ident
        ident = ref


def _members(btf: int, ident: int) -> dict[str, int]:
    """The members of a struct or union and their types, through unnamed ones."""
    pointer = libbpf.btf_type_by_id(btf, ident)
    _, info, _ = _words(pointer)
    found: dict[str, int] = {}
    if info >> 24 & 0x1F not in (STRUCT, UNION):
        return found
    for index in range(info & 0xFFFF):
        name, kind, _ = (c_uint32 * 3).from_address(pointer + 12 + 12 * index)
        text = string_at(libbpf.btf_name_by_offset(btf, name)).decode() if name else ""
        if text:
            found[text] = kind
        else:
            found |= _members(btf, _bare(btf, kind))
    return found


def _members_like(btf: int, ident: int, path: list[str]) -> list[str]:
    """Members with the name of the one that is missing in theirs; [] where it is there, and something else is wrong with it."""
    for name in path:
        members = _members(btf, _bare(btf, ident))
        if name not in members:
            return _nearest({each for each in members if name in each}, name)
        ident = members[name]
    return []


def _arguments(btf: int, function: str) -> int | None:
    """How many arguments the kernel's function or tracepoint has; None where its BTF does not tell."""
    ident, own = libbpf.btf_find_by_name_kind(btf, function.encode(), FUNC), 0
    if ident <= 0:  # a tracepoint is a typedef of a pointer to a function whose first argument is the tracepoint's own
        ident, own = libbpf.btf_find_by_name_kind(btf, f"btf_trace_{function}".encode(), TYPEDEF), 1
        if ident <= 0:
            return None
        ident = _words(libbpf.btf_type_by_id(btf, ident))[2]
    proto = _words(libbpf.btf_type_by_id(btf, ident))[2]
    return (_words(libbpf.btf_type_by_id(btf, proto))[1] & 0xFFFF) - own  # BTF_INFO_VLEN


def _words(pointer: int) -> tuple[int, int, int]:
    """struct btf_type: name_off, info, size or type."""
    name, info, kind = (c_uint32 * 3).from_address(pointer)
    return name, info, kind
