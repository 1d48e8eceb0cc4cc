"""What the shell completes: kernels, targets, selections, arches and collectors, as they are from the current folder."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from kmatrix.host.errors import KmatrixError

_Items = list[CompletionItem]


def _matching(names: Iterable[str], incomplete: str, before: str = "") -> _Items:
    return [CompletionItem(f"{before}{name}") for name in dict.fromkeys(names) if name.startswith(incomplete)]


def _kernels() -> list[str]:
    from kmatrix.matrix.load import load_matrix

    with suppress(KmatrixError):
        return list(load_matrix().kernels)
    return []


def kernels(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> _Items:
    """The kernels of the matrix."""
    return _matching(_kernels(), incomplete)


def targets(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> _Items:
    """The targets of the matrix."""
    from kmatrix.matrix.arch import ARCHES

    return _matching([f"{kernel}-{arch}" for kernel in _kernels() for arch in ARCHES], incomplete)


def kernels_and_targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> _Items:
    """What a verb takes that understands both."""
    return kernels(ctx, param, incomplete) + targets(ctx, param, incomplete)


def selections(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> _Items:
    """What --kernels takes: kernels, sets and real machines, after a comma too."""
    from kmatrix.matrix.load import load_matrix
    from kmatrix.matrix.selection import STORE

    before, comma, last = incomplete.rpartition(",")
    with suppress(KmatrixError):
        matrix = load_matrix()
        return _matching([*matrix.kernels, *matrix.sets, *matrix.hosts, "all", STORE], last, before + comma)
    return []


def arches(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> _Items:
    """The arches."""
    return _matching(["x86_64", "arm64", "all"], incomplete)


def collectors(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> _Items:
    """The folders that have a collector.toml, one or two levels down, and the names of those in it here."""
    folders = [str(file.parent) for pattern in ("*/", "*/*/") for file in sorted(Path().glob(f"{pattern}collector.toml"))]
    return _matching([*folders, *(["."] if Path("collector.toml").exists() else [])], incomplete)
