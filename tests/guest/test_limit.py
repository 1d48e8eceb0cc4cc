"""A verifier that is still at work at the limit is interrupted, and the guest goes on."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable

import pytest

from kmatrix.matrix.kernel import Target
from kmatrix.verdict import diagnosis
from tests.guest.conftest import Guest


@pytest.mark.parametrize("name", ["5.10-x86_64", "6.1-arm64", "6.12-x86_64"])
def test_the_verifier_is_interrupted(name: str, boot: Callable[[str], Guest], compiled: Callable[[str, Target], bytes]) -> None:
    guest = boot(name)
    data = base64.b64encode(compiled("slow", guest.target)).decode()
    start = time.monotonic()
    report = guest.call("object", name="slow", data=data, load_timeout=2.0)
    assert time.monotonic() - start < 20
    quick, slow = report["programs"]["quick"], report["programs"]["slow"]
    assert quick["attached"]
    assert not slow["loaded"]
    assert re.match(r"the verifier was still at work after 2 s; its last state was \d+: ", slow["error"]), slow["error"]
    assert len(slow["log"].splitlines()) > 10
    programs, _ = diagnosis.explain(report["programs"], report["maps"], guest.target.kernel.version, guest.target.arch)
    assert programs["slow"]["diagnosis"]["kind"] == "verifier-timeout"
    assert "sum += step" in slow["log"] or "its last state" in programs["slow"]["diagnosis"]["where"]
    # The agent is as before, and a load within its limit is not disturbed.
    again = guest.call("object", name="slow", data=data, programs=["quick"])
    assert again["programs"]["quick"]["attached"]


def test_a_cell_is_red_and_no_infra(boot: Callable[[str], Guest], compiled: Callable[[str, Target], bytes]) -> None:
    guest = boot("6.12-x86_64")
    facts = guest.cell(compiled("slow", guest.target), programs=["quick", "slow"], load_timeout=2.0)
    attempt = facts["attempts"][0]
    assert facts["running"] is None
    assert attempt["stage"] == "load"
    assert attempt["error"]["text"].startswith("the verifier was still at work after 2 s")
    optional = guest.cell(compiled("slow", guest.target), programs=["quick", "slow?"], load_timeout=2.0)
    assert optional["running"] == "only"
    assert optional["attempts"][0]["programs"]["slow"]["error"].startswith("the verifier was still at work after 2 s")
