"""Lays a kernel as others pack it (boot/, lib/modules/, under whatever prefix) out as the store has it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kmatrix.host import version as versions
from kmatrix.host.errors import InputError
from kmatrix.host.later import later
from kmatrix.host.progress import Step
from kmatrix.kernels import modules
from kmatrix.kernels.entry import StagedKernel
from kmatrix.kernels.image import BTF_MAGIC, ImageFacts, read_image
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Kernel

if TYPE_CHECKING:
    from kmatrix.fetch import archive
else:
    archive = later("kmatrix.fetch.archive")

# Whatever they are packed under: usr/ in some distributions, data/kernels/<version>/ in little-vm-helper's images.
_MODULES = re.compile(r"(?:.*?/)?lib/modules/([^/]+)/(.+)")
_IMAGE = re.compile(r"(?:.*/)?boot/(?:vmlinuz|Image|bzImage)(?:-[^/]+)?|(?:.*?/)?lib/modules/[^/]+/(?:vmlinuz|Image|bzImage)")
_CONFIG = re.compile(r"(?:.*/)?boot/config-[^/]+|(?:.*?/)?lib/modules/[^/]+/config")
_BTF = re.compile(r"(?:.*/)?boot/btf-[^/]+|(?:.*/)?[^/]+\.btf")
_VMLINUX = re.compile(r"(?:.*/)?boot/vmlinux-[^/]+|(?:.*?/)?lib/modules/[^/]+/(?:build/)?vmlinux")

# What is held in memory of one kernel: files of a kind (the image packed and unpacked, under two names), bytes of all, and of a configuration.
_MANY, _HELD, _CONFIG_SIZE = 4, 1 << 30, 4 << 20


@dataclass(frozen=True)
class LaidOut:
    """What a package held: the image's own facts, the configuration's text, whether there are modules, and how there is BTF beside it."""

    facts: ImageFacts
    config: str | None
    has_modules: bool
    detached: str | None = None
    """Where boot/btf-<release> came from; None where there is none."""


def lay_out(packages: Iterable[archive.Package], arch: Arch, into: Path, *, where: str, step: Step | None = None) -> LaidOut:
    """Write the one kernel that `packages` hold to `into`/boot and `into`/lib/modules, and of its modules only what a VM can use.

    Each package is passed over once, and once more only if a module kept needs one that was not. Raises InputError when the packages
    hold no kernel, several, or one for another arch.
    """
    packages = list(packages)
    images: dict[str, bytes] = {}
    configs: dict[str, bytes] = {}
    detached: dict[str, bytes] = {}
    seen = held = 0

    def hold(kind: dict[str, bytes], member: archive.Member, largest: int) -> None:
        nonlocal held
        held += member.size
        if len(kind) >= _MANY or member.size > largest or held > _HELD:
            raise InputError(
                f"holds more than a kernel's package does ({member.path}, {member.size} bytes)", where=where, fix=archive.FIX
            )
        kind[member.path] = member.read()

    def first_pass(member: archive.Member) -> bool:
        nonlocal seen
        seen += 1
        if step is not None:
            step.advance(seen)
        if _IMAGE.fullmatch(member.path):
            hold(images, member, archive.FILE)
        elif _CONFIG.fullmatch(member.path):
            hold(configs, member, _CONFIG_SIZE)
        elif _BTF.fullmatch(member.path):
            hold(detached, member, archive.FILE)
        return modules.wanted(_below(member.path))

    _take(packages, into, where, first_pass)
    if not images:
        raise InputError("holds no kernel image (boot/vmlinuz-…)", where=where, fix="give the image itself: --image FILE")
    found = {name: _facts(data, arch, f"{where}: {name}") for name, data in images.items()}
    if len({facts.boot for facts in found.values()}) > 1:  # the same one may be there packed and unpacked
        raise InputError(
            f"holds several kernels: {', '.join(sorted(images))}", where=where, fix="name one: --image FILE --modules DIR"
        )
    facts = next(iter(found.values()))
    config = next((text for path, text in configs.items() if path.endswith(("config", f"-{facts.release}"))), None)
    releases = {path.name for path in (into / "lib/modules").glob("*")}
    if releases - {facts.release}:
        raise InputError(f"holds modules of {', '.join(sorted(releases))}, and the image is {facts.release}", where=where)
    release = into / "lib/modules" / facts.release
    if release.is_dir():
        while missing := modules.missing_dependencies(release):
            before = len(list(release.rglob("*.ko")))
            _take(packages, into, where, lambda member: modules.module_name(member.path) in missing)
            if len(list(release.rglob("*.ko"))) == before:
                break  # the package itself lacks them: depmod and modprobe will say so
    write_boot(into, facts)
    text = config.decode(errors="replace") if config is not None else facts.config
    if text is not None:
        (into / "boot" / f"config-{facts.release}").write_text(text)
    beside = None
    if facts.btf is not True:  # BTF beside an image that has its own says nothing new
        beside = _detached_btf(packages, detached, into / "boot" / f"btf-{facts.release}", where)
    return LaidOut(facts, text, finish_modules(into, facts.release), beside)


def _facts(data: bytes, arch: Arch, where: str) -> ImageFacts:
    with archive.sound(where, "kernel image"):
        return read_image(data, arch, where=where)


def _detached_btf(packages: Iterable[archive.Package], files: Mapping[str, bytes], to: Path, where: str) -> str | None:
    """Write the kernel's BTF to `to`: the file of BTF that came with it, or what pahole makes of its vmlinux. Says which; None for neither."""
    if len(set(files.values())) > 1:
        raise InputError(f"holds several BTF files: {', '.join(sorted(files))}", where=where)
    for path, data in files.items():
        if not data.startswith(BTF_MAGIC):
            raise InputError("is no BTF", where=f"{where}: {path}")
        to.write_bytes(data)
        return f"the file {path.rsplit('/', 1)[-1]} beside the image"
    pahole = shutil.which("pahole")
    if pahole is None:
        return None
    # One too large to be held has no BTF made of it, and its kernel is good all the same.
    found = (m.read() for package in packages for m in package() if _VMLINUX.fullmatch(m.path) and m.size <= archive.FILE)
    if (vmlinux := next(found, None)) is None:
        return None
    with tempfile.NamedTemporaryFile(dir=to.parent.parent.parent, suffix=".vmlinux") as file:
        file.write(vmlinux)
        file.flush()
        subprocess.run([pahole, "--btf_encode_detached", str(to), file.name], capture_output=True, check=False)
    if to.is_file() and to.read_bytes().startswith(BTF_MAGIC):
        return "made of its vmlinux by pahole"
    to.unlink(missing_ok=True)  # a vmlinux without DWARF
    return None


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


