"""docs/lint.md lists the rules as they are. To write it anew: python -m tests.lint.test_docs"""

from __future__ import annotations

from pathlib import Path

from kmatrix.lint.rules import GROUPS, RULES

DOCS = Path(__file__).parents[2] / "docs" / "lint.md"
BEGIN, END = "<!-- rules -->\n", "<!-- end of rules -->\n"


def table() -> str:
    lines = ["| code | name | what it finds | |", "|---|---|---|---|"]
    for prefix, title in GROUPS.items():
        lines.append(f"| **{prefix}** | **{title}** | | |")
        for rule in RULES.values():
            if rule.code.startswith(prefix):
                marks = ", ".join(mark for mark in (rule.level, "`--fix`" if rule.fixable else "") if mark)
                lines.append(f"| {rule.code} | `{rule.name}` | {rule.summary} | {marks} |")
    return "\n".join(lines) + "\n"


def test_the_table_is_not_stale() -> None:
    text = DOCS.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == table(), "run: python -m tests.lint.test_docs"


if __name__ == "__main__":
    old = DOCS.read_text()
    DOCS.write_text(old[: old.index(BEGIN) + len(BEGIN)] + table() + old[old.index(END) :])
