"""`kmatrix kernels …`: the kernels on this machine, and how to get more."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from kmatrix import kernels
from kmatrix.cli import complete
from kmatrix.host.errors import InfraError, InputError, KmatrixError
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.progress import Terminal
from kmatrix.kernels import build, identity
from kmatrix.kernels.sources import imported
from kmatrix.kernels.store import KernelEntry, KernelStore, StagedKernel
from kmatrix.matrix import circumstances
from kmatrix.matrix.arch import INFO, Arch, parse_arch, parse_arches
from kmatrix.matrix.kernel import FLAVOURS, Target
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.selection import DEFAULT_SET, Matrix
from kmatrix.report import grid

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_ARCHES = click.option("--arch", metavar="ARCH", default="all", show_default=True, help="x86_64, arm64 or all.")
_ONE_ARCH = click.option("--arch", metavar="ARCH", required=True, help="x86_64 or arm64.")
_KERNELS_FILE = click.option(
    "--kernels-file", type=click.Path(path_type=Path), help="A kernels.toml of your own (default: the nearest above)."
)
_REPLACE = click.option("--replace", is_flag=True, help="Even if the store has one: put the new one in its place.")
_PATH = click.Path(path_type=Path)

Name = tuple[str, Arch]


@click.group("kernels")
def group() -> None:
    """The kernels on this machine: list, fetch, import, build, remove, verify.

    A KERNEL is a name of kernels.toml (5.4), a target (5.4-arm64), a set, or an expression ('>=5.8', 5.4..6.1, all).
    """


@group.command("list")
@_ARCHES
@_KERNELS_FILE
@_JSON
def list_kernels(arch: str, kernels_file: Path | None, as_json: bool) -> None:
    """Every kernel of the matrix and of the store: what is here, and how to get what is not."""
    matrix, store, arches = load_matrix(file=kernels_file), KernelStore(), parse_arches(arch)
    known = [(kernel.name, each) for kernel in matrix.kernels.values() for each in arches]
    others = [name for name in store.refs() if name[1] in arches and name not in known]
    rows = [_row(name, matrix, store) | {"sources_tried": _tried(name, matrix)} for name in [*known, *others]]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if here := [_here(row, matrix) for row in rows if row["present"]]:
        heads = ["kernel", "arch", "release", "BTF", "size", "source"]
        click.echo(grid.prose(here, grid.terminal_width(), heads=heads))
    if lacking := _lacking([row for row in rows if not row["present"]]):
        click.echo(("\n" if here else "") + "Not on this machine:\n")
        heads = ["kernel", "arch", "sources tried", "how to get it (one of these)"]
        click.echo(grid.prose(lacking, grid.terminal_width(), heads=heads))
        click.echo("\n" + textwrap.fill(_TRIED_MEANS, min(grid.terminal_width(), 120)))
    words = f"Each real kernel can be run under circumstances, as in 6.1+lockdown: {', '.join(circumstances.choices(matrix.circumstances))}."
    click.echo("\n" + textwrap.fill(words, min(grid.terminal_width(), 120)))


def _here(row: dict[str, Any], matrix: Matrix) -> list[str]:
    """The line of a kernel that can be booted."""
    name, arch, release = row["kernel"], row["arch"], row["release"]
    if row.get("simulated"):
        btf = "yes" if "btf" in matrix.kernel(name).features(arch) else "no"
        return [f"~{name}", arch, release, btf, "-", f"simulated: {row['simulated']}"]
    if row.get("set_up"):
        return [name, arch, release, "-", "-", f"as {matrix.kernel(name).image_of.name}, {row['set_up']}"]
    btf = {True: "yes", False: "beside" if row["btf_file"] else "no", None: "?"}[row["btf"]]
    return [name, arch, release, btf, _size(row["size"]), kernels.origin(row["source"])]


def _lacking(rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """A line for each kernel that is not here; arches that are got in the same way share it."""
    shared: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        name = f"~{row['kernel']}" if row.get("simulated") else row["kernel"]
        how = str(row["get"] or row["reason"] or "-").replace("  or  ", "\n").replace(f"--arch {row['arch']}", "--arch ARCH")
        shared.setdefault((name, _TRIED[row["sources_tried"]], how), []).append(row["arch"])
    return [
        [name, ", ".join(arches), tried, how if len(arches) > 1 else how.replace("--arch ARCH", f"--arch {arches[0]}")]
        for (name, tried, how), arches in shared.items()
    ]


@group.command("fetch")
@click.argument("kernel", nargs=-1, shell_complete=complete.kernels_and_targets)
@_ARCHES
@_REPLACE
@_KERNELS_FILE
@_JSON
def fetch(kernel: tuple[str, ...], arch: str, replace: bool, kernels_file: Path | None, as_json: bool) -> None:
    """Download KERNEL… (default: all of the default set that can be), side by side.

    Exit status 3 where one could not be had (2 where kernels.toml or the lock is why); the others are in the store then.
    """
    matrix, store = load_matrix(file=kernels_file), KernelStore()
    targets = real_targets(named_targets(matrix, kernel or (DEFAULT_SET,), arch))
    if not kernel:
        targets = [
            t for t in targets if kernels.availability(t.kernel, t.arch, store, lock=matrix.lock, mirrors=matrix.mirrors) is None
        ]
    results = kernels.obtain_all(targets, store, reporter=Terminal(), mirrors=matrix.mirrors, lock=matrix.lock, replace=replace)
    if as_json:
        click.echo(json.dumps([_result(target.kernel.name, target.arch, result) for target, result in results], indent=1))
    else:
        _print_entries([(t.kernel.name, t.arch, result) for t, result in results if isinstance(result, KernelEntry)])
        for target, result in results:
            for note in result.manifest["notes"] if isinstance(result, KernelEntry) else ():
                click.echo(f"note: {target}: {note}")
    errors = [result for _, result in results if isinstance(result, KmatrixError)]
    for error in errors:
        click.echo(f"kmatrix: {error}", err=True)
    if errors:
        raise click.exceptions.Exit(2 if any(isinstance(error, InputError) for error in errors) else 3)


@group.command("import")
@click.argument("kernel", shell_complete=complete.kernels)
@_ONE_ARCH
@click.option("--image", type=_PATH, help="A bzImage (x86_64) or Image (arm64, also gzip'ed).")
@click.option("--modules", type=_PATH, help="Its lib/modules/<release>, or a folder that has that in it.")
@click.option("--config", "config_file", type=_PATH, help="Its configuration (default: the image's own, if it carries one).")
@click.option(
    "--from",
    "packages",
    type=_PATH,
    multiple=True,
    metavar="DIR_OR_PACKAGE",
    help="A folder with boot/ and lib/modules/, a built kernel tree, or .deb or .rpm files (repeat for several).",
)
@_REPLACE
@_KERNELS_FILE
@_JSON
def import_kernel(
    kernel: str,
    arch: str,
    image: Path | None,
    modules: Path | None,
    config_file: Path | None,
    packages: tuple[Path, ...],
    replace: bool,
    kernels_file: Path | None,
    as_json: bool,
) -> None:
    """Put an image of yours into the store as KERNEL (a name of kernels.toml).

    \b
    kmatrix kernels import 5.4 --arch x86_64 --image bzImage [--modules DIR] [--config FILE]
    kmatrix kernels import 5.4 --arch arm64 --from linux-image-….deb
    """
    target = _one(load_matrix(file=kernels_file), kernel, arch)
    if (image is None) == (not packages):
        raise InputError(
            "one of --image and --from is needed", where="kernels import", fix="--image FILE, or --from DIR_OR_PACKAGE"
        )
    if packages and (modules or config_file):
        raise InputError("--modules and --config go with --image", where="kernels import", fix="leave them out")

    def stage(into: Path) -> StagedKernel:
        if image is not None:
            return imported.stage_image(image, target.arch, into, module_tree=modules, config=config_file)
        return imported.stage_package(packages, target.arch, into)

    _add(target, stage, replace, as_json, f"{target}: importing")


@group.command("build")
@click.argument("kernel", shell_complete=complete.kernels)
@_ONE_ARCH
@click.option("--tree", type=_PATH, help="The kernel's source tree (left untouched: it is built out of tree).")
@click.option(
    "--fragment", "fragments", type=_PATH, multiple=True, help="A configuration fragment on top of kmatrix's own (repeat)."
)
@click.option(
    "--variant", type=click.Choice(list(FLAVOURS)), help="Build KERNEL as this variant: a kernel of its own, KERNEL-VARIANT."
)
@click.option("--jobs", "-j", type=click.IntRange(min=1), help="Compilers at once (default: one per CPU).")
@_REPLACE
@_KERNELS_FILE
@_JSON
def build_kernel(
    kernel: str,
    arch: str,
    tree: Path | None,
    fragments: tuple[Path, ...],
    variant: str | None,
    jobs: int | None,
    replace: bool,
    kernels_file: Path | None,
    as_json: bool,
) -> None:
    """Build a source tree for KERNEL (a name of kernels.toml) and put it into the store: some minutes.

    Every option asked for is checked after the kernel's own configuration is made: one silently dropped is an error.
    """
    matrix = load_matrix(file=kernels_file)
    if variant is not None and (found := matrix.kernels.get(f"{kernel}-{variant}")) is not None and not found.build:
        raise InputError(
            f"is no kernel built as {variant}",
            where=f'{found.declared_in}: kernels."{found.name}"',
            fix=f'name one in your kernels.toml (variant_of = "{kernel}", build = ["{variant}"]) and build that',
        )
    target = _one(matrix, kernel if variant is None else f"{kernel}-{variant}", arch)
    tree = tree or build.declared_tree(target.kernel, target.arch)
    if tree is None:
        raise InputError("which source tree?", where=str(target), fix=f"kmatrix kernels build {kernel} --arch {arch} --tree DIR")
    reporter = Terminal()
    recipe = build.Recipe(tree, target.arch, fragments, jobs=jobs)
    _add(target, lambda into: build.stage(recipe, target.kernel, into, reporter), replace, as_json, None)


@group.command("remove")
@click.argument("kernel", nargs=-1, required=True, shell_complete=complete.kernels_and_targets)
@_ARCHES
@_KERNELS_FILE
@_JSON
def remove(kernel: tuple[str, ...], arch: str, kernels_file: Path | None, as_json: bool) -> None:
    """Remove KERNEL… from the store."""
    store = KernelStore()
    chosen = _in_store(store, load_matrix(file=kernels_file), kernel, arch)
    gone = [name for name in chosen if store.remove(*name)]
    if as_json:
        click.echo(json.dumps([{"kernel": name, "arch": each} for name, each in gone], indent=1))
    else:
        for name, each in gone:
            click.echo(f"removed {name}-{each}")


@group.command("verify")
@click.argument("kernel", nargs=-1, shell_complete=complete.kernels_and_targets)
@_ARCHES
@_KERNELS_FILE
@_JSON
def verify(kernel: tuple[str, ...], arch: str, kernels_file: Path | None, as_json: bool) -> None:
    """Read every file of KERNEL… (default: all in the store) and compare its digest. Exit status 1 where one has changed."""
    store = KernelStore()
    chosen = _in_store(store, load_matrix(file=kernels_file), kernel, arch) if kernel else store.refs()
    found: dict[Name, list[str]] = {}
    for name, each in chosen:
        try:
            found[name, each] = store.verify(name, each)
        except InfraError as error:
            found[name, each] = [error.message]
    if as_json:
        rows = [
            {"kernel": name, "arch": each, "ok": not problems, "problems": problems} for (name, each), problems in found.items()
        ]
        click.echo(json.dumps(rows, indent=1))
    else:
        for (name, each), problems in found.items():
            click.echo(f"{name}-{each}: " + ("; ".join(problems[:5]) if problems else "sound"))
            if problems:
                more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
                click.echo(f"  fix{more}: kmatrix kernels remove {name} --arch {each}, then get it again")
    if any(found.values()):
        raise click.exceptions.Exit(1)


# --- shared by the verbs

_ARCH_NAMES = {alias for info in INFO.values() for alias in info.aliases}


def named_targets(matrix: Matrix, terms: Iterable[str], arch: str) -> list[Target]:
    """What the arguments mean: targets (5.4-arm64) as they are, expressions × --arch."""
    chosen: list[Target] = []
    for term in terms:
        if term.rpartition("-")[2] in _ARCH_NAMES and term not in matrix.kernels:
            chosen.append(matrix.target(term, where="KERNEL"))
        else:
            chosen += matrix.targets(term, arch, where="KERNEL")
    return list({str(target): target for target in chosen}.values())


def real_targets(targets: Iterable[Target]) -> list[Target]:
    """Whose images are booted for them: a simulated kernel's base, what a variant only sets up differently; each once."""
    return list({(t.kernel.image_of.name, t.arch): Target(t.kernel.image_of, t.arch) for t in targets}.values())


