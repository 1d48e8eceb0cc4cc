"""What a file says to the preprocessor and to its readers: conditionals, macros, includes, comments. From clang's tokens, both sides of every #if."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from clang import cindex

X86_MACROS = frozenset({"ARCH_X86_64", "__TARGET_ARCH_x86", "bpf_target_x86"})
ARM64_MACROS = frozenset({"ARCH_ARM64", "__TARGET_ARCH_arm64", "bpf_target_arm64"})


class Place(NamedTuple):
    """Where something stands: line and column from 1, offset in bytes from 0."""

    file: str
    line: int
    column: int
    offset: int


@dataclass(frozen=True)
class Condition:
    """One #if … #endif."""

    form: tuple[str, ...]
    """`ifdef`, `ifndef` or `if`, and the tokens of the condition."""
    names: tuple[tuple[str, Place], ...]
    """The identifiers in the conditions of all its branches."""
    branches: tuple[tuple[int, int, frozenset[str]], ...]
    """Of each branch: the lines of its directive and of the next one, and the identifiers that its condition asks for (none: #else)."""
    defines: frozenset[str]
    """The names that are defined in it."""

    @property
    def has_else(self) -> bool:
        """Whether it has an #else."""
        return any(not asked for _, _, asked in self.branches)


@dataclass(frozen=True)
class Comment:
    """A comment."""

    text: str
    place: Place
    end: int
    """The line it ends on."""
    alone: bool
    """No code on its first line."""


@dataclass
class File:
    """One file's tokens, in as much as they matter: the same for every source that includes it."""

    path: str
    conditions: list[Condition] = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)
    defines: dict[str, Place] = field(default_factory=dict)
    """Macros that stay defined, but for those inside an #ifndef of their own name."""
    includes: list[tuple[str, Place, int]] = field(default_factory=list)
    """Each #include's name, its place and the offset of the end of the name."""
    functions: dict[str, Place] = field(default_factory=dict)
    """Names followed by ( … ) { outside any braces: functions, or macros where a function was meant."""
    bodies: list[tuple[int, int]] = field(default_factory=list)
    """The first and last line of each function's parameters and body."""
    identifiers: dict[str, list[int]] = field(default_factory=dict)
    """The lines that each identifier is on, directives apart."""

    @property
    def has_code_for_one_arch(self) -> bool:
        """Whether an arch's conditional is in a function, or around one."""
        arches = X86_MACROS | ARM64_MACROS
        spans = [(first, last) for c in self.conditions if any(n in arches for n, _ in c.names) for first, last, _ in c.branches]
        return any(first < end and start < last for first, last in spans for start, end in self.bodies)

    def for_one_arch(self, line: int) -> bool:
        """Whether the line is compiled for one arch only."""
        arches = X86_MACROS | ARM64_MACROS
        return any(
            first < line < last and any(name in arches for name, _ in condition.names)
            for condition in self.conditions
            for first, last, _ in condition.branches
        )


class Scanner:
    """The files of all sources, each scanned once."""

    def __init__(self) -> None:
        self._files: dict[str, File] = {}

    def file(self, unit: Any, path: str) -> File:
        """What the file at `path`, one of libclang's translation unit `unit`, holds."""
        if path not in self._files:
            self._files[path] = _Scan(unit, path).file
        return self._files[path]


class _Token(NamedTuple):
    text: str
    kind: str
    line: int
    column: int
    offset: int
    end_line: int
    end: int


class _Open:
    """A conditional whose #endif has not come yet."""

    def __init__(self, form: tuple[str, ...]) -> None:
        self.form = form
        self.starts: list[tuple[int, frozenset[str]]] = []
        self.names: list[tuple[str, Place]] = []
        self.defines: set[str] = set()


