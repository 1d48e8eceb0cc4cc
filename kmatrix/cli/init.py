"""`kmatrix init`: a collector.toml from compiled objects."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import cast

import click

from kmatrix.cli import options
from kmatrix.guest import triggers
from kmatrix.host.errors import InputError
from kmatrix.manifest.load import COLLECTOR_FILE
from kmatrix.manifest.types import Behaviour
from kmatrix.propose.found import find, objects_in, sources_in
from kmatrix.propose.manifest import Proposal, Written, propose, written
from kmatrix.propose.sources import makefile_lines, structs

_NONE = "none"


@click.command("init")
@click.argument("paths", metavar="[OBJECT…|DIR]", nargs=-1, type=click.Path(path_type=Path))
@click.option("--yes", "-y", is_flag=True, help="Ask nothing: take what is proposed.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help=f"Where to write it; - is standard output. Default: {COLLECTOR_FILE}."
)
@options.JSON
def command(paths: tuple[Path, ...], yes: bool, output: Path | None, as_json: bool) -> None:
    """Write a collector.toml from compiled objects: a proposal that passes as it stands, or says what only you know.

    Nothing is booted. Objects of one name for two arches are one variant. DIR (default: here) is a folder with the objects of one collector in
    it or in a folder below, such as build/; with its *.bpf.c in it, the event's fields are read there where the objects do not have them. The
    manifest is written into DIR, or here. A file that is there is never overwritten.

    In a terminal it asks for the name, the trigger and each variant's behaviour. With --json it asks nothing, and says what it wrote as data.

    Exit status: 0, or 2 for what is not an object, and where there is a manifest already.
    """
    given = paths or (Path(),)
    folder = given[0] if len(given) == 1 and given[0].is_dir() else None
    target = output or (folder or Path()) / COLLECTOR_FILE
    to_stdout = str(target) == "-"
    file = Path(COLLECTOR_FILE) if to_stdout else target
    if not to_stdout and file.exists():
        raise _there_already(file)
    sources = sources_in(folder) if folder is not None else []
    groups = find(_objects(given, folder, sources), file.parent)
    proposal = propose(groups, file.parent.resolve().name, structs(sources))
    if as_json and to_stdout:
        raise InputError("both would be standard output", where="--json", fix="name a file with --output, or leave --json out")
    if not yes and not as_json and not to_stdout and sys.stdin.isatty() and sys.stdout.isatty():
        proposal = _ask(proposal)
    manifest = written(proposal, file)
    if to_stdout:
        click.echo(manifest.text, nl=False)
    else:
        _write(file, manifest.text)
    if as_json:
        said = {"file": str(file), "variants": {way.name: way.behaviour for way in proposal.ways}, "trigger": proposal.trigger}
        click.echo(json.dumps(said | {"guesses": list(manifest.guesses), "yours": list(manifest.missing)}, indent=1))
        return
    _tell(manifest, file, proposal, err=to_stdout)
    if folder is not None and sources and not any((folder / name).exists() for name in ("Makefile", "makefile", "GNUmakefile")):
        click.echo(f"\nLines of a Makefile that compile its sources:\n\n{makefile_lines(sources)}", err=to_stdout)


def _there_already(file: Path) -> InputError:
    return InputError(
        "it is there already, and is not overwritten", where=str(file), fix="write elsewhere with --output FILE, or move it away"
    )


def _objects(given: tuple[Path, ...], folder: Path | None, sources: list[Path]) -> list[Path]:
    if folder is None:
        for path in given:
            if path.is_dir():
                raise InputError(
                    "a folder among several arguments", where=str(path), fix="give one folder, or the objects of one collector"
                )
        return list(given)
    if found := objects_in(folder):
        return found
    lines = f" with these lines of a Makefile, for example:\n\n{makefile_lines(sources)}\n" if sources else ""
    raise InputError(
        "there is no compiled BPF object in it, or in a folder right below it",
        where=str(folder),
        fix=f"compile its sources{lines or ', or give the objects'}",
    )


def _ask(proposal: Proposal) -> Proposal:
    """The proposal as the person at the terminal wants it."""
    name = click.prompt("The collector's name", default=proposal.name)
    kinds = [*proposal.triggers, *(kind for kind in triggers.KINDS if kind not in (*proposal.triggers, "command")), _NONE]
    trigger = click.prompt("What makes its events happen", type=click.Choice(kinds), default=proposal.trigger or _NONE)
    behaviours: dict[str, Behaviour] = {}
    for way in proposal.ways if len(proposal.ways) > 1 else ():
        question = f"Where variant {way.name} ({way.group.object}) runs, the collector is"
        choice = click.prompt(question, type=click.Choice(["full", "partial", "fallback"]), default=way.behaviour)
        behaviours[way.name] = cast(Behaviour, choice)
    return proposal.with_answers(name, None if trigger == _NONE else trigger, behaviours)


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise _there_already(file) from None
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(file), fix="correct --output") from None


def _tell(manifest: Written, file: Path, proposal: Proposal, *, err: bool) -> None:
    """What was written, what to look at, and what to do next."""
    collector = manifest.collector
    trigger = f"the trigger {collector.trigger.kind}" if collector.trigger is not None else "no trigger"
    variants = ", ".join(f"{way.name} ({way.behaviour})" for way in proposal.ways)
    click.echo(f"{file}: {variants}; {len(collector.programs)} programs; {trigger}", err=err)
    for title, remarks in (("Guessed", manifest.guesses), ("Yours to say", manifest.missing)):
        for remark in remarks:
            click.echo(f"  {title}: {remark}", err=err)
    if not err:
        click.echo(f"Next: pytest --kernels=5.10,6.1 {file.parent}" if file.parent != Path() else "Next: pytest --kernels=5.10,6.1")
