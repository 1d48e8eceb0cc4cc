"""What a person sees at a terminal: tables that fit it, and colours where they are wanted."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import KMATRIX
from kmatrix.report.grid import visible
from kmatrix.runs import cell_records
from tests.cells import broken
from tests.unit.facts import record

RED = "\x1b[31m"


def at_a_terminal(*words: str, cwd: Path, columns: int = 100, **environment: str) -> tuple[str, int]:
    """What a terminal of so many columns shows of kmatrix, and its status."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, columns))
    around = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen([*KMATRIX, *words], cwd=cwd, env=around | environment, stdout=slave, stderr=slave)
    os.close(slave)
    said = b""
    try:
        while part := os.read(master, 65536):
            said += part
    except OSError:  # a terminal that nobody writes to any more ends so
        pass
    os.close(master)
    return said.decode().replace("\r\n", "\n"), process.wait(60)


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("words", [["features"], ["kernels", "list"], ["doctor"]])
def test_tables_fit_the_terminal(words: list[str], columns: int, tmp_path: Path) -> None:
    said, _ = at_a_terminal(*words, cwd=tmp_path, columns=columns)
    # A word (a path, an option) is left whole, so that it can be copied, and the rule under the heads is as wide as it is.
    several = [line for line in said.splitlines() if len(line.split()) > 1 and set(line) > {"-", " "}]
    wide = [line for line in several if visible(line) > columns]
    assert len(said.splitlines()) > 10
    assert wide == []


@pytest.fixture
def records(tmp_path: Path) -> Path:
    for kernel in ("4.14", "5.4", "5.10", "5.15", "6.1", "6.12"):
        for arch in ("x86_64", "arm64"):
            bad = record(kernel=kernel, arch=arch, ok=False, observed=None, failure="silent", reason="no open event arrived")
            cell_records.write(bad, tmp_path / ".kmatrix")
    return tmp_path


def test_the_final_table_fits_the_terminal_too(records: Path) -> None:
    said, status = at_a_terminal("report", cwd=records, columns=70)
    table = [line for line in said.splitlines() if line.startswith(("│", "╭", "╰", "├"))]
    assert status == 1
    assert len(table) > 10
    assert max(map(visible, table)) <= 70


@pytest.mark.parametrize(
    ("words", "environment", "coloured"),
    [
        ([], {}, True),
        ([], {"NO_COLOR": "1"}, False),
        ([], {"NO_COLOR": ""}, True),  # set to nothing, it is not set (no-color.org)
        (["--color=never"], {}, False),
        (["--color=always"], {"NO_COLOR": "1"}, True),
    ],
)
def test_colours_at_a_terminal(records: Path, words: list[str], environment: dict[str, str], coloured: bool) -> None:
    said, _ = at_a_terminal("report", *words, cwd=records, **environment)
    assert (RED in said) is coloured


def test_colours_elsewhere_are_asked_for(records: Path) -> None:
    def report(*words: str) -> str:
        return subprocess.run([*KMATRIX, "report", *words], cwd=records, capture_output=True, text=True, check=False).stdout

    assert RED not in report()
    assert RED in report("--color=always")
    assert "\x1b" not in report("--format=json", "--color=always")
    assert json.loads(report("--format=json"))["ok"] is False


def test_kmatrix_run_heeds_no_color(tmp_path: Path, need: Callable[[str], None]) -> None:
    need("6.1-x86_64")
    broken.compile_object(tmp_path / "good.bpf.o", "x86", "USE_RINGBUF")
    words = ["run", "good.bpf.o", "--kernels=6.1", "--arch=x86_64"]
    shown, _ = at_a_terminal(*words, cwd=tmp_path)
    assert "\x1b[32mattached" in shown
    for more, environment in (([], {"NO_COLOR": "1"}), (["--color=never"], {})):
        plain, _ = at_a_terminal(*words, *more, cwd=tmp_path, **environment)
        assert "attached" in plain
        assert "\x1b[32m" not in plain


@pytest.mark.parametrize("words", [["--color=always"], []])
def test_lint_heeds_color(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.bpf.c").write_text('#include <bpf/bpf_helpers.h>\nSEC("kprobe/x") int f(void *ctx) { return 0; }\n')
    done = subprocess.run([*KMATRIX, "lint", ".", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ("\x1b[" in done.stdout) is bool(words)
