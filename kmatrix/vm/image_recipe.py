"""What goes into the guest image: images/image.toml, the files of images/rootfs/, and kmatrix-init."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kmatrix.host import paths
from kmatrix.host.parsed import parsed
from kmatrix.host.toml import parse_toml, read_file

if TYPE_CHECKING:
    from kmatrix.vm.image_file import Names, RecipeFile

SCHEMA = 1
"""Of a built image's manifest."""

_FORMAT = 1  # of what image_build makes out of a recipe: raised when that changes, so that every image is made anew
_RECIPE = paths.data("images")
_INIT = Path(__file__).parents[1] / "guest" / "init.py"
_INIT_IN_GUEST = "usr/sbin/kmatrix-init"


@dataclass(frozen=True)
class Recipe:
    """What goes into the image: image.toml, and files of our own over the packages' (rootfs/ and kmatrix-init)."""

    file: Path
    text: bytes
    files: Mapping[str, bytes]
    """Our files, by path in the image."""
    digest: str
    """sha256 of all of it."""

    @classmethod
    def load(cls, folder: Path | None = None) -> Recipe:
        """The recipe in `folder` (images/ if None). Raises InputError where it is wrong."""
        folder = folder or _RECIPE
        file, rootfs = folder / "image.toml", folder / "rootfs"
        text = read_file(file)
        files = {path.relative_to(rootfs).as_posix(): path.read_bytes() for path in rootfs.rglob("*") if path.is_file()}
        files[_INIT_IN_GUEST] = _INIT.read_bytes()
        # What is hashed is what is used: the files may be edited while an image is built.
        data = parsed("recipe", (str(file).encode(), text), lambda: _read(file, text).model_dump_json())
        digest = hashlib.sha256(f"format {_FORMAT}\n{data}\n".encode())
        for path, content in sorted(files.items()):
            digest.update(f"{path} {len(content)}\n".encode() + content)
        return cls(file, text, files, digest.hexdigest())

    @cached_property
    def data(self) -> RecipeFile:
        """What image.toml says."""
        return _read(self.file, self.text)

    def wants(self, path: str) -> bool:
        """Whether the package's file `path` goes into the image."""

        def matches(globs: Names) -> bool:
            return any(fnmatch.fnmatchcase(path, glob) for glob in globs)

        return matches(self.data.keep) or not matches(self.data.remove)


def _read(file: Path, text: bytes) -> RecipeFile:
    from kmatrix.host.validation import validate  # here, and not above: a run whose image is built needs the recipe's digest alone
    from kmatrix.vm.image_file import RecipeFile

    return validate(RecipeFile, parse_toml(text, file), where=str(file))
