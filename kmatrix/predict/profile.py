"""A profile: what one kernel has for BPF programs, made of a capture (kmatrix/predict/collect.py) or of a BTF file alone."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kmatrix.guest import bpf
from kmatrix.host.errors import InputError
from kmatrix.host.version import series
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.predict import collect
from kmatrix.predict.encode import Encoder, Lines
from kmatrix.predict.pack import Contents, Meta

_ARCHES: Mapping[str, Arch] = {info.machine: arch for arch, info in INFO.items()}
_WAYS = {str(number): name for number, name in enumerate(bpf.PROG_TYPES)}
"""How the capture names a way to load a program → how a profile does: `kprobe`; of tracing and LSM `tracing/fentry`, `lsm/lsm.s`."""


def read_capture(path: Path) -> dict[str, Any]:
    """The capture in a file. Raises InputError where it is none, or of another schema."""
    again = "run collect.py on the host again (kmatrix profiles script)"
    try:
        raw = path.read_bytes()
        found: dict[str, Any] = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
        schema = found["capture"]
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path), fix="correct the path") from None
    except (ValueError, KeyError, TypeError, EOFError, zlib.error):
        raise InputError("this is not a whole capture of a kernel", where=str(path), fix=again) from None
    if schema != collect.SCHEMA:
        raise InputError(f"the capture has schema {schema}, and this kmatrix reads {collect.SCHEMA}", where=str(path), fix=again)
    return found


def of_capture(found: Mapping[str, Any], where: str, name: str | None = None) -> tuple[Meta, Contents]:
    """The profile of a capture. `name` is what the kernel is called, without the arch. Raises InputError for a damaged one."""
    try:
        arch = _ARCHES[found["machine"]]
        release = str(found["release"])
        version = series(release)
        if version is None:
            raise InputError(f"{release!r} is no kernel's release", where=where)
        types = {each: base64.b64decode(data) for each, data in found["btf"].items()}
        facts = found.get("facts") or {}
        kernel = name or found.get("kernel") or release
        meta: Meta = {
            "name": f"{kernel}-{arch}",
            "kernel": kernel,
            "release": release,
            "built": str(found.get("version") or ""),
            "version": list(version),
            "arch": arch,
            "page_size": found["page_size"],
            "from": "guest" if facts else "host",
            "btf": "vmlinux" in types,
            "lsm": found["lsm"],
            "lockdown": found["lockdown"],
            "modules": found["modules"],
            "prog_types": [bpf.name_of(bpf.PROG_TYPES, number) for number in found["prog_types"]],
            "map_types": [bpf.name_of(bpf.MAP_TYPES, number) for number in found["map_types"]],
            "helpers": {_way(way): f"{sum(1 << number for number in numbers):x}" for way, numbers in found["helpers"].items()},
            "has": sorted(each for each, there in facts.items() if there is True),
            "lacks": sorted(each for each, there in facts.items() if there is False),
            "knows": [part for part in ("config", "traceable", "blacklist", "events") if found.get(part)] + ["symbols"] * bool(found["functions"]),
        }  # fmt: skip
        lines = read_types(types, where)
        options = {key: [value] for key, value in (found["config"] or {}).items() if "\t" not in value and "\n" not in value}
        contents: Contents = {
            "types": _types(lines),
            "names": _names(found, lines),
            "events": {event: [_fields(fields)] for event, fields in (found["events"] or {}).items()},
            "config": options,
            "sysctls": {key: [" ".join(value.split())] for key, value in found["sysctls"].items()},
        }
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise InputError(
            f"the capture of a kernel is damaged ({error})", where=where, fix="run collect.py on the host again"
        ) from None
    return meta, contents


def of_btf(
    path: Path, release: str, arch: Arch, name: str | None = None, features: Mapping[str, bool] | None = None
) -> tuple[Meta, Contents]:
    """The profile of a kernel of which there is only its BTF, and a table of features. What neither says is what its release says upstream."""
    version = series(release)
    if version is None:
        raise InputError(
            f"{release!r} is no kernel's release", where="--release", fix="write it as uname -r does: 5.4.0-42-generic"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path), fix="correct the path") from None
    lines = read_types({"vmlinux": data}, str(path))
    kernel, facts = name or release, features or {}
    meta: Meta = {
        "name": f"{kernel}-{arch}", "kernel": kernel, "release": release, "built": "", "version": list(version), "arch": arch, "page_size": 4096,
        "from": "btf", "btf": True, "lsm": None, "lockdown": None, "modules": None, "prog_types": None, "map_types": None, "helpers": {},
        "has": sorted(each for each, there in facts.items() if there), "lacks": sorted(each for each, there in facts.items() if not there),
        "knows": [],
    }  # fmt: skip
    empty: dict[str, Any] = {"functions": {}, "raw_tracepoints": [], "traceable": None, "blacklist": None}
    return meta, {"types": _types(lines), "names": _names(empty, lines), "events": {}, "config": {}, "sysctls": {}}


def read_types(types: Mapping[str, bytes], where: str) -> dict[str, Lines]:
    """The lines of the kernel's BTF and of each module's."""
    found: dict[str, Lines] = {}
    if "vmlinux" not in types:
        return found
    try:
        kernel = Encoder(types["vmlinux"])
        found["vmlinux"] = kernel.lines()
        for module, data in types.items():
            if module != "vmlinux":
                found[module] = Encoder(data, kernel).lines()
    except (ValueError, IndexError) as error:
        raise InputError(
            f"the BTF cannot be read: {error}", where=where, fix="take it from /sys/kernel/btf/vmlinux, or from BTFHub, unpacked"
        ) from None
    return found


def _way(text: str) -> str:
    number, _, rest = text.partition("/")
    kind = _WAYS.get(number, number)
    return f"{kind}/{rest}" if rest else kind


def _types(lines: Mapping[str, Lines]) -> dict[str, list[str]]:
    """By kind and name: what vmlinux has, then what modules have, whose name stands before `|`."""
    found: dict[str, list[str]] = {}
    for module, each in lines.items():
        for key, texts in each.types.items():
            found.setdefault(key, []).extend(texts if module == "vmlinux" else [f"{module}|{text}" for text in texts])
    return found


def _names(found: Mapping[str, Any], lines: Mapping[str, Lines]) -> dict[str, list[str]]:
    """By function, variable or raw tracepoint: what the BTF says of it, `/`, flags, `/`, the module that has it in its BTF.

    Flags: S in /proc/kallsyms, D there more than once, B not to be probed, T to be traced, V a variable in the BTF, R a raw tracepoint.
    """
    parts: dict[str, list[str]] = {}
    for module, each in lines.items():
        for name, text in each.functions.items():
            parts.setdefault(name, [text, "", "" if module == "vmlinux" else module])
        for name in each.variables:
            parts.setdefault(name, ["", "", "" if module == "vmlinux" else module])[1] += "V"
    for name, count in found["functions"].items():
        if name.startswith(_MADE_UP):
            continue
        parts.setdefault(name, ["", "", ""])[1] += "SD" if count > 1 else "S"
    for flag, names in (("B", found["blacklist"]), ("T", found["traceable"]), ("R", found["raw_tracepoints"])):
        for name in names or ():
            parts.setdefault(name, ["", "", ""])[1] += flag
    return {name: ["/".join(each).rstrip("/")] for name, each in parts.items() if re.fullmatch(r"[\x21-\x7e]+", name)}


_MADE_UP = (
    "__pfx_",
    "__cfi_",
    "__SCT__",
    "__probestub_",
    "__traceiter_",
    "__bpf_trace_",
    "trace_raw_output_",
    "trace_event_raw_event_",
    "perf_trace_",
)
"""What compilers and tracepoints add to a kernel's functions: thousands, which nobody probes, and which kernels from 4.20 on refuse."""


def _fields(fields: Iterable[tuple[str, int, int, int]]) -> str:
    return ",".join(f"{name}:{offset}:{size}{':s' if signed else ''}" for name, offset, size, signed in fields)
