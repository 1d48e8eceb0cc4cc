"""Real guests, and BPF objects compiled for the occasion."""

from __future__ import annotations

import base64
import ctypes
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from conftest import lacking, need_programs
from kmatrix.matrix.arch import INFO
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.vm import Machine

HERE = Path(__file__).parent
TARGETS = ("4.14-x86_64", "5.4-arm64", "6.1-x86_64", "6.12-arm64")
"""From the oldest to the newest, and both arches: what differs between kernels shows between these."""


class Guest:
    """A pristine VM of a target."""

    def __init__(self, target: Target, vm: Machine, probe: dict[str, Any]) -> None:
        self.target = target
        self.vm = vm
        self.probe = probe

    def call(self, op: str, /, **params: Any) -> Any:
        """Ask the agent, with patience."""
        return self.vm.call(op, params, timeout=120)

    def cell(self, data: bytes, **request: Any) -> dict[str, Any]:
        """A cell of one object: `programs` as names (`?` after one: optional; `-`: not attached), the rest as the host sends it."""
        programs = [
            {"name": name.rstrip("?-"), "hook": "tracepoint/…", "required": not name.endswith("?")}
            | ({"attach": False} if name.endswith("-") else {})
            for name in request.pop("programs")
        ]
        transport, buffer = request.pop("transport", None), request.pop("buffer", None)
        variant = {
            "name": "only",
            "object": "o",
            "needs": [],
            "transport": transport,
            "buffer": buffer,
            "programs": programs,
            "maps": [],
        }
        standard = {
            "collector": "test",
            "min_kernel": None,
            "variants": [variant],
            "objects": {"o": base64.b64encode(data).decode()},
        }
        more = {"trigger": {"kind": "open"}, "files": {}, "events": [], "timeout": 5.0, "now": time.time()}
        facts: dict[str, Any] = self.call("cell", **(standard | more | request))
        return facts


@pytest.fixture(scope="session")
def libbpf_here() -> None:
    """The agent's modules, imported on this machine, bind to its libbpf."""
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError as error:
        lacking(f"{error}: apt-get install libbpf1")


@pytest.fixture(scope="session")
def room() -> MachineRoom:
    return MachineRoom(load_matrix(), accel="tcg")


@pytest.fixture
def boot(room: MachineRoom, need: Callable[[str], None], tmp_path: Path) -> Iterator[Callable[[str], Guest]]:
    """boot("5.4-arm64"): a pristine guest."""
    with ExitStack() as stack:

        def start(name: str) -> Guest:
            need(name)
            target = room.matrix.target(name)
            vm, probe = stack.enter_context(room.machine(target, tmp_path / f"console-{name}.log"))
            return Guest(target, vm, dict(probe))

        yield start


@pytest.fixture(params=TARGETS)
def guest(request: pytest.FixtureRequest, boot: Callable[[str], Guest]) -> Guest:
    """A pristine guest of each of the targets."""
    return boot(request.param)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """compiled("many", target, "MACRO"): the object of bpf/many.bpf.c for the target's arch, with macros defined."""
    need_programs("clang")
    out = tmp_path_factory.mktemp("bpf")

    def compile_(name: str, target: Target, *defines: str) -> bytes:
        path = out / f"{'-'.join([name, target.arch, *defines])}.o"
        if not path.exists():
            common = HERE.parents[1] / "collectors" / "bpf_common"
            flags = ["-target", "bpf", "-g", "-O2", "-Wall", "-Wextra", "-Werror", f"-D__TARGET_ARCH_{INFO[target.arch].bpf2go}"]
            flags += [f"-D{define}" for define in defines]
            subprocess.run(["clang", *flags, f"-I{common}", "-c", str(HERE / "bpf" / f"{name}.bpf.c"), "-o", str(path)], check=True)
        return path.read_bytes()

    return compile_
