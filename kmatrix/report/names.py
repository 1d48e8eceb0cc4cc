"""Targets by their names: their order, and the heads of their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kmatrix.host.version import natural
from kmatrix.matrix.arch import ARCHES


def target_key(target: str) -> tuple[int, list[tuple[int, int, str]]]:
    """x86_64 before arm64; kernels by number, so that 5.4 comes before 5.10."""
    kernel, _, arch = target.rpartition("-")
    return [*ARCHES].index(arch) if arch in ARCHES else len(ARCHES), natural(kernel)


def head(target: str, *, simulated: bool, real: bool = False) -> str:
    """A target as the head of its column, with its mark."""
    kernel, _, arch = target.rpartition("-")
    return f"{marked(kernel, simulated=simulated, real=real)}\n{arch}"


def marked(kernel: str, *, simulated: bool, real: bool) -> str:
    """A kernel's name in a table: a simulated one has a tilde, a real machine an at sign."""
    return f"{'~' if simulated else '@' if real else ''}{kernel}"


def machine(account: Mapping[str, Any], *, address: bool = True) -> str:
    """A real machine in a few words, of a record's account of it."""
    release = f"kernel {account['release']}" if account.get("release") else ""
    where = account["ssh"] if address else ""
    return ", ".join(part for part in (account.get("model") or account.get("node"), release, where) if part)


def shorten(targets: Sequence[str]) -> str:
    """`6.1 6.12` for kernels that ran on every arch named, `5.4-arm64` for one that ran on one."""
    arches: dict[str, list[str]] = {}
    for target in targets:
        kernel, _, arch = target.rpartition("-")
        arches.setdefault(kernel, []).append(arch)
    return " ".join(kernel if len(on) == len(ARCHES) else f"{kernel}-{on[0]}" for kernel, on in arches.items())
