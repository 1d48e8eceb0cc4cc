"""`kmatrix min`: the oldest kernel that each program needs, and what sets it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kmatrix.cli import options
from kmatrix.matrix.arch import parse_arches
from kmatrix.predict import oldest
from kmatrix.predict.subject import Subject


@click.command("min")
@click.argument("objects", metavar="OBJECT…", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.ARCH
@options.JSON
def command(objects: tuple[Path, ...], arch: str, as_json: bool) -> None:
    """The oldest kernel that each program needs, on each arch, and what sets it.

    Two answers stand side by side. The first is the oldest release in which upstream has all that the program always asks for, with the feature that
    sets it and its line of source. The second is the oldest kernel from which on every profile foresees that it loads and attaches, with what is in the way on the one before.

    Exit status: 0, or 2 for what is not an object.
    """
    from kmatrix.report import grid

    found = {path: oldest.of(Subject(path), parse_arches(arch)) for path in dict.fromkeys(objects)}
    if as_json:
        click.echo(
            json.dumps(
                [{"object": str(path), "programs": [each.plain() for each in every]} for path, every in found.items()], indent=1
            )
        )
        return
    parts = []
    for path, every in found.items():
        rows = [[each.program, each.arch, each.since, each.because, each.profile or "none", each.before] for each in every]
        table = grid.prose(
            rows, grid.terminal_width(), heads=["program", "arch", "release", "set by", "profile", "before it"], wrap=(3, -1)
        )
        parts.append(f"{path.name}\n\n{table}")
    click.echo("\n\n\n".join(parts))
