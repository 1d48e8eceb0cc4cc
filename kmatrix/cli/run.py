"""`kmatrix run prog.bpf.o`: no manifest needed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from kmatrix.cli import options
from kmatrix.objects.compiled import inspect
from kmatrix.report import objects as report
from kmatrix.runs import object_run


@click.command("run")
@click.argument("object_file", metavar="OBJECT.o", type=click.Path(path_type=Path))
@options.KERNELS
@options.ARCH
@click.option("--program", "programs", multiple=True, metavar="NAME", help="Only this program (may be given several times).")
@click.option("--logs", is_flag=True, help="Print the verifier's whole log of each failure, also where its cause is known.")
@options.ACCEL
@options.COLD
@options.KERNELS_FILE
@options.JSON
def command(
    object_file: Path,
    kernels: str | None,
    arch: str,
    programs: tuple[str, ...],
    logs: bool,
    accel: str,
    cold: bool,
    kernels_file: Path | None,
    as_json: bool,
) -> None:
    """Load every program of a compiled BPF object on every target, and attach it where its section says how.

    One table, and under it each failure by its cause: what is missing, since which release it is there, the line of source, and what to do.
    A failure whose cause is not known is shown in the verifier's own words. Exit status 0 only if all loaded everywhere.
    """
    info = inspect(object_file)
    object_run.check_programs(info, programs)
    room = options.room(options.load_matrix(kernels_file), accel, cold)
    targets, missing = options.select(room, kernels, arch)
    outcomes = object_run.run(info, targets, room, programs)
    if as_json:
        click.echo(json.dumps({"object": str(object_file), "targets": [asdict(o) for o in outcomes], "not_run": missing}, indent=1))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        click.echo(report.render(outcomes, missing, colour=colour, logs=logs))
    if any(outcome.infra for outcome in outcomes):
        raise click.exceptions.Exit(3)
    if not all(outcome.loaded for outcome in outcomes):
        raise click.exceptions.Exit(1)
