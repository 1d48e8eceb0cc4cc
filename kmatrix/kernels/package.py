"""Reads a kernel as distributions pack it, a .deb or a folder with boot/ and lib/modules/, and lays it out as the store has it."""

from __future__ import annotations

import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tarfile import TarError
from typing import IO

from debian.arfile import ArError
from debian.debfile import DebFile

from kmatrix.arch import Arch
from kmatrix.errors import InputError
from kmatrix.kernels import modules
from kmatrix.kernels.image import ImageFacts, read_image
from kmatrix.kernels.store import StagedKernel
from kmatrix.matrix import Kernel
from kmatrix.progress import Step

_MODULES = re.compile(r"(?:usr/)?lib/modules/([^/]+)/(.+)")
_IMAGE = re.compile(r"(?:.*/)?boot/(?:vmlinuz|Image|bzImage)(?:-[^/]+)?|(?:usr/)?lib/modules/[^/]+/(?:vmlinuz|Image|bzImage)")
_CONFIG = re.compile(r"(?:.*/)?boot/config-[^/]+|(?:usr/)?lib/modules/[^/]+/config")


@dataclass(frozen=True)
class Member:
    """A regular file of a package: its path (relative, as packed) and a way to read it before the next one is asked for."""

    path: str
    read: Callable[[], bytes]


Package = Callable[[], Iterator[Member]]
"""One pass over a package's regular files."""


def deb(path: Path) -> Package:
    """A .deb file, read as a stream: nothing is unpacked but what is asked for. Raises InputError when it is no sound one."""

    def members() -> Iterator[Member]:
        with _sound(path), path.open("rb") as stream:
            tar = DebFile(fileobj=stream).data.tgz()
            for info in tar:
                file = tar.extractfile(info) if info.isreg() else None
                if file is not None:
                    yield Member(re.sub(r"^(\./)+", "", str(info.name)), partial(_read, file, path))

    return members


def _read(file: IO[bytes], path: Path) -> bytes:
    with _sound(path):
        return file.read()


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Says what the readers of the archive's layers stumble over as one error."""
    try:
        yield
    except (ArError, TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"is no sound Debian package: {error}", where=str(path)) from error


def folder(path: Path) -> Package:
    """A folder with boot/ and lib/modules/ (or usr/lib/modules/). Links that lead out (lib/modules/…/build) are not followed."""

    def members() -> Iterator[Member]:
        for place in ("boot", "lib/modules", "usr/lib/modules"):
            base = path / place
            for file in sorted(base.rglob("*")) if base.is_dir() else ():
                if file.is_file():
                    yield Member(file.relative_to(path).as_posix(), partial(read_file, file))

    return members


