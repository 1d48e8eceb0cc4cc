"""Workers that cannot be worked with: one error each, that says what to do, before anything runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import KMATRIX, Shell
from kmatrix import __version__
from kmatrix.host.errors import StoreError
from kmatrix.host.paths import sha256
from kmatrix.host.progress import Quiet, Step
from kmatrix.runs.workers.address import parse
from kmatrix.runs.workers.deliver import Delivery
from kmatrix.runs.workers.link import Link
from kmatrix.runs.workers.project import gather
from tests.workers.ssh_workers import Machine


@pytest.fixture
def alpha(machines: dict[str, Machine]) -> Iterator[Machine]:
    """A machine whose known_hosts is as it was, after the test."""
    machine = machines["alpha"]
    known = machine.known_hosts.read_text()
    yield machine
    machine.known_hosts.write_text(known)


def hosts_check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*KMATRIX, "hosts", "check", *words], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def pythons(tmp_path: Path) -> Path:
    """Pythons that are not as kmatrix needs them: one without kmatrix, one with another, one that says that it is old."""
    plain = f"{sys.base_prefix}/bin/python3"
    other = tmp_path / "other" / "kmatrix"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text('__version__ = "0.0.1"\n')
    old = "import sys; sys.version_info = (3, 9, 2); exec(eval(sys.stdin.readline()))"
    for name, script in {
        "without": f'exec {plain} -I "$@"',
        "another": f'PYTHONPATH={tmp_path}/other exec {plain} "$@"',
        "old": f"exec {plain} -c '{old}'",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_each_is_one_line_of_hosts_check(machines: dict[str, Machine], alpha: Machine, pythons: Path) -> None:
    nobody = replace(alpha, name="127.0.0.1", config=pythons / "nobody")
    nobody.config.write_text("Host 127.0.0.1\n  Port 1\n")
    workers = [
        *(replace(alpha, python=str(pythons / name)) for name in ("without", "another", "old", "nowhere")),
        nobody,
        machines["bare"],
        machines["beta"],
    ]
    done = hosts_check("--json", *(worker.tx for worker in workers))
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    lacks = [[f for f in each["findings"] if f["level"] == "lacks"] for each in found]
    said = [finding[0]["found"] if finding else "" for finding in lacks]
    assert "has no kmatrix (ModuleNotFoundError: No module named 'kmatrix')" in said[0]
    assert said[1] == f"kmatrix 0.0.1 is there, and {__version__} here"
    assert "old there is Python 3.9.2, and kmatrix needs 3.11" in said[2]
    assert "there is no " in said[3]
    assert said[4].startswith("cannot be reached: ")
    assert "Connection refused" in said[4]
    assert said[5] == "qemu-system-x86_64 is not in its PATH: it gets no cells of x86_64"
    assert said[6] == ""
    assert all(finding["fix"] for each in lacks for finding in each)
    good = {finding["what"]: finding["found"] for finding in found[6]["findings"]}
    assert good["QEMU for x86_64"].startswith("QEMU emulator version")
    assert "GiB free" in good["disk"]


def test_a_host_key_is_never_accepted_by_itself(alpha: Machine, tmp_path: Path, run_in: Shell) -> None:
    """Not even where the configuration of ssh says so."""
    lax = tmp_path / "lax"
    lax.write_text(f"Host *\n  StrictHostKeyChecking no\n{alpha.config.read_text()}")
    tx = replace(alpha, config=lax).tx
    key = alpha.known_hosts.read_text().split()
    alpha.known_hosts.write_text("")
    unknown = hosts_check("--json", tx)
    assert unknown.returncode == 1
    assert "its host key is not known: refused" in unknown.stdout
    assert alpha.known_hosts.read_text() == ""
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    wrong = f"{key[0]} {' '.join(other.with_suffix('.pub').read_text().split()[:2])}\n"
    alpha.known_hosts.write_text(wrong)
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    changed = run_in("pytest", "--dist", "kmatrix", "-n", "1", "--tx", tx)
    assert changed.returncode == 4
    assert "alpha: its host key is not the one in known_hosts: refused" in changed.stderr
    assert "find out which machine answers there" in changed.stderr
    assert "passed" not in changed.stdout
    assert alpha.known_hosts.read_text() == wrong


def test_several_are_told_at_once_and_nothing_runs(alpha: Machine, pythons: Path, tmp_path: Path, run_in: Shell) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    bad = [replace(alpha, python=str(pythons / name)).tx for name in ("without", "old")]
    done = run_in("pytest", "--dist", "kmatrix", "--tx", bad[0], "--tx", bad[1], "--tx", alpha.tx)
    assert done.returncode == 4
    assert "2 workers cannot be worked with" in done.stderr
    assert "has no kmatrix" in done.stderr
    assert "needs 3.11" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.usefixtures("both_of_6_1")
def test_a_full_disk_is_one_error(alpha: Machine, tmp_path: Path, run_in: Shell) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(target): pass\n")
    small = alpha.folder.parent / "small"
    words = ("--dist", "kmatrix", "--tx", f"{alpha.tx}//env:KMATRIX_CACHE={small}", "--kernels=6.1", "--arch=x86_64")
    done = run_in("pytest", *words)
    assert done.returncode == 4
    assert f"alpha: its disk is full: 11 MiB are free for {small}" in done.stderr
    assert "give it a cache on a larger disk" in done.stderr
    assert "passed" not in done.stdout


class Cut(Exception):
    """The connection is cut here."""


class Cutting(Quiet):
    """Cuts what is brought after so many bytes."""

    def __init__(self, after: int) -> None:
        self.after = after

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:  # noqa: ARG002
        yield self

    def advance(self, done: int, total: int | None = None) -> None:  # noqa: ARG002
        if done > self.after:
            raise Cut


def test_a_disk_that_fills_up_and_a_transfer_that_is_cut(alpha: Machine, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(16 << 20))
    parcel = gather([tmp_path], []).parcel
    small = parse(f"{alpha.tx}//env:KMATRIX_CACHE={alpha.folder.parent}/small")
    with Link(small) as link, pytest.raises(StoreError, match="the disk is full") as caught:
        Delivery(link).bring(parcel, Quiet())
    assert caught.value.fix
    with Link(parse(alpha.tx)) as link:
        first = Delivery(link)
        with pytest.raises(Cut):
            first.bring(parcel, Cutting(6 << 20))
    with Link(parse(alpha.tx)) as link:
        second = Delivery(link)
        place = second.bring(parcel, Quiet())
        third = Delivery(link)
        assert third.bring(parcel, Quiet()) == place
    assert third.sent == 0
    assert 0 < second.sent <= (16 - 6) << 20
    assert sha256(Path(place) / "large") == sha256(tmp_path / "large")


def test_what_it_does_not_do_is_said(alpha: Machine, tmp_path: Path, run_in: Shell) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    for words, says in {
        ("--rsyncdir", ".", "--tx", alpha.tx): "the project reaches the workers by itself",
        ("--tx", "popen//chdir=/tmp"): "--dist kmatrix has workers of popen and of ssh=user@host",
    }.items():
        done = run_in("pytest", "--dist", "kmatrix", *words)
        assert done.returncode == 4
        assert says in done.stderr


def test_workers_of_this_machine_alone(tmp_path: Path, run_in: Shell) -> None:
    """`-n 2 --dist kmatrix`: each test once; one that ends its worker is tried again, and then named."""
    (tmp_path / "test_it.py").write_text(
        "import os, pytest\n\n@pytest.mark.parametrize('number', range(6))\ndef test_it(number): pass\n\n"
        "def test_dies(): os._exit(3)\n"
    )
    done = run_in("pytest", "--dist", "kmatrix", "-n", "2", "--junitxml=out.xml")
    assert "1 failed, 6 passed" in done.stdout, done.stdout
    assert "crashed while running 'test_it.py::test_dies'" in done.stdout
    assert (tmp_path / "out.xml").read_text().count("<testcase") == 7
