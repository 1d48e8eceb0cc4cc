"""Which kmatrix this is: a digest over its files. Two machines work on one run only where it is the same."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from kmatrix.host import paths

_PACKAGE = Path(__file__).resolve().parents[2]


@lru_cache(maxsize=1)
def build() -> str:
    """sha256 over kmatrix's own code, its kernels.toml and the guest image's recipe; a version's number alone does not tell two checkouts apart."""
    digest = hashlib.sha256()
    files = {path.relative_to(_PACKAGE).as_posix(): path for path in _PACKAGE.rglob("*.py") if "_data" not in path.parts}
    images = paths.data("images")
    files |= {f"images/{path.relative_to(images).as_posix()}": path for path in images.rglob("*") if path.is_file()}
    files["kernels.toml"] = paths.data("kernels.toml")
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
