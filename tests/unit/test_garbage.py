"""Python's garbage collector, where kmatrix keeps it from looking through modules."""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import suppress

import pytest

from kmatrix.host import garbage


@pytest.mark.parametrize("was", [True, False])
def test_it_is_as_it_was_after_a_pause(was: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if was else gc.disable)()
        with suppress(ImportError), garbage.paused():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == was
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize(("first", "said"), [("", ["exit", "found"]), ("garbage.keep_at_exit()", ["exit"])])
def test_at_exit_nothing_is_looked_for_after_what_was_registered(first: str, said: list[str]) -> None:
    code = (
        f"import atexit; from kmatrix.host import garbage\n{first}\natexit.register(print, 'exit', flush=True)\n"
        "class Circle:\n    def __del__(self): print('found', flush=True)\n"
        "circle = Circle(); circle.itself = circle; del circle\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == said
