"""`kmatrix kernels try`: which sources of kernels.toml work, seen by using them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kmatrix.cli import complete, options
from kmatrix.cli.kernels import named_targets
from kmatrix.host import paths
from kmatrix.host.errors import InputError
from kmatrix.host.progress import Terminal
from kmatrix.host.toml import read_toml
from kmatrix.matrix.load import load_matrix, own_kernels_file
from kmatrix.matrix.tried import TRIED_FILE, Tried, beside, merged, parse, render
from kmatrix.report import grid
from kmatrix.runs import try_sources

_PATH = click.Path(path_type=Path, dir_okay=False)


@click.command("try")
@click.argument("kernel", nargs=-1, shell_complete=complete.kernels_and_targets)
@click.option("--all-sources", is_flag=True, help="Every kernel of kernels.toml.")
@options.ARCH
@click.option("--no-build", is_flag=True, help="Leave out sources that build what they fetch, some minutes each.")
@click.option("--again", is_flag=True, help="Also those that FILE says were good.")
@click.option(
    "--output", "-o", type=_PATH, metavar="FILE", help=f"Where the rows go (default: {TRIED_FILE} beside your kernels.toml)."
)
@click.option(
    "--merge", type=_PATH, multiple=True, metavar="FILE", help="Try nothing: take the rows of this tried.toml into FILE (repeat)."
)
@options.ACCEL
@options.KERNELS_FILE
@options.JSON
def command(
    kernel: tuple[str, ...],
    all_sources: bool,
    arch: str,
    no_build: bool,
    again: bool,
    output: Path | None,
    merge: tuple[Path, ...],
    accel: str,
    kernels_file: Path | None,
    as_json: bool,
) -> None:
    """Fetch from every source of KERNEL…, boot what comes, probe it, and write what was seen to tried.toml.

    \b
    kmatrix kernels try --all-sources           every kernel, every source: hours, and some GB over the network
    kmatrix kernels try rhel-9 amazon-2023      those
    kmatrix kernels try --merge theirs.toml     take the rows that somebody else sent

    Each row has the release and digest of what came, and the features of which the guest says otherwise than kernels.toml. A source that was
    good is untried no more: a bare run uses it. What is fetched is not kept. Interrupted, the same command goes on where it was.

    Exit status: 0 where all were good, 1 where one was not.
    """
    matrix = load_matrix(file=kernels_file)
    if bool(merge) == bool(kernel or all_sources):
        fix = "name kernels, or give --all-sources, or --merge FILE"
        raise InputError("either something is tried or rows are merged", where="kernels try", fix=fix)
    own = own_kernels_file(file=kernels_file)
    file = output or (beside(own) if own is not None else Path(TRIED_FILE))
    rows = list(_read(file)) if file.is_file() else []
    if merge:
        found = merged(rows, *(_read(each) for each in merge))
        _write(file, found)
        click.echo(f"{file}: {len(found)} rows, {sum(row.good for row in found)} of them good", err=as_json)
    else:
        targets = named_targets(matrix, ("all",) if all_sources else kernel, arch)
        done = {row.key for row in rows if row.good and not again}
        chosen = [trial for trial in try_sources.trials(targets, build=not no_build) if trial.key not in done]
        found = []
        for row in try_sources.run(chosen, matrix, paths.cache_dir("tried"), accel, Terminal()):
            found.append(row)
            rows = merged(rows, [row])
            _write(file, rows)
        if not as_json:
            _print(found, file)
    if as_json:
        click.echo(json.dumps([row.model_dump() for row in found], indent=1))
    if not all(row.good for row in found) and not merge:
        raise click.exceptions.Exit(1)


def _read(path: Path) -> tuple[Tried, ...]:
    return parse(read_toml(path), str(path))


def _write(path: Path, rows: list[Tried]) -> None:
    try:
        paths.write_whole(path, render(rows))
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path), fix="choose another FILE for --output") from None


def _print(rows: list[Tried], file: Path) -> None:
    if not rows:
        click.echo(f"nothing to try: {file} has each of these sources as good (--again tries them once more)")
        return
    lines = [[row.kernel, row.arch, row.source, "good" if row.good else f"✗ {row.stage}", _came(row)] for row in rows]
    click.echo(grid.prose(lines, grid.terminal_width(), heads=["kernel", "arch", "source", "", "what came"]))
    click.echo(f"\n{file}: {sum(row.good for row in rows)} of {len(rows)} good")


def _came(row: Tried) -> str:
    if not row.good:
        return row.error or ""
    differs = [f"{name} {'there' if there else 'not there'}" for name, there in row.differs.items()]
    return f"{row.release}" + (f"; not as declared: {', '.join(differs)}" if differs else "")