def _one(matrix: Matrix, kernel: str, arch: str) -> Target:
    if matrix.find(kernel) is None and matrix.as_target(kernel) is None:
        raise InputError(
            f"unknown kernel {kernel!r}{did_you_mean(kernel, matrix.kernels)}",
            where="KERNEL",
            fix=f'use one of `kmatrix kernels list`, or declare it in a kernels.toml of your own: [kernels."{kernel}"] version = "MAJOR.MINOR"',
        )
    found = matrix.kernel(kernel, where="KERNEL")
    if found.simulation is not None:
        raise InputError(
            f"is simulated ({found.simulation}) and has no image of its own", where=kernel, fix=f"use {found.real.name}"
        )
    if found.image_of is not found:
        raise InputError(
            f"is {found.image_of.name}, set up differently, and has no image of its own",
            where=kernel,
            fix=f"use {found.image_of.name}",
        )
    return Target(found, parse_arch(arch))


def _in_store(store: KernelStore, matrix: Matrix, terms: tuple[str, ...], arch: str) -> list[Name]:
    """The store's entries that the arguments mean; a name the matrix no longer has is understood too."""
    arches, present = parse_arches(arch), store.refs()
    chosen: list[Name] = []
    for term in terms:
        found = [name for name in present if (name[0] == term and name[1] in arches) or f"{name[0]}-{name[1]}" == term]
        if not found:
            found = [
                name for target in named_targets(matrix, [term], arch) if (name := (target.kernel.name, target.arch)) in present
            ]  # a simulated one is in no store
        if not found:
            raise InputError("is not in the kernel store", where=term, fix="kmatrix kernels list")
        chosen += found
    return list(dict.fromkeys(chosen))


