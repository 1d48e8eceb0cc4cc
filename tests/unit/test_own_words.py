"""What the guest's loader and kernels say of hooks, as it came from booted guests, and the cause that it has."""

from __future__ import annotations

import pytest

from kmatrix.verdict.diagnosis.cause import Failing
from kmatrix.verdict.diagnosis.explain import diagnose

LOAD = "prog 'p': BPF program load failed: Invalid argument"

SAID = {
    "6.12: the limit": (
        "the verifier was still at work after 5 s; its last state was 6: (07) r2 += 1 ; R2_w=4681",
        "",
        "verifier-timeout",
        "the verifier was still at work after 5 s",
    ),
    "6.12: fentry.s": (
        LOAD,
        "bpf_lsm_file_open is not sleepable\nprocessed 0 insns",
        "sleepable",
        "",
    ),
    "6.12: fmod_ret": (LOAD, "__x64_sys_getpgid() is not modifiable\n", "symbol", "__x64_sys_getpgid() may not be modified"),
    "6.12: a uprobe": (
        "its binary /opt/agent is not in the guest",
        "",
        "file",
        "the binary /opt/agent, which its section names, is not in the guest",
    ),
    "6.12: a USDT probe": (
        "usdt: no USDT notes section (.note.stapsdt) found in '/lib/x86_64-linux-gnu/libc.so.6'",
        "",
        "file",
        "there is no USDT probe in /lib/x86_64-linux-gnu/libc.so.6",
    ),
    "5.10: an extension": (
        "prog 'without_target': no other program of this object has a function of_another_object to replace",
        "",
        "target",
        "of_another_object() is a function of another object's program",
    ),
    "6.12: sched_ext": (
        "struct_ops init_kern: struct sched_ext_ops is not found in kernel BTF",
        "",
        "struct-ops",
        "the kernel does not have this set of operations",
    ),
    "5.4: a route": (
        "this kernel takes no route with such a program: it needs CONFIG_LWTUNNEL_BPF (Operation not supported)",
        "",
        "config",
        "route with such a program: it needs CONFIG_LWTUNNEL_BPF, which this kernel was built without",
    ),
    "6.1: forms": (
        "no form of one_of can run here: a: no tracepoint block_io_start in the kernel's BTF; b: no fentry on this kernel",
        "",
        "one-of",
        "no form of one_of can run here: a: no tracepoint",
    ),
    "6.1: a library of the other arch": (
        "elf: failed to open /usr/lib/x86_64-linux-gnu/libc.so.6: No such file or directory",
        "",
        "file",
        "/usr/lib/x86_64-linux-gnu/libc.so.6, which is to be probed, is not in the guest",
    ),
    "6.12: tcx": (
        "this kernel has tcx_ingress links and refuses this one (Invalid argument)",
        "",
        "refused",
        "this kernel has tcx_ingress links",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_the_cause(name: str) -> None:
    error, log, kind, what = SAID[name]
    found = diagnose(Failing(stage="load", error=error, version=(6, 12), arch="x86_64", errno=22, log=log))
    assert found is not None
    assert found.kind == kind
    assert found.what.startswith(what)


def test_the_place_of_an_interrupted_verifier() -> None:
    log = "; sum += step;\n6: (07) r2 += 1"
    found = diagnose(Failing(stage="load", error=SAID["6.12: the limit"][0], version=(6, 12), arch="x86_64", errno=11, log=log))
    assert found is not None
    assert found.where == "sum += step;; its last state was 6: (07) r2 += 1 ; R2_w=4681"


def test_what_older_kernels_lack() -> None:
    def said(stage: str, section: str, version: tuple[int, int], attach_type: int, error: str = LOAD, **more: str) -> str | None:
        wants = {"type": more.pop("type", "kprobe"), "attach_type": attach_type}
        found = diagnose(Failing(stage, error, version, "x86_64", 22, section=section, wants=wants, **more))
        return found.headline() if found is not None else None

    assert said("load", "uprobe.s/libc.so.6:getpid", (5, 10), 0) == "sleepable uprobes (a section with .s), since 6.0"
    multi = "prog 'program': failed to attach multi-uprobe: Invalid argument"
    assert said("attach", "uprobe.multi/libc.so.6:getpid", (5, 10), 48, multi) == "link uprobe_multi, since 6.6"
    assert (
        said("attach", "sk_skb/verdict", (5, 10), 38, "attach: Invalid argument", type="sk_skb")
        == "attach type sk_skb_verdict, since 5.13"
    )
    frags = "XDP programs for packets in several buffers (xdp.frags), since 5.18"
    assert said("load", "xdp.frags", (5, 4), 37, type="xdp") == frags
    assert said("map", "", (5, 10), 0, map_type="struct_ops") == (
        "a structure that is registered by a link (.struct_ops.link), since 6.4"
    )


def test_an_extension_on_arm64() -> None:
    def said(version: tuple[int, int]) -> str | None:
        found = diagnose(Failing("attach", "attach: ENOTSUPP (not supported)", version, "arm64", 524, section="freplace/replaced"))
        return found.headline() if found is not None else None

    assert said((5, 10)) == "no freplace programs on arm64 before 6.0"
    assert said((6, 1)) is None
