"""What a lint run found, as text, JSON and SARIF 2.1.0; and what one rule says."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

from kmatrix import __version__
from kmatrix.lint.engine import Report
from kmatrix.lint.findings import Finding
from kmatrix.lint.rules import RULES, Rule

_BOLD, _RED, _YELLOW, _CYAN, _OFF = "\033[1m", "\033[31m", "\033[33m", "\033[36m", "\033[0m"
_SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def text(report: Report, *, colour: bool = False, fixed: int = 0) -> str:
    """One line a finding, `path:line:column: CODE what is wrong and what to do`, and a summary."""

    def paint(code: str, words: str) -> str:
        return f"{code}{words}{_OFF}" if colour else words

    lines = []
    for finding in report.findings:
        where = f"{_relative(finding)}:{finding.place.line}:{finding.place.column}:"
        code = paint(_RED if finding.rule.level == "error" else _YELLOW, finding.code)
        lines.append(f"{paint(_BOLD, where)} {code} {finding.message}{paint(_CYAN, ' [*]') if finding.edits else ''}")
    if report.findings:
        lines.append("")
    return "\n".join([*lines, _summary(report, fixed)])


def _summary(report: Report, fixed: int) -> str:
    files = f"{report.files} file{'s' * (report.files != 1)}"
    parts = [f"{fixed} fixed"] if fixed else []
    if report.suppressed:
        parts.append(f"{report.suppressed} suppressed")
    if not report.findings:
        return f"{files}: nothing to say{''.join(f', {part}' for part in parts)}"
    levels = Counter(finding.rule.level for finding in report.findings)
    count = ", ".join(f"{levels[level]} {level}{'s' * (levels[level] != 1)}" for level in ("error", "warning") if levels[level])
    fixable = sum(bool(finding.edits) for finding in report.findings)
    if fixable:
        parts.append(f"{fixable} marked [*] can be mended by --fix")
    codes = sorted({finding.code for finding in report.findings})
    why = f"kmatrix lint --explain {codes[0]} says why"
    return "; ".join([f"{files}: {count}", *parts, why])


def _relative(finding: Finding) -> str:
    path = Path(finding.place.file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def as_json(report: Report) -> str:
    """The findings for a program: a list of objects, with the edits that --fix would make."""
    return json.dumps(
        {
            "schema": 1,
            "files": report.files,
            "suppressed": report.suppressed,
            "findings": [
                {
                    "code": f.code,
                    "name": f.rule.name,
                    "level": f.rule.level,
                    "file": _relative(f),
                    "line": f.place.line,
                    "column": f.place.column,
                    "message": f.message,
                    "edits": [{"file": e.file, "start": e.start, "end": e.end, "text": e.text} for e in f.edits],
                }
                for f in report.findings
            ],
        },
        indent=1,
    )


def sarif(report: Report) -> str:
    """SARIF 2.1.0, for code scanning: paths are relative to the current directory (%SRCROOT%)."""
    codes = sorted({finding.code for finding in report.findings})
    run = {
        "tool": {
            "driver": {
                "name": "kmatrix lint",
                "semanticVersion": __version__,
                "rules": [_sarif_rule(RULES[code]) for code in codes],
            }
        },
        "columnKind": "utf16CodeUnits",
        "originalUriBaseIds": {"%SRCROOT%": {"uri": f"{Path.cwd().as_uri()}/"}},
        "results": [_sarif_result(finding, codes.index(finding.code)) for finding in report.findings],
    }
    return json.dumps({"$schema": _SARIF, "version": "2.1.0", "runs": [run]}, indent=1)


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.why},
        "help": {"text": explain(rule)},
        "defaultConfiguration": {"level": rule.level},
    }


def _sarif_result(finding: Finding, index: int) -> dict[str, Any]:
    path = Path(finding.place.file)
    inside = path.is_relative_to(Path.cwd())
    artifact = {"uri": path.relative_to(Path.cwd()).as_posix(), "uriBaseId": "%SRCROOT%"} if inside else {"uri": path.as_uri()}
    region = {"startLine": max(1, finding.place.line), "startColumn": max(1, finding.place.column)}
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": finding.rule.level,
        "message": {"text": finding.message},
        "locations": [{"physicalLocation": {"artifactLocation": artifact, "region": region}}],
    }


def explain(rule: Rule) -> str:
    """All that there is to say of a rule."""

    def block(code: str) -> str:
        return textwrap.indent(code.rstrip().expandtabs(4), "    ")

    mark = f"{rule.level}, --fix mends it where it can" if rule.fixable else rule.level
    return "\n".join(
        [
            f"{rule.code} {rule.name} ({mark})",
            f"{rule.summary[0].upper()}{rule.summary[1:]}.",
            "",
            _filled(rule.why),
            "",
            _filled(f"Evidence: {rule.evidence}"),
            "",
            f"Wrong{_claim(rule)}:",
            block(rule.wrong),
            "",
            "Right:",
            block(rule.right),
        ]
    )


def _filled(words: str) -> str:
    return textwrap.fill(words, 100, break_long_words=False, break_on_hyphens=False)


def _claim(rule: Rule) -> str:
    if not rule.code.startswith("KM5"):
        return ""
    return f" (in a variant with needs = [{', '.join(map(repr, rule.needs))}])".replace("'", '"')
