"""A TOML document with comments, written from the top down; what its reader has to look at is kept aside too."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping

_WIDTH = 110


def value(given: object) -> str:
    """A value as TOML has it: text, numbers, lists and tables, each on one line. A text in TOML's quotes is escaped as JSON's is."""
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, str):
        return json.dumps(given, ensure_ascii=False)
    if isinstance(given, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {value(each)}" for name, each in given.items()) + " }" if given else "{}"
    if isinstance(given, list | tuple):
        return "[" + ", ".join(map(value, given)) + "]"
    return str(given)


def _key(name: object) -> str:
    text = str(name)
    return text if text.replace("_", "").replace("-", "").isalnum() and text.isascii() else json.dumps(text)


class Document:
    """The lines so far."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.guesses: list[str] = []
        """What was concluded and may be wrong."""
        self.open: list[str] = []
        """What only the author knows."""

    def table(self, header: str) -> None:
        """Begin a table, such as `[trigger]` or `[[event]]`."""
        if self._lines and self._lines[-1] and not self._lines[-1].startswith("#"):
            self._lines.append("")
        self._lines.append(header)

    def gap(self) -> None:
        """An empty line, after which comments belong to what follows."""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def put(self, key: str, given: object, remark: str = "") -> None:
        """A key and its value; with a remark behind it."""
        self._lines.append(f"{key} = {value(given)}" + (f"  # {remark}" if remark else ""))

    def comment(self, text: str) -> None:
        """Lines of comment."""
        self._lines += textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)

    def verbatim(self, *lines: str) -> None:
        """Lines of comment that stay as they are: what would stand there."""
        self._lines += [f"# {line}" if line else "#" for line in lines]

    def guess(self, text: str) -> None:
        """A comment on what may be wrong."""
        self.guesses.append(text)
        self.comment(f"GUESS: {text}")

    def missing(self, text: str) -> None:
        """A comment on what only the author knows."""
        self.open.append(text)
        self.comment(f"YOURS: {text}")

    def append(self, other: Document) -> None:
        """What another document says, after this one."""
        self.gap()
        self._lines += other._lines
        self.guesses += other.guesses
        self.open += other.open

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"
