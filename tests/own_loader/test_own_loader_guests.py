"""Loaders that are not ours in real guests: bpftool as one that leaves what it loaded to the kernel, and scripts that misbehave."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import need_programs
from kmatrix.host.errors import InputError
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.arch import host_arch
from kmatrix.runs import cell
from kmatrix.runs.cell_records import Record
from kmatrix.runs.machine_room import MachineRoom
from tests.cells.broken import compile_object
from tests.own_loader.test_files import write

MANIFEST = """
schema = 1
[collector]
name = "own"
[loader]
command = {command}
files = {{ {files} }}
{loader}
[[variant]]
name = "ring"
behaviour = "full"
needs = ["ringbuf"]
transport = "ringbuf"
[[program]]
name = "enter"
hook = "tracepoint/syscalls/sys_enter_openat"
[trigger]
kind = "open"
"""
PIN = "/sys/fs/bpf/own"
LOAD = f"bpftool prog loadall ring.o {PIN} autoattach"

Own = Callable[..., Record]


@pytest.fixture
def own(room: MachineRoom, need: Callable[[str], None], tmp_path: Path) -> Own:
    """own(script, loader=…): the record of a collector with that script for an agent, on 6.1."""

    def run(
        script: str,
        loader: str = 'ready = { line = "up" }',
        command: str = '["./agent"]',
        target: str = "6.1-x86_64",
        files: str = "",
    ) -> Record:
        need("6.1-x86_64")
        write(tmp_path / "agent", script.encode())
        compile_object(tmp_path / "ring.o", "x86", "USE_RINGBUF")
        text = MANIFEST.format(command=command, files='agent = "agent", "ring.o" = "ring.o"' + files, loader=loader)
        (tmp_path / "collector.toml").write_text(text)
        chosen = room.matrix.target(target)
        return cell.run(load_collector(tmp_path), chosen, room, tmp_path / ".kmatrix")

    return run


def facts(record: Record) -> dict[str, Any]:
    assert record.facts is not None
    return dict(record.facts)


def test_one_that_loads_and_ends(own: Own) -> None:
    """What it attached stays, by pins; a command takes it away."""
    loader = f'ready = "exit"\nstop = ["rm", "-r", "{PIN}"]'
    command = str(LOAD.split()).replace("'", '"')
    record = own("", loader, command)
    assert record.ok, record.reason
    found = facts(record)
    report = found["attempts"][0]["programs"]["enter"]
    assert (report["attached"], report["via"]) == (True, "link")
    assert report["runs"] > 0
    assert found["kernel"]["after"] == found["kernel"]["before"]

    left = own("", 'ready = "exit"\nstop = ["true"]', command)
    assert left.failure == "leftover"
    assert "still there afterwards" in left.reason


def test_a_daemon_is_waited_for_and_told_to_stop(own: Own) -> None:
    """The sign to go is what is attached; the one that was started has long ended."""
    keeper = f"trap 'rm -r {PIN}; exit' TERM; while :; do sleep 0.1; done"
    record = own(f'#!/bin/sh\n{LOAD}\nsetsid sh -c "{keeper}" &\n', "stop_timeout = 20.0")
    assert record.ok, record.reason
    loader = facts(record)["loader"]
    assert (loader["exit"], loader["killed"], loader["left"]) == (0, False, [])
    assert "sh" in [process["name"] for process in loader["processes"]]


def test_its_own_end_before_it_was_ready_is_a_refusal(own: Own) -> None:
    record = own("#!/bin/sh\necho some log\necho 'no ringbuf here' >&2\nexit 7\n")
    assert record.failure == "load"
    assert "./agent ended with 7: no ringbuf here" in record.reason
    found = facts(record)
    assert found["refusal"] == "./agent ended with 7: no ringbuf here"
    assert (found["loader"]["exit"], found["loader"]["stdout"]) == (7, "some log\n")

    # On a kernel without ring buffers it is what was promised; where another status is the sign, it is not.
    assert own("#!/bin/sh\necho 'no ringbuf here' >&2\nexit 7\n", target="5.4-sim-x86_64").ok
    other = own("#!/bin/sh\necho 'no ringbuf here' >&2\nexit 7\n", 'refusal_exits = [3]\nready = "exit"', target="5.4-sim-x86_64")
    assert (other.failure, "ended with 7" in other.reason) == ("worse", True)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo hello; exec sleep 600", "./agent was not ready within 8 s (no line with 'up' came): hello"),
        ("kill -SEGV $$", "./agent was killed by SIGSEGV: it said nothing"),
        ("exit 0", "./agent ended with 0 before it was ready: it said nothing"),
        ("echo up; exec sleep 600", "it lacks program enter (tracepoint), a ringbuf map; in the kernel: nothing"),
    ],
)
def test_never_ready_or_for_nothing(own: Own, script: str, says: str) -> None:
    record = own(f"#!/bin/sh\n{script}\n", 'ready = { line = "up" }\nready_timeout = 8.0')
    assert record.failure == "load"
    assert says in record.reason
    assert facts(record)["loader"]["left"] == []


def test_one_that_prints_without_end(own: Own) -> None:
    """Nobody waits for its output to be read, the record keeps the ends of it, and the line is found."""
    record = own(
        '#!/bin/sh\nyes "$(printf %0100d 0)" | head -c 3030000\necho up\nexec sleep 60\n',
        'ready = { line = "^up$" }\nready_timeout = 60.0',
    )
    said = facts(record)["loader"]["stdout"]
    assert facts(record)["loader"]["ready"] is not None
    assert said.startswith("0000")
    assert said.endswith("\nup\n")
    assert "bytes …]" in said
    assert len(said) < 100_000
    assert "has loaded no program" in facts(record)["refusal"]


@pytest.mark.parametrize(
    ("script", "failure", "says"),
    [
        (
            f"trap 'rm -r {PIN}' TERM; {LOAD}; echo up; while :; do sleep 0.1; done",
            "leftover",
            "./agent did not end when it was told to",
        ),
        (f"trap 'rm -r {PIN}; exit' TERM; {LOAD}; setsid sleep 600 & echo up; wait", "leftover", "./agent left running: sleep"),
        (f"{LOAD}; echo up; echo oh no >&2; exit 9", "worse", "./agent ended with 9 before it was told to stop: oh no"),
    ],
)
def test_how_it_ends(own: Own, script: str, failure: str, says: str) -> None:
    record = own(f"#!/bin/sh\n{script}\n", 'ready = { line = "up" }\nready_timeout = 60.0\nstop_timeout = 3.0')
    assert record.failure == failure, record.reason
    assert says in record.reason


def test_what_cannot_start(own: Own, tmp_path: Path) -> None:
    for script, command, says in (
        ("#!/opt/none -x\n", '["./agent"]', "the guest has no /opt/none -x, which is to run it"),
        ("echo up\n", '["./agent"]', "it is no program (a script begins with #!)"),
        ("", '["no-such-tool"]', "no-such-tool cannot start: it is not in the guest"),
    ):
        with pytest.raises(InputError) as error:
            own(script, command=command)
        assert says in str(error.value)
        assert f"{tmp_path}/collector.toml: loader" in str(error.value)
        assert "loader.files" in str(error.value.fix)


@pytest.mark.skipif(host_arch() != "x86_64", reason="takes this machine's clang to an x86_64 guest")
def test_a_library_that_the_guest_has_not(own: Own, tmp_path: Path) -> None:
    need_programs("clang")
    clang = Path(str(shutil.which("clang"))).resolve()
    shutil.copy(clang, tmp_path / "compiler")
    with pytest.raises(InputError, match=r"cannot start: .*lib(LLVM|clang-cpp)\S*\.so") as error:
        own("#!/bin/sh\nexec ./compiler --version\n", loader='ready = "exit"', files=', compiler = "compiler"')
    assert "LD_LIBRARY_PATH" in str(error.value.fix)
