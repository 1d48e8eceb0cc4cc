"""`kmatrix prepare`: have everything here before a run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from kmatrix import kernels as kernel_sources
from kmatrix.cli import options
from kmatrix.host.errors import KmatrixError
from kmatrix.host.threads import results
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.selection import asked_for
from kmatrix.report.names import shorten, target_key
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.vm import guest_image
from kmatrix.vm.console import boot_warnings
from kmatrix.vm.snapshot import SnapshotStore


@click.command("prepare")
@options.KERNELS
@options.ARCH
@options.ACCEL
@options.KERNELS_FILE
@options.JSON
def command(kernels: str | None, arch: str, accel: str, kernels_file: Path | None, as_json: bool) -> None:
    """Fetch kernels, build guest images and make every target's snapshot, side by side.

    What a kernel warned of when it booted is shown once, as far as it matters to BPF programs; each record has it too.
    A run does the same by itself, one target after another; this is for a first run, and before going offline.
    """
    room = options.room(options.load_matrix(kernels_file), accel, cold=False)
    targets, missing = options.select(room, kernels, arch)
    failed, warned = prepare(room, targets)
    for target, error in failed.items():
        click.echo(f"{target}: {error}", err=True)
    for message, names in _by_message(warned).items():
        click.echo(f"warned at boot: {shorten(names)}: {message}", err=as_json)
    if as_json:
        rows: list[dict[str, Any]] = [
            {"target": str(t), "ready": _base(t) not in failed, "error": _said(failed.get(_base(t)))} for t in targets
        ]
        rows = [row | {"boot_warnings": list(warned.get(str(row["target"]), ()))} for row in rows]
        rows += [
            {"target": name, "ready": False, "error": {"message": why, "where": name, "fix": None}} for name, why in missing.items()
        ]
        click.echo(json.dumps(rows, indent=1))
    if failed and asked_for(kernels) is not None:
        raise click.exceptions.Exit(3)


def _by_message(warned: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Each message once, with the targets whose kernel printed it."""
    found: dict[str, list[str]] = {}
    for target in sorted(warned, key=target_key):
        for message in warned[target]:
            found.setdefault(message, []).append(target)
    return found


def _base(target: Target) -> str:
    """The target whose kernel is fetched for this one."""
    return f"{target.kernel.real.name}-{target.arch}"


def _said(error: KmatrixError | None) -> dict[str, str | None] | None:
    return None if error is None else {"message": error.message, "where": error.where, "fix": error.fix}


def prepare(room: MachineRoom, targets: list[Target]) -> tuple[dict[str, KmatrixError], dict[str, tuple[str, ...]]]:
    """Everything that cells on `targets` need, made or fetched now; what could not be fetched, and why; and what the kernels warned of at boot.

    Raises InfraError where an image cannot be built or a kernel does not boot.
    """
    targets = [
        target for target in targets if target.kernel.host is None
    ]  # a real machine was made ready when it was asked who it is
    if not targets:
        return {}, {}
    # Simulated kernels are their bases, and their snapshots are made from those.
    bases = list({(t.kernel.real.name, t.arch): Target(t.kernel.real, t.arch) for t in targets}.values())
    simulated = [t for t in targets if t.simulated]
    arches = list(dict.fromkeys(target.arch for target in targets))
    mirrors, reporter = room.matrix.mirrors, room.reporter
    with ThreadPoolExecutor(1) as beside:
        images = beside.submit(guest_image.obtain_all, arches, mirrors=mirrors, reporter=reporter)
        try:
            fetched = kernel_sources.obtain_all(bases, room.store, mirrors=mirrors, lock=room.matrix.lock, reporter=reporter)
            results([images])
        except BaseException:
            guest_image.cancel()  # an interrupt reaches the main thread alone
            raise
    failed = {str(target): entry for target, entry in fetched if isinstance(entry, KmatrixError)}
    warned = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for several in (bases, simulated):
            there = [t for t in several if f"{t.kernel.real.name}-{t.arch}" not in failed]
            made = results([pool.submit(SnapshotStore().get, room.spec(t), reporter=reporter) for t in there])
            if several is bases:  # what a simulated one stands on said it already
                warned = {str(t): boot_warnings(each.console_text) for t, each in zip(there, made, strict=True)}
    return failed, warned
