"""What waits says for what, and once; a name that is not found is not waited for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import urllib3

from kmatrix.fetch import download, trouble
from kmatrix.host.errors import Unavailable
from kmatrix.host.progress import Quiet, Step, Terminal


class Heard(Quiet):
    def __init__(self) -> None:
        self.labels: list[str] = []

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        self.labels.append(label)
        with super().step(label) as step:
            yield step


def test_a_host_whose_name_is_not_found_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def resolve(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(download, "_pause", lambda seconds, why: pytest.fail(f"waits {seconds} s for {why}"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Unavailable, match="Name or service not known"):
        download.fetch_file("http://kernels.example/x", None, None, tmp_path / "x")
    assert asked == ["kernels.example"]


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (requests.ConnectionError(urllib3.exceptions.ProtocolError("reset", ConnectionResetError(104, "reset"))), True),
        (requests.Timeout(), True),
        (requests.ConnectionError(socket.gaierror(-3, "Temporary failure in name resolution")), False),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception, passes: bool) -> None:
    assert trouble.passing(error) is passes


def test_a_wait_says_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # conftest's: this one waits
    heard = Heard()
    with download.working_for(heard):
        download._pause(0, "kernels.example: the server says 503 Service Unavailable")
    assert heard.labels == ["waiting to try again: kernels.example: the server says 503 Service Unavailable"]


def test_the_same_wait_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    for label in ("waiting to try again: a", "waiting to try again: b", "waiting to try again: a", "fetching", "fetching"):
        with terminal.step(label):
            pass
    lines = [line.rpartition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["waiting to try again: a", "waiting to try again: b", "fetching", "fetching"]
