"""Every rule's own examples: the wrong one gives its code, the right one nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kmatrix.lint.engine import Options, Report, lint
from kmatrix.lint.rules import GROUPS, RULES, Rule
from tests.lint import samples

OPTIONS = Options(includes=(samples.INCLUDE, samples.BPF_COMMON))


def codes(report: Report) -> list[str]:
    return [finding.code for finding in report.findings]


@pytest.mark.parametrize("rule", [*samples.C_RULES, *samples.GO_RULES], ids=lambda rule: rule.code)
def test_examples(rule: Rule, tmp_path: Path) -> None:
    wrong = lint([samples.write(tmp_path / "wrong", rule.wrong, rule)], OPTIONS)
    assert set(codes(wrong)) == {rule.code}, [f"{f.code} {f.place.line}: {f.message}" for f in wrong.findings]
    right = lint([samples.write(tmp_path / "right", rule.right, rule)], OPTIONS)
    assert codes(right) == [], [f"{f.code} {f.place.line}: {f.message}" for f in right.findings]


def test_the_evidence_is_there() -> None:
    root = Path(__file__).parents[2]
    for rule in RULES.values():
        for file, name in re.findall(r"(tests/\S+?\.py)(?:::(\w+))?", rule.evidence):
            assert f"def {name}" in (root / file).read_text(), f"{rule.code}: {file}::{name}"


def test_the_table_is_in_order() -> None:
    assert list(RULES) == sorted(RULES)
    assert {code[:3] for code in RULES} == set(GROUPS)
    assert len({rule.name for rule in RULES.values()}) == len(RULES)
