"""Each program is attached at the hook that its section names, or the reason is said: never the nearest thing, never one that cannot run."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from kmatrix.matrix.kernel import Target
from tests.guest.conftest import Guest

TARGETS = ("5.4-x86_64", "5.10-x86_64", "6.1-arm64", "6.12-x86_64", "6.12-arm64")


@pytest.mark.parametrize("name", TARGETS)
def test_where_the_section_says(name: str, boot: Callable[[str], Guest], compiled: Callable[[str, Target], bytes]) -> None:
    guest = boot(name)
    version = guest.target.kernel.version
    report = guest.call("object", name="attach", data=base64.b64encode(compiled("attach", guest.target)).decode())
    programs: dict[str, Any] = report["programs"]

    def shown(program: str, since: tuple[int, int], via: str, words: str = "") -> None:
        found = programs[program]
        if version >= since:
            assert found["error"] is None, (program, found)
            assert re.fullmatch(via, found["via"]), (program, found)
        else:
            assert not found["attached"], (program, found)
            assert words in found["error"], (program, found)

    shown("tcx_in", (6, 6), "tcx_ingress link", "attach type tcx_ingress, since 6.6")
    shown("tcx_out", (6, 6), "tcx_egress link", "attach type tcx_egress, since 6.6")
    shown("kit_primary", (6, 7), "netkit_primary link", "attach type netkit_primary, since 6.7")
    shown("kit_peer", (6, 7), "netkit_peer link", "attach type netkit_peer, since 6.7")
    for name_of_clsact in ("clsact", "clsact_in", "clsact_out"):  # libbpf gives the two last the attach types of tcx
        shown(name_of_clsact, (4, 14), "tc")
    shown("sampled", (4, 14), r"perf_event, a software clock on \d CPUs?")
    shown("on_xdp", (4, 14), "link|netlink")
    shown("lookup", (5, 9), "sk_lookup link")
    shown("dissect", (4, 20), "flow_dissector link" if version >= (5, 8) else "netns")
    shown("filter", (6, 4), "netfilter link")
    shown("reuseport", (4, 19), "reuseport socket")
    if version >= (5, 10):  # older ones are built here without CONFIG_BPF_STREAM_PARSER
        shown("message", (4, 17), "sockmap")
        shown("verdict", (4, 14), "sockmap")
    shown("tasks", (5, 8), r"iterator, [1-9]\d* lines read, the first 'task'")
    if version >= (5, 9):  # the type is older, the expected attach type is not (fbee97feed9b)
        assert programs["in_devmap"]["loaded"]
        assert programs["in_devmap"]["attached"] is None
    for _ in range(50):  # the kernel frees the maps of programs some grace periods later
        after = guest.call("cell", collector="none", min_kernel=[99, 0], variants=[], objects={})["kernel"]["before"]
        if not (after["maps"] or after["programs"]):
            break
        time.sleep(0.1)
    assert after["programs"] == after["maps"] == after["links"] == []


def test_what_the_kernel_attaches_and_never_runs(boot: Callable[[str], Guest], compiled: Callable[[str, Target], bytes]) -> None:
    """Debian's 5.10 has BPF_LSM, and no bpf in its list of LSMs."""
    old, new = boot("5.10-x86_64"), boot("6.12-x86_64")
    data = base64.b64encode(compiled("attach", old.target)).decode()
    said = old.call("object", name="attach", data=data, programs=["lsm"])["programs"]["lsm"]
    assert said["loaded"]
    assert not said["attached"]
    assert said["error"].startswith("bpf is not in this kernel's list of LSMs")
    assert new.call("object", name="attach", data=data, programs=["lsm"])["programs"]["lsm"]["attached"]
