"""`kmatrix run prog.bpf.o`: no manifest needed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from kmatrix.cli import baselines, options, terminal
from kmatrix.objects.compiled import inspect
from kmatrix.report import grid
from kmatrix.report import objects as report
from kmatrix.runs import object_run


@click.command("run")
@click.argument("object_files", metavar="OBJECT.o…", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.KERNELS
@options.ARCH
@click.option("--program", "programs", multiple=True, metavar="NAME", help="Only this program (may be given several times).")
@click.option("--logs", is_flag=True, help="Print the verifier's whole log of each failure, also where its cause is known.")
@baselines.SAVE
@baselines.CHECK
@options.ACCEL
@options.COLD
@options.KERNELS_FILE
@options.JSON
@terminal.COLOR
def command(
    object_files: tuple[Path, ...],
    kernels: str | None,
    arch: str,
    programs: tuple[str, ...],
    logs: bool,
    save: Path | None,
    check: Path | None,
    accel: str,
    cold: bool,
    kernels_file: Path | None,
    as_json: bool,
    color: str,
) -> None:
    """Load every program of compiled BPF objects on every target, and attach it where its section says how.

    One table (of several objects: an object a row, with how many of its programs load and attach), and under it each failure by its cause: what is missing, since which release it is there, the line of source, and what to do.
    A failure whose cause is not known is shown in the verifier's own words.

    Exit status: 0 where every map can be made and every program loads, and attaches where its section says where; 1 where not; 2 for wrong
    input; 3 where the machines failed. A placeholder, whose target its loader sets, does not count; an object of placeholders alone is a 1.
    With --save: 0 where the baseline was written. With --check: 0 where all is as in the baseline, red or not; 1 on any difference.
    """
    infos = [inspect(path) for path in dict.fromkeys(object_files)]
    for info in infos:
        object_run.check_programs(info, programs)
    plan = baselines.asked(save, check, programs)
    room = options.room(options.load_matrix(kernels_file), accel, cold)
    targets, missing = plan.select(room, kernels, arch, infos)
    found = object_run.run(infos, targets, room, programs)
    outcomes = [outcome for each in found.values() for outcome in each]
    colour = terminal.coloured(color)
    held = baselines.finish(plan, found, infos, room, colour=colour)
    if as_json:
        tried = [{"object": str(info.path), "targets": [asdict(o) for o in found[info.path]], "not_run": missing} for info in infos]
        plain = tried[0] if len(tried) == 1 else tried
        click.echo(json.dumps({"objects": tried, **held.json} if held is not None else plain, indent=1))
    else:
        width, why = grid.terminal_width(), check is None
        if len(infos) == 1:
            click.echo(report.render(outcomes, missing, colour=colour, width=width, logs=logs, why=why))
        else:
            by_path = {str(info.path): found[info.path] for info in infos}
            click.echo(report.render_many(by_path, missing, colour=colour, width=width, logs=logs, why=why))
        for info in infos:
            if arches := object_run.left_out(info, targets):
                click.echo(f"\n{info.path}: not tried on {', '.join(arches)}, since it was compiled for {info.compiled_for}")
        if held is not None:
            click.echo(f"\n{held.text}")
    if any(outcome.infra for outcome in outcomes):
        raise click.exceptions.Exit(3)
    if held is not None:
        raise click.exceptions.Exit(held.status)
    if not all(outcome.good for outcome in outcomes):
        raise click.exceptions.Exit(1)
