"""`kmatrix predict`: will the programs of compiled objects load and attach? Foreseen from profiles of kernels; nothing is booted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from kmatrix.cli import complete, terminal
from kmatrix.predict import select
from kmatrix.predict.judge import Prediction, predict
from kmatrix.predict.kernel import Kernel
from kmatrix.predict.subject import Subject

KERNELS = click.option(
    "--kernels",
    metavar="EXPR",
    help="Profiles: 5.4,6.1 | '>=5.8' | 5.4..6.1 | 5.4-arm64 | all (the default). `kmatrix profiles list` has them.",
)
ARCH = click.option(
    "--arch", metavar="ARCH", default="all", show_default=True, shell_complete=complete.arches, help="x86_64, arm64 or all."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("predict")
@click.argument("objects", metavar="OBJECT…", nargs=-1, required=True, type=click.Path(path_type=Path))
@KERNELS
@ARCH
@JSON
@terminal.COLOR
def command(objects: tuple[Path, ...], kernels: str | None, arch: str, as_json: bool, color: str) -> None:
    """Say of every program of compiled objects whether it will load and attach, on each kernel of which there is a profile.

    Nothing is booted. CO-RE relocations are resolved as libbpf does it, code that they make dead is left out, and the rest is held against the
    kernel's helpers, map and program types, functions and tracepoints. The cause of what fails is said as `kmatrix run` says it. What the verifier
    thinks of the code, and what the host has beside its kernel, is not known: `kmatrix run` shows that on a booted kernel.

    Exit status: 0 where nothing is known to be in the way, 1 where something is, 2 for wrong input.
    """
    selected = select.kernels(kernels, arch)
    found = [(subject, *_one(subject, selected)) for subject in (Subject(path) for path in dict.fromkeys(objects))]
    if as_json:
        click.echo(json.dumps([_as_data(subject, chosen, each) for subject, chosen, each in found], indent=1))
    else:
        _print(found, colour=terminal.coloured(color))
    if any(not each.good for _, _, every in found for here in every for each in here):
        raise click.exceptions.Exit(1)


def _one(subject: Subject, selected: list[Kernel]) -> tuple[list[Kernel], list[list[Prediction]]]:
    chosen = select.fitting(subject.code.info, selected)
    return chosen, predict(subject, chosen)


def _as_data(subject: Subject, kernels: list[Kernel], found: list[list[Prediction]]) -> dict[str, Any]:
    """One object's predictions as JSON has them."""
    return {
        "object": str(subject.path),
        "kernels": [
            {
                "kernel": kernel.name,
                "release": kernel.meta["release"],
                "programs": [
                    {
                        "name": each.program,
                        "section": each.section,
                        "state": each.state,
                        "diagnosis": each.cause.plain() if each.cause is not None else None,
                        "unknown": list(each.unknown),
                    }
                    for each in here
                ],
            }
            for kernel, here in zip(kernels, found, strict=True)
        ],
    }


def _print(found: list[tuple[Subject, list[Kernel], list[list[Prediction]]]], *, colour: bool) -> None:
    from kmatrix.report import foreseen, grid

    objects = {str(subject.path): foreseen.outcomes(kernels, every) for subject, kernels, every in found}
    click.echo(foreseen.render(objects, colour=colour, width=grid.terminal_width()))
