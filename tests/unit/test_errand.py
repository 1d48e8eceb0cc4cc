"""What a confined thread does for another, and what that one does for it meanwhile: threads alone, no guest."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kmatrix.guest import confine


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Privileges that are asked for and leave all: nothing of this process changes."""
    monkeypatch.setattr(confine.libbpf, "start_afresh", lambda: None)
    monkeypatch.setattr(confine, "_fresh_for", [])
    return {"user": None, "caps": None, "filter": None, "namespaces": []}


def test_what_loads_has_a_thread_of_its_own_and_what_looks_on_stays_where_it_was(asked: dict[str, Any]) -> None:
    here = threading.get_ident()

    def loads() -> tuple[int, int, int]:
        return threading.get_ident(), confine.outside(threading.get_ident), confine.confined(threading.get_ident)

    assert confine.confined(loads) == (here, here, here)  # nothing is asked for
    with confine.asked(asked):
        own, outer, again = confine.confined(loads)
    assert own == again != here
    assert outer == here


def test_what_is_raised_on_either_side_comes_to_the_one_that_asked(asked: dict[str, Any]) -> None:
    def fails() -> None:
        raise ValueError("in vain")

    def asks() -> str:
        with pytest.raises(ValueError, match="in vain"):
            confine.outside(fails)
        return "went on"

    with confine.asked(asked):
        assert confine.confined(asks) == "went on"
        with pytest.raises(ValueError, match="in vain"):
            confine.confined(fails)
        assert confine.confined(lambda: 1) == 1
