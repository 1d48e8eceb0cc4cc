"""The files of a collector's own loader: found on the host for an arch, or in a Debian package, and checked before a VM is spent on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from kmatrix.host.errors import InputError
from kmatrix.host.later import later
from kmatrix.host.progress import Quiet, Reporter
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.own_loader import Loader
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.vm.loaders import debian

if TYPE_CHECKING:
    from elftools.common import exceptions as elf_exceptions
    from elftools.elf import elffile

    from kmatrix.fetch import archive
else:
    archive = later("kmatrix.fetch.archive")
    elf_exceptions = later("elftools.common.exceptions")
    elffile = later("elftools.elf.elffile")

EXECUTABLE = 0o111


@dataclass(frozen=True)
class LoaderFile:
    """One file as the guest gets it."""

    name: str
    """Relative to the loader's folder."""
    data: bytes
    mode: int


def collect(
    collector: Collector, arch: Arch, *, mirrors: Mapping[str, str] | None = None, reporter: Reporter | None = None
) -> tuple[LoaderFile, ...]:
    """The files of the collector's loader for `arch`; none where it has no loader of its own.

    Raises InputError where one is missing, cannot be executed, or is for another arch; Unavailable or InfraError where a package cannot
    be had.
    """
    if collector.loader is None:
        return ()
    files = tuple(_find(collector, name, arch, mirrors, reporter or Quiet()) for name in collector.loader.files)
    _check_command(collector.loader, files, f"{collector.path}: loader.command")
    return files


def on_host(collector: Collector, arch: Arch) -> tuple[Path, ...]:
    """Where on the host the loader's files for `arch` are, whether or not they are there; those of a Debian package have no such place."""
    sources = [
        each if isinstance(each, str) else each.get(arch) for each in (collector.loader.files if collector.loader else {}).values()
    ]
    return tuple(
        collector.path.parent / _for_arch(source, arch)
        for source in sources
        if source is not None and not source.startswith("deb:")
    )


def _for_arch(source: str, arch: Arch) -> str:
    return source.replace("{arch}", arch).replace("{goarch}", INFO[arch].debian)


def _find(collector: Collector, name: str, arch: Arch, mirrors: Mapping[str, str] | None, reporter: Reporter) -> LoaderFile:
    assert collector.loader is not None
    where = f"{collector.path}: loader.files: {name}"
    source = collector.loader.files[name]
    if not isinstance(source, str):
        if arch not in source:
            raise InputError(f"no file is named for {arch}", where=where, fix=f'add {arch} = "…"')
        source = source[arch]
    source = _for_arch(source, arch)
    if source.startswith("deb:"):
        deb, _, inside = source.removeprefix("deb:").partition("/")
        data, mode = _from_package(deb, inside, arch, mirrors, reporter, where)
    else:
        data, mode = _read(collector.path.parent / source, where)
    _check_arch(data, source, arch, where)
    return LoaderFile(name, data, mode)


def _read(path: Path, where: str) -> tuple[bytes, int]:
    try:
        return path.read_bytes(), path.stat().st_mode & 0o777
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}", where=where, fix="build it, or correct the path (relative to the manifest)"
        ) from None


def _check_arch(data: bytes, source: str, arch: Arch, where: str) -> None:
    """An ELF file must be whole and for the arch; anything else (a script, settings) is as it is."""
    if not data.startswith(b"\x7fELF"):
        return
    try:
        elf = elffile.ELFFile(BytesIO(data))
        machine = str(elf["e_machine"])
        for segment in elf.iter_segments():
            if segment["p_offset"] + segment["p_filesz"] > len(data):
                raise elf_exceptions.ELFError("a segment runs past the end of the file")
    except (elf_exceptions.ELFError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{source}: not a whole ELF file ({error})", where=where, fix="build it again") from None
    if machine not in (INFO[arch].elf_machine, "EM_BPF"):
        raise InputError(
            f"{source} is a program for {elf.get_machine_arch()}, wanted for {arch}",
            where=where,
            fix='name one an arch: "build/agent-{arch}", or { x86_64 = "…", arm64 = "…" }',
        )


def _check_command(loader: Loader, files: tuple[LoaderFile, ...], where: str) -> None:
    """A command that is a path in the loader's folder is one of its files, and can be executed."""
    name = loader.command[0]
    if "/" not in name or name.startswith("/"):
        return
    file = next((f for f in files if f.name == name.removeprefix("./")), None)
    if file is None:
        known = ", ".join(f.name for f in files) or "none"
        raise InputError(f"{name} is none of the loader's files ({known})", where=where, fix="name it in loader.files")
    if not file.mode & EXECUTABLE:
        raise InputError(
            f"{name} is not executable (its mode is {file.mode:o})", where=where, fix=f"chmod +x {loader.files[file.name]}"
        )


def _from_package(
    name: str, inside: str, arch: Arch, mirrors: Mapping[str, str] | None, reporter: Reporter, where: str
) -> tuple[bytes, int]:
    """A file of a Debian package of the guest image's suite, so that it finds the libraries there that it was built for."""
    path = debian.package(name, arch, mirrors=mirrors, reporter=reporter, where=where)
    near: list[str] = []
    for member in archive.deb(path)():
        if member.path == inside:
            return member.read(), 0o755
        if member.path.rsplit("/", 1)[-1] == inside.rsplit("/", 1)[-1]:
            near.append(member.path)
    found = f"; it has {', '.join(near)}" if near else ""
    raise InputError(f"no file {inside} in the package {name}{found}", where=where, fix="correct the path (links are not followed)")
