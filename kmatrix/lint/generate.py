"""KM6: the bpf2go lines of a generate.go, which also say how the sources are compiled."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kmatrix.lint.findings import Edit, Finding
from kmatrix.lint.preprocessor import Comment, Place
from kmatrix.matrix.arch import ARCHES, INFO

_MARK = "//go:generate"
_WANTED = ("-g", "-O2", "-Wall", "-Wextra")
_GOARCH = frozenset(INFO[arch].debian for arch in ARCHES)
_WITH_VALUE = frozenset(
    {"target", "cc", "strip", "type", "output-dir", "output-stem", "output-suffix", "go-package", "tags", "makebase", "cflags"}
)
"""bpf2go's options that take a value."""


@dataclass(frozen=True)
class Word:
    """One word of a line, and where it stands in the file."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Directive:
    """A `//go:generate` line that runs bpf2go."""

    place: Place
    options: dict[str, tuple[str, int, int]]
    """bpf2go's own options: the value, and where the option begins and the value ends."""
    name: str
    source: Path
    source_place: Place
    flags: tuple[Word, ...]
    """What clang gets, after the `--`."""
    end: int
    tool_end: int
    """Offsets of the end of the line, and of the word that names bpf2go."""
    has_dashes: bool

    @property
    def includes(self) -> list[Path]:
        """The -I of clang's flags, which are relative to the file."""
        folder = Path(self.place.file).parent
        texts = [flag.text for flag in self.flags]
        found = [text[2:] for text in texts if text.startswith("-I") and len(text) > 2]
        found += [after for flag, after in pairwise(texts) if flag == "-I"]
        return [folder / path for path in found]

    @property
    def defines(self) -> list[str]:
        """The -D of clang's flags."""
        return [flag.text[2:] for flag in self.flags if flag.text.startswith("-D") and not flag.text.startswith("-D__TARGET_ARCH_")]

    @property
    def targets(self) -> frozenset[str]:
        """The Go arches it builds for."""
        return frozenset(self.options["target"][0].split(",")) if "target" in self.options else frozenset()


def directives(path: Path, data: bytes) -> list[Directive]:
    """The bpf2go lines of a Go file."""
    found = []
    offset = 0
    for number, raw in enumerate(data.splitlines(keepends=True), 1):
        if raw.startswith(_MARK.encode()):
            words = _words(raw, offset)
            tool = next((i for i, word in enumerate(words) if "bpf2go" in word.text.split("@")[0]), None)
            if tool is not None:
                directive = _parse(path, number, offset, words, tool)
                if directive is not None:
                    found.append(directive)
        offset += len(raw)
    return found


def _words(raw: bytes, offset: int) -> list[Word]:
    """The words of a line; go generate knows double quotes and no others."""
    found = []
    at = len(_MARK)
    while at < len(raw):
        if raw[at : at + 1].isspace():
            at += 1
            continue
        start, quoted = at, False
        while at < len(raw) and (quoted or not raw[at : at + 1].isspace()):
            quoted ^= raw[at : at + 1] == b'"'
            at += 1
        text = raw[start:at].decode(errors="replace").strip('"')
        found.append(Word(text, offset + start, offset + at))
    return found


def _parse(path: Path, number: int, offset: int, words: list[Word], tool: int) -> Directive | None:
    options: dict[str, tuple[str, int, int]] = {}
    positional: list[Word] = []
    at = tool + 1
    while at < len(words) and words[at].text != "--":
        word = words[at]
        if word.text.startswith("-") and not positional:
            name, _, value = word.text.lstrip("-").partition("=")
            end = word.end
            if not value and name in _WITH_VALUE and at + 1 < len(words):
                at += 1
                value, end = words[at].text, words[at].end
            options[name] = (value, word.start, end)
        else:
            positional.append(word)
        at += 1
    if len(positional) < 2:
        return None
    flags = list(words[at + 1 :])
    if "cflags" in options:
        flags += [Word(text, 0, 0) for text in shlex.split(options["cflags"][0])]

    def place(word: Word) -> Place:
        return Place(str(path.resolve()), number, word.start - offset + 1, word.start)

    source = positional[1]
    return Directive(
        Place(str(path.resolve()), number, 1, offset),
        options,
        positional[0].text,
        (path.parent / source.text).resolve(),
        place(source),
        tuple(flags),
        words[-1].end,
        words[tool].end,
        at < len(words),
    )


