"""The name under which a CI keeps the cache: another one as soon as kernels, guest images or snapshots have to be made anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmatrix import __version__
from kmatrix.host import paths
from kmatrix.host.errors import InfraError
from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import KERNELS_FILE, lock_path, own_kernels_file
from kmatrix.runs.shards import Shard
from kmatrix.vm import virtme
from kmatrix.vm.image_recipe import Recipe
from kmatrix.vm.machine import agent


@dataclass(frozen=True)
class CacheKey:
    """A cache's name, and what it depends on."""

    key: str
    restore: str
    """What the keys of caches begin with that are of use where there is none of this key: the same version and arches."""
    parts: Mapping[str, str]
    """By name: what the key depends on, so that two keys can be compared."""


def of(targets: Sequence[Target], *, kernels_file: Path | None = None, shard: Shard | None = None) -> CacheKey:
    """The key of the cache of a run on `targets`. Reads files of the project and of kmatrix, and nothing of the cache or the network.

    Raises InputError where one of them is wrong.
    """
    arches = sorted({target.arch for target in targets})
    own, lock = own_kernels_file(file=kernels_file), lock_path(file=kernels_file)
    parts = {
        "kmatrix": __version__,
        "arches": ",".join(arches),
        "kernels": ",".join(sorted({target.kernel.name for target in targets})),
        "shard": str(shard) if shard is not None else "",  # its cache has its own targets only
        "kernels.toml": _digest(paths.data(KERNELS_FILE)),
        "own kernels.toml": _digest(own) if own is not None else "",
        "lock": _digest(lock) if lock.is_file() else "",
        "image": Recipe.load().digest,
        "agent": hashlib.sha256(agent()).hexdigest(),
        "virtme-ng": virtme.virtme_version(),
        **{f"qemu {arch}": _qemu(arch) for arch in arches},
    }
    prefix = f"kmatrix-{__version__}-{'all' if len(arches) == len(ARCHES) else '-'.join(arches)}-"
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return CacheKey(prefix + digest, prefix, parts)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _qemu(arch: Arch) -> str:
    try:
        return virtme.qemu_version(arch)
    except InfraError:  # not installed yet
        return ""
