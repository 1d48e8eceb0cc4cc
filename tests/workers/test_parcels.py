"""What is brought to a worker, and what it takes in: without a connection, in a cache of the test's own."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, cast

import pytest

from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.progress import Quiet
from kmatrix.runs.workers import address, judge, link
from kmatrix.runs.workers.address import Address
from kmatrix.runs.workers.deliver import Delivery
from kmatrix.runs.workers.link import Link, Lost
from kmatrix.runs.workers.muster import Luggage, Worker, equip
from kmatrix.runs.workers.plan import Host
from kmatrix.runs.workers.project import Project, gather
from kmatrix.runs.workers.take import Taking
from kmatrix.runs.workers.there import _There


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A project: an object that git would not have, what no run reads, and a link."""
    root = tmp_path / "project"
    for name, content in {
        "kernels.toml": b"schema = 1\n",
        "c/collector.toml": b"x",
        "c/prog.bpf.o": os.urandom(3 << 20),
        "c/empty": b"",
        ".git/HEAD": b"ref",
        ".env": b"",
        "venv/pyvenv.cfg": b"",
        "venv/lib.py": b"",
        "c/__pycache__/x.pyc": b"",
        "big/data": b"d",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "c/link").symlink_to("../big")
    return root


def taking(project: Project) -> Taking:
    parcel = project.parcel
    return Taking("project", parcel.id, [list(file) for file in parcel.files], {})


def send(project: Project, *, into: Taking | None = None, stop_after: int | None = None) -> int:
    """Bring a project, as Delivery does; returns how many bytes of content went."""
    takes, sent = into or taking(project), 0
    with takes.wanted() as wanted:
        if wanted["there"]:
            return 0
        files = [file for file in project.parcel.files if len(file) > 2]
        for number, at in wanted["pieces"]:
            data = (project.base / files[number][0]).read_bytes()
            while at < len(data):
                piece = data[at : at + (1 << 20)]
                if stop_after is not None and sent >= stop_after:
                    return sent
                packed = zlib.compress(piece)
                takes.add(packed, file=number, at=at, z=True)
                sent += len(piece)
                at += len(piece)
        takes.finish()
    return sent


def test_a_project_is_brought_once_and_a_changed_file_alone(here: Path) -> None:
    (here / "c/prog.bpf.o").chmod(0o755)
    project = gather([here], [])
    names = {file[0] for file in project.parcel.files}
    assert names == {"kernels.toml", "c/collector.toml", "c/prog.bpf.o", "c/empty", "big/data", "c/link"}
    assert send(project) > 3 << 20
    place = taking(project).place
    assert place is not None
    there = Path(place)
    assert (there / "c/prog.bpf.o").read_bytes() == (here / "c/prog.bpf.o").read_bytes()
    assert (there / "c/prog.bpf.o").stat().st_mtime_ns == (here / "c/prog.bpf.o").stat().st_mtime_ns
    assert (there / "c/prog.bpf.o").stat().st_mode & 0o777 == 0o755
    assert (there / "c/link/data").read_bytes() == b"d"
    assert send(project) == 0
    (here / "c/collector.toml").write_bytes(b"other")
    changed = gather([here], [])
    assert changed.parcel.id != project.parcel.id
    assert send(changed) == len(b"other")
    assert (there / "c/collector.toml").read_bytes() == b"x"  # a run that goes on still has what it began with


class Straight:
    """A link to a worker of this process, whose ssh is a pipe."""

    address = Address("straight")

    def __init__(self, stack: ExitStack) -> None:
        near, far = os.pipe()
        self._answers: Queue[Any] = Queue()
        serving = Thread(target=_There(stack.enter_context(os.fdopen(near, "rb")), self._answers.put).serve)
        serving.start()
        stack.callback(serving.join)
        self._pipe = stack.enter_context(os.fdopen(far, "wb"))

    def say(self, line: Mapping[str, Any], data: bytes = b"") -> None:
        self._pipe.write(json.dumps(line).encode() + b"\n" + data)
        self._pipe.flush()

    def ask(self, op: str, **arguments: Any) -> Any:
        self.say({"op": op, **arguments})
        return self._answers.get(timeout=20)

    def has_answer(self) -> bool:
        return not self._answers.empty()


