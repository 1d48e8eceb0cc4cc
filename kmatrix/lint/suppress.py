"""Suppressions: `/* kmatrix: noqa KM203: why */` on the line, or alone on the line before; `noqa-file` for the whole file. The reason is not optional."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from kmatrix.host.nearest import did_you_mean
from kmatrix.lint.findings import Edit, Finding
from kmatrix.lint.preprocessor import Comment, Place
from kmatrix.lint.rules import RULES

_MARK = re.compile(
    r"kmatrix:\s*noqa(?P<file>-file)?\b[ \t]*(?P<codes>[A-Za-z0-9, ]*?)[ \t]*(?::[ \t]*(?P<reason>.*?))?[ \t]*(?:\*/.*)?$",
    re.MULTILINE,
)
UNSUPPRESSABLE = frozenset({"KM001", "KM002", "KM003"})


@dataclass
class Suppression:
    """One `kmatrix: noqa`."""

    comment: Comment
    codes: frozenset[str]
    reason: str
    whole_file: bool
    used: set[str] = field(default_factory=set)

    def covers(self, finding: Finding) -> bool:
        """Whether it is about the finding, were it of a known code and with a reason."""
        if finding.code not in self.codes or finding.place.file != self.comment.place.file:
            return False
        first, last = self.comment.place.line, self.comment.end
        return self.whole_file or first <= finding.place.line <= (last + 1 if self.comment.alone else last)


def parse(comments: Iterable[Comment]) -> tuple[list[Suppression], list[Finding]]:
    """The suppressions among the comments, and what is wrong with the rest of them (KM002)."""
    found, wrong = [], []
    for comment in comments:
        match = _MARK.search(comment.text)
        if match is None:
            continue
        codes = [code.upper() for code in re.split(r"[,\s]+", match["codes"]) if code]
        reason = (match["reason"] or "").strip()
        unknown = next((code for code in codes if code not in RULES), None)
        problem = ""
        if not codes:
            problem = "it names no code"
        elif unknown is not None:
            problem = f"{unknown} is no code{did_you_mean(unknown, RULES)}"
        elif not reason:
            problem = "it has no reason"
        elif set(codes) & UNSUPPRESSABLE:
            problem = f"{min(set(codes) & UNSUPPRESSABLE)} cannot be suppressed"
        if problem:
            wrong.append(
                Finding(
                    "KM002",
                    comment.place,
                    f"{problem}, so it suppresses nothing: write kmatrix: noqa {codes[0] if codes else 'KM201'}: and why",
                )
            )
        else:
            found.append(Suppression(comment, frozenset(codes), reason, match["file"] is not None))
    return found, wrong


def apply(findings: Iterable[Finding], suppressions: list[Suppression], sources: dict[str, str]) -> list[Finding]:
    """The findings that nothing suppresses; `sources` says which source's noqa-file counts for an object."""
    left = []
    for finding in findings:
        hits = [s for s in suppressions if s.covers(finding)]
        source = sources.get(finding.place.file)
        if source is not None:
            hits += [s for s in suppressions if s.whole_file and finding.code in s.codes and s.comment.place.file == source]
        for hit in hits:
            hit.used.add(finding.code)
        if not hits:
            left.append(finding)
    return left


def unused(suppressions: Iterable[Suppression], checked: frozenset[str]) -> Iterable[Finding]:
    """KM003: suppressions of codes that were looked for and not found."""
    for each in suppressions:
        idle = sorted((each.codes & checked) - each.used)
        if not idle:
            continue
        place: Place = each.comment.place
        edits: tuple[Edit, ...] = ()
        if len(idle) == len(each.codes):
            length = len(each.comment.text.encode())
            edits = (Edit(place.file, place.offset, place.offset + length, ""),)
        yield Finding("KM003", place, f"nothing to suppress here for {', '.join(idle)}: remove it", edits)
