"""`kmatrix report`: what a run recorded, once more."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from kmatrix.cli import terminal
from kmatrix.host import paths
from kmatrix.host.errors import InputError
from kmatrix.report import grid, html, markdown, table
from kmatrix.runs import cell_records, test_records
from kmatrix.runs.cell_records import Record

_Renderer = Callable[[Sequence[Record], Path, Sequence[InputError], bool], str]


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path), default=cell_records.DEFAULT_DIRECTORY)
@click.option("--format", "form", type=click.Choice(["text", "markdown", "html", "json"]), default="text", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Write it there (default: standard output).")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@terminal.COLOR
def command(directory: Path, form: str, output: Path | None, color: str) -> None:
    """The report of the records in DIRECTORY (a run's --kmatrix-dir; default: .kmatrix), also long after the run.

    text is the table that ends a run; markdown is for a CI job's summary page; html is one file, each cell of which opens.
    Exit status 1 where a cell is not as promised, 2 where all are, but a file is no record.
    """
    bad: list[InputError] = []
    records = list(cell_records.read_all(directory, bad))
    commands = list(test_records.read_all(directory, bad)) if form == "html" else []
    for error in bad:
        click.echo(f"kmatrix: {error}", err=True)
    if not records and not commands:
        if bad:
            raise click.exceptions.Exit(2)
        fix = "run pytest where your collectors are, or name the folder that was its --kmatrix-dir"
        raise InputError("there are no records", where=str(directory), fix=fix)
    page = html.render(records, directory.resolve(), bad, commands=commands) if form == "html" else None
    text = page or _FORMATS[form](
        records, directory.resolve(), bad, terminal.coloured(color) if output is None else color == "always"
    )
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text)
    ok = all(record.ok for record in records) and all(record.ok for record in commands)
    if bad or not ok:
        raise click.exceptions.Exit(2 if ok else 1)


def _text(records: Sequence[Record], _directory: Path, _bad: Sequence[InputError], colour: bool) -> str:
    return table.render(records, {}, colour=colour, width=grid.terminal_width()) + "\n"


def _json(records: Sequence[Record], _directory: Path, bad: Sequence[InputError], _colour: bool) -> str:
    not_read = [{"file": error.where, "message": error.message} for error in bad]
    data = {"ok": all(record.ok for record in records), "cells": [asdict(record) for record in records], "not_read": not_read}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


_FORMATS: Mapping[str, _Renderer] = {
    "text": _text,
    "markdown": lambda records, directory, bad, _colour: markdown.render(records, directory, bad),
    "json": _json,
}


def _write(output: Path, text: str) -> None:
    try:
        paths.write_whole(output, text)
    except OSError as error:
        fix = "choose another FILE for --output"
        raise InputError(f"cannot be written: {error.strerror}", where=str(output), fix=fix) from None
