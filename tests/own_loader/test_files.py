"""The files of a collector's own loader are checked on the host, before a VM is spent on them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from kmatrix.fetch import apt
from kmatrix.guest.triggers.processes import EXIT_7
from kmatrix.host.errors import InputError, Unavailable
from kmatrix.matrix.arch import Arch
from kmatrix.runs import loader_files
from tests.kernels.fabricate import deb
from tests.own_loader.test_pure import own


def program(machine: str) -> bytes:
    """The head of an ELF program for "x86_64" or "aarch64", with no segments."""
    number, _ = EXIT_7[machine]
    return b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 2, number, 1, 0, 0, 0, 0, 64, 56, 0, 64, 0, 0)


def collect(folder: Path, arch: Arch = "x86_64", **loader: Any) -> tuple[loader_files.LoaderFile, ...]:
    collector = own(loader=loader).model_copy(update={"path": folder / "collector.toml"})
    return loader_files.collect(collector, arch)


def refused(folder: Path, arch: Arch = "x86_64", **loader: Any) -> str:
    with pytest.raises(InputError) as error:
        collect(folder, arch, **loader)
    assert error.value.fix
    return str(error.value)


def write(path: Path, data: bytes = b"#!/bin/sh\n", mode: int = 0o755) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_found_by_arch(tmp_path: Path) -> None:
    write(tmp_path / "build" / "agent-arm64", program("aarch64"))
    write(tmp_path / "build" / "agent-amd64", program("x86_64"))
    write(tmp_path / "settings", b"x", 0o640)
    for arch in ("x86_64", "arm64"):
        agent, settings = collect(tmp_path, arch, files={"agent": "build/agent-{goarch}", "settings": "settings"})
        assert (agent.name, agent.mode, settings.data, settings.mode) == ("agent", 0o755, b"x", 0o640)
    (file,) = collect(tmp_path, "arm64", files={"agent": {"arm64": "build/agent-arm64"}})
    assert file.data == program("aarch64")
    assert "no file is named for x86_64" in refused(tmp_path, files={"agent": {"arm64": "build/agent-arm64"}})


def test_not_there(tmp_path: Path) -> None:
    said = refused(tmp_path)
    assert f"{tmp_path}/collector.toml: loader.files: agent: {tmp_path}/agent: No such file or directory" in said


def test_for_the_wrong_arch(tmp_path: Path) -> None:
    write(tmp_path / "agent", program("aarch64"))
    assert "agent is a program for AArch64, wanted for x86_64" in refused(tmp_path)
    assert collect(tmp_path, "arm64")


def test_not_whole(tmp_path: Path) -> None:
    write(tmp_path / "agent", program("x86_64")[:30])
    assert "agent: not a whole ELF file" in refused(tmp_path)


def test_not_executable(tmp_path: Path) -> None:
    write(tmp_path / "agent", mode=0o644)
    said = refused(tmp_path)
    assert "./agent is not executable (its mode is 644)" in said
    assert "chmod +x agent" in said


def test_a_command_that_is_none_of_its_files(tmp_path: Path) -> None:
    write(tmp_path / "agent")
    assert "./agnet is none of the loader's files (agent)" in refused(tmp_path, command=["./agnet"])
    assert collect(tmp_path, command=["bpftool", "prog"])  # the guest's own


class Suite:
    """One of Debian's, that has the package tool, once."""

    archive = apt.Archive("nowhere", "trixie")

    def __init__(self, package: bytes) -> None:
        self.package, self.asked = package, 0

    def find(self, _arch: str, pattern: str, **_: Any) -> list[dict[str, str]]:
        return [{"Package": "tool"}] if pattern == "tool" else []

    def download(self, _package: Any, to: Path, **_: Any) -> str:
        self.asked += 1
        to.write_bytes(self.package)
        return "nowhere/tool.deb"


def test_out_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    suite = Suite(deb({"usr/sbin/tool": program("x86_64"), "usr/share/doc/tool": b"x"}))
    monkeypatch.setattr(apt, "open_suite", lambda *_, **__: suite)
    for _ in range(2):  # the second time from the cache
        (file,) = collect(tmp_path, files={"agent": "deb:tool/usr/sbin/tool"})
        assert (file.data, file.mode) == (program("x86_64"), 0o755)
    assert suite.asked == 1
    assert "no file usr/bin/tool in the package tool; it has usr/sbin/tool, usr/share/doc/tool" in refused(
        tmp_path, files={"agent": "deb:tool/usr/bin/tool"}
    )
    with pytest.raises(Unavailable, match="has no package toool for amd64"):
        collect(tmp_path, files={"agent": "deb:toool/usr/bin/tool"})
