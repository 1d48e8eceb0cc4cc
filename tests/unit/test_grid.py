"""Tables that fit the terminal."""

from __future__ import annotations

import os

import pytest

from kmatrix.report import grid
from kmatrix.report.grid import Column


def widest(text: str) -> int:
    return max(map(grid.visible, text.splitlines()))


LABELS = [Column("program", ["enter", "exit"]), Column("section", ["tp/x", "tp/y"])]
GROUPS = [[Column(f"{kernel}\n{arch}", ["ok", "no"]) for kernel in ("5.4", "5.10", "6.1", "6.12")] for arch in ("x86_64", "arm64")]


def test_what_fits_is_one_table() -> None:
    assert grid.folded(LABELS, GROUPS, 200).count("program") == 1


@pytest.mark.parametrize("style", [grid.OUTLINE, grid.PLAIN])
@pytest.mark.parametrize("width", range(40, 140, 7))
def test_what_does_not_fit_is_folded_and_nothing_is_lost(width: int, style: str) -> None:
    text = grid.folded(LABELS, GROUPS, width, style)
    assert widest(text) <= width
    assert text.count("x86_64") == text.count("arm64") == 4
    assert text.count("ok") == text.count("no") == 8
    assert text.count("program") == text.count("enter")  # each table says what its rows are


def test_a_table_is_as_wide_as_was_reckoned() -> None:
    """One column less than it takes, and it is folded."""
    whole = grid.folded(LABELS, GROUPS, 500)
    assert grid.folded(LABELS, GROUPS, widest(whole)) == whole
    assert grid.folded(LABELS, GROUPS, widest(whole) - 1).count("program") == 2


def test_a_terminal_narrower_than_one_column_gets_a_column_a_table() -> None:
    assert grid.folded(LABELS[:1], GROUPS, 5).count("program") == 8


def test_colours_take_no_room() -> None:
    red = Column("6.1", ["\x1b[31m✗ load\x1b[0m"])
    assert red.width == Column("6.1", ["✗ load"]).width
    assert grid.visible("\x1b[1m\x1b[31mx\x1b[0m") == 1


def test_prose_is_wrapped_between_words_to_what_is_left() -> None:
    rows = [["5.4", "kmatrix kernels fetch 5.4 --arch ARCH " * 4], ["6.12", "short"]]
    text = grid.prose(rows, 60, heads=["kernel", "how to get it"])
    assert widest(text) <= 60
    assert " ".join(text.split()).count("--arch") == 4
    assert "6.12" in text


def test_two_columns_of_prose_share_and_a_narrow_one_takes_no_more_than_it_needs() -> None:
    rows = [["openat", "5.4 6.1", "a reason of many words " * 5]]
    text = grid.prose(rows, 70, style=grid.BARE, wrap=(-2, -1))
    assert widest(text) <= 70
    assert text.splitlines()[0].startswith("openat  5.4 6.1  a reason")


def test_a_long_word_is_left_whole() -> None:
    path = "/a/path/that/is/longer/than/the/column/that/it/stands/in"
    assert path in grid.prose([["x", path]], 30)


def test_the_width_is_that_of_columns_or_of_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert grid.terminal_width() == 77
    monkeypatch.delenv("COLUMNS")

    def none(_: int) -> os.terminal_size:
        raise OSError

    monkeypatch.setattr(os, "get_terminal_size", none)
    assert grid.terminal_width() == 120
