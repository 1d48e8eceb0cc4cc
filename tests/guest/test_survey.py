"""The op `object`: each program of an object by itself."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

from kmatrix.matrix.kernel import Target
from tests.guest.conftest import Guest


def test_one_bad_program_does_not_hide_the_rest(guest: Guest, compiled: Callable[[str, Target], bytes]) -> None:
    data = base64.b64encode(compiled("many", guest.target)).decode()
    report = guest.call("object", name="many", data=data)
    version = guest.target.kernel.version
    assert report["error"] is None
    assert report["together"] is False
    programs = report["programs"]
    shown = {name: (program["loaded"], program["attached"]) for name, program in programs.items()}
    ringbuf, raw = version >= (5, 8), version >= (4, 17)
    assert shown == {
        "good": (True, True),
        "follows_null": (False, False),
        "uses_ring": (ringbuf, ringbuf),
        "on_kprobe": (True, True),
        "on_kretprobe": (True, True),
        "on_missing_function": (True, False),
        "on_missing_tracepoint": (True, False),
        "on_raw_tracepoint": (raw, raw),
        "nowhere": (True, None),
        "on_socket": (True, True),
        "on_xdp": (True, True),
        "on_tc": (True, True),
        "on_cgroup": (True, True),
    }
    assert "invalid mem access" in programs["follows_null"]["log"]
    assert "No such file" in programs["on_missing_function"]["error"]
    assert programs["nowhere"]["error"] is None
    assert (report["maps"]["ring"]["error"] is None) is ringbuf
    if not ringbuf:
        assert "ring" in programs["uses_ring"]["log"]
    for _ in range(50):  # the kernel frees the maps of programs some grace periods later
        after = guest.call("cell", collector="none", min_kernel=[99, 0], variants=[], objects={})["kernel"]["before"]
        if not (after["maps"] or after["programs"]):
            break
        time.sleep(0.1)
    assert after["programs"] == after["maps"] == after["links"] == after["kprobe_events"] == []


def test_only_those_asked_for(boot: Callable[[str], Guest], compiled: Callable[[str, Target], bytes]) -> None:
    guest = boot("6.1-x86_64")
    data = base64.b64encode(compiled("many", guest.target)).decode()
    report = guest.call("object", name="many", data=data, programs=["good", "uses_ring"])
    assert report["together"] is True
    assert {name: program["via"] for name, program in report["programs"].items()} == {"good": "link", "uses_ring": "link"}


def test_not_an_object(boot: Callable[[str], Guest]) -> None:
    report = boot("6.1-x86_64").call("object", name="x", data=base64.b64encode(b"\x7fELFnonsense").decode())
    assert report["error"]["text"]
    assert report["programs"] == {}


def test_functions_that_the_kernel_has_not(boot: Callable[[str], Guest], compiled: Callable[[str, Target], bytes]) -> None:
    """One load tells of all of them, and each is told by its own name and its function's, also where the first is called as its function is."""
    guest = boot("6.12-x86_64")
    report = guest.call("object", name="absent", data=base64.b64encode(compiled("absent", guest.target)).decode())
    programs = report["programs"]
    assert programs["good"]["attached"]
    first = "kmatrix_no_such_function"
    for name, function in ((first, first), ("second", "kmatrix_no_such_either")):
        assert not programs[name]["loaded"]
        assert f"prog '{name}': failed to find kernel BTF type ID of '{function}'" in programs[name]["error"]
        assert programs[name]["errno"] == programs[first]["errno"]
