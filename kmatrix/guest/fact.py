"""A row of the tables that say since when: one helper, map type, program type, attach type, link type, kernel function or instruction.

Pure data. The tables (table_*.py) are the only place where a release stands: features, probes, simulated kernels and the diagnosis read
them. What is not in an upstream kernel by its release alone says so in its row: the options that it takes (`config`), another release on
one arch (`arches`), the release without it (`until`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Version = tuple[int, int]
"""An upstream series: 5.4 is (5, 4)."""
NEVER: Version = (999, 0)


@dataclass(frozen=True)
class Fact:
    """One thing that a kernel has or lacks."""

    kind: str
    """helper, map, prog, attach, link, kfunc or insn."""
    name: str
    number: int
    """Its place in the kernel's enum; -1 where it has none."""
    since: Version
    """The first upstream release that knows it, on any arch."""
    config: tuple[str, ...] = ()
    """The options without which it is not there."""
    arches: Mapping[str, Version] = field(default_factory=dict)
    """The first release in which it works on an arch, where that is later than `since`."""
    until: Version | None = None
    """The first release without it, where it went away."""
    note: str = ""
    """Why it differs: the commit or option behind `arches`, `until` and what else is told apart."""

    def first(self, arch: str) -> Version:
        """The first release in which it works on the arch."""
        return self.arches.get(arch, self.since)

    def there(self, version: Version, arch: str, config: Mapping[str, bool]) -> bool:
        """Whether an upstream kernel of `version` on `arch` has it, where the options in `config` are known to be on or off."""
        if version < self.first(arch) or (self.until is not None and version >= self.until):
            return False
        return all(config.get(option, True) for option in self.config)


Release = tuple[Version, str]
"""(first release, the names that came with it, in the order of the enum)."""


@dataclass(frozen=True)
class Beside:
    """What a row has beside its release."""

    config: tuple[str, ...] = ()
    arches: Mapping[str, Version] = field(default_factory=dict)
    until: Version | None = None
    note: str = ""


def numbered(kind: str, releases: Iterable[Release], more: Mapping[str, Beside]) -> tuple[Fact, ...]:
    """The rows of an enum, by number. `more` is what single rows have beside their release, by name."""
    rows: list[Fact] = []
    for since, names in releases:
        for name in names.split():
            own = more.get(name, Beside())
            rows.append(Fact(kind, name, len(rows), since, own.config, own.arches, own.until, own.note))
    unknown = set(more) - {row.name for row in rows}
    assert not unknown, f"no such {kind}: {unknown}"
    return tuple(rows)


def release_of(rows: Sequence[Fact], number: int) -> Version:
    """The first release of the row with this number; a number past the end is taken to have come with the last one or later."""
    return rows[min(number, len(rows) - 1)].since


def since(table: Sequence[tuple[int, Version]], number: int) -> Version:
    """The release that brought the number, of a table of (first number, release)."""
    found = NEVER
    for first, release in table:
        if number < first:
            break
        found = release
    return found


def size_at(table: Sequence[tuple[int, Version]], as_of: Version) -> int:
    """How long a command's attributes were, of a table of (bytes, release)."""
    return max(size for size, release in table if release <= as_of or size == table[0][0])
