"""`kmatrix profiles …`: the profiles of kernels, which predictions are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from kmatrix.cli import complete, options
from kmatrix.host.errors import InputError
from kmatrix.matrix.arch import ARCHES, host_arch, parse_arches
from kmatrix.predict import collect, compare, profile, store


@click.group("profiles")
def group() -> None:
    """Profiles of kernels: what each has for BPF programs, in a small file. `kmatrix predict` foresees from them."""


@group.command("list")
@options.JSON
def list_(as_json: bool) -> None:
    """Every profile: those that are shipped, and those of this machine."""
    from kmatrix.report import grid

    kernels = store.kernels()
    if as_json:
        click.echo(json.dumps([{key: kernel.meta[key] for key in ("name", "kernel", "release", "arch", "from", "btf")} | {"file": str(kernel.pack.path)} for kernel in kernels], indent=1))  # fmt: skip
        return
    made = {"guest": "booted here", "host": "running host", "btf": "BTF alone"}
    rows = [
        [kernel.name, kernel.meta["release"], made[kernel.meta["from"]], "yes" if kernel.btf else "no", "shipped" if kernel.pack.path == store.SHIPPED else "this machine"]
        for kernel in kernels
    ]  # fmt: skip
    click.echo(grid.prose(rows, grid.terminal_width(), heads=["profile", "release", "made of", "BTF", "whose"]))


@group.command("script")
def script() -> None:
    """Print the script that captures the kernel of a host: it needs root, Python 3.6 or newer, and nothing else."""
    click.echo(Path(collect.__file__).read_text(encoding="utf-8"), nl=False)


@group.command("add")
@click.argument("captures", metavar="[CAPTURE…]", nargs=-1, type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What the kernel is called (default: its release).")
@click.option(
    "--kernels",
    metavar="EXPR",
    shell_complete=complete.selections,
    help="Boot these kernels of the matrix, and capture what their guests show.",
)
@click.option("--btf", type=click.Path(path_type=Path), help="Make it of a BTF file alone, such as one of BTFHub (unpacked).")
@click.option("--release", metavar="RELEASE", help="With --btf: the kernel's release.")
@click.option("--arch", metavar="ARCH", default="all", help="With --btf: its arch. With --kernels: x86_64, arm64 or all.")
@click.option(
    "--features",
    type=click.Path(path_type=Path),
    help='With --btf: a JSON file of what it has and lacks, {"helper:bpf_loop": true}.',
)
@options.KERNELS_FILE
@options.JSON
def add(
    captures: tuple[Path, ...],
    name: str | None,
    kernels: str | None,
    btf: Path | None,
    release: str | None,
    arch: str,
    features: Path | None,
    kernels_file: Path | None,
    as_json: bool,
) -> None:
    """Make profiles, and keep them on this machine.

    Of a CAPTURE, which the script of `kmatrix profiles script` writes on a host; of a BTF file; or of kernels that are booted for it.
    """
    parts = []
    if btf is not None:
        arches = parse_arches(arch)
        if release is None or len(arches) != 1:
            raise InputError(
                "a BTF file does not tell its kernel's release and arch",
                where="--btf",
                fix="add --release=5.4.0-42-generic --arch=x86_64",
            )
        parts.append(profile.of_btf(btf, release, arches[0], name, _table(features)))
    for path in captures:
        parts.append(profile.of_capture(profile.read_capture(path), str(path), name))
    if kernels is not None:
        from kmatrix.runs.capture import capture

        room = options.room(options.load_matrix(kernels_file), "auto", False)
        targets, _ = options.select(room, kernels, arch)
        for target in targets:
            parts.append(profile.of_capture(capture(room, target), str(target)))
            click.echo(f"{target}: captured", err=True)
    if not parts:
        raise InputError(
            "there is nothing to make a profile of", where="kmatrix profiles add", fix="give a CAPTURE, --kernels or --btf"
        )
    where = store.add(parts)
    names = [meta["name"] for meta, _ in parts]
    click.echo(json.dumps({"added": names, "file": str(where)}, indent=1) if as_json else f"{', '.join(names)}: in {where}")


def _table(path: Path | None) -> Mapping[str, bool]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"this is no table of features: {error}", where=str(path), fix='write {"helper:bpf_loop": true, "ringbuf": false}'
        ) from None
    if not isinstance(found, dict) or not all(isinstance(each, bool) for each in found.values()):
        raise InputError("this is no table of features", where=str(path), fix='write {"helper:bpf_loop": true, "ringbuf": false}')
    return found


@group.command("vmlinux-h")
@click.argument("kernel")
@click.option("--arch", metavar="ARCH", help="x86_64 or arm64 (default: this machine's).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write it to this file.")
def vmlinux_h(kernel: str, arch: str | None, output: Path | None) -> None:
    """Write the vmlinux.h of a kernel: its types as C, as bpftool has them. KERNEL is a profile (5.4-arm64), or its kernel (5.4)."""
    from kmatrix.predict import header

    named = {each.name for each in store.kernels()}
    if kernel not in named and kernel.rpartition("-")[2] not in ARCHES:
        wanted = parse_arches(arch) if arch is not None else (host_arch() or ARCHES[0],)
        kernel = f"{kernel}-{wanted[0]}"
    found = store.named(kernel)
    if not found.btf:
        raise InputError("the kernel has no BTF, and so no types to write", where=kernel, fix="name another profile")
    text = header.write(found)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(output), fix="choose a folder that can be written") from None


@group.command("compare")
@click.argument("first")
@click.argument("second")
@options.JSON
def compare_(first: str, second: str, as_json: bool) -> None:
    """What FIRST has and SECOND has not, and the other way round. Both are profiles, such as 5.4-x86_64."""
    from kmatrix.report import grid

    rows = compare.rows(store.named(first, "FIRST"), store.named(second, "SECOND"))
    if as_json:
        click.echo(json.dumps([{"what": what, first: one, second: other} for what, one, other in rows], indent=1))
    else:
        click.echo(
            grid.prose([list(row) for row in rows], grid.terminal_width(), heads=["what", first, second], wrap=(1, 2))
            or "no difference"
        )


@group.command("remove")
@click.argument("name")
@options.JSON
def remove(name: str, as_json: bool) -> None:
    """Take a profile away from this machine; those that are shipped stay."""
    store.remove(name)
    if as_json:
        click.echo(json.dumps({"removed": name}, indent=1))
