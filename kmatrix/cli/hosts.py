"""`kmatrix hosts`: the machines that a run works on beside this one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import click

from kmatrix.cli import options
from kmatrix.host.errors import InputError, KmatrixError
from kmatrix.matrix.hosts import Host
from kmatrix.report import grid
from kmatrix.runs import real_machines
from kmatrix.runs.doctor import Finding
from kmatrix.runs.workers import address as addresses
from kmatrix.runs.workers import judge
from kmatrix.runs.workers.address import ADDOPTS, Address
from kmatrix.runs.workers.link import Link

_SIGNS = {"ok": "✓", "lacks": "✗", "note": "·"}


@click.group("hosts")
def group() -> None:
    """The machines that a run works on beside this one: what each has, and what it lacks."""


@group.command("check")
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--python", metavar="PATH", help=f"The Python of a worker that has kmatrix (default: {addresses.PYTHON}).")
@options.KERNELS_FILE
@options.JSON
def check(hosts: Sequence[str], python: str | None, kernels_file: Path | None, as_json: bool) -> None:
    """What each HOST has for working on a run, what it lacks, and what to do.

    A HOST is a real machine of kernels.toml ([hosts.NAME]), which is a target, or else a worker: a destination of ssh, or what pytest's --tx
    takes (ssh=user@host//python=/path/python). Without one, all machines of kernels.toml are checked, and the workers that
    $PYTEST_ADDOPTS names with --tx. Exit status 1 where a host cannot be used.
    """
    matrix = options.load_matrix(kernels_file)
    machines = matrix.hosts
    chosen: list[Host | Address] = [machines[host] if host in machines else addresses.parse(host) for host in hosts]
    chosen = chosen or [*machines.values(), *addresses.in_environment()]
    if not chosen:
        fix = "name a host, such as user@build1"
        what = f"no host is named, ${ADDOPTS} has no --tx ssh=…, and kernels.toml has no [hosts.NAME]"
        raise InputError(what, where="kmatrix hosts check", fix=fix)
    if python is not None:
        chosen = [each if isinstance(each, Host) else replace(each, python=python) for each in chosen]
    with ThreadPoolExecutor(min(len(chosen), 16)) as pool:
        found = [*zip(chosen, pool.map(lambda each: _look(each, matrix.mirrors), chosen), strict=True)]
    if as_json:
        click.echo(json.dumps([_as_json(each, said) for each, said in found], indent=1))
    else:
        click.echo("\n\n".join(_render(each, said) for each, said in found))
    if any(finding.level == "lacks" for _, said in found for finding in said):
        raise click.exceptions.Exit(1)


def _look(host: Host | Address, mirrors: Mapping[str, str]) -> list[Finding]:
    if isinstance(host, Host):
        return real_machines.findings(host, mirrors)
    try:
        with Link(host) as link:
            return [*judge.findings(link.ask("describe"))]
    except KmatrixError as error:
        return [Finding("lacks", "worker", error.message, error.fix or "")]


def _as_json(host: Host | Address, said: Sequence[Finding]) -> dict[str, object]:
    python = None if isinstance(host, Host) else host.python
    return {"host": _name(host), "python": python, "findings": [asdict(finding) for finding in said]}


def _name(host: Host | Address) -> str:
    return f"{host.name} ({host.where})" if isinstance(host, Host) else str(host)


def _render(host: Host | Address, said: Sequence[Finding]) -> str:
    rows = [[_SIGNS[f.level], f.what, f.found, f.fix if f.level != "ok" else ""] for f in said]
    return f"{_name(host)}\n" + grid.prose(rows, grid.terminal_width(), heads=["", "what", "found", "fix"], wrap=(2, 3))
