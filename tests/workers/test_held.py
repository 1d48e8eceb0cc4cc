"""Reports that are held back until a test is through, and files that go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kmatrix.plugin import far, far_entry
from kmatrix.plugin.held import Event, Held


def test_reports_come_when_the_test_is_through_and_in_their_order() -> None:
    queue: list[Event] = []
    held = Held(queue.append, lambda event: event)
    begun: list[Event] = [("logstart", {}), ("testreport", {"rep": 1}), ("testreport", {"rep": 2})]
    for event in begun:
        held(event)
    held(("warning_recorded", {}))
    assert queue == [("warning_recorded", {})]
    end: Event = ("runtest_protocol_complete", {})
    held(end)
    assert queue[1:] == [*begun, end]


def test_what_a_lost_worker_said_of_a_test_that_it_did_not_finish_is_thrown_away() -> None:
    queue: list[Event] = []
    held = Held(queue.append, lambda event: ("workerfinished", event[1]))
    for event in (
        ("testreport", {"rep": 1}),
        ("runtest_protocol_complete", {}),
        ("testreport", {"rep": 2}),
        ("errordown", {"node": "n"}),
    ):
        held(event)
    assert [name for name, _ in queue] == ["testreport", "runtest_protocol_complete", "workerfinished"]
    assert queue[0] == ("testreport", {"rep": 1})
    assert queue[-1] == ("workerfinished", {"node": "n"})


def report(when: Any, *properties: tuple[str, str]) -> pytest.TestReport:
    return pytest.TestReport("t", ("t", None, "t"), {}, "passed", None, when, user_properties=properties)


def test_files_go_once_with_the_report_that_has_a_record_or_ends_the_test(tmp_path: Path) -> None:
    sender = far.Sender(tmp_path, ["mark"])

    def sent(*what: Any) -> Any:
        made = report(*what)
        sender.pytest_runtest_logreport(made)
        return getattr(made, far.FILES, None)

    (tmp_path / "console").mkdir()
    (tmp_path / "console" / ".own.1-0").write_text("not yet")
    (tmp_path / "console" / "a.log").write_text("said")
    assert sent("setup") is None  # a guest may be running that goes on to write there
    assert sent("setup", ("mark", "x")) == {"console/a.log": b"said"}
    (tmp_path / "r.json").write_text("{}")
    assert sent("call") is None
    assert sent("teardown") == {"r.json": b"{}"}
    assert sent("teardown") == {}


def test_the_far_side_stands_where_pytest_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_entry.atexit, "register", lambda *_, **__: None)
    monkeypatch.delenv("KMATRIX_FAR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "id/tree/sub").mkdir(parents=True)
    told = {
        "cwd": str(tmp_path / "id/tree/sub"),
        "project": str(tmp_path / "id"),
        "args": ["-q", "x"],
        "environment": {"KMATRIX_FAR": "1"},
    }
    monkeypatch.setenv("KMATRIX_FAR", "")
    *args, directory = far_entry.enter(told)
    assert args == ["-q", "x"]
    assert Path.cwd() == tmp_path / "id/tree/sub"
    assert Path(directory.removeprefix("--kmatrix-dir=")).parent == tmp_path / "tmp"


def test_the_far_side_takes_the_controllers_arguments_in_place_of_its_own() -> None:
    messages = [({"workerid": "gw0"}, ["/here/x"], {"basetemp": None}, None), "later"]

    class Real:
        gateway = "gateway"

        def receive(self) -> Any:
            return messages.pop(0)

    channel = far_entry.Channel(Real(), ["x"])
    assert channel.receive() == ({"workerid": "gw0"}, ["x"], {"basetemp": None}, None)
    assert channel.gateway == "gateway"


def test_what_is_sent_before_xdists_code_needs_no_more_than_python() -> None:
    text = far.source("code = 1", cwd="/c", project="/p", args=["-q"], environment={})
    imports = {line.split()[1].partition(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imports <= {"__future__", "atexit", "collections", "fcntl", "os", "shutil", "tempfile", "typing"}
    compile(text, "far", "exec")
