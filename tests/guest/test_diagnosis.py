"""Small objects that fail, on booted kernels: each failure has its cause, its first release and its line of source.

What is expected stands in the objects' sources (tests/guest/bpf/why), above each program and map.
"""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import need_programs
from kmatrix.matrix.arch import INFO
from kmatrix.objects.source_lines import SourceLines
from kmatrix.verdict.diagnosis import explain
from tests.guest.conftest import Guest

HERE = Path(__file__).parent / "bpf/why"
INCLUDE = {"x86_64": "/usr/include/x86_64-linux-gnu", "arm64": "/usr/aarch64-linux-gnu/include"}
_RULE = re.compile(r"^// (?P<kernels>all|< [\d.]+): (?P<cause>.+)$")
_NAME = re.compile(
    r"^(?:__attribute__\(\(noinline\)\) )?int (?P<program>\w+)\(|^\} (?P<map>\w+) SEC\(\"\.maps\"\);|^SIZES\((?P<sized>\w+),"
)


def expected(source: Path, version: tuple[int, int]) -> dict[str, tuple[str | None, int | None]]:
    """By program or map: the class and cause, None where it is to be good; and the line that is marked, None where none is."""
    found: dict[str, tuple[str | None, int | None]] = {}
    rules: list[str] = []
    current = ""
    for number, line in enumerate(source.read_text().splitlines(), 1):
        if rule := _RULE.match(line):
            kernels = rule["kernels"]
            if kernels == "all" or version < tuple(map(int, kernels.removeprefix("< ").split("."))):
                rules.append(rule["cause"])
        elif name := _NAME.match(line):
            current = next(each for each in name.groups() if each)
            cause = rules[0] if rules and rules[0] != "ok" else None
            found[current] = (cause, None)
            rules = []
        if "/* here */" in line:
            found[current] = (found[current][0], number)
    return found


def compiled(source: Path, guest: Guest, out: Path) -> bytes:
    need_programs("clang")
    arch = guest.target.arch
    flags = ["-target", "bpf", "-g", "-O2", "-mcpu=v3", f"-D__TARGET_ARCH_{INFO[arch].bpf2go}", f"-I{INCLUDE[arch]}"]
    subprocess.run(["clang", *flags, "-c", str(source), "-o", str(out / "object.o")], check=True)
    return (out / "object.o").read_bytes()


def causes(report: Mapping[str, Any], data: bytes, guest: Guest) -> dict[str, tuple[str | None, str | None]]:
    """By program or map: class and cause, and the line of source."""
    version = guest.target.kernel.version
    programs, maps = explain(report["programs"], report["maps"], version, guest.target.arch, SourceLines(data))
    found: dict[str, tuple[str | None, str | None]] = {}
    for name, each in {**maps, **programs}.items():
        if not each.get("error"):
            found[name] = (None, None)
        elif each["diagnosis"] is None:
            found[name] = (f"unclassified: {each['error']} {each.get('log', '')[-300:]}", None)
        else:
            found[name] = (f"{each['diagnosis']['kind']}: {each['diagnosis']['headline']}", each["diagnosis"]["where"])
    return found


@pytest.mark.parametrize("name", ["lacks", "fields", "maps", "contexts", "refused"])
@pytest.mark.parametrize("target", ["5.4-x86_64", "5.10-x86_64", "6.1-x86_64", "6.12-arm64"])
def test_each_failure_has_its_cause(target: str, name: str, boot: Callable[[str], Guest], tmp_path: Path) -> None:
    guest = boot(target)
    source = HERE / f"{name}.bpf.c"
    data = compiled(source, guest, tmp_path)
    found = causes(guest.call("object", name=name, data=base64.b64encode(data).decode()), data, guest)
    wanted = expected(source, guest.target.kernel.version)
    if "bigger" in wanted:  # a function of the program `global`
        wanted["global"] = wanted.pop("bigger")
    assert set(wanted) <= set(found)
    for each, (cause, line) in wanted.items():
        said, where = found[each]
        if cause is None:
            assert said is None, each
            continue
        assert (said or "").startswith(cause), each
        if line is not None:
            assert (where or "").endswith(f"@ {source.name}:{line}"), f"{each}: {where}, not line {line}"
