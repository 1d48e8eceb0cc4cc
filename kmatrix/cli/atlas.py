"""`kmatrix atlas`: how close programs are to the verifier's limits."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kmatrix.cli import contract_options, options
from kmatrix.host.errors import InputError
from kmatrix.manifest.budget import Allowance, share
from kmatrix.objects.compiled import inspect
from kmatrix.report import atlas as report
from kmatrix.report.grid import terminal_width
from kmatrix.runs import atlas, object_run


@click.command("atlas")
@click.argument("object_files", metavar="OBJECT.o…", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.KERNELS
@options.ARCH
@click.option("--program", "programs", multiple=True, metavar="NAME", help="Only this program (may be given several times).")
@click.option("--lines", is_flag=True, help="Also the lines of source that the verifier looks at most. This takes longer.")
@click.option("--budget", metavar="PERCENT", help="Exit status 1 where a program is above so much of a limit, such as 80%.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Keep the atlas in a file.")
@click.option(
    "--against",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Say what has grown since an atlas that was kept.",
)
@contract_options.options
@options.LOAD_TIMEOUT
@options.ACCEL
@options.COLD
@options.KERNELS_FILE
@options.JSON
def command(
    object_files: tuple[Path, ...],
    kernels: str | None,
    arch: str,
    programs: tuple[str, ...],
    lines: bool,
    budget: str | None,
    save: Path | None,
    against: Path | None,
    given: contract_options.Given,
    load_timeout: float,
    accel: str,
    cold: bool,
    kernels_file: Path | None,
    as_json: bool,
) -> None:
    """How close the programs of compiled objects are to the verifier's limits, on every target.

    Each program is loaded alone, and the verifier gives its account: how many instructions it looked at on all paths together, how many
    states it kept, how deep the stack is. The table has the instructions. Below it, each program stands where it is heaviest. 5.2 and later
    give up after 1,000,000 instructions, older kernels after 131,072.

    Exit status: 0; 1 where a program is above the --budget; 2 for wrong input; 3 where the machines failed.
    """
    allowed = _allowed(budget)
    infos = [inspect(path) for path in dict.fromkeys(object_files)]
    for info in infos:
        object_run.check_programs(info, programs)
    contracts = contract_options.contracts(infos, given)
    before = atlas.kept(against) if against is not None else None
    room = options.room(options.load_matrix(kernels_file), accel, cold)
    targets, _ = options.select(room, kernels, arch)
    pages = atlas.draw(infos, targets, room, programs, load_timeout, contracts=contracts, lines=lines)
    grown = report.growth(pages, before) if before is not None else []
    above = report.over_budget(pages, allowed) if allowed is not None else []
    if as_json:
        click.echo(json.dumps(atlas.as_json(pages) | {"growth": grown, "over_budget": above}, indent=1))
    else:
        simulated = frozenset(str(target) for target in targets if target.simulated is not None)
        click.echo(report.render(pages, simulated, width=terminal_width(), lines=lines))
        if before is not None:
            click.echo(f"\nsince {against}:\n" + "\n".join(f"  {line}" for line in grown or ["nothing has changed"]))
        if allowed is not None:
            title = f"above {allowed.written} of a limit" if above else f"no program is above {allowed.written} of a limit"
            click.echo("\n" + "\n".join([title, *(f"  {line}" for line in above)]))
    if save is not None:
        atlas.save(pages, save)
    if any(page.infra is not None for page in pages):
        raise click.exceptions.Exit(3)
    if above:
        raise click.exceptions.Exit(1)


def _allowed(budget: str | None) -> Allowance | None:
    """The budget, read. Raises InputError."""
    try:
        return share(budget) if budget is not None else None
    except ValueError as error:
        raise InputError(str(error), where="--budget", fix="write a share of the limit, such as --budget=80%") from None
