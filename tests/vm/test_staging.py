"""Folders for things half made go away, also those of the dead, and never those of the living."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kmatrix.host.staging import staging

HOLDER = """
import sys, time
from pathlib import Path
from kmatrix.host.staging import staging
with staging(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("made")
    print(folder, flush=True)
    time.sleep(1000)
"""


def test_it_is_gone_afterwards(tmp_path: Path) -> None:
    with staging(tmp_path) as folder:
        (folder / "x").write_text("x")
        assert folder.stat().st_dev == tmp_path.stat().st_dev
    assert not list((tmp_path / "tmp").iterdir())


def test_it_is_gone_after_an_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staging(tmp_path) as folder:
            (folder / "x").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list((tmp_path / "tmp").iterdir())


def test_what_was_renamed_away_stays(tmp_path: Path) -> None:
    with staging(tmp_path) as folder:
        (folder / "x").write_text("x")
        folder.rename(tmp_path / "made")
    assert (tmp_path / "made" / "x").read_text() == "x"


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    with staging(tmp_path) as one, staging(tmp_path) as two:
        assert one != two
        assert one.exists()


def test_the_dead_are_swept_and_the_living_are_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().strip())
        with staging(tmp_path):
            assert (left / "half").exists(), "its owner lives"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert left.exists()
    with staging(tmp_path):
        assert not left.exists()


def test_a_plain_file_there_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "file").write_text("x")
    with staging(tmp_path) as folder:
        assert not list(folder.iterdir())
