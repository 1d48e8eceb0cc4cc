"""`kmatrix run prog.bpf.o`: no manifest needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from kmatrix.cli import baselines, contract_options, options, terminal
from kmatrix.host.errors import InputError
from kmatrix.objects.compiled import ObjectInfo, inspect
from kmatrix.report import differences, grid
from kmatrix.report import least_caps as caps_report
from kmatrix.report import objects as report
from kmatrix.runs import least_caps, object_run
from kmatrix.vm import loaders


@click.command("run")
@click.argument("object_files", metavar="OBJECT.o…", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.KERNELS
@options.ARCH
@click.option("--program", "programs", multiple=True, metavar="NAME", help="Only this program (may be given several times).")
@click.option("--logs", is_flag=True, help="Print the verifier's whole log of each failure, also where its cause is known.")
@baselines.SAVE
@baselines.CHECK
@contract_options.options
@options.LOAD_TIMEOUT
@click.option(
    "--find-caps",
    is_flag=True,
    help="Say the least capabilities with which each object loads and attaches, by trying (docs/circumstances.md).",
)
@options.LOADER
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
    given: contract_options.Given,
    load_timeout: float,
    find_caps: bool,
    loader: str,
    accel: str,
    cold: bool,
    kernels_file: Path | None,
    as_json: bool,
    color: str,
) -> None:
    """Load every program of compiled BPF objects on every target, and attach it where its section says how.

    One table (of several objects: an object a row, with how many of its programs load and attach), and under it each failure by its cause: what is missing, since which release it is there, the line of source, and what to do.
    What fails on a kernel that moves on (latest, next) is a warning of what comes, and fails nothing.
    A failure whose cause is not known is shown in the verifier's own words. What its loader sets before it loads is said by a contract (docs/contract.md).

    Exit status: 0 if a real loader would have got through everywhere: all loaded in one go, and attached where the sections say where; 1 if
    not; 2 for wrong input; 3 where the machines failed. A placeholder, whose target its loader sets, does not count, unless nothing else is
    there or the object cannot be loaded for it. With --save: 0 where the baseline was written. With --check: 0 where all is as in the
    baseline, red or not; 1 on any difference.
    """
    infos = [inspect(path) for path in dict.fromkeys(object_files)]
    for info in infos:
        object_run.check_programs(info, programs)
    contracts = contract_options.contracts(infos, given)
    plan = baselines.asked(save, check, programs)
    if find_caps:
        if save or check or loader != "libbpf":
            raise InputError("--find-caps goes with no baseline, and loads with libbpf", where="--find-caps", fix="give it alone")
        room = options.room(options.load_matrix(kernels_file), accel, cold)
        targets, missing = plan.select(room, kernels, arch, infos)
        least = least_caps.run(infos, targets, room, programs, load_timeout, contracts=contracts)
        _tell_least(infos, least, missing, as_json=as_json)
        return
    libraries = loaders.chosen(loader)
    if len(libraries) > 1 and (save or check):
        raise InputError("a baseline is of one loader", where="--loader=all", fix="give --loader=libbpf or --loader=cilium")
    room = options.room(options.load_matrix(kernels_file), accel, cold)
    targets, missing = plan.select(room, kernels, arch, infos)
    by_library = {
        library: object_run.run(infos, targets, room, programs, load_timeout, contracts=contracts, library=library)
        for library in libraries
    }
    found = {info.path: [outcome for each in by_library.values() for outcome in each[info.path]] for info in infos}
    outcomes = [outcome for each in found.values() for outcome in each]
    left_out = {info.path: object_run.left_out(info, targets) for info in infos}
    colour = terminal.coloured(color)
    held = baselines.finish(plan, found, infos, room, colour=colour)
    if as_json:
        tried = [
            {
                "object": str(info.path),
                "targets": [asdict(o) | {"warning": o.warns} for o in found[info.path]],
                "not_run": missing,
                "left_out": left_out[info.path],
            }
            for info in infos
        ]
        plain = tried[0] if len(tried) == 1 else tried
        click.echo(json.dumps({"objects": tried, **held.json} if held is not None else plain, indent=1))
    else:
        width, why = grid.terminal_width(), check is None
        for tried_by in by_library.values():
            by_path = {str(path): tried for path, tried in tried_by.items()}
            if libraries != ("libbpf",):
                click.echo(differences.headline(by_path))
            if len(infos) == 1:
                click.echo(report.render(tried_by[infos[0].path], missing, colour=colour, width=width, logs=logs, why=why))
            else:
                click.echo(report.render_many(by_path, missing, colour=colour, width=width, logs=logs, why=why))
            if len(libraries) > 1:
                click.echo()
        if len(libraries) > 1:
            click.echo(differences.render({str(path): tried for path, tried in found.items()}, width=width))
        for info in infos:
            for each, reason in left_out[info.path].items():
                click.echo(f"\n{info.path}: not tried on {each}: {reason}")
        if held is not None:
            click.echo(f"\n{held.text}")
        elif len(libraries) == 1 and (last := report.closing({str(path): tried for path, tried in found.items()})) is not None:
            click.echo(f"\n{last}")
    if any(outcome.infra for outcome in outcomes):
        raise click.exceptions.Exit(3)
    if held is not None:
        raise click.exceptions.Exit(held.status)
    if not all(outcome.good or outcome.warns for outcome in outcomes):
        raise click.exceptions.Exit(1)


def _tell_least(
    infos: Sequence[ObjectInfo], least: Mapping[Path, Sequence[least_caps.Outcome]], missing: Mapping[str, str], *, as_json: bool
) -> None:
    """The account of --find-caps. Exit status 0 where each object loads somehow everywhere, 1 where one does not, 3 where the machines failed."""
    if as_json:
        told = [{"object": str(info.path), **caps_report.plain(least[info.path], missing)} for info in infos]
        click.echo(json.dumps(told[0] if len(told) == 1 else {"objects": told}, indent=1))
    else:
        width = grid.terminal_width()
        click.echo("\n\n".join(caps_report.text(info.path.name, least[info.path], missing, width=width) for info in infos))
    outcomes = [outcome for each in least.values() for outcome in each]
    if any(outcome.infra for outcome in outcomes):
        raise click.exceptions.Exit(3)
    if any(outcome.whole is None for outcome in outcomes):
        raise click.exceptions.Exit(1)
