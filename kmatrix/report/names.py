"""Targets by their names: their order, and the heads of their columns."""

from __future__ import annotations

from collections.abc import Sequence

from kmatrix.host.version import natural
from kmatrix.matrix.arch import ARCHES


def target_key(target: str) -> tuple[int, list[tuple[int, int, str]]]:
    """x86_64 before arm64; kernels by number, so that 5.4 comes before 5.10."""
    kernel, _, arch = target.rpartition("-")
    return [*ARCHES].index(arch) if arch in ARCHES else len(ARCHES), natural(kernel)


def head(target: str, *, simulated: bool) -> str:
    """A target as the head of its column; a simulated one has a tilde."""
    kernel, _, arch = target.rpartition("-")
    return f"{'~' if simulated else ''}{kernel}\n{arch}"


def shorten(targets: Sequence[str]) -> str:
    """`6.1 6.12` for kernels that ran on every arch named, `5.4-arm64` for one that ran on one."""
    arches: dict[str, list[str]] = {}
    for target in targets:
        kernel, _, arch = target.rpartition("-")
        arches.setdefault(kernel, []).append(arch)
    return " ".join(kernel if len(on) == len(ARCHES) else f"{kernel}-{on[0]}" for kernel, on in arches.items())
