"""`kmatrix bisect`: the first kernel on which a collector behaves otherwise."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from kmatrix.cli import complete, options
from kmatrix.host.errors import InputError
from kmatrix.host.progress import Terminal
from kmatrix.manifest.load import find_collector
from kmatrix.matrix.arch import ARCHES, host_arch, parse_arch
from kmatrix.matrix.kernel import FLAVOURS
from kmatrix.matrix.load import load_matrix
from kmatrix.objects import compiled
from kmatrix.runs import bisect, bisect_commits, record_files
from kmatrix.runs.bisect import Found, Outcome, Search
from kmatrix.runs.record_files import DEFAULT_DIRECTORY

_PATH = click.Path(path_type=Path)


@click.command("bisect")
@click.argument("collector", type=_PATH, shell_complete=complete.collectors)
@click.option(
    "--good",
    required=True,
    metavar="KERNEL_OR_REF",
    shell_complete=complete.kernels,
    help="Where it behaves as it should: 5.15, or a commit of --tree.",
)
@click.option("--bad", required=True, metavar="KERNEL_OR_REF", shell_complete=complete.kernels, help="Where it does not.")
@click.option("--arch", metavar="ARCH", help="x86_64 or arm64 (default: this host's).")
@click.option("--tree", type=_PATH, help="A git clone of the kernel (left untouched): walk its commits, and build each.")
@click.option("--fragment", "fragments", type=_PATH, multiple=True, help="With --tree: a configuration fragment of yours (repeat).")
@click.option("--variant", "variants", type=click.Choice(list(FLAVOURS)), multiple=True, help="With --tree: build as this variant.")
@click.option("--jobs", "-j", type=click.IntRange(min=1), help="With --tree: compilers at once (default: one per CPU).")
@click.option("--reset", is_flag=True, help="Forget what an earlier search for this collector found out.")
@options.ACCEL
@options.COLD
@click.option("--kmatrix-dir", type=_PATH, default=DEFAULT_DIRECTORY, show_default=True, help="Where records and the state go.")
@options.KERNELS_FILE
@options.JSON
def command(
    collector: Path,
    good: str,
    bad: str,
    arch: str | None,
    tree: Path | None,
    fragments: tuple[Path, ...],
    variants: tuple[str, ...],
    jobs: int | None,
    reset: bool,
    accel: str,
    cold: bool,
    kmatrix_dir: Path,
    kernels_file: Path | None,
    as_json: bool,
) -> None:
    """Find the first kernel, from --good on towards --bad, on which COLLECTOR behaves otherwise than on the good one.

    \b
    kmatrix bisect collectors/openat --good 5.15 --bad 6.1 --arch arm64
    kmatrix bisect collectors/openat --good 6.1.170 --bad 6.1.192
    kmatrix bisect collectors/openat --tree ~/linux --good v6.0 --bad v6.1

    Over the releases of the matrix that can be had, over the point releases of one series that Debian's archive has, or over the commits of a git tree. Interrupted, it goes on where it was.
    """
    found = find_collector(collector)
    chosen = parse_arch(arch) if arch is not None else host_arch() or ARCHES[0]
    if (why := compiled.nothing_for(found, chosen)) is not None:
        raise InputError(why, where="--arch", fix="choose the other arch")
    directory = kmatrix_dir.resolve()
    record_files.check_directory(directory)
    if tree is None and (fragments or variants or jobs):
        raise InputError("--fragment, --variant and --jobs go with --tree", where="bisect", fix="leave them out")
    search = Search(found, chosen, directory, accel, cold, Terminal(), lambda text: click.echo(text, err=as_json))
    if reset:
        if tree is not None:
            bisect_commits.reset_commits(search, tree)
        search.reset()
    if tree is not None:
        end = bisect_commits.commits(search, bisect_commits.Recipe(tree, fragments, variants, jobs), good, bad)
    else:
        matrix = load_matrix(file=kernels_file)
        end = bisect.releases(search, matrix, good, bad, kernels_file)
    if as_json:
        click.echo(json.dumps(asdict(end), indent=1))
    else:
        _print(end)


def _print(end: Found) -> None:
    click.echo()
    if end.between:
        click.echo(f"the first bad kernel is {end.bad.title}, or one of these, of which nothing is known:")
        for outcome in end.between:
            click.echo(f"  {outcome.title}: {outcome.shown}")
    else:
        click.echo(f"the first bad kernel is {end.bad.title}")
    for name, outcome in (("good", end.good), ("bad", end.bad)):
        _neighbour(name, outcome)


def _neighbour(name: str, outcome: Outcome) -> None:
    click.echo(f"\n{name:4}  {outcome.title}: {outcome.shown}")
    if outcome.reason:
        click.echo(f"      {outcome.reason}")
    click.echo(f"      record     {outcome.record}")
    click.echo(f"      reproduce  {outcome.reproduce}")
