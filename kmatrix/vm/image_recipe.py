"""What goes into the guest image: images/image.toml, the files of images/rootfs/, and kmatrix-init."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kmatrix.host import paths
from kmatrix.host.toml import read_toml
from kmatrix.host.validation import Strict, validate

_FORMAT = 1  # of what image_build makes out of a recipe: raised when that changes, so that every image is made anew
_RECIPE = paths.data("images")
_INIT = Path(__file__).parents[1] / "guest" / "init.py"
_INIT_IN_GUEST = "usr/sbin/kmatrix-init"

Names = Annotated[tuple[str, ...], Field(strict=False)]


class RecipeFile(Strict):
    """images/image.toml. Paths in it have no leading slash; globs are fnmatch's, in which `*` crosses slashes."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    suite: str
    components: Names
    source_date_epoch: int
    uuid: str
    packages: Names
    remove: Names
    keep: Names
    directories: Names
    applets: Names
    symlinks: Mapping[str, str]
    modes: Mapping[str, str]


@dataclass(frozen=True)
class Recipe:
    """What goes into the image: image.toml, and files of our own over the packages' (rootfs/ and kmatrix-init)."""

    file: Path
    data: RecipeFile
    files: Mapping[str, bytes]
    """Our files, by path in the image."""
    digest: str
    """sha256 of all of it."""

    @classmethod
    def load(cls, folder: Path | None = None) -> Recipe:
        """The recipe in `folder` (images/ if None). Raises InputError where it is wrong."""
        folder = folder or _RECIPE
        file, rootfs = folder / "image.toml", folder / "rootfs"
        data = validate(RecipeFile, read_toml(file), where=str(file))
        files = {path.relative_to(rootfs).as_posix(): path.read_bytes() for path in rootfs.rglob("*") if path.is_file()}
        files[_INIT_IN_GUEST] = _INIT.read_bytes()
        # What is hashed is what is used: the files may be edited while an image is built.
        digest = hashlib.sha256(f"format {_FORMAT}\n{data.model_dump_json()}\n".encode())
        for path, content in sorted(files.items()):
            digest.update(f"{path} {len(content)}\n".encode() + content)
        return cls(file, data, files, digest.hexdigest())

    def wants(self, path: str) -> bool:
        """Whether the package's file `path` goes into the image."""

        def matches(globs: Names) -> bool:
            return any(fnmatch.fnmatchcase(path, glob) for glob in globs)

        return matches(self.data.keep) or not matches(self.data.remove)
