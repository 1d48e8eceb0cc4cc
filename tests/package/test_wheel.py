"""The wheel and the sdist: built, installed into an empty environment, and used from another folder.

Slow (it installs every dependency): some ten to sixty seconds. Skipped where the package index cannot be reached.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kmatrix import __version__
from tests.docs.console import ROOT, fence

pytestmark = pytest.mark.slow

TUTORIAL = ROOT / "docs" / "tutorial.md"


def run(*argv: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONPATH", "CI"))}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel, made from the sdist, and the sdist."""
    to = tmp_path_factory.mktemp("dist")
    result = run(sys.executable, "-m", "build", "--outdir", to, ROOT, cwd=to)
    if result.returncode and "No matching distribution" in result.stdout + result.stderr:
        pytest.skip("the package index cannot be reached")
    assert result.returncode == 0, result.stdout + result.stderr
    return to


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and what it depends on, and nothing else."""
    at = tmp_path_factory.mktemp("empty")
    venv.create(at, with_pip=True)
    (wheel,) = built.glob("*.whl")
    result = run(at / "bin" / "pip", "install", "--quiet", wheel, cwd=at)
    assert result.returncode == 0, result.stderr
    return at / "bin"


def test_what_is_in_them(built: Path) -> None:
    with zipfile.ZipFile(*built.glob("*.whl")) as wheel:
        names = set(wheel.namelist())
    assert {"kmatrix/_data/kernels.toml", "kmatrix/_data/images/image.toml", "kmatrix/py.typed"} <= names
    assert {f"kmatrix/report/page/{name}" for name in ("page.html", "page.css", "main.js")} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]
    with tarfile.open(*built.glob("*.tar.gz")) as sdist:
        top = {name.split("/")[1] for name in sdist.getnames() if "/" in name}
    assert {"kmatrix", "kernels.toml", "images", "LICENSE", "README.md", "tests", "docs"} <= top
    assert not top & {".venv", ".kmatrix", "build"}


def test_it_is_used_from_another_folder(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "kmatrix", "--version", cwd=tmp_path).stdout.strip() == f"kmatrix, version {__version__}"
    listed = run(installed / "kmatrix", "kernels", "list", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "6.1-nobtf" in listed.stdout
    where = run(installed / "python", "-c", "import kmatrix; print(kmatrix.__file__)", cwd=tmp_path).stdout
    assert Path(where).is_relative_to(installed.parent)


def test_it_runs_a_cell(installed: Path, tmp_path: Path, need: Callable[[str], None]) -> None:
    if shutil.which("clang") is None:
        pytest.skip("clang not installed: apt-get install clang libbpf-dev")
    need("6.1-x86_64")
    (tmp_path / "opens.bpf.c").write_text(fence(TUTORIAL, "c"))
    (tmp_path / "collector.toml").write_text(fence(TUTORIAL, "toml"))
    headers = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    clang = run("clang", "-target", "bpf", "-mcpu=v1", "-g", "-O2", headers, "-c", "opens.bpf.c", "-o", "opens.bpf.o", cwd=tmp_path)
    assert clang.returncode == 0, clang.stderr
    result = run(installed / "pytest", "--kernels=6.1", "--arch=x86_64", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
