"""The `import` source: an image the user has, or a folder or package with one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmatrix.host.errors import InputError, Unavailable
from kmatrix.host.later import later
from kmatrix.host.progress import Reporter
from kmatrix.kernels import layout, modules
from kmatrix.kernels.entry import StagedKernel
from kmatrix.kernels.image import read_image
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Kernel, SourceSpec

if TYPE_CHECKING:
    from kmatrix.fetch import archive
else:
    archive = later("kmatrix.fetch.archive")

_BUILD_IMAGES = {"x86_64": "arch/x86/boot/bzImage", "arm64": "arch/arm64/boot/Image"}


class ImportSource:
    """Takes what the user gives; fetches nothing by itself."""

    kind = "import"
    fetches = False
    slow = False

    def hint(self, spec: SourceSpec, kernel: Kernel, arch: Arch) -> str:  # noqa: ARG002 - the protocol's arguments
        """The command that gets this kernel."""
        return f"kmatrix kernels import {kernel.name} --arch {arch} --image FILE"

    def origin(self, source: Mapping[str, Any]) -> str:
        """What the store's kernel came from, in a few words; `source` is what `stage` said of it."""
        return f"imported from {source.get('image') or ', '.join(source.get('from', []))}"

    def stage(self, spec: SourceSpec, kernel: Kernel, arch: Arch, into: Path, reporter: Reporter) -> StagedKernel:  # noqa: ARG002
        """Raises Unavailable: there is nothing to take without the user."""
        raise Unavailable("nothing given yet", where=f"{kernel.name}-{arch}", fix=self.hint(spec, kernel, arch))


def stage_image(
    image: Path, arch: Arch, into: Path, *, module_tree: Path | None = None, config: Path | None = None
) -> StagedKernel:
    """Lay out the kernel image `image`, with the modules of `module_tree` and the configuration in `config` if given.

    `module_tree` is lib/modules/<release> or a folder with lib/modules/<release> in it (what `make modules_install
    INSTALL_MOD_PATH=DIR` makes); all its modules are taken. Without `config` the image's own is used, if it carries one
    (CONFIG_IKCONFIG). Raises InputError when the image is not a kernel for `arch`, or the modules are not its own.
    """
    data = archive.read_file(image)
    with archive.sound(image, "kernel image"):
        facts = read_image(data, arch, where=str(image))
    text = archive.read_file(config).decode(errors="replace") if config is not None else facts.config
    if config is not None and "CONFIG_" not in (text or ""):
        raise InputError("is not a kernel configuration", where=str(config), fix="give a build tree's .config, or boot/config-…")
    layout.write_boot(into, facts)
    if text is not None:
        (into / "boot" / f"config-{facts.release}").write_text(text)
    if module_tree is not None:
        _copy_modules(_module_folder(module_tree, facts.release), into, facts.release)
    has_modules = layout.finish_modules(into, facts.release)
    source = {"kind": "import", "image": str(image.resolve()), "sha256": hashlib.sha256(data).hexdigest()}
    return layout.staged(layout.LaidOut(facts, text, has_modules), source)


def stage_package(paths: Sequence[Path], arch: Arch, into: Path) -> StagedKernel:
    """Lay out the kernel that `paths` hold: .deb or .rpm files (image and modules may be in separate ones), or one folder.

    A folder has boot/ and lib/modules/, or is a built kernel tree (arch/…/boot/bzImage or Image, and .config).
    Raises InputError when they hold no kernel for `arch`, or several.
    """
    first = paths[0]
    if len(paths) == 1 and first.is_dir():
        image = first / _BUILD_IMAGES[arch]
        if image.is_file():
            config = first / ".config"
            return stage_image(image, arch, into, config=config if config.is_file() else None)
        packages = [archive.folder(first)]
    else:
        packages = [_package(path) for path in paths]
    laid_out = layout.lay_out(packages, arch, into, where=" + ".join(map(str, paths)))
    source = {"kind": "import", "from": [str(path.resolve()) for path in paths]}
    return layout.staged(laid_out, source)


def _package(path: Path) -> archive.Package:
    if path.is_dir():
        raise InputError("is a folder among several", where=str(path), fix="give one folder, or .deb and .rpm files")
    try:
        with path.open("rb") as stream:
            magic = stream.read(8)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), fix="check the path") from None
    package = archive.package(path, magic)
    if package is None:
        raise InputError(
            "is no Debian or RPM package", where=str(path), fix="give a .deb, an .rpm, a folder, or an image by --image"
        )
    return package


def _module_folder(given: Path, release: str) -> Path:
    for place in (given, given / release, given / "lib/modules" / release, given / "usr/lib/modules" / release):
        if place.name == release and place.is_dir() and any(place.rglob("*.ko*")):
            return place
    raise InputError(f"holds no modules of {release}", where=str(given), fix=f"give the folder lib/modules/{release}")


def _copy_modules(tree: Path, into: Path, release: str) -> None:
    target = into / "lib/modules" / release
    for file in sorted(tree.rglob("*")):
        relative = file.relative_to(tree)
        if not file.is_file() or relative.parts[0] in ("build", "source"):
            continue
        if modules.is_module(file.name):
            modules.write_module(archive.read_file(file), file.name, (target / relative).parent)
        elif relative.as_posix() in modules.INDEX_FILES:
            modules.write_file(archive.read_file(file), target / relative)