class _Scan:
    def __init__(self, unit: Any, path: str) -> None:
        self.file = File(path)
        self._data = Path(path).read_bytes()
        self._open: list[_Open] = []
        self._tokens = self._read(unit)
        self._walk()

    def _read(self, unit: Any) -> list[_Token]:
        file = unit.get_file(self.file.path)
        start = cindex.SourceLocation.from_offset(unit, file, 0)
        end = cindex.SourceLocation.from_offset(unit, file, len(self._data))
        found = []
        for token in unit.get_tokens(extent=cindex.SourceRange.from_locations(start, end)):
            first, last = token.extent.start, token.extent.end
            # Not token.spelling: that is an error where a comment is not UTF-8.
            text = self._data[first.offset : last.offset].decode(errors="replace")
            found.append(_Token(text, token.kind.name, first.line, first.column, first.offset, last.line, last.offset))
        return found

    def _place(self, token: _Token) -> Place:
        return Place(self.file.path, token.line, token.column, token.offset)

    def _walk(self) -> None:
        tokens, at, depth = self._tokens, 0, 0
        while at < len(tokens):
            token = tokens[at]
            if token.text == "#" and (at == 0 or tokens[at - 1].end_line < token.line or tokens[at - 1].kind == "COMMENT"):
                size = self._directive_size(at)
                line = tokens[at : at + size]
                for each in line:
                    if each.kind == "COMMENT":
                        self._comment(each, alone=False)
                self._directive([each for each in line[1:] if each.kind != "COMMENT"])
                at += size
                continue
            if token.kind == "COMMENT":
                beside = (at > 0 and tokens[at - 1].end_line == token.line) or (
                    at + 1 < len(tokens) and tokens[at + 1].line == token.end_line
                )
                self._comment(token, alone=not beside)
            elif token.kind == "IDENTIFIER":
                self.file.identifiers.setdefault(token.text, []).append(token.line)
            elif token.text in ("{", "}"):
                depth += 1 if token.text == "{" else -1
            elif token.text == "(" and depth == 0 and at and tokens[at - 1].kind == "IDENTIFIER":
                last = self._body_end(at)
                if last is not None:
                    name = tokens[at - 1]
                    self.file.functions[name.text] = self._place(name)
                    self.file.bodies.append((name.line, tokens[last].line))
            at += 1

    def _body_end(self, at: int) -> int | None:
        """Where the body ends that follows the parentheses that begin at `at`; None where none follows."""
        close = self._closing(at, "(", ")")
        if close is None or close + 1 >= len(self._tokens) or self._tokens[close + 1].text != "{":
            return None
        return self._closing(close + 1, "{", "}")

    def _closing(self, at: int, opens: str, closes: str) -> int | None:
        depth = 0
        for index in range(at, len(self._tokens)):
            text = self._tokens[index].text
            depth += (text == opens) - (text == closes)
            if depth == 0:
                return index
        return None

    def _comment(self, token: _Token, *, alone: bool) -> None:
        self.file.comments.append(Comment(token.text, self._place(token), token.end_line, alone))

    def _directive_size(self, at: int) -> int:
        """How many tokens the directive has. A backslash at a line's end is no token, so the bytes between the tokens are asked."""
        size = 1
        for before, after in zip(self._tokens[at:], self._tokens[at + 1 :], strict=False):
            between = self._data[before.end : after.offset].replace(b"\\\r\n", b"").replace(b"\\\n", b"")
            if b"\n" in between:
                break
            size += 1
        return size

    def _directive(self, tokens: Sequence[_Token]) -> None:
        if not tokens:
            return
        word, body = tokens[0].text, tokens[1:]
        names = [(token.text, self._place(token)) for token in body if token.kind == "IDENTIFIER" and token.text != "defined"]
        if word in ("if", "ifdef", "ifndef"):
            self._open.append(_Open((word, *(token.text for token in body))))
        if word in ("if", "ifdef", "ifndef", "elif", "elifdef", "elifndef", "else") and self._open:
            asked = frozenset(name for name, _ in names) or (frozenset() if word == "else" else frozenset({"1"}))
            self._open[-1].starts.append((tokens[0].line, asked))
            self._open[-1].names += names
        elif word == "endif" and self._open:
            done = self._open.pop()
            ends = [line for line, _ in done.starts[1:]] + [tokens[0].line]
            branches = tuple((first, last, asked) for (first, asked), last in zip(done.starts, ends, strict=True))
            self.file.conditions.append(Condition(done.form, tuple(done.names), branches, frozenset(done.defines)))
        elif word == "define" and body:
            name = body[0].text
            guarded = any(each.form == ("ifndef", name) for each in self._open)
            for each in self._open:
                each.defines.add(name)
            if not guarded:
                self.file.defines.setdefault(name, self._place(body[0]))
        elif word == "undef" and body:
            self.file.defines.pop(body[0].text, None)
        elif word == "include" and body:
            text = self._data[body[0].offset : body[-1].end].decode(errors="replace")
            self.file.includes.append((text.strip('"<>'), self._place(tokens[0]), body[-1].end))
