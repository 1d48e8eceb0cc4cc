"""`kmatrix kernels gc`: free the disk of what nobody needs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kmatrix.cli import options
from kmatrix.matrix.load import load_matrix
from kmatrix.runs import gc


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--days", type=click.FloatRange(min=0), default=gc.DAYS, show_default=True, help="Keep what was used within DAYS days."
)
@options.KERNELS_FILE
@options.JSON
def command(dry_run: bool, days: float, kernels_file: Path | None, as_json: bool) -> None:
    """Remove kernels that no kernels.toml or kernels.lock in force refers to, old guest images, stale snapshots, and what was left half-done.

    Only what was not used within --days, as the cache may be shared with other projects; and nothing that a running process uses.
    """
    matrix = load_matrix(file=kernels_file)
    freed, rows = 0, []
    for item in gc.items(matrix, days):
        done = "would remove" if dry_run else "removed" if item.remove() else "in use"
        rows.append({"name": item.name, "bytes": item.size, "why": item.why, "done": done})
        if done != "in use":
            freed += item.size
        if not as_json:
            click.echo(f"in use    {item.name}" if done == "in use" else f"{done} {item.name}: {_mib(item.size)} ({item.why})")
    if as_json:
        click.echo(json.dumps({"items": rows, "bytes": freed, "dry_run": dry_run}, indent=1))
        return
    click.echo(f"{_mib(freed)} {'would be freed' if dry_run else 'freed'}")


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
