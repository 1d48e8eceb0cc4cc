"""Shell completion, as the shells ask for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CLI = "from kmatrix.cli import main; main()"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "collectors" / "openat").mkdir(parents=True)
    (tmp_path / "collectors" / "openat" / "collector.toml").touch()
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "kmatrix"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c \'import sys; sys.argv[0] = "kmatrix"; {CLI}\' "$@"\n')
    script.chmod(0o755)
    return tmp_path


def completed(here: Path, words: str) -> set[str]:
    """What bash is offered for the last of `words`, by the script that `kmatrix completion bash` prints."""
    line = words.split(" ")
    script = (
        'eval "$(kmatrix completion bash)"\n'
        f"COMP_WORDS=({' '.join(word or chr(39) * 2 for word in line)}); COMP_CWORD={len(line) - 1}\n"
        '_kmatrix_completion kmatrix\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    around = os.environ | {"PATH": f"{here / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=here, env=around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("kmatrix fea", {"features"}),
        ("kmatrix features 6.18-", {"6.18-x86_64", "6.18-arm64"}),
        ("kmatrix shell 6.18", {"6.18", "6.18-x86_64", "6.18-arm64"}),
        ("kmatrix kernels fetch 4.14", {"4.14", "4.14-sim", "4.14-x86_64", "4.14-arm64", "4.14-sim-x86_64", "4.14-sim-arm64"}),
        ("kmatrix run x.o --kernels 5.4,sto", {"5.4,store"}),
        ("kmatrix run x.o --arch ar", {"arm64"}),
        ("kmatrix shell 6.1 --collector coll", {"collectors/openat"}),
        ("kmatrix bisect coll", {"collectors/openat"}),
        ("kmatrix kernels li", {"list"}),
    ],
)
def test_bash_is_offered(here: Path, words: str, offered: set[str]) -> None:
    assert completed(here, words) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_each_shell_has_its_script(here: Path, shell: str) -> None:
    around = os.environ | {"PATH": f"{here / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["kmatrix", "completion", shell], env=around, capture_output=True, text=True, check=True)
    assert f"_KMATRIX_COMPLETE={shell}_complete" in done.stdout
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=done.stdout, text=True, check=False).returncode == 0


def test_a_broken_kernels_toml_offers_nothing_and_says_nothing(here: Path) -> None:
    (here / "kernels.toml").write_text("schema = ")
    assert completed(here, "kmatrix shell 6") == set()
