"""Since when: the first release of each helper, map type, program type and attach type, by the name that people know it by.

The releases are those of the tables in kmatrix.guest (table_*.py), by which kernels are simulated and features expected: one source serves
all.
"""

from __future__ import annotations

from kmatrix.guest.fact import Fact
from kmatrix.guest.table_helpers import HELPERS as _HELPERS
from kmatrix.guest.table_types import ATTACH_TYPES as _ATTACH_TYPES
from kmatrix.guest.table_types import MAP_TYPES, PROG_TYPES
from kmatrix.host.version import Version
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.features import UNDATED
from kmatrix.matrix.parameters import BadName, feature

HELPERS: tuple[str, ...] = tuple(row.name for row in _HELPERS)
"""By number. From 212 on there are none: kernel functions took over."""

ATTACH_TYPES: tuple[str, ...] = tuple(row.name for row in _ATTACH_TYPES)
"""By number: enum bpf_attach_type."""


def helper(number: int) -> tuple[str, Version] | None:
    """The name and first release of a helper by its number; None where it has none, such as the number that libbpf poisons a call with."""
    return (f"bpf_{_HELPERS[number].name}", _HELPERS[number].since) if 0 < number < len(_HELPERS) else None


def map_type_since(name: str) -> Version | None:
    """The first release with the map type `name`, as bpftool writes it."""
    return _since(MAP_TYPES, name)


def prog_type_since(name: str) -> Version | None:
    """The first release with the program type `name`, as bpftool writes it."""
    return _since(PROG_TYPES, name)


def attach_type(number: int) -> tuple[str, Version] | None:
    """The name and first release of an attach type by its number."""
    return (_ATTACH_TYPES[number].name, _ATTACH_TYPES[number].since) if 0 <= number < len(_ATTACH_TYPES) else None


def first(name: str, arch: Arch) -> Version | None:
    """The first release with a feature, by the name that a manifest has for it; None where no release says it, or there is no such feature."""
    try:
        since = feature(name).first(arch)
    except BadName:
        return None
    return since if since != UNDATED else None


def _since(rows: tuple[Fact, ...], name: str) -> Version | None:
    return next((row.since for row in rows if row.name == name), None)
