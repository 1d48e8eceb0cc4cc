"""Section names that libbpf 1.x does not take are understood by what they begin with."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from kmatrix.guest import sections
from kmatrix.matrix.kernel import Target
from tests.guest.conftest import Guest

ASK_LIBBPF = """
import ctypes, sys
sys.path.insert(0, "/run/kmatrix/agent.zip")
from kmatrix_guest import libbpf
data = open("/tmp/object", "rb").read()
opened = libbpf.object_open_mem(data, len(data), None)
for program in libbpf.each(libbpf.next_program, opened):
    print(libbpf.program_section(program).decode(), libbpf.program_type(program))
"""


@pytest.mark.parametrize("name", ["5.10-x86_64", "6.12-arm64"])
def test_what_other_loaders_take(name: str, boot: Callable[[str], Guest], compiled: Callable[[str, Target], bytes]) -> None:
    guest = boot(name)
    data = compiled("sections", guest.target)
    guest.vm.put("/tmp/object", data)
    types = dict(line.split() for line in guest.vm.run(["python3", "-c", ASK_LIBBPF]).stdout.splitlines())
    assert types == dict.fromkeys(("socket1", "classifier/egress", "cgroup/skb/egress", "kprobe_do_exit", "mine"), "0")
    programs = guest.call("object", name="sections", data=base64.b64encode(data).decode())["programs"]
    assert programs["numbered"]["via"] == "socket"
    assert programs["outwards"]["hook"] == "clsact egress of interface lo"
    assert "cgroup_inet_egress" in programs["leaving"]["hook"]
    assert programs["underscored"]["loaded"]
    assert programs["underscored"]["attached"] is None
    assert programs["underscored"]["note"] == "its section names no function: kprobe/FUNCTION"
    assert not programs["unknown"]["loaded"]
    assert "missing BPF prog type" in programs["unknown"]["error"]


def test_a_name_of_libbpfs_own_is_left_to_it() -> None:
    for name in ("socket", "?kprobe/do_exit", "tp/sched/sched_switch", "uprobe.multi.s/libc.so.6:getpid", "xdp.frags", "fentry"):
        assert sections.taken(name), name
    for name in ("socket1", "classifier/egress", "xdp_main", "sockops/x", "kprobe_x"):
        assert not sections.taken(name), name
        assert sections.meant(name) is not None, name
    for name in ("license", ".maps", "mine"):
        assert sections.meant(name) is None, name
    assert sections.advice("classifier/egress") == 'write SEC("tc/egress")'
    assert sections.advice("kprobe_do_exit") == 'write SEC("kprobe/do_exit")'
    assert sections.advice("socket1") == 'write SEC("socket")'
