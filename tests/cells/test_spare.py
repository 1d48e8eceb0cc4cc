"""A pytest run with an idle core: each cell but the first of a target finds its machine restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Shell
from tests.cells import broken

TOLD = """
import os
from kmatrix.runs.spare import Spare
os.sched_getaffinity = lambda _: set(range({cores}))
taken, take = [], Spare.take

def told(self, spec, console):
    taken.append(take(self, spec, console))
    return taken[-1]

Spare.take = told

def pytest_runtest_protocol(item, nextitem):
    return None  # a plugin of the user's has the same hook

def pytest_unconfigure(config):
    print("spares taken:", [machine is not None for machine in taken], "left:", [m.pid for m in taken if m and not m.closed])
"""


@pytest.mark.parametrize(("cores", "taken"), [(2, "[False, True, True]"), (1, "[False, False, False]")])
def test_the_next_machine_waits_where_a_core_is_idle(
    cores: int, taken: str, need: Callable[[str], None], tmp_path: Path, run_in: Shell
) -> None:
    need("6.1-x86_64")
    for name in ("one", "three", "two"):
        broken.write(tmp_path, name)
    (tmp_path / "conftest.py").write_text(TOLD.format(cores=cores))
    done = run_in("pytest", "-n0", "-s", "--kernels=6.1", "--arch=x86_64")
    assert done.returncode == 0, done.stdout
    assert f"spares taken: {taken} left: []" in done.stdout
    assert sorted(path.name for path in (tmp_path / ".kmatrix" / "console").iterdir()) == [
        f"{name}@6.1-x86_64.log" for name in ("one", "three", "two")
    ]
