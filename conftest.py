"""What this repository's tests share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from kmatrix import kernels, plugin
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import ARCHES
from kmatrix.matrix.kernel import Kernel
from kmatrix.matrix.load import load_matrix

# A run that was started in the background (`make test &`, `nohup make test`) ignores these, and so does all that it starts: tests send them.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

KMATRIX = (sys.executable, "-c", "import sys; sys.argv[0] = 'kmatrix'; from kmatrix.cli import main; main()")
"""How tests call kmatrix: what the command of that name runs, by the Python that runs the tests."""
REQUIRE = "KMATRIX_REQUIRE"
"""Set in CI, to a selection of kernels (`debian`): where one of them, or a program that `make test` installs, is not here, tests fail
instead of being skipped."""


def lacking(what: str) -> NoReturn:
    """The machine lacks what the test takes."""
    if REQUIRE in os.environ:
        pytest.fail(f"{what}, and ${REQUIRE} is set: nothing may be lacking", pytrace=False)
    pytest.skip(what)


def need_programs(*names: str, apt: str = "") -> None:
    """Skip the test where one of the programs is not installed; `apt` are the packages that have them, where those have other names."""
    if missing := [name for name in names if shutil.which(name) is None]:
        lacking(f"{', '.join(missing)} not installed: apt-get install {apt or ' '.join(names)}")


def lacking_kernel(kernel: Kernel, why: str) -> NoReturn:
    """The kernel is not here: as `lacking`, but only those named have to be."""
    if REQUIRE in os.environ and kernel.image_of in load_matrix().select(os.environ[REQUIRE], where=f"${REQUIRE}"):
        lacking(why)
    pytest.skip(why)


Shell = Callable[..., "subprocess.CompletedProcess[str]"]


# What an outer pytest or a CI runner sets and an inner pytest would heed: in CI its summary repeats whole messages.
AMBIENT = ("PYTEST", "CI", "BUILD_NUMBER")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """hypothesis' plugin imports all of hypothesis for its part of the summary: a run whose tests have not used it, such as of cells, has none."""
    manager = session.config.pluginmanager
    if session.items and "hypothesis" not in sys.modules and manager.has_plugin("hypothesispytest"):
        manager.unregister(name="hypothesispytest")


def pytest_xdist_auto_num_workers() -> int | None:
    """These tests boot VMs too, though no collector.toml stands among them."""
    return plugin.workers_here()


@pytest.fixture
def run_in(tmp_path: Path) -> Shell:
    """Run a module of this Python as a user would, in a folder of its own: run_in("pytest", "--kernels=6.1", cwd=…)."""

    def run(
        module: str, *arguments: str, cwd: Path = tmp_path, env: dict[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(AMBIENT)} | (env or {})
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=cwd,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def need() -> Callable[[str], None]:
    """need("5.4-arm64") skips the test where that kernel cannot be had, and says how to get it (see $KMATRIX_REQUIRE)."""
    matrix, store = load_matrix(), KernelStore()

    def check(name: str) -> None:
        target = matrix.target(name)
        reason = kernels.availability(target.kernel, target.arch, store)
        if reason is not None:
            lacking_kernel(target.kernel, f"{name} {reason}")

    return check


@pytest.fixture
def both_of_6_1(need: Callable[[str], None]) -> str:
    """The kernel that most tests run on."""
    for arch in ARCHES:
        need(f"6.1-{arch}")
    return "6.1"