def test_the_two_sides_understand_each_other(here: Path) -> None:
    parcel = gather([here], []).parcel
    with ExitStack() as stack:
        delivery = Delivery(cast(Link, Straight(stack)))
        assert delivery.lacks([parcel]) == {parcel.id}
        place = Path(delivery.bring(parcel, Quiet()))
        assert (delivery.lacks([parcel]), delivery.brought) == (set(), ["project 6 files"])
        assert delivery.sent > 3 << 20
        assert Path(delivery.bring(parcel, Quiet())) == place
    assert (place / "c/prog.bpf.o").read_bytes() == (here / "c/prog.bpf.o").read_bytes()


def test_a_worker_that_runs_no_target_gets_the_project_and_it_is_said(here: Path) -> None:
    luggage = Luggage([], {}, {}, gather([here], []), [])
    can = judge.able(described())
    with ExitStack() as stack:
        link = cast(Link, Straight(stack))
        worker = Worker(link, {"free": 1 << 30, "cache": "/cache"}, can, Host("straight", can.arches))
        equip(worker, luggage, Quiet())
    assert (Path(worker.tree) / "c/prog.bpf.o").is_file()
    assert worker.account.startswith("straight: 3.0 MiB sent (project 6 files)")
    assert worker.host.can(None, None)


def test_a_cut_transfer_goes_on_where_it_ended(here: Path) -> None:
    project = gather([here], [])
    whole = sum(file[1] for file in project.parcel.files if len(file) > 2)
    first = send(project, stop_after=(1 << 20) + 1)
    assert 1 << 20 < first < whole
    assert send(project) == whole - first
    place = taking(project).place
    assert place is not None
    assert (Path(place) / "c/prog.bpf.o").read_bytes() == (here / "c/prog.bpf.o").read_bytes()


def test_what_arrives_damaged_is_refused_and_not_kept(here: Path) -> None:
    project = gather([here], [], ["big", "c/*.o"])
    takes = taking(project)
    with takes.wanted() as wanted:
        number, _ = wanted["pieces"][0]
        size = takes.files[number][1]
        with pytest.raises(InfraError, match="arrived damaged"):
            takes.add(b"?" * size, file=number, at=0, z=False)
        with pytest.raises(InfraError, match="did not arrive"):
            takes.finish()
    with taking(project).wanted() as again:
        assert [number, 0] in again["pieces"]


def test_what_was_cut_long_ago_is_removed(here: Path, cache: Path) -> None:
    long_ago, lately = cache / "incoming/project-old", cache / "incoming/project-new"
    for folder in (long_ago, lately):
        folder.mkdir(parents=True)
    os.utime(long_ago, (0, 0))
    send(gather([here], []))
    assert (long_ago.exists(), lately.exists()) == (False, True)


def test_what_is_none_of_the_project_stays_here(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {file[0] for file in gather([here], [], leave=[here / "big"]).parcel.files}
    assert names == {"kernels.toml", "c/collector.toml", "c/prog.bpf.o", "c/empty", "c/link"}
    monkeypatch.setattr("kmatrix.runs.workers.project.MANY", 1 << 20)
    with pytest.raises(InputError, match="files to bring to workers"):
        gather([here], [])


def test_holes_stay_holes() -> None:
    data = bytes(2 << 20) + b"end"
    takes = Taking("project", "a" * 64, [["image", len(data), hashlib.sha256(data).hexdigest(), 0o644, 0]], {})
    with takes.wanted():
        for at in range(0, len(data), 1 << 20):
            piece = data[at : at + (1 << 20)]
            takes.add(piece, file=0, at=at, z=False)
        place = Path(takes.finish())
    assert (place / "image").read_bytes() == data
    assert (place / "image").stat().st_blocks * 512 < 1 << 20


def test_words_of_the_command_line_name_the_workers_files(here: Path, tmp_path: Path) -> None:
    outside = tmp_path / "other" / "collector.toml"
    outside.parent.mkdir()
    outside.write_text("")
    project = gather([here / "c"], [here / "kernels.toml"], within=[outside.parent])
    assert project.base == tmp_path
    assert not [file for file in project.parcel.files if file[0].startswith(("other", "project/big"))]
    project = gather([here / "c"], [here / "kernels.toml", outside])
    assert project.base == tmp_path
    cwd = here / "c"
    for word, there in {
        "collector.toml::x[6.1-arm64]": "collector.toml::x[6.1-arm64]",
        f"{here}/c/collector.toml::x": "/tree/project/c/collector.toml::x",
        f"--kernels-file={here}/kernels.toml": "--kernels-file=/tree/project/kernels.toml",
        "../kernels.toml": "/tree/project/kernels.toml",
        "--junitxml=/elsewhere/out.xml": "--junitxml=/elsewhere/out.xml",
        "openat and not /x": "openat and not /x",
        "-k": "-k",
    }.items():
        assert project.argument(word, "/tree", cwd) == there


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("user@host", Address("user@host")),
        ("ssh://user@host:2222", Address("ssh://user@host:2222")),
        ("-p 2222 user@host", Address("-p 2222 user@host")),
        (
            "ssh=-p 22 u@h//python=/opt/k/bin/python//env:KMATRIX_CACHE=/x",
            Address("-p 22 u@h", "/opt/k/bin/python", None, {"KMATRIX_CACHE": "/x"}),
        ),
        ("ssh=h//ssh_config=/c//id=a", Address("h", config="/c")),
    ],
)
def test_addresses(text: str, found: Address) -> None:
    assert address.parse(text) == found


