"""`kmatrix features`: the feature table, and what a target really has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from kmatrix.cli import options
from kmatrix.host.paths import scratch_console
from kmatrix.matrix.arch import Arch, parse_arches
from kmatrix.matrix.features import FEATURES, Feature
from kmatrix.matrix.kernel import Kernel, Target
from kmatrix.report import grid
from kmatrix.verdict.judge import feature_mismatches


@click.command("features")
@click.argument("target", required=False)
@options.ARCH
@options.ACCEL
@options.COLD
@options.KERNELS_FILE
@options.JSON
def command(target: str | None, arch: str, accel: str, cold: bool, kernels_file: Path | None, as_json: bool) -> None:
    """The features declared for every kernel; with a TARGET (5.4-arm64), declared and probed in its guest side by side.

    The table has a column a kernel: ✓ it has the feature, · it does not, or the arch on which alone it does. Distributions' kernels are left
    out of it (--json has them). Exit status 1 where the two disagree.
    """
    matrix = options.load_matrix(kernels_file)
    if target is not None:
        chosen = matrix.target(target)
        room = options.room(matrix, accel, cold)
        with scratch_console(f"features-{chosen}") as console, room.machine(chosen, console) as (_, probe):
            _compare(chosen, probe["features"], probe.get("why", {}), as_json)
        return
    arches = parse_arches(arch)
    targets = [Target(kernel, each) for each in arches for kernel in matrix.kernels.values()]
    if as_json:
        click.echo(json.dumps({str(t): sorted(t.features) for t in targets}, indent=1))
        return
    kernels = [kernel for kernel in matrix.kernels.values() if kernel.distribution is None]
    columns = [_column(kernel, arches) for kernel in kernels]
    labels = [grid.Column("feature", ["(status)", *FEATURES]), grid.Column("since", ["", *map(_since, FEATURES.values())])]
    click.echo(grid.folded(labels, [columns], grid.terminal_width(), grid.PLAIN))


def _column(kernel: Kernel, arches: Sequence[Arch]) -> grid.Column:
    """A kernel's features: ✓ and ·, or the arch that alone has one of them."""
    targets = [Target(kernel, arch) for arch in arches]
    cells = [" / ".join(dict.fromkeys(kernel.status(arch) for arch in arches))]
    for name in FEATURES:
        having = [target.arch for target in targets if name in target.features]
        cells.append("·" if not having else "✓" if len(having) == len(targets) else ", ".join(having))
    simulated = any(target.simulated is not None for target in targets)
    return grid.Column(f"{'~' if simulated else ''}{kernel.name}", cells)


def _since(feature: Feature) -> str:
    if isinstance(feature.since, tuple):
        return ".".join(map(str, feature.since))
    return ", ".join(f"{'.'.join(map(str, version))} {arch}" for arch, version in feature.since.items())


def _account(target: Target) -> dict[str, object] | None:
    return target.simulated.account(target.arch) if target.simulated is not None else None


def _compare(target: Target, probed: dict[str, bool | None], why: dict[str, str], as_json: bool) -> None:
    wrong = feature_mismatches(target, probed, FEATURES)
    if as_json:
        click.echo(
            json.dumps(
                {"declared": sorted(target.features), "probed": probed, "mismatches": wrong, "simulated": _account(target)},
                indent=1,
            )
        )
    else:
        words = {True: "✓", False: "·", None: "?"}
        rows = []
        for name, feature in FEATURES.items():
            declared, found = name in target.features, probed.get(name)
            rows.append(
                [name, words[declared], words[found], "≠" if found not in (None, declared) else "", why.get(name) or feature.probe]
            )
        heads = ["feature", "declared", "probed", "", "how the guest knows"]
        click.echo(grid.prose(rows, grid.terminal_width(), heads=heads))
        if target.simulated is not None:
            click.echo(f"{target} is simulated: {target.simulated}")
        for sentence in wrong:
            click.echo(f"{target}: {sentence}")
    if wrong:
        if not as_json:
            click.echo(f'fix: correct features in {target.kernel.declared_in}, kernels."{target.kernel.name}"')
        raise click.exceptions.Exit(1)
