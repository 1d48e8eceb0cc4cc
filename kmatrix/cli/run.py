"""`kmatrix run prog.bpf.o`: no manifest needed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from kmatrix.cli import contract_options, options, terminal
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
@contract_options.options
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
    contract: Path | None,
    set_: tuple[str, ...],
    max_entries: tuple[str, ...],
    one_of: tuple[str, ...],
    without: tuple[str, ...],
    attach_to: tuple[str, ...],
    accel: str,
    cold: bool,
    kernels_file: Path | None,
    as_json: bool,
    color: str,
) -> None:
    """Load every program of compiled BPF objects on every target, and attach it where its section says how.

    One table (of several objects: an object a row, with how many of its programs load and attach), and under it each failure by its cause: what is missing, since which release it is there, the line of source, and what to do.
    A failure whose cause is not known is shown in the verifier's own words. Exit status 0 only if a real loader
    would have got through everywhere: all loaded in one go, and attached. What its loader sets before that is said by a contract (docs/contract.md).
    """
    infos = [inspect(path) for path in dict.fromkeys(object_files)]
    for info in infos:
        object_run.check_programs(info, programs)
    given = contract_options.Given(contract, set_, max_entries, one_of, without, attach_to)
    contracts = contract_options.contracts(infos, given)
    room = options.room(options.load_matrix(kernels_file), accel, cold)
    targets, missing = options.select(room, kernels, arch)
    found = object_run.run(infos, targets, room, programs, contracts=contracts)
    outcomes = [outcome for each in found.values() for outcome in each]
    left_out = {info.path: object_run.left_out(info, targets) for info in infos}
    if as_json:
        tried = [
            {
                "object": str(info.path),
                "targets": [asdict(o) for o in found[info.path]],
                "not_run": missing,
                "left_out": left_out[info.path],
            }
            for info in infos
        ]
        click.echo(json.dumps(tried[0] if len(tried) == 1 else tried, indent=1))
    else:
        colour, width = terminal.coloured(color), grid.terminal_width()
        if len(infos) == 1:
            click.echo(report.render(outcomes, missing, colour=colour, width=width, logs=logs))
        else:
            by_path = {str(info.path): found[info.path] for info in infos}
            click.echo(report.render_many(by_path, missing, colour=colour, width=width, logs=logs))
        for info in infos:
            for each, why in left_out[info.path].items():
                click.echo(f"\n{info.path}: not tried on {each}: {why}")
    if any(outcome.infra for outcome in outcomes):
        raise click.exceptions.Exit(3)
    if not all(outcome.good for outcome in outcomes):
        raise click.exceptions.Exit(1)
