"""`kmatrix cache …`: the cache, as a CI keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from kmatrix.cli import options
from kmatrix.host.progress import Quiet
from kmatrix.runs import cache_key, shards
from kmatrix.runs.machine_room import MachineRoom


@click.group("cache")
def group() -> None:
    """The cache of kernels, guest images and snapshots, as a CI keeps it between runs."""


@group.command("key")
@options.KERNELS
@options.ARCH
@click.option("--shard", metavar="NUMBER/COUNT", help="The cache of this shard, which has only its own targets.")
@options.KERNELS_FILE
@options.JSON
def key(kernels: str | None, arch: str, shard: str | None, kernels_file: Path | None, as_json: bool) -> None:
    """Print the name under which a CI keeps the cache of a run with these options.

    It changes with what the cache's content depends on: kernels.toml, kernels.lock, the guest image's recipe, the version of kmatrix, the
    kernels, arches and shard, and QEMU's version. --json shows these parts, and the beginning that the names of older caches share, which
    are of use where there is none of this name. Nothing is fetched.
    """
    part = shards.parse(shard) if shard is not None else None
    targets = MachineRoom(options.load_matrix(kernels_file), reporter=Quiet()).targets(kernels, arch)
    targets = tuple(target for target in targets if target.kernel.host is None)  # nothing of a real machine is kept here
    found = cache_key.of(targets, kernels_file=kernels_file, shard=part)
    click.echo(json.dumps(asdict(found), indent=1) if as_json else found.key)