def _add(target: Target, stage: Any, replace: bool, as_json: bool, label: str | None) -> None:
    store, reporter = KernelStore(), Terminal()
    name = target.kernel.name

    def staged(into: Path) -> StagedKernel:
        if label is None:
            return _meant(target, stage(into))
        with reporter.step(label):
            return _meant(target, stage(into))

    if not replace and (entry := store.find(name, target.arch)) is not None:
        raise InputError(
            f"the store has one already: {entry.release} ({kernels.origin(entry.source)})",
            where=str(target),
            fix="add --replace to put the new one in its place",
        )
    entry = store.add(name, target.arch, staged, replace=replace, reporter=reporter)
    if as_json:
        click.echo(json.dumps(_result(name, target.arch, entry), indent=1))
    else:
        _print_entries([(name, target.arch, entry)])
        for note in entry.manifest["notes"]:
            click.echo(f"note: {note}")


def _meant(target: Target, staged: StagedKernel) -> StagedKernel:
    """`staged`, unless kernels.toml says that the name is another kernel: nothing would use it then."""
    kernels.same_series(target.kernel, staged)
    if (other := identity.differs(target.kernel, target.arch, staged)) is not None:
        fix = f'add {{ kind = "{staged.source["kind"]}" }} to its sources, or a kernel of another name'
        raise InputError(f"would not be used: {other}", where=str(target), fix=fix)
    return staged


