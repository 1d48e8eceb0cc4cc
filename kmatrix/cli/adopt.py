"""`kmatrix kernels adopt`: a kernel of the matrix out of a machine that runs it."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import tomli_w

from kmatrix.cli import options
from kmatrix.guest.facts import FACTS
from kmatrix.host import paths
from kmatrix.host import version as versions
from kmatrix.host.errors import InputError
from kmatrix.host.progress import Terminal
from kmatrix.host.version import Version
from kmatrix.kernels import adopt
from kmatrix.kernels.adopt import Found, Place
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.load import KERNELS_FILE, load_matrix, own_kernels_file
from kmatrix.matrix.parameters import feature

_CMDLINE = ("lsm=", "lockdown=")
"""The machine's boot options that a guest is given too, since they decide on what BPF programs may do."""


@click.command("adopt")
@click.argument("where", metavar="local|ssh://USER@HOST")
@click.argument("name", required=False)
@click.option("--host-key", metavar="SHA256:…", help="The fingerprint of the host's key, where known_hosts does not have it.")
@click.option(
    "--identity",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="The private key to log in with (default: your agent's and ~/.ssh's).",
)
@click.option(
    "--known-hosts",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Instead of ~/.ssh/known_hosts.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="With local: a folder that has the machine's boot/ and lib/modules/.",
)
@click.option("--release", metavar="RELEASE", help="With --root: which kernel of it, as uname -r says it.")
@click.option("--replace", is_flag=True, help="If the store has one of that name: put the machine's in its place.")
@options.KERNELS_FILE
@options.JSON
def command(
    where: str,
    name: str | None,
    host_key: str | None,
    identity: Path | None,
    known_hosts: Path | None,
    root: Path | None,
    release: str | None,
    replace: bool,
    kernels_file: Path | None,
    as_json: bool,
) -> None:
    """Take the kernel that a machine runs into the store, and declare it as NAME (default: the host's name) in your kernels.toml.

    \b
    kmatrix kernels adopt ssh://root@web-1.example
    kmatrix kernels adopt local my-laptop

    Its image, its configuration and those of its modules that a guest needs are read; nothing on the machine is changed. What the configuration
    leaves out, of what features need, is declared with it, and so is its list of LSMs. A host key that is not known is refused: it is never
    accepted silently. `kmatrix features NAME` then says what the kernel can do, and `--kernels=NAME` runs on it.
    """
    if where != "local" and (root or release):
        raise InputError("--root and --release go with local", where="kernels adopt", fix="leave them out")
    if (root is None) != (release is None):
        raise InputError("--root and --release go together", where="kernels adopt", fix="give both")
    with _place(where, host_key, identity, known_hosts, root, release) as place:
        found = adopt.look(place)
        chosen = name or _name(place)
        version = versions.series(found.release)
        if version is None:
            raise InputError(f"its release {found.release!r} has no version", where=place.where, fix="import it by hand")
        matrix = load_matrix(file=kernels_file)
        known = matrix.kernels.get(chosen)
        if known is not None and (known.version != version or "import" not in {spec.kind for spec in known.sources}):
            raise InputError(f"{chosen!r} is another kernel already", where=known.declared_in, fix="give another NAME")
        store, reporter = KernelStore(), Terminal()
        if not replace and store.find(chosen, found.arch) is not None:
            raise InputError("the store has one already", where=f"{chosen}-{found.arch}", fix="add --replace, or give another NAME")
        entry = store.add(
            chosen, found.arch, lambda into: adopt.stage(place, found, into, reporter), replace=replace, reporter=reporter
        )
        table = declared(place, found, version)
    file = kernels_file or own_kernels_file() or Path(KERNELS_FILE)
    if known is None:
        _declare(file, chosen, table)
    if as_json:
        click.echo(
            json.dumps(
                {"kernel": chosen, "arch": found.arch, "release": entry.release, "declared_in": str(file), **table}, indent=1
            )
        )
        return
    said = "was declared already" if known is not None else "is declared"
    click.echo(f"{chosen}-{found.arch}: {entry.release} of {place.where}, {entry.size >> 20} MiB; it {said} in {file}")
    click.echo(f"now: kmatrix features {chosen}-{found.arch}; kmatrix run OBJECT.o --kernels={chosen} --arch={found.arch}")


@contextlib.contextmanager
def _place(
    where: str, host_key: str | None, identity: Path | None, known_hosts: Path | None, root: Path | None, release: str | None
) -> Iterator[Place]:
    if where != "local":
        with adopt.connected(where, host_key=host_key, identity=identity, known_hosts=known_hosts) as remote:
            yield remote
    elif root is not None and release is not None:
        yield adopt.Local(root, release, where=str(root))
    else:
        yield adopt.Local()


def _name(place: Place) -> str:
    """The host's name, as a kernel may be called."""
    said = (place.read("etc/hostname") or b"").decode(errors="replace").strip() or place.where
    return re.sub(r"[^0-9A-Za-z._-]+", "-", said).strip("-.") or "adopted"


def declared(place: Place, found: Found, version: Version) -> dict[str, Any]:
    """The machine's kernel as an entry of kernels.toml."""
    table: dict[str, Any] = {
        "version": versions.text(version),
        "summary": f"{found.release} of {place.where}, adopted on {time.strftime('%Y-%m-%d', time.gmtime())}",
        "distribution": found.system or place.where,
    }
    cmdline = [word for word in (place.read("proc/cmdline") or b"").decode(errors="replace").split() if word.startswith(_CMDLINE)]
    if found.config is not None:
        lsms = re.search(r'^CONFIG_LSM="([^"]*)"$', found.config, re.MULTILINE)
        if lsms is not None and "bpf" not in lsms[1].split(",") and not any(word.startswith("lsm=") for word in cmdline):
            table["features"] = {"lsm": False}
        if lacking := adopt.off(found.config, _telling(version, found.arch)):
            table["config"] = dict.fromkeys(lacking, False)
    if cmdline:
        table["cmdline"] = cmdline
    return table | {"sources": [{"kind": "import"}]}


def _telling(version: Version, arch: Arch) -> set[str]:
    """The options without which a kernel of that version lacks a feature that it would have."""
    known = [*FEATURES.values(), *(feature(f"{kind}:{name}") for kind in FACTS for name in FACTS[kind])]
    return {option for each in known if each.says(version, arch, {}) for option in each.config}


def _declare(file: Path, name: str, table: dict[str, Any]) -> None:
    """Add the entry at the end of the user's kernels.toml."""
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else "schema = 1\n"
        paths.write_whole(file, f"{before.rstrip()}\n\n{tomli_w.dumps({'kernels': {name: table}})}")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(file), fix="give another by --kernels-file") from None
    load_matrix(file=file)  # which says what would be wrong with it
