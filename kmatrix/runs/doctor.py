"""What the host lacks, and the one command that mends it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.memory import available_mib
from kmatrix.host.paths import cache_dir
from kmatrix.matrix.arch import ARCHES, INFO, Arch, host_arch
from kmatrix.vm import accel
from kmatrix.vm.loaders import build

FREE_GIB = 8
"""Disk that six kernels with modules, two images and twelve snapshots take, with room to make one more."""
MEMORY_MIB = 1024
"""Memory that one VM at a time and the making of its snapshot take."""

Level = Literal["ok", "lacks", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    level: Level
    """`lacks` keeps something from working; `note` is good to know."""
    what: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class _Tool:
    """A program that something needs, and Debian's package of it."""

    program: str
    package: str
    needed_for: str
    level: Level = "lacks"


_TOOLS: tuple[_Tool, ...] = (
    *(_Tool(INFO[arch].qemu, INFO[arch].qemu_package, f"running {arch} guests") for arch in ARCHES),
    _Tool("setpriv", "util-linux", "ending QEMU with its parent"),
    _Tool("mmdebstrap", "mmdebstrap", "building guest images"),
    _Tool("mke2fs", "e2fsprogs", "building guest images"),
    _Tool("gpgv", "gpgv", "verifying Debian's archive"),
    _Tool("depmod", "kmod", "kernels with modules"),
    _Tool("clang", "clang", "compiling collectors (make collectors)", "note"),
    _Tool(
        "go",
        "golang-go golang-github-cilium-ebpf-dev",
        "the example of an agent with its own loader (make examples), and --loader=cilium",
        "note",
    ),
    _Tool("gcc", "gcc", "building kernels from source", "note"),
    _Tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", "building arm64 kernels from source", "note"),
    *(_Tool(name, name, "building kernels from source", "note") for name in ("make", "flex", "bison", "bc", "perl")),
    _Tool("pahole", "pahole", "building kernels with BTF", "note"),
    _Tool("ccache", "ccache", "building kernels again in less time", "note"),
    _Tool("git", "git", "kernels from git, and kmatrix bisect over commits", "note"),
)


def examine() -> Iterator[Finding]:
    """Everything that was looked at, in the order a run needs it."""
    yield _python()
    for tool in _TOOLS:
        yield _tool(tool)
    yield _cilium_loader()
    yield _virtme()
    yield _keyring()
    yield _accelerator()
    yield _memory()
    yield _disk()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("ok" if sys.version_info >= (3, 11) else "lacks", "python", version, "install Python 3.11 or later")


def _tool(tool: _Tool) -> Finding:
    # sbin is not on an ordinary user's PATH, and kmatrix looks there too.
    found = shutil.which(tool.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found:
        return Finding("ok", tool.program, found)
    return Finding(tool.level, tool.program, f"not installed: needed for {tool.needed_for}", _install(tool.package))


def _cilium_loader() -> Finding:
    """Whether `--loader=cilium` can be had."""
    what, go = "cilium loader", build.go_version()
    if go is None:
        return Finding("note", what, "cannot be built: there is no Go here (--loader=cilium)", _install("golang-go"))
    try:
        version = build.here()
    except InputError as error:
        return Finding("lacks", what, f"cannot be built: {error.where}: {error.message}", error.fix or "")
    if version is None:
        return Finding("ok", what, f"{go}; cilium/ebpf is fetched from Debian when --loader=cilium first asks for it")
    return Finding("ok", what, f"{go}, cilium/ebpf {version}")


def _install(package: str) -> str:
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install --no-install-recommends {package}"


def _virtme() -> Finding:
    try:
        return Finding("ok", "virtme-ng", importlib.metadata.version("virtme-ng"))
    except importlib.metadata.PackageNotFoundError:
        return Finding("lacks", "virtme-ng", "not installed", f"{sys.executable} -m pip install virtme-ng")


def _keyring() -> Finding:
    path = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if path.exists():
        return Finding("ok", "Debian's archive keys", str(path))
    return Finding(
        "lacks", "Debian's archive keys", "not installed: nothing fetched could be verified", _install("debian-archive-keyring")
    )


def _accelerator() -> Finding:
    arch: Arch = host_arch() or ARCHES[0]
    try:
        answer = accel.known(arch)
    except InfraError as error:  # what was found out of KVM, was found out with that QEMU; its own line says how to install it
        return Finding("note", "acceleration", f"/dev/kvm opens; whether a guest boots under it is not known: {error.message}")
    if answer is None:
        return Finding("note", "acceleration", "/dev/kvm opens; the first run sees whether a guest boots under it")
    return Finding("ok" if answer.name == "kvm" else "note", "acceleration", str(answer), _kvm(answer.why))


def _kvm(why: str) -> str:
    """What makes VMs faster, where TCG runs them."""
    if "there is no" in why:
        return "nothing must be done: VMs run without it, slower; on a PC switch virtualisation on in the firmware, in a VM nested virtualisation"
    if "cannot be opened" in why:
        return "sudo usermod -aG kvm $USER, and log in again; until then VMs run without it, slower"
    return "nothing must be done: VMs run without it, slower"


def _memory() -> Finding:
    available = available_mib() or 0
    return Finding(
        "ok" if available >= MEMORY_MIB else "lacks", "memory", f"{available} MiB available", f"free memory up to {MEMORY_MIB} MiB"
    )


def _disk() -> Finding:
    cache = cache_dir("snapshots").parent
    free = shutil.disk_usage(cache).free >> 30
    level: Level = "ok" if free >= FREE_GIB else "lacks"
    return Finding(
        level, "disk", f"{free} GiB free for {cache}", f"free {FREE_GIB} GiB there, or set KMATRIX_CACHE to a larger disk"
    )
