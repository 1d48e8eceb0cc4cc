"""`kmatrix programs`: what compiled objects hold."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kmatrix.cli import options
from kmatrix.predict import contents
from kmatrix.predict.subject import Subject


@click.command("programs")
@click.argument("objects", metavar="OBJECT…", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.JSON
def command(objects: tuple[Path, ...], as_json: bool) -> None:
    """What compiled objects hold: programs with sections, types and sizes, maps, and what each program refers to.

    `kmatrix needs` lists what each program asks of a kernel.

    Exit status: 0, or 2 for what is not an object.
    """
    from kmatrix.report import grid

    found = [contents.of(Subject(path)) for path in dict.fromkeys(objects)]
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    width, parts = grid.terminal_width(), []
    for each in found:
        rows = [
            [p["name"], p["section"], p["type"] or "?", str(p["insns"]), str(len(p["functions"]) - 1 or ""), str(p["relocations"] or ""), ", ".join(p["maps"])]
            for p in each["programs"]
        ]  # fmt: skip
        heads = ["program", "section", "type", "insns", "calls", "CO-RE", "maps"]
        sizes = [
            [m["name"], m["type"] or "?", str(m["max_entries"]), str(m["key_size"]), str(m["value_size"])] for m in each["maps"]
        ]
        tables = [grid.prose(rows, width, heads=heads)]
        tables += [grid.prose(sizes, width, heads=["map", "type", "entries", "key", "value"])] if sizes else []
        parts.append("\n\n".join([f"{Path(each['object']).name}: {_summary(each)}", *tables]))
    click.echo("\n\n\n".join(parts))


def _summary(found: contents.Contents) -> str:
    arch = f"for {found['compiled_for']}" if found["compiled_for"] else "the same for all arches"
    return f"{len(found['programs'])} programs, {found['bytes']} bytes, {arch}, {'with' if found['btf'] else 'without'} BTF"
