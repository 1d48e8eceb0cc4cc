"""What the kernel's BTF says of the names in a failure: facts for the diagnosis, asked only where something failed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ctypes import c_uint32

from . import libbpf

KINDS = {"struct": 4, "union": 5, "enum": 6}
"""BTF_KIND_* of the types that CO-RE relocations name (Documentation/bpf/btf.rst)."""
FUNC = 12
FOLDER = "/sys/kernel/btf"

_RELOCATION = re.compile(r"CO-RE relocation <\w+> \[\d+\] (struct|union|enum) (\w+)")
_ARGUMENT = re.compile(r"func '(\w+)' doesn't have \d+-th argument")
ALIKE = 5
"""How many names are given at most."""


def facts(text: str) -> dict[str, object]:
    """What vmlinux's BTF has of the type or function that `text` (libbpf's lines and the verifier's) fails at.

    `type`: kind, name, whether it is there, and names that begin with it. `function`: name and number of arguments.
    """
    found: dict[str, object] = {}
    relocation, argument = _RELOCATION.search(text), _ARGUMENT.search(text)
    if not (relocation or argument):
        return found
    with _vmlinux() as btf:
        if btf is None:
            return found
        if relocation:
            kind, name = relocation.groups()
            name = name.split("___")[0]  # what follows is the flavour, which the kernel's name has not
            there = libbpf.btf_find_by_name_kind(btf, name.encode(), KINDS[kind]) > 0
            found["type"] = {"kind": kind, "name": name, "there": there, "alike": [] if there else _alike(name)}
        if argument:
            found["function"] = {"name": argument[1], "arguments": _arguments(btf, argument[1])}
    return found


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


def _alike(name: str) -> list[str]:
    """Names in the kernel's BTF that begin with `name`: what a renamed type is called now."""
    try:
        with open("/sys/kernel/btf/vmlinux", "rb") as file:
            data = file.read()
    except OSError:
        return []
    names = {match.decode() for match in re.findall(rb"\0(" + re.escape(name.encode()) + rb"\w*)(?=\0)", data)}
    return sorted(names - {name}, key=lambda each: (len(each), each))[:ALIKE]


def _arguments(btf: int, function: str) -> int | None:
    """How many arguments the kernel's function has; None where its BTF does not tell."""
    ident = libbpf.btf_find_by_name_kind(btf, function.encode(), FUNC)
    if ident <= 0:
        return None
    proto = _words(libbpf.btf_type_by_id(btf, ident))[2]
    return _words(libbpf.btf_type_by_id(btf, proto))[1] & 0xFFFF  # BTF_INFO_VLEN


def _words(pointer: int) -> tuple[int, int, int]:
    """struct btf_type: name_off, info, size or type."""
    name, info, kind = (c_uint32 * 3).from_address(pointer)
    return name, info, kind
