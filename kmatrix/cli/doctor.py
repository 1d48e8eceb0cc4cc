"""`kmatrix doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from kmatrix.cli import options
from kmatrix.report import grid
from kmatrix.runs import doctor

_SIGNS = {"ok": "✓", "lacks": "✗", "note": "·"}


@click.command("doctor")
@options.JSON
def command(as_json: bool) -> None:
    """What this host lacks, and the command that mends it. Exit status 1 where something needed is missing."""
    findings = list(doctor.examine())
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        rows = [[_SIGNS[f.level], f.what, f.found, f.fix if f.level != "ok" else ""] for f in findings]
        heads = ["", "what", "found", "fix"]
        click.echo(grid.prose(rows, grid.terminal_width(), heads=heads, wrap=(2,)))
    if any(finding.level == "lacks" for finding in findings):
        raise click.exceptions.Exit(1)
