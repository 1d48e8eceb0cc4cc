"""The house itself: no file of kmatrix grows past what a reader takes in, unless the reason stands here."""

from __future__ import annotations

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
