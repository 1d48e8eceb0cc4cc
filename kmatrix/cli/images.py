"""`kmatrix images …`: the guest images on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from kmatrix.cli import options
from kmatrix.host.errors import InputError
from kmatrix.host.progress import Terminal
from kmatrix.matrix.arch import parse_arches
from kmatrix.report import grid
from kmatrix.vm import guest_image
from kmatrix.vm.guest_image import GuestImage, ImageStore


@click.group("images")
def group() -> None:
    """The guest images on this machine: build, list, remove.

    A guest image is the root file system that every VM of an arch boots, built from images/image.toml. A run builds what it needs by
    itself; after a change of the recipe, a new image is built beside the old one.
    """


@group.command("build")
@options.ARCH
@click.option("--force", is_flag=True, help="Build it again (for newer packages) even if it is here.")
@options.KERNELS_FILE
@options.JSON
def build(arch: str, force: bool, kernels_file: Path | None, as_json: bool) -> None:
    """Build the images that are not here yet, side by side."""
    mirrors = options.load_matrix(kernels_file).mirrors
    _print(guest_image.obtain_all(parse_arches(arch), reporter=Terminal(), mirrors=mirrors, force=force), as_json)


@group.command("list")
@options.JSON
def list_images(as_json: bool) -> None:
    """Every image in the cache. `in use: no` marks those of recipes no longer in force."""
    _print(ImageStore().entries(), as_json)


@group.command("remove")
@options.ARCH
@click.option("--unused", is_flag=True, help="Only those of recipes no longer in force.")
@options.JSON
def remove(arch: str, unused: bool, as_json: bool) -> None:
    """Remove the images of --arch from the cache. The next run that needs one builds it again."""
    arches, store = parse_arches(arch), ImageStore()
    chosen = [image for image in store.entries() if image.arch in arches and not (unused and store.in_use(image))]
    if not chosen and not unused:
        raise InputError("there is no image to remove", where=f"--arch {arch}", fix="kmatrix images list")
    for image in chosen:
        store.remove(image)
    if as_json:
        click.echo(json.dumps([str(image.folder) for image in chosen], indent=1))
    else:
        for image in chosen:
            click.echo(f"removed {image.folder}")


def _print(images: list[GuestImage], as_json: bool) -> None:
    store = ImageStore()
    if as_json:
        click.echo(json.dumps([_row(store, image) for image in images], indent=1))
        return
    rows = [
        [
            image.arch,
            f"{image.manifest['mirror']['suite']}, {len(image.manifest['packages'])} packages",
            f"{image.manifest['size'] / (1 << 20):.0f} MiB",
            image.digest[:12],
            "yes" if store.in_use(image) else "no",
            str(image.path),
        ]
        for image in images
    ]
    click.echo(grid.prose(rows, grid.terminal_width(), heads=["arch", "from", "size", "digest", "in use", "path"], wrap=(1,)))


def _row(store: ImageStore, image: GuestImage) -> dict[str, Any]:
    paths = {"path": str(image.path), "busybox_path": str(image.busybox), "in_use": store.in_use(image)}
    return {**paths, **image.manifest}
