"""Reads collector.toml, and finds a collector by its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pydantic

from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.parsed import parsed
from kmatrix.host.toml import parse_toml, read_file
from kmatrix.manifest.collector import Collector
from kmatrix.matrix.load import load_definitions
from kmatrix.matrix.parameters import Definitions

COLLECTOR_FILE = "collector.toml"


def load_collector(path: Path, defined: Definitions | None = None) -> Collector:
    """The collector of a collector.toml (or of the folder that holds one). Raises InputError.

    `defined` are the names for features of the kernels.toml in force; not given, they are those of the one nearest above the manifest.
    """
    file = path / COLLECTOR_FILE if path.is_dir() else path
    text, names = read_file(file), load_definitions(file.parent) if defined is None else defined

    def read() -> Collector:
        from kmatrix.manifest.schema import parse  # here, and not above: a manifest that is known needs no model of its file

        return parse(parse_toml(text, file), path=file, defined=names)

    return parsed("collector", (str(file).encode(), text, repr([*names.items()]).encode(), pydantic.VERSION.encode()), read)


def find_collector(named: Path, defined: Definitions | None = None) -> Collector:
    """The collector in the folder (or manifest) `named`, else the one of that name in the current directory, or under it or its collectors/.

    `defined` is as in `load_collector`. Raises InputError with the nearest names.
    """
    if named.exists():
        return load_collector(named, defined)
    around = {
        manifest.resolve().parent.name: manifest
        for pattern in ("collectors/*/", "*/", "")
        for manifest in Path().glob(pattern + COLLECTOR_FILE)
    }
    by_name = {found.name: found for found in _readable(around.values(), defined)}
    name = str(named)
    if name not in by_name:
        raise InputError(
            f"no collector {name!r}{did_you_mean(name, by_name)}",
            where="--collector",
            fix=f"give its folder, or one of: {', '.join(sorted(by_name)) or '(none is here)'}",
        )
    return by_name[name]


def _readable(manifests: Iterable[Path], defined: Definitions | None) -> Iterator[Collector]:
    """The collectors of the manifests that have no error: a neighbour's must not keep one from being found."""
    for manifest in manifests:
        with suppress(InputError):
            yield load_collector(manifest, defined)
