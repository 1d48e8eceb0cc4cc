"""What is pushed into the guest: the same bytes everywhere, whole, and standing on the standard library alone."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kmatrix import guest
from kmatrix.matrix.features import FEATURES
from kmatrix.vm import machine

SOURCES = sorted(path for path in Path(guest.__file__).parent.rglob("*.py") if path != Path(guest.__file__))


def test_the_same_bytes_at_another_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = guest.bundle(guest.sources())
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    assert guest.bundle(guest.sources()) == first


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_only_the_standard_library_is_imported(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            assert node.module.split(".")[0] in sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(path.relative_to(Path(guest.__file__).parent).parts)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name.split(".")[0]
                assert name in sys.stdlib_module_names or (path.name, name) == ("init.py", "agent")


def test_it_starts_from_the_zip_alone(tmp_path: Path) -> None:
    """`import agent; agent.main(port)` in an isolated interpreter: says hello, answers, survives nonsense."""
    archive = tmp_path / "agent.zip"
    archive.write_bytes(guest.bundle(guest.sources()))
    ours, theirs = socket.socketpair()
    # The warm-up is the guest's affair: on a developer's machine it would change settings and make cgroups.
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r})\n"
        "import kmatrix_guest.warmup as w; w.warm_up = lambda: None\n"
        f"import agent; agent.main({theirs.fileno()})"
    )
    try:
        process = subprocess.Popen([sys.executable, "-ISc", code], pass_fds=[theirs.fileno()], env={"PATH": os.environ["PATH"]})
    finally:
        theirs.close()
    try:
        with ours, ours.makefile("rwb") as channel:
            assert b'"hello"' in channel.readline()
            for line in (
                b"nonsense",
                b'{"id": 1, "op": "nonsense"}',
                b'{"id": 2, "op": "get", "path": "/none"}',
                b"[]",
                b'{"id": 3, "op": 7}',
            ):
                channel.write(line + b"\n")
                channel.flush()
                assert b'"error"' in channel.readline()
            channel.write(b'{"id": 4, "op": "get", "path": "/proc/self/comm"}\n')
            channel.flush()
            assert b'"id":4,"result"' in channel.readline()
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("libbpf_here")
def test_every_feature_of_the_table_has_a_probe() -> None:
    from kmatrix.guest import probe

    assert set(FEATURES) <= set(probe.PROBES)
    for name, function in probe.PROBES.items():
        assert function.__doc__, f"{name} says how it finds out and where the fact comes from"


def test_the_digest_is_that_of_every_module(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = guest.sources()
    digests = set()
    for name in [None, *sources]:
        monkeypatch.setattr(machine, "_agent_sources", lambda name=name: sources if name is None else sources | {name: "pass\n"})
        digests.add(machine.agent_digest.__wrapped__())
    assert len(digests) == 1 + len(sources)
