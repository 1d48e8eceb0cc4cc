"""`kmatrix needs`: what compiled objects ask of a kernel, read off their code."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kmatrix.cli import options
from kmatrix.matrix.arch import parse_arches
from kmatrix.objects.code import Code
from kmatrix.report import needs as report
from kmatrix.report.grid import terminal_width


@click.command("needs")
@click.argument("objects", metavar="OBJECT…", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.ARCH
@click.option("--all", "everything", is_flag=True, help="List what every kernel from 4.14 on has, too.")
@options.JSON
def command(objects: tuple[Path, ...], arch: str, everything: bool, as_json: bool) -> None:
    """What compiled OBJECTs need of a kernel, and since which release there is such a thing. Nothing is booted.

    Helpers, maps, types, kernel functions, hooks and kinds of instructions are read off the code. What code asks for behind
    bpf_core_field_exists() and its kin, a Kconfig variable or the kernel's version is optional, and is marked so. What one kernel's image
    has (types, symbols, tracepoints) has no first release. What the verifier thinks of the code is not looked at: `kmatrix run` shows that.

    Exit status: 0, or 2 for what is not an object.
    """
    arches = parse_arches(arch)
    found = [(path, report.read(Code(path))) for path in objects]
    if as_json:
        click.echo(json.dumps([report.as_json(str(path), programs) for path, programs in found], indent=1))
        return
    width = terminal_width()
    click.echo(
        "\n\n\n".join(report.text(path.name, each, everything=everything, width=width, arches=arches) for path, each in found)
    )
