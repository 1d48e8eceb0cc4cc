"""`kmatrix report`: what runs recorded, once more: of one run, of several joined, or what changed against another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from kmatrix.cli import terminal
from kmatrix.host import paths
from kmatrix.host.errors import InputError, KmatrixError
from kmatrix.report import against as against_report
from kmatrix.report import badge, changes, github, grid, html, junit, markdown, subtests, support, table, tests
from kmatrix.report import timings as timings_report
from kmatrix.runs import cell_records, guest_test_records, record_files, shards
from kmatrix.runs import merge as merging
from kmatrix.runs.cell_records import Record
from kmatrix.runs.guest_test_records import TestRecord


@dataclass(frozen=True)
class _Found:
    """What is reported."""

    directory: Path
    records: Sequence[Record]
    """Of cells."""
    commands: Sequence[TestRecord]
    """Of test commands."""
    bad: Sequence[InputError] = ()
    """The files that are neither."""

    @property
    def ok(self) -> bool:
        """Whether nothing is red: a warning fails nothing."""
        return not any(record.red for record in self.records) and not any(record.red for record in self.commands)

    @property
    def infra(self) -> bool:
        return "infra" in {record.failure for record in self.records} | {record.failure for record in self.commands}

    def cells(self) -> list[Record]:
        """The cells, and the sub-tests as such."""
        return [*self.records, *subtests.cells(self.commands)]


_Renderer = Callable[[_Found, bool], str]
_FORMATS_ALL = ("text", "markdown", "html", "json", "junit", "github", "badge", "support")
_FORMATS_AGAINST = ("text", "markdown", "json")
_FORMATS_TIMINGS = ("text", "json")


@click.command("report")
@click.argument("directories", metavar="[DIRECTORY]…", nargs=-1, type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(_FORMATS_ALL), default="text", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Write it there (default: standard output).")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option("--html", "form", flag_value="html", help="The same as --format html.")
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
@click.option("--timings", is_flag=True, help="Show where the time of the cells went, stage by stage. In text or JSON.")
@terminal.COLOR
def command(
    directories: tuple[Path, ...],
    form: str,
    output: Path | None,
    merge: bool,
    into: Path | None,
    against: Path | None,
    timings: bool,
    color: str,
) -> None:
    """The report of the records in DIRECTORY (a run's --kmatrix-dir; default: .kmatrix), also long after the run.

    text is the table that ends a run; markdown is for a CI job's summary page; html is one file, each cell of which opens; junit is XML with a
    suite for each target; github is annotations that a pull request shows beside the lines of source; badge is an SVG for a README; support is
    a page to publish, in Markdown, with which collector works how on which kernel.

    Exit status 1 where a cell is not as promised (a warning of a kernel that moves on fails nothing), 2 where all are, but a file is no record, or a shard is missing. With --against: 1 where
    something is worse (what the other run showed to work is not shown to work now, or a new cell is red); else 3 where the machines failed
    on a cell; else 0, red cells or not. With --timings: 0.
    """
    _check(directories, form, merge, into, against, timings)
    incomplete = False
    directory = directories[0] if directories else Path(record_files.DEFAULT_DIRECTORY)
    if merge:
        joined = merging.merge(merging.expand(directories), into or merging.INTO)
        for line in (*joined.notes, *joined.lacks):
            click.echo(f"kmatrix: {line}", err=True)
        directory, incomplete = joined.directory, bool(joined.lacks)
    found = _read(directory)
    if merge and not incomplete:
        with suppress(OSError, KmatrixError):  # of use for later shards alone
            shards.keep_durations([*found.records, *found.commands])
    colour = terminal.coloured(color) if output is None else color == "always"
    if timings:
        if not found.records:
            fix = "run pytest where your collectors are: a test command has no stages"
            raise InputError("there are no records of cells, which have stages", where=str(directory), fix=fix)
        as_text = timings_report.render(found.records, width=grid.terminal_width())
        _put(timings_report.as_json(found.records) if form == "json" else as_text, output)
        status = 0
    elif against is not None:
        status = _against(found, against, form, output, colour)
    else:
        if form == "support" and not found.records:
            fix = "run pytest where your collectors are, or choose another --format"
            raise InputError("there are no records of cells, of which the page is made", where=str(directory), fix=fix)
        _put(_FORMATS[form](found, colour), output)
        status = 0 if found.ok else 1
    if status or incomplete or found.bad:
        raise click.exceptions.Exit(status or 2)


def _check(directories: Sequence[Path], form: str, merge: bool, into: Path | None, against: Path | None, timings: bool) -> None:
    """The options that do not go together. Raises InputError."""
    if merge and not directories:
        raise InputError(
            "no folder to merge is given", where="--merge", fix="name the shards' folders: kmatrix report --merge DIR…"
        )
    if not merge and len(directories) > 1:
        raise InputError("several folders are given", where="report", fix="--merge joins them; without it, name one")
    if into is not None and not merge:
        raise InputError("--into says where --merge puts joined records", where="--into", fix="give --merge too, or leave it out")
    if timings and against is not None:
        raise InputError("--timings and --against are two reports", where="--timings", fix="give one of the two")
    if timings and form not in _FORMATS_TIMINGS:
        fix = f"use one of: {', '.join(_FORMATS_TIMINGS)}"
        raise InputError(f"--timings has no format {form}", where="--format", fix=fix)
    if against is not None and form not in _FORMATS_AGAINST:
        fix = f"use one of: {', '.join(_FORMATS_AGAINST)}"
        raise InputError(f"--against has no format {form}", where="--format", fix=fix)


def _read(directory: Path) -> _Found:
    """The records. Files that are none are named on standard error. Raises InputError where there is no record."""
    bad: list[InputError] = []
    found = _Found(directory, list(cell_records.read_all(directory, bad)), list(guest_test_records.read_all(directory, bad)), bad)
    for error in bad:
        click.echo(f"kmatrix: {error}", err=True)
    if not found.records and not found.commands:
        if bad:
            raise click.exceptions.Exit(2)
        fix = "run pytest where your collectors are, or name the folder that was its --kmatrix-dir"
        raise InputError("there are no records", where=str(directory), fix=fix)
    return found


def _against(found: _Found, other: Path, form: str, output: Path | None, colour: bool) -> int:
    """Print what changed; returns the exit status."""
    before = _Found(other, list(cell_records.read_all(other)), list(guest_test_records.read_all(other)))
    if not before.cells():
        fix = "name the folder of the other run's records, as its --kmatrix-dir or a merge left it"
        raise InputError("there are no records", where=f"--against: {other}", fix=fix)
    changed = changes.compare(before.cells(), found.cells())
    if form == "json":
        text = against_report.as_json(changed, other)
    elif form == "markdown":
        text = against_report.in_markdown(changed, other, found.directory.resolve())
    else:
        text = against_report.render(changed, other, colour=colour)
    _put(text, output)
    return 1 if changed.worse else 3 if found.infra else 0


def _text(found: _Found, colour: bool) -> str:
    width = grid.terminal_width()
    parts = [table.render(found.records, {}, colour=colour, width=width)] if found.records else []
    parts += [tests.render(found.commands, {}, colour=colour, width=width)] if found.commands else []
    return "\n\n".join(parts) + "\n"


def _markdown(found: _Found, _colour: bool) -> str:
    text = markdown.render(found.records, found.directory.resolve(), found.bad) if found.records or found.bad else ""
    return text + (markdown.of_commands(found.commands) if found.commands else "")


def _json(found: _Found, _colour: bool) -> str:
    data = {
        "ok": found.ok,
        "warnings": [record.cell for record in found.cells() if record.warning],
        "cells": [asdict(record) for record in found.records],
        "tests": [asdict(record) for record in found.commands],
        "not_read": [{"file": error.where, "message": error.message} for error in found.bad],
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _github(found: _Found, _colour: bool) -> str:
    return github.render(found.records, _repository(), Path.cwd()) + github.of_commands(found.commands)


_FORMATS: Mapping[str, _Renderer] = {
    "text": _text,
    "markdown": _markdown,
    "html": lambda found, _: html.render(found.records, found.directory.resolve(), found.bad, commands=found.commands),
    "json": _json,
    "junit": lambda found, _: junit.render(found.records, found.commands, found.directory),
    "github": _github,
    "badge": lambda found, _: badge.render(found.cells()),
    "support": lambda found, _: support.render(found.records),
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
