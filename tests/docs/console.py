"""Console blocks of a Markdown page: the commands, and what is shown below each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_CONSOLE = re.compile(r"^(?P<indent> *)```console\n(?P<text>.*?)^ *```$", re.M | re.S)


@dataclass(frozen=True)
class Command:
    """A line after `$ `."""

    line: str
    comment: str
    page: str
    number: int

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(shlex.split(self.line))

    @property
    def where(self) -> str:
        return f"{self.page}:{self.number}"

    @property
    def id(self) -> str:
        return f"{self.where} {self.line}"


def blocks(page: Path) -> Iterator[tuple[Command, list[str]]]:
    """Each command, and the lines shown below it."""
    text = page.read_text(encoding="utf-8")
    for match in _CONSOLE.finditer(text):
        first = text.count("\n", 0, match.start()) + 2
        found: tuple[Command, list[str]] | None = None
        for number, line in enumerate(match["text"].splitlines(), first):
            line = line.removeprefix(match["indent"])
            if line.startswith("$ "):
                if found:
                    yield found
                command, _, comment = re.sub(r"\s{2,}# *", "\0", line[2:], count=1).partition("\0")
                found = Command(command.strip(), comment.strip(), page.relative_to(ROOT).as_posix(), number), []
            elif found and line.strip():
                found[1].append(line)
        if found:
            yield found


def commands(page: Path) -> list[Command]:
    """The commands of a page."""
    return [command for command, _ in blocks(page)]


def fence(page: Path, language: str) -> str:
    """The page's one block of that language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return str(text)
