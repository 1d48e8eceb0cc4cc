"""Where the contract of an object is looked for."""

from __future__ import annotations

from pathlib import Path

CONTRACT_SUFFIX = ".contract.toml"


def beside(object_file: Path, folder: Path | None = None) -> Path:
    """Where the contract of an object is looked for: X.contract.toml for X.bpf.o or X.o, beside it or in `folder`."""
    stem = object_file.name.removesuffix(".o").removesuffix(".bpf")
    return (folder or object_file.parent) / f"{stem}{CONTRACT_SUFFIX}"