def _take(packages: Iterable[archive.Package], into: Path, where: str, wanted: Callable[[archive.Member], bool]) -> None:
    """One pass: every module that is `wanted`, and depmod's index files, to `into`/lib/modules."""
    written = 0
    for package in packages:
        for member in package():
            take = wanted(member)
            match = _MODULES.fullmatch(member.path)
            if match is None:
                continue
            name = match[2].rsplit("/", 1)[-1]
            target = into / "lib/modules" / match[1] / match[2].removesuffix(name)
            with archive.sound(where, "kernel package"):
                if match[2] in modules.INDEX_FILES:
                    modules.write_file(member.read(), target / name)
                elif take and modules.is_module(name):
                    written += modules.write_module(member.read(), name, target)
                    if written > archive.TOTAL:
                        raise ValueError(f"its modules unpack to more than {archive.TOTAL >> 20} MiB")


def staged(laid_out: LaidOut, source: Mapping[str, object]) -> StagedKernel:
    """The laid-out kernel as the store takes it. What the image holds outranks what its configuration says."""
    facts = laid_out.facts
    wants = laid_out.config is not None and re.search(r"^CONFIG_DEBUG_INFO_BTF=y$", laid_out.config, re.MULTILINE) is not None
    btf: bool | None
    if facts.btf is not None:
        btf, how = facts.btf, "the .BTF section looked for in the image"
    elif laid_out.config is not None:
        btf, how = wants, f"CONFIG_DEBUG_INFO_BTF in its configuration ({facts.note})"
    else:
        btf, how = None, f"unknown: no configuration, and {facts.note}"
    notes: tuple[str, ...] = ("CONFIG_DEBUG_INFO_BTF=y, but the image holds no BTF",) if wants and btf is False else ()
    if laid_out.detached is not None:
        notes += (f"BTF for a loader that takes it by path (boot/btf-{facts.release}): {laid_out.detached}",)
    return StagedKernel(facts.release, source, btf, how, notes)


def check_series(kernel: Kernel, release: str) -> None:
    """Raises InputError unless `release` is of the version that kernels.toml gives `kernel`: a 5.15 kept as "5.4" misleads everyone."""
    series, version = versions.series(release), versions.text(kernel.version)
    if kernel.moving and series is not None and series >= kernel.version:
        return
    if series not in (None, kernel.version):
        raise InputError(
            f"the kernel is {release}, and {kernel.declared_in} says that {kernel.name!r} is a {version}",
            where=kernel.name,
            fix="name the kernel that it is (kmatrix kernels list), or add one to your kernels.toml",
        )


def check_flavour(kernel: Kernel, btf: bool | None) -> None:
    """Raises InputError where `kernel` is declared to be built without BTF, and there is `btf`: each cell would fail of it, and say less."""
    if "nobtf" in kernel.build and btf:
        raise InputError(
            f"the kernel has BTF, and {kernel.declared_in} says that {kernel.name!r} is built without",
            where=kernel.name,
            fix=f"give one built without CONFIG_DEBUG_INFO_BTF: kmatrix kernels build {kernel.name} --arch … --tree DIR",
        )