def _print_entries(entries: list[tuple[str, Arch, KernelEntry]]) -> None:
    rows = [[name, arch, e.release, "yes" if e.btf else "no", _size(e.size), kernels.origin(e.source)] for name, arch, e in entries]
    if rows:
        click.echo(grid.prose(rows, grid.terminal_width(), heads=["kernel", "arch", "release", "BTF", "size", "source"]))


def _row(name: Name, matrix: Matrix, store: KernelStore) -> dict[str, Any]:
    """One kernel × arch for `list`: the entry, or why there is none and how to get it."""
    kernel, arch = name
    if kernel in matrix.kernels and (image := (found := matrix.kernel(kernel)).image_of) is not found:
        told = {"simulated": str(found.simulation)} if found.simulation is not None else {"set_up": " ".join(found.cmdline)}
        return _row((image.name, arch), matrix, store) | {"kernel": kernel} | told
    declared = matrix.kernels.get(kernel)
    try:
        entry = store.find(kernel, arch) if declared is None else identity.find(declared, arch, store)
    except InfraError as error:
        return {"kernel": kernel, "arch": arch, "present": False, "reason": error.message, "get": error.fix}
    if entry is not None:
        return _result(kernel, arch, entry)
    if declared is None:  # removed since it was listed
        return {"kernel": kernel, "arch": arch, "present": False, "reason": "is not in the kernel store", "get": None}
    hints = kernels.hints(declared, arch)
    reason = kernels.availability(declared, arch, store, lock=matrix.lock, mirrors=matrix.mirrors)
    return {"kernel": kernel, "arch": arch, "present": False, "reason": reason, "get": "  or  ".join(hints) or None}


