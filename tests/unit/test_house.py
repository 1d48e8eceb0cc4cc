"""The house itself: no file of kmatrix grows past what a reader takes in, unless the reason stands here."""

from __future__ import annotations

import re
from pathlib import Path

import kmatrix

LINES = 450
LONGER: dict[str, str] = {}
"""Files of kmatrix/ that are longer, and why."""


def _lengths() -> dict[str, int]:
    root = Path(kmatrix.__file__).parent
    return {path.relative_to(root).as_posix(): len(path.read_text().splitlines()) for path in root.rglob("*.py")}


def test_no_file_is_too_long() -> None:
    long = {name: length for name, length in _lengths().items() if length > LINES and name not in LONGER}
    assert not long, f"split them by subject, or give the reason in LONGER ({__file__})"


def test_every_exception_is_still_one() -> None:
    lengths = _lengths()
    assert [name for name in LONGER if lengths.get(name, 0) <= LINES] == []


ROOT = Path(__file__).parents[2]
FOLDERS = 16
"""The most that `kmatrix/` has: its listing is to be read at one glance."""


def test_the_listing_of_kmatrix_is_short() -> None:
    package = Path(kmatrix.__file__).parent
    assert len([each for each in package.iterdir() if each.is_dir() and each.name not in ("__pycache__", "_data")]) <= FOLDERS


def test_what_contributing_names_is_there() -> None:
    """Its table says what to touch, and which example to copy: each file and each name is in the code."""
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## To add something")[2].partition("## Rules")[0]
    named = set(re.findall(r"`([\w/.-]+\.(?:py|js|json|toml|md|c))`", table)) | set(
        re.findall(r"\b((?:docs|tests|bench)/[\w/.-]+\.\w+)", table)
    )
    roots = [ROOT, ROOT / "kmatrix", ROOT / "kmatrix/verdict/diagnosis", ROOT / "kmatrix/predict"]
    assert len(named) > 40
    assert sorted(name for name in named if not any((root / name).exists() for root in roots)) == []
    text = "\n".join(
        path.read_text()
        for folder in ("kmatrix", "tests")
        for kind in ("*.py", "*.js", "*.c")
        for path in (ROOT / folder).rglob(kind)
    )
    words = set(re.findall(r"`(\w{4,})`", table))
    assert sorted(word for word in words if not re.search(rf"\b{re.escape(word)}\b", text)) == []
