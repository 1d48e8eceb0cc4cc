"""What a diagnosis is made of, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kmatrix.matrix.arch import Arch
from kmatrix.matrix.features import FEATURES, Version
from kmatrix.verdict.diagnosis.classes import CLASSES

if TYPE_CHECKING:
    import re

    from kmatrix.objects.source_lines import SourceLines

PAGE = "docs/diagnosis.md"


@dataclass(frozen=True)
class Diagnosis:
    """The cause of a failure."""

    kind: str
    """Its class, such as `helper`, `map-type` or `stack`; docs/diagnosis.md has a section for each."""
    what: str
    """One line: what is missing or wrong."""
    fix: str
    """One sentence: what to do."""
    since: str | None = None
    """The first release that has what is missing, where something is."""
    where: str | None = None
    """The line of C source at which the verifier or libbpf stopped, `text @ file:line`; None where none is known."""

    def __post_init__(self) -> None:
        if self.kind not in CLASSES:
            raise ValueError(f"{self.kind!r} is none of the classes of kmatrix.verdict.diagnosis.classes")

    def headline(self) -> str:
        """The cause with its first release."""
        said = self.since is None or self.what.endswith(f"before {self.since}")
        return self.what if said else f"{self.what}, since {self.since}"

    def plain(self) -> dict[str, Any]:
        """The diagnosis as JSON has it (docs/record.md): with `headline`, and `see`, the place in the documentation."""
        return {**asdict(self), "headline": self.headline(), "see": f"{PAGE}#{self.kind}"}


@dataclass(frozen=True)
class Failing:
    """What failed, and on which kernel."""

    stage: str
    """`open`, `map`, `load` or `attach`."""
    error: str
    """libbpf's words, or the guest's own."""
    version: Version
    arch: Arch
    errno: int | None = None
    log: str = ""
    """The verifier's log: its end, where it is long."""
    cut: bool = False
    """Whether the log is not whole."""
    section: str = ""
    name: str = ""
    """The program's or map's name."""
    map_type: str | None = None
    max_entries: int | None = None
    shape: Mapping[str, int] = field(default_factory=dict)
    """Of a map: `key_size`, `value_size`, `flags`, as far as they are known."""
    wants: Mapping[str, Any] = field(default_factory=dict)
    """The program's type, by name, and its expected attach type, by number."""
    btf: Mapping[str, Any] = field(default_factory=dict)
    """What the kernel has of the names in the failure (kmatrix.guest.why)."""
    situation: Mapping[str, Any] = field(default_factory=dict)
    """How the guest was, and what the loader had (kmatrix.guest.surroundings); empty where it was as usual."""
    lines: SourceLines | None = None
    """The object's lines of source; None where the object is not at hand, or has none."""


Row = Callable[[Failing, "re.Match[str]"], Diagnosis | None]
"""What a match of the pattern beside it says; None where it is something else after all."""


def release(version: Version) -> str:
    """A release as people write it."""
    return f"{version[0]}.{version[1]}"


def since_on(feature: str, failing: Failing) -> Version:
    """The first release with a feature on the arch of the failure."""
    since = FEATURES[feature].since
    return since if isinstance(since, tuple) else since[failing.arch]


def where(failing: Failing) -> str | None:
    """The line of C source at which the verifier stopped: the last of its log, with its file and number by the object's own .BTF.ext.

    Kernels from 6.9 on write `; text @ file:line`, older ones `; text`. Where there is no such line, the last instruction of the log decides.
    """
    said = [line[2:].strip() for line in failing.log.splitlines() if line.startswith("; ")]
    last = next((line for line in reversed(said) if line and not line.startswith("@")), None)
    if failing.lines is None:
        return last
    text = last.partition(" @ ")[0].strip() if last else None
    return failing.lines.stopped_at(failing.name, failing.log, text) or last


def first_line(failing: Failing) -> str | None:
    """The line of C source at which the program begins."""
    return failing.lines.first(failing.name) if failing.lines is not None else None


def naming(failing: Failing, word: str) -> str | None:
    """The line nearest to where the verifier stopped that has `word` in it: compilers hoist an access before the line that it is of."""
    return failing.lines.naming(failing.name, failing.log, word) if failing.lines is not None else None


def holding(failing: Failing, wanted: Callable[[bytes], bool]) -> str | None:
    """Where the verifier stopped; where its log does not tell, the line of the first instruction that is `wanted`."""
    return where(failing) or (failing.lines.holding(failing.name, wanted) if failing.lines is not None else None)


def used(failing: Failing, symbol: str) -> str | None:
    """The first line of the object that refers to an external symbol; else where the verifier stopped."""
    return (failing.lines.uses(symbol) if failing.lines is not None else None) or where(failing)


def fixed(kind: str, what: str, fix: str, since: str | None = None) -> Row:
    """A row that says the same of each match. `{name}` in `what` is a group of the pattern."""
    return lambda failing, match: Diagnosis(
        kind, what.format(**match.groupdict()), fix, since, where(failing) or first_line(failing)
    )