def _result(kernel: str, arch: Arch, result: KernelEntry | KmatrixError) -> dict[str, Any]:
    if isinstance(result, KmatrixError):
        error = {"message": result.message, "where": result.where, "fix": result.fix}
        return {"kernel": kernel, "arch": arch, "present": False, "error": error}
    return {
        "kernel": kernel,
        "arch": arch,
        "present": True,
        "release": result.release,
        "btf": result.manifest["btf"],
        "digest": result.digest,
        "size": result.size,
        "source": dict(result.source),
        "path": str(result.path),
        "image": str(result.image),
        "modules": result.modules is not None,
        "config": str(result.config) if result.config else None,
        "btf_file": str(result.btf_file) if result.btf_file else None,
    }


_TRIED = {True: "yes", False: "not yet", None: "-"}
_TRIED_MEANS = (
    "sources tried: whether the sources that kernels.toml names for a kernel have been used. yes: a kernel was fetched from one of them, and has "
    'run. not yet: they are written down from their publisher\'s layout, and nobody has fetched from them. "-": there is no source; import '
    "the kernel, or build it."
)


def _tried(name: Name, matrix: Matrix) -> bool | None:
    """Whether one of the sources that kernels.toml would fetch a kernel from has been used by whoever wrote it down; None: there is none."""
    kernel, arch = name
    if kernel not in matrix.kernels:
        return None
    known = kernels.by_kind()
    fetching = [spec for spec in matrix.kernel(kernel).real.sources_for(arch) if known[spec.kind].fetches]
    return not all(spec.untried for spec in fetching) if fetching else None


def _size(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