@pytest.mark.parametrize("text", ["popen//python=x", "ssh=", "ssh=//python=x", "-p"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError):
        address.parse(text)


def test_workers_of_the_environment() -> None:
    words = "-q --tx '2*ssh=a//python=p' --tx=ssh=b --tx 3*popen --tx '2*ssh=a//python=p' --tx 'ssh=c//env:X=*'"
    found = [Address("a", "p"), Address("b"), Address("c", env={"X": "*"})]
    assert address.in_environment({"PYTEST_ADDOPTS": words}) == found


@pytest.mark.parametrize(
    ("status", "said", "what"),
    [
        (
            255,
            "ssh: connect to host h port 22: No route to host",
            "cannot be reached: ssh: connect to host h port 22: No route to host",
        ),
        (
            255,
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "not the one in known_hosts: refused",
        ),
        (
            255,
            "No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.",
            "not known: refused",
        ),
        (255, "u@h: Permission denied (publickey).", "with a password at most"),
        (127, "sh: 1: python3: not found", "there is no python3 there"),
        (1, "out of memory", "the connection ended (status 1): out of memory"),
    ],
)
def test_what_ssh_says_is_told_with_what_to_do(status: int, said: str, what: str) -> None:
    error = link.why_ended(Address("u@h"), status, said)
    assert what in error.message
    assert error.where == "u@h"
    assert error.fix
    assert isinstance(error, Lost) is (status == 1 or "No route" in said)
    assert isinstance(error, InputError) is (status == 127 or what in ("not known: refused", "with a password at most"))


def described(**other: Any) -> dict[str, Any]:
    accel = {"name": "tcg", "why": "there is no /dev/kvm"}
    qemu = {"x86_64": "QEMU 7.2", "arm64": None}
    return {"virtme": "1.42", "setpriv": "/usr/bin/setpriv", "qemu": qemu, "arch": "x86_64", "accel": accel} | other


def test_a_worker_can_run_what_it_has_a_qemu_for() -> None:
    can = judge.able(described())
    assert (can.arches, can.native) == ({"x86_64"}, "x86_64")
    assert can.why == {"arm64": "qemu-system-aarch64 is not in its PATH"}
    assert not judge.able(described(virtme=None)).arches
    assert not judge.able(described(setpriv=None)).arches


def test_under_accel_kvm_only_what_kvm_runs() -> None:
    both = {"x86_64": "7.2", "arm64": "7.2"}
    assert judge.able(described(qemu=both, accel={"name": "kvm", "why": ""}), "kvm").arches == {"x86_64"}
    assert judge.able(described(qemu=both, accel={"name": None, "why": ""}), "kvm").arches == {"x86_64"}
    assert not judge.able(described(qemu=both), "kvm").arches
    assert judge.able(described(qemu=both), "auto").arches == {"x86_64", "arm64"}


def test_targets_that_fit_on_a_disk() -> None:
    mib = 1 << 20
    wanted = [("a", [("image", 200 * mib), ("ka", 100 * mib)]), ("b", [("image", 200 * mib), ("kb", 100 * mib)]), ("c", [])]
    assert judge.fitting(judge.MARGIN + 350 * mib, wanted) == (["a", "c"], ["b"])
    assert judge.fitting(judge.MARGIN + 400 * mib, wanted) == (["a", "b", "c"], [])
    assert judge.fitting(10 * mib, wanted) == (["c"], ["a", "b"])
