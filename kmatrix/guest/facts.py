"""All rows that have a first release, by kind and by name: what `helper:…`, `map:…`, `prog:…` and the like are looked up in. Pure data."""

from __future__ import annotations

from collections.abc import Mapping

from .fact import Fact
from .table_helpers import HELPERS
from .table_insns import INSNS
from .table_kfuncs import KFUNCS
from .table_types import ATTACH_TYPES, LINK_TYPES, MAP_TYPES, PROG_TYPES


def _by_name(rows: tuple[Fact, ...], prefix: str = "") -> Mapping[str, Fact]:
    return {f"{prefix}{row.name}": row for row in rows if row.name != "unspec"}


FACTS: Mapping[str, Mapping[str, Fact]] = {
    "helper": _by_name(HELPERS, "bpf_"),
    "map": _by_name(MAP_TYPES),
    "prog": _by_name(PROG_TYPES),
    "attach": _by_name(ATTACH_TYPES),
    "link": _by_name(LINK_TYPES),
    "kfunc": _by_name(KFUNCS),
    "insn": _by_name(INSNS),
}
"""Kind → name → row. A helper's name begins with bpf_, as in a program."""
