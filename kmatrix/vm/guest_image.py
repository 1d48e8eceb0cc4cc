"""The guest image: a root file system per arch, built from Debian packages after the recipe in images/.

`image_recipe` says what goes into it, `image_build` makes it, and here it is found in the cache, or built and kept there. The same
packages give the same bytes, whoever builds and wherever (tests/images proves it).
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmatrix.host import cache, paths
from kmatrix.host.errors import InfraError
from kmatrix.host.later import later
from kmatrix.host.progress import Reporter, Stoppable
from kmatrix.host.threads import results
from kmatrix.matrix.arch import Arch
from kmatrix.vm.image_recipe import SCHEMA, Recipe

if TYPE_CHECKING:
    from kmatrix.vm import image_build
else:
    image_build = later("kmatrix.vm.image_build")

__all__ = ["GuestImage", "ImageStore", "cancel", "obtain", "obtain_all"]

_ROOM_MIB = 400  # taken while an image is built: packages, tree, image


@dataclass(frozen=True)
class GuestImage:
    """A built image in the cache. Immutable; all VMs of the arch share it, read-only."""

    arch: Arch
    key: str
    """sha256 of what it was asked to be: recipe, kmatrix-init, arch. Known without building, so a run finds it offline."""
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The root file system: raw ext4."""
        return self.folder / "root.ext4"

    @property
    def busybox(self) -> Path:
        """The arch's static busybox, on the host's file system: virtme's initramfs is made of it."""
        return self.folder / "busybox"

    @property
    def digest(self) -> str:
        """sha256 of `path`, as built."""
        return str(self.manifest["digest"])

    def verify(self) -> None:
        """Read it all again; raises InfraError if a byte has changed since it was built."""
        for path, digest in ((self.path, self.digest), (self.busybox, self.manifest["busybox"])):
            if paths.sha256(path) != digest:
                raise InfraError(
                    "is not what was built (its digest differs)",
                    where=str(path),
                    fix=f"kmatrix images build --force --arch {self.arch}",
                )


class ImageStore:
    """The images in the cache, one folder each: `<arch>-<key>`. Safe under parallel use."""

    def __init__(self, root: Path | None = None, recipe: Recipe | None = None) -> None:
        self.root = root or paths.cache_dir("images")
        self.recipe = recipe or Recipe.load()

    def key(self, arch: Arch) -> str:
        """The key of the image that the recipe in force asks for."""
        return hashlib.sha256(f"{self.recipe.digest} {arch}".encode()).hexdigest()

    def find(self, arch: Arch) -> GuestImage | None:
        """The image that the recipe in force asks for, if it was built. Never touches the network."""
        return _open(self._folder(arch))

    def obtain(
        self, arch: Arch, *, reporter: Reporter, mirrors: Mapping[str, str] | None = None, force: bool = False
    ) -> GuestImage:
        """The image, built if it is not there (or, with `force`, in any case).

        `mirrors` is kernels.toml's; without a "debian" in it, the mirror is the one that the host's apt is configured with.
        Raises InfraError.
        """
        found = None if force else self.find(arch)
        if found is not None:
            return found
        with self._lock(arch, reporter):
            found = None if force else self.find(arch)  # another process may have built it while this one waited
            return found or self._build(arch, reporter, mirrors)

    def entries(self) -> list[GuestImage]:
        """Every image in the cache, also of recipes no longer in force; sorted."""
        found = (_open(folder) for folder in sorted(self.root.iterdir()) if not folder.name.startswith("."))
        return [image for image in found if image is not None]

    def in_use(self, image: GuestImage) -> bool:
        """Whether it is the one that the recipe in force asks for."""
        return image.key == self.key(image.arch)

    def remove(self, image: GuestImage) -> None:
        """Delete it. VMs that run from it go on (they hold it open)."""
        with self._lock(image.arch):
            cache.remove_tree(image.folder)

    def put(self, arch: Arch, key: str, folder: Path) -> None:
        """Take the image in `folder`, on the cache's file system, in place of the one that the recipe in force has here.

        It was built elsewhere, by the same recipe. Raises InfraError where it is not what its manifest says.
        """
        brought = _open(folder)
        if brought is None or brought.arch != arch or key != self.key(arch) or brought.key != key:
            raise InfraError(
                "is not the guest image that this kmatrix's recipe asks for", where=str(folder), fix="install the same kmatrix"
            )
        brought.verify()
        with self._lock(arch):
            cache.publish(self.root, folder, self._folder(arch))

    def _folder(self, arch: Arch) -> Path:
        return self.root / f"{arch}-{self.key(arch)[:12]}"

    def _lock(self, arch: Arch, reporter: Reporter | None = None) -> AbstractContextManager[None]:
        return cache.locked(self.root / f".{arch}.lock", f"guest image {arch}", reporter)

    def _build(self, arch: Arch, reporter: Reporter, mirrors: Mapping[str, str] | None) -> GuestImage:
        folder = self._folder(arch)
        for stale in self.root.glob(f".{arch}-*"):  # of builds by kmatrix 0.1 that were killed: the lock says that nobody is at one
            cache.remove_tree(stale)
        try:
            with cache.staging(self.root, arch) as staging:
                staging.chmod(0o755)  # a cache may be shared
                image_build.build(self.recipe, arch, self.key(arch), staging, reporter=reporter, mirrors=mirrors)
                cache.publish(self.root, staging, folder)
        except OSError as error:
            raise _disk_trouble(error, self.root) from error
        image = _open(folder)
        assert image is not None  # renamed there a moment ago
        return image


def obtain(arch: Arch, *, reporter: Reporter, mirrors: Mapping[str, str] | None = None) -> GuestImage:
    """The guest image for `arch`, from the cache or built now; in use by this process from now on. Raises InfraError."""
    while True:
        image = ImageStore().obtain(arch, reporter=reporter, mirrors=mirrors)
        if cache.hold(image.folder):  # else removed (`kmatrix kernels gc`) since it was found
            return image


def obtain_all(
    arches: Sequence[Arch], *, reporter: Reporter, mirrors: Mapping[str, str] | None = None, force: bool = False
) -> list[GuestImage]:
    """`obtain` for several arches side by side. Raises the first one's error; the others are finished then."""
    store = ImageStore()
    image_build.STOP.clear()
    watched = Stoppable(reporter, image_build.STOP)
    with ThreadPoolExecutor(len(arches)) as pool:
        try:
            futures = [pool.submit(store.obtain, arch, reporter=watched, mirrors=mirrors, force=force) for arch in arches]
            return results(futures)
        except KeyboardInterrupt:
            cancel()
            raise


def cancel() -> None:
    """End the builds under way: their threads raise at the next step."""
    image_build.cancel()


def _open(folder: Path) -> GuestImage | None:
    """The image in `folder`, or None if there is none or it is not whole."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        image = GuestImage(manifest["arch"], manifest["key"], folder, manifest)
        whole = image.path.stat().st_size == manifest["size"] and image.busybox.is_file() and manifest["schema"] == SCHEMA
        return image if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _disk_trouble(error: OSError, root: Path) -> InfraError:
    free = shutil.disk_usage(root).free >> 20
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InfraError(
            f"not enough disk space: {free} MiB free, building a guest image takes {_ROOM_MIB}",
            where=str(root),
            fix=paths.MAKE_ROOM,
        )
    return InfraError(f"the guest image cannot be written: {error}", where=str(root))
