"""`kmatrix report`: what runs recorded, once more: of one run, of several joined, or what changed against another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import click

from kmatrix.cli import terminal
from kmatrix.host import paths
from kmatrix.host.errors import InputError, KmatrixError
from kmatrix.report import against as against_report
from kmatrix.report import badge, cells_junit, changes, github, grid, html, markdown, support, table
from kmatrix.runs import cell_records, shards
from kmatrix.runs import merge as merging
from kmatrix.runs.cell_records import Record

_Renderer = Callable[[Sequence[Record], Path, Sequence[InputError], bool], str]
_FORMATS_ALL = ("text", "markdown", "html", "json", "junit", "github", "badge", "support")
_FORMATS_AGAINST = ("text", "markdown", "json")


@click.command("report")
@click.argument("directories", metavar="[DIRECTORY]…", nargs=-1, type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(_FORMATS_ALL), default="text", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Write it there (default: standard output).")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option(
    "--merge", is_flag=True, help="Join the records of several directories, such as a run's shards, and report them as one run."
)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"Where --merge puts the joined records (default: {merging.INTO}).",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Show only what changed against the records in DIR, such as main's. In text, Markdown or JSON.",
)
@terminal.COLOR
def command(
    directories: tuple[Path, ...],
    form: str,
    output: Path | None,
    merge: bool,
    into: Path | None,
    against: Path | None,
    color: str,
) -> None:
    """The report of the records in DIRECTORY (a run's --kmatrix-dir; default: .kmatrix), also long after the run.

    text is the table that ends a run; markdown is for a CI job's summary page; html is one file, each cell of which opens; junit is XML with a
    suite for each target; github is annotations that a pull request shows beside the lines of source; badge is an SVG for a README; support is
    a page to publish, in Markdown, with which collector works how on which kernel.

    Exit status 1 where a cell is not as promised, 2 where all are, but a file is no record, or a shard is missing. With --against: 1 where
    something is worse (what the other run showed to work is not shown to work now, or a new cell is red); else 3 where the machines failed
    on a cell; else 0, red cells or not.
    """
    _check(directories, form, merge, into, against)
    bad: list[InputError] = []
    if merge:
        joined = merging.merge(merging.expand(directories), into or merging.INTO)
        directory, records, incomplete = joined.directory, list(joined.records), bool(joined.lacks)
        for line in (*joined.notes, *joined.lacks):
            click.echo(f"kmatrix: {line}", err=True)
        if not records:
            raise InputError("there are no records", where=", ".join(map(str, directories)), fix="run the shards again")
        if not incomplete:
            with suppress(OSError, KmatrixError):  # of use for later shards alone
                shards.keep_durations(records)
    else:
        directory = directories[0] if directories else Path(cell_records.DEFAULT_DIRECTORY)
        records, incomplete = _read(directory, bad), bool(bad)
    colour = terminal.coloured(color) if output is None else color == "always"
    if against is not None:
        status = _against(records, directory, against, form, output, colour)
    else:
        page = html.render(records, directory.resolve(), bad, to=output) if form == "html" else None
        _put(page or _FORMATS[form](records, directory.resolve(), bad, colour), output)
        status = 0 if all(record.ok for record in records) else 1
    if status or incomplete:
        raise click.exceptions.Exit(status or 2)


def _check(directories: Sequence[Path], form: str, merge: bool, into: Path | None, against: Path | None) -> None:
    """The options that do not go together. Raises InputError."""
    if merge and not directories:
        raise InputError(
            "no folder to merge is given", where="--merge", fix="name the shards' folders: kmatrix report --merge DIR…"
        )
    if not merge and len(directories) > 1:
        raise InputError("several folders are given", where="report", fix="--merge joins them; without it, name one")
    if into is not None and not merge:
        raise InputError("--into says where --merge puts joined records", where="--into", fix="give --merge too, or leave it out")
    if against is not None and form not in _FORMATS_AGAINST:
        fix = f"use one of: {', '.join(_FORMATS_AGAINST)}"
        raise InputError(f"--against has no format {form}", where="--format", fix=fix)


def _read(directory: Path, bad: list[InputError]) -> list[Record]:
    """The records; files that are none are named on standard error, and put into `bad`."""
    records = list(cell_records.read_all(directory, bad))
    for error in bad:
        click.echo(f"kmatrix: {error}", err=True)
    if not records:
        if bad:
            raise click.exceptions.Exit(2)
        fix = "run pytest where your collectors are, or name the folder that was its --kmatrix-dir"
        raise InputError("there are no records", where=str(directory), fix=fix)
    return records


def _against(records: Sequence[Record], directory: Path, other: Path, form: str, output: Path | None, colour: bool) -> int:
    """Print what changed; returns the exit status."""
    before = list(cell_records.read_all(other))
    if not before:
        fix = "name the folder of the other run's records, as its --kmatrix-dir or a merge left it"
        raise InputError("there are no records", where=f"--against: {other}", fix=fix)
    found = changes.compare(before, records)
    if form == "json":
        text = against_report.as_json(found, other)
    elif form == "markdown":
        text = against_report.in_markdown(found, other, directory.resolve())
    else:
        text = against_report.render(found, other, colour=colour)
    _put(text, output)
    return 1 if found.worse else 3 if any(record.failure == "infra" for record in records) else 0


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
    "junit": lambda records, directory, _bad, _colour: cells_junit.render(records, directory),
    "github": lambda records, _directory, _bad, _colour: github.render(records, _repository(), Path.cwd()),
    "badge": lambda records, _directory, _bad, _colour: badge.render(records),
    "support": lambda records, _directory, _bad, _colour: support.render(records),
}


def _repository() -> Path:
    """The repository's top folder, from which GitHub names files: $GITHUB_WORKSPACE there, else the current directory."""
    top = os.environ.get("GITHUB_WORKSPACE")
    return Path(top).resolve() if top and Path.cwd().is_relative_to(Path(top).resolve()) else Path.cwd()


def _put(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        paths.write_whole(output, text)
    except OSError as error:
        fix = "choose another FILE for --output"
        raise InputError(f"cannot be written: {error.strerror}", where=str(output), fix=fix) from None
