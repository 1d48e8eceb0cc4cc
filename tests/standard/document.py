"""docs/standard.md as its tests read it: the C examples, and what is claimed under each.

An example is a ```c fence. Further words on its first line are its name and options: `fallback`, `unlicensed`, `-D…`, `needs=…` (what a variant
of it would claim), and the codes of the lint rules that it breaks. The quotation right below it is what
it claims, a line each: an outcome, the kernels, and words of the kernel's, libbpf's or clang's:

    > **refused**: 5.4 to 6.12 on x86_64: `invalid CO-RE relocation`

Without a quotation an example claims that it compiles, which every other one does as well, for both arches and without a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kmatrix.matrix.arch import ARCHES, Arch

DOCUMENT = Path(__file__).parents[2] / "docs" / "standard.md"

OUTCOMES = (
    "does not compile",
    "refused",  # the object as a whole
    "loads",  # every program
    "attaches",  # every program, too
    "does not attach",  # loaded, and no hook of that name
    "events",  # something comes out of the buffer when a file is opened
    "silent",  # attached, run by the opening of a file, and nothing comes out
    "traffic flows",  # while it is attached, a connection over loopback comes about
    "traffic stops",
)
KERNELS = ("4.14", "5.4", "5.10", "5.15", "6.1", "6.12")
"""Those that the document speaks of: the mission's and Debian's."""
WITHOUT_BTF = "6.1-nobtf"
"""A simulated kernel that claims may name."""
STAND_INS = {"4.14": "4.14-sim", "5.4": "5.4-sim"}
"""The simulated kernels that a claim about an old one is tried on as well, unless it says `(real)`: where it is one of layouts."""
REAL = " (real)"

_FENCE = re.compile(r"^```c[ \t]+(?P<words>[^\n]*)\n(?P<text>.*?)^```\n(?P<claims>(?:\n?> [^\n]*\n)*)", re.M | re.S)
_CLAIM = re.compile(r"\*\*(?P<outcome>[a-z ]+)\*\*(?:: (?P<where>[^:`]+))?(?:: `(?P<words>.+)`)?")
_WHERE = re.compile(r"(?P<kernels>.+?)(?: on (?P<arch>x86_64|arm64))?")


@dataclass(frozen=True)
class Claim:
    """What an example is said to do somewhere."""

    outcome: str
    kernels: tuple[str, ...]
    arches: tuple[Arch, ...]
    words: str
    """That are said there."""

    def covers(self, kernel: str, arch: Arch) -> bool:
        """Whether it speaks of that target."""
        return kernel in self.kernels and arch in self.arches


@dataclass(frozen=True)
class Example:
    """One piece of C in the document."""

    name: str
    options: tuple[str, ...]
    text: str
    claims: tuple[Claim, ...]

    @property
    def breaks(self) -> set[str]:
        """The rules that it is an example of breaking."""
        return {word for word in self.options if re.fullmatch(r"KM\d{3}", word)}

    @property
    def needs(self) -> list[str] | None:
        """What a variant of it claims to need; None where nothing is claimed."""
        given = next((word.removeprefix("needs=") for word in self.options if word.startswith("needs=")), None)
        return given.split(",") if given else ["perf_buffer"] if "fallback" in self.options else None

    @property
    def compiles(self) -> bool:
        """Whether it is said to."""
        return not any(claim.outcome == "does not compile" for claim in self.claims)


def examples(text: str) -> Iterator[Example]:
    """Every example of the document. Raises ValueError for one that it does not understand."""
    names: set[str] = set()
    if text.count("```c\n"):
        raise ValueError("a C example without a name: write ```c NAME")
    for found in _FENCE.finditer(text):
        name, *options = found["words"].split()
        if name in names:
            raise ValueError(f"two examples are called {name}")
        names.add(name)
        lines = [line.removeprefix("> ") for line in found["claims"].splitlines() if line.startswith("> ")]
        yield Example(name, tuple(options), found["text"], tuple(_claim(line.rstrip("\\"), name) for line in lines))


def _claim(line: str, example: str) -> Claim:
    found = _CLAIM.fullmatch(line)
    if found is None or found["outcome"] not in OUTCOMES:
        raise ValueError(f"{example}: not a claim: {line}")
    if found["outcome"] == "does not compile":
        return Claim(found["outcome"], (), ARCHES, found["words"])
    where = _WHERE.fullmatch(found["where"] or "")
    if where is None:
        raise ValueError(f"{example}: {line}: where?")
    arches = (where["arch"],) if where["arch"] else ARCHES
    return Claim(found["outcome"], tuple(_kernels(where["kernels"])), arches, found["words"] or "")


def _kernels(text: str) -> Iterator[str]:
    """The names that a list means, an old kernel's stand-in after it."""
    for term in text.replace("every kernel", f"{KERNELS[0]} to {KERNELS[-1]}").split(", "):
        if term == WITHOUT_BTF:
            yield term
            continue
        first, _, last = term.removesuffix(REAL).partition(" to ")
        if first not in KERNELS or (last and last not in KERNELS):
            raise ValueError(f"no such kernels: {term}")
        for kernel in KERNELS[KERNELS.index(first) : KERNELS.index(last or first) + 1]:
            yield kernel
            if kernel in STAND_INS and not term.endswith(REAL):
                yield STAND_INS[kernel]


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table whose header row begins with `heading`, backticks and bold taken off."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip().strip("`*") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return table