def read_file(path: Path) -> bytes:
    """The content of a file of the user's. Raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), fix="check the path") from None


@dataclass(frozen=True)
class LaidOut:
    """What a package held: the image's own facts, the configuration's text, and whether there are modules."""

    facts: ImageFacts
    config: str | None
    has_modules: bool


def lay_out(packages: Iterable[Package], arch: Arch, into: Path, *, where: str, step: Step | None = None) -> LaidOut:
    """Write the one kernel that `packages` hold to `into`/boot and `into`/lib/modules, and of its modules only what a VM can use.

    Each package is passed over once, and once more only if a module kept needs one that was not. Raises InputError when the packages
    hold no kernel, several, or one for another arch.
    """
    packages = list(packages)
    images: dict[str, bytes] = {}
    configs: dict[str, bytes] = {}

    seen = 0

    def first_pass(member: Member) -> bool:
        nonlocal seen
        seen += 1
        if step is not None:
            step.advance(seen)
        if _IMAGE.fullmatch(member.path):
            images[member.path] = member.read()
        elif _CONFIG.fullmatch(member.path):
            configs[member.path] = member.read()
        return modules.wanted(_below(member.path))

    _take(packages, into, first_pass)
    if not images:
        raise InputError("holds no kernel image (boot/vmlinuz-…)", where=where, fix="give the image itself: --image FILE")
    if len(set(images.values())) > 1:
        raise InputError(
            f"holds several kernels: {', '.join(sorted(images))}", where=where, fix="name one: --image FILE --modules DIR"
        )
    facts = read_image(next(iter(images.values())), arch, where=f"{where}: {next(iter(images))}")
    config = next((text for path, text in configs.items() if path.endswith(("config", f"-{facts.release}"))), None)
    found = {path.name for path in (into / "lib/modules").glob("*")}
    if found - {facts.release}:
        raise InputError(f"holds modules of {', '.join(sorted(found))}, and the image is {facts.release}", where=where)
    release = into / "lib/modules" / facts.release
    if release.is_dir():
        modules.unpack_zstd(release)
        while missing := modules.missing_dependencies(release):
            before = len(list(release.rglob("*.ko")))
            _take(packages, into, lambda member: modules.module_name(member.path) in missing)
            modules.unpack_zstd(release)
            if len(list(release.rglob("*.ko"))) == before:
                break  # the package itself lacks them: depmod and modprobe will say so
    write_boot(into, facts)
    text = config.decode(errors="replace") if config is not None else facts.config
    if text is not None:
        (into / "boot" / f"config-{facts.release}").write_text(text)
    return LaidOut(facts, text, finish_modules(into, facts.release))


def write_boot(into: Path, facts: ImageFacts) -> None:
    """Write the image as QEMU takes it to `into`/boot/vmlinuz-<release>."""
    (into / "boot").mkdir(exist_ok=True)
    (into / "boot" / f"vmlinuz-{facts.release}").write_bytes(facts.boot)


def finish_modules(into: Path, release: str) -> bool:
    """Index lib/modules/<release> and make its image, if there is one with a module in it; says whether there is."""
    tree = into / "lib/modules" / release
    if not any(tree.rglob("*.ko")):
        return False
    modules.depmod(into, release)
    modules.make_image(into, into / "modules.ext4")
    return True


def _below(path: str) -> str:
    match = _MODULES.fullmatch(path)
    return match[2] if match else ""


def _take(packages: Iterable[Package], into: Path, wanted: Callable[[Member], bool]) -> None:
    """One pass: every module that is `wanted`, and depmod's index files, to `into`/lib/modules."""
    for package in packages:
        for member in package():
            take = wanted(member)
            match = _MODULES.fullmatch(member.path)
            # The path is checked, not trusted: a package could name ../../etc.
            if match is None or ".." in member.path.split("/"):
                continue
            name = match[2].rsplit("/", 1)[-1]
            target = into / "lib/modules" / match[1] / match[2].removesuffix(name)
            if match[2] in modules.INDEX_FILES:
                modules.write_file(member.read(), target / name)
            elif take and modules.is_module(name):
                modules.write_module(member.read(), name, target)


def staged(laid_out: LaidOut, source: Mapping[str, object]) -> StagedKernel:
    """The laid-out kernel as the store takes it. What the image holds outranks what its configuration says."""
    facts = laid_out.facts
    wants = laid_out.config is not None and re.search(r"^CONFIG_DEBUG_INFO_BTF=y$", laid_out.config, re.MULTILINE) is not None
    if facts.btf is not None:
        btf, how = facts.btf, "the .BTF section looked for in the image"
    elif laid_out.config is not None:
        btf, how = wants, f"CONFIG_DEBUG_INFO_BTF in its configuration ({facts.note})"
    else:
        return StagedKernel(facts.release, source, None, f"unknown: no configuration, and {facts.note}")
    notes = ("CONFIG_DEBUG_INFO_BTF=y, but the image holds no BTF",) if wants and not btf else ()
    return StagedKernel(facts.release, source, btf, how, notes)


def check_series(kernel: Kernel, release: str) -> None:
    """Raises InputError unless `release` is of the version that kernels.toml gives `kernel`: a 5.15 kept as "5.4" misleads everyone."""
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) != kernel.version:
        version = ".".join(map(str, kernel.version))
        raise InputError(
            f"the kernel is {release}, and {kernel.declared_in} says that {kernel.name!r} is a {version}",
            where=kernel.name,
            fix="name the kernel that it is (kmatrix kernels list), or add one to your kernels.toml",
        )