def check(directive: Directive) -> Iterator[Finding]:
    """The findings of KM601 to KM605."""
    file = directive.place.file
    misplaced = [
        i for i, flag in enumerate(directive.flags) if flag.text in ("-target", "--target") or flag.text.startswith("-target=")
    ]
    if misplaced:
        flag = directive.flags[misplaced[0]]
        after = directive.flags[misplaced[0] + 1] if misplaced[0] + 1 < len(directive.flags) else flag
        last = flag if "=" in flag.text else after
        value = flag.text.partition("=")[2] or after.text
        edits = [Edit(file, flag.start - 1, last.end, "")] if flag.end else []
        if edits and "target" not in directive.options and value != "bpf":
            edits.append(Edit(file, directive.tool_end, directive.tool_end, f" -target {value}"))
        yield Finding(
            "KM603",
            directive.place,
            f"-target after -- goes to clang, which does not know {value}: put it before, where bpf2go takes it",
            tuple(edits),
        )
    elif not directive.targets >= _GOARCH:
        yield _one_target(directive)
    missing = [flag for flag in _WANTED if flag not in {f.text for f in directive.flags}]
    if missing:
        text = " ".join(missing)
        edit = Edit(file, directive.end, directive.end, f" {text}" if directive.has_dashes else f" -- {text}")
        fixable = "cflags" not in directive.options
        yield Finding("KM602", directive.place, f"clang is not given {text}: add it after --", (edit,) if fixable else ())
    fixed = next((flag for flag in directive.flags if flag.text.startswith("-D__TARGET_ARCH_")), None)
    if fixed is not None and len(directive.targets) != 1:
        edits = [Edit(file, fixed.start - 1, fixed.end, "")] if fixed.end else []
        yield Finding(
            "KM604",
            directive.place,
            f"{fixed.text} would hold for every target: remove it, bpf2go defines the right one",
            tuple(edits),
        )
    if not directive.source.is_file():
        yield Finding(
            "KM605", directive.source_place, f"{directive.source.name} is not there: correct the path, or remove the line"
        )


def _one_target(directive: Directive) -> Finding:
    file = directive.place.file
    if "target" in directive.options:
        value, start, end = directive.options["target"]
        lacking = sorted(_GOARCH - directive.targets)
        if directive.targets <= {"bpf", "bpfel", "bpfeb", "native"}:
            new, said = "amd64,arm64", f"-target {value} is no arch"
        else:
            new, said = f"{value},{','.join(lacking)}", f"-target {value} leaves out {', '.join(lacking)}"
        edit = Edit(file, start, end, f"-target {new}")
        return Finding("KM601", directive.place, f"{said}: write -target {new}", (edit,))
    edit = Edit(file, directive.tool_end, directive.tool_end, " -target amd64,arm64")
    return Finding("KM601", directive.place, "bpf2go is given no -target: write -target amd64,arm64", (edit,))


def comments(path: Path, data: bytes) -> list[Comment]:
    """The comments that stand on lines of their own: where suppressions are."""
    found = []
    offset = 0
    for number, raw in enumerate(data.splitlines(keepends=True), 1):
        if raw.lstrip().startswith(b"//") and not raw.startswith(_MARK.encode()):
            column = len(raw) - len(raw.lstrip())
            place = Place(str(path.resolve()), number, column + 1, offset + column)
            found.append(Comment(raw.strip().decode(errors="replace"), place, number, alone=True))
        offset += len(raw)
    return found
