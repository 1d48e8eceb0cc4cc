"""`kmatrix hosts`: the machines that a run works on beside this one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import click

from kmatrix.cli import options
from kmatrix.host.errors import InputError, KmatrixError
from kmatrix.report import grid
from kmatrix.runs.doctor import Finding
from kmatrix.runs.workers import address as addresses
from kmatrix.runs.workers import judge
from kmatrix.runs.workers.address import ADDOPTS, Address
from kmatrix.runs.workers.link import Link

_SIGNS = {"ok": "✓", "lacks": "✗", "note": "·"}


@click.group("hosts")
def group() -> None:
    """The machines that a run works on beside this one."""


@group.command("check")
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--python", metavar="PATH", help=f"The Python there that has kmatrix (default: {addresses.PYTHON}).")
@options.JSON
def check(hosts: Sequence[str], python: str | None, as_json: bool) -> None:
    """What each HOST has for working on a run, what it lacks, and what to do.

    A HOST is a destination of ssh, or what pytest's --tx takes (ssh=user@host//python=/path/python). Without one, those that
    $PYTEST_ADDOPTS names with --tx are checked. Exit status 1 where a host cannot be worked with.
    """
    chosen = [addresses.parse(host) for host in hosts] or addresses.in_environment()
    if not chosen:
        fix = "name a host, such as user@build1"
        raise InputError(f"no host is named, and ${ADDOPTS} has no --tx ssh=…", where="kmatrix hosts check", fix=fix)
    if python is not None:
        chosen = [Address(each.ssh, python, each.config, each.env) for each in chosen]
    with ThreadPoolExecutor(min(len(chosen), 16)) as pool:
        found = [*zip(chosen, pool.map(_look, chosen), strict=True)]
    if as_json:
        click.echo(json.dumps([_as_json(each, said) for each, said in found], indent=1))
    else:
        click.echo("\n\n".join(_render(each, said) for each, said in found))
    if any(finding.level == "lacks" for _, said in found for finding in said):
        raise click.exceptions.Exit(1)


def _look(host: Address) -> list[Finding]:
    try:
        with Link(host) as link:
            return [*judge.findings(link.ask("describe"))]
    except KmatrixError as error:
        return [Finding("lacks", "worker", error.message, error.fix or "")]


def _as_json(host: Address, said: Sequence[Finding]) -> dict[str, object]:
    return {"host": str(host), "python": host.python, "findings": [asdict(finding) for finding in said]}


def _render(host: Address, said: Sequence[Finding]) -> str:
    rows = [[_SIGNS[f.level], f.what, f.found, f.fix if f.level != "ok" else ""] for f in said]
    return f"{host}\n" + grid.prose(rows, grid.terminal_width(), heads=["", "what", "found", "fix"], wrap=(2, 3))
