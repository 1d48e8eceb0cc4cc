"""What the agent does before it says hello: everything that is slow the first time, and what makes the guest quicker.

A snapshot is taken after the hello, so none of this costs a cell anything. What fails here fails again, visibly, when it is asked for.
"""

from __future__ import annotations

import gc
import os
import resource
import struct
from contextlib import nullcontext, suppress

from . import bpf, libbpf, limit, loader, netdev, simulate, surroundings, trigger
from .observe import RUNS_ARE_COUNTED, Stream, inventory, settled

NOTHING_HOOK = "tracepoint/syscalls/sys_enter_openat"
_READ_NOTHING = bpf.insn(0xBF, 1, 10) + bpf.insn(7, 1, imm=-8) + bpf.insn(0xB7, 2, imm=8) + bpf.insn(0xB7, 3) + bpf.call(113)
"""bpf_probe_read_kernel(fp - 8, 8, NULL)"""
_BTF_OF_AN_INT = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 16, 16, 5) + struct.pack("<IIII", 1, 1 << 24, 4, 32) + b"\0int\0"


def warm_up() -> None:
    """Do it all."""
    steps = (
        surroundings.apply,
        _lift_limits,
        _expedite,
        _count_runs,
        limit.prepare,
        trigger.prepare,
        libbpf.keep_memory,
        libbpf.keep_spare,
        rehearse,
        simulate.prepare,
        _load_modules,
        netdev.make_namespace,
    )
    for step in steps:
        with suppress(Exception):
            step()
    # What is alive now stays alive: the garbage collector need not look at it again.
    gc.collect()
    gc.freeze()


def make_ready() -> None:
    """What a real machine needs: no more than what the results rest on. The supervisor takes back what is set for the whole machine."""
    for step in (_lift_limits, _count_runs, limit.prepare):
        with suppress(Exception):
            step()


def _load_modules() -> None:
    """What a veth pair needs, where it is a module: loading it takes longer than making the pair."""
    if os.path.isdir(f"/lib/modules/{os.uname().release}"):
        os.spawnv(os.P_WAIT, "/sbin/modprobe", ["modprobe", "-q", "veth"])


def _lift_limits() -> None:
    """BPF memory counts against RLIMIT_MEMLOCK before 5.11, and the default is 64 KiB."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _expedite() -> None:
    """Attaching, detaching and moving between cgroups wait for RCU grace periods, 20–30 ms each on a preemptible kernel.

    Expedited ones end as soon as the one CPU passes through the scheduler; what a program sees does not change.
    """
    with open("/sys/kernel/rcu_expedited", "w") as file:
        file.write("1")


def _count_runs() -> None:
    """Have the kernel count how often each program runs: a hook that never fires is seen. A few ns a run, from 5.1 on."""
    with open(RUNS_ARE_COUNTED, "w") as file:
        file.write("1")


def rehearse() -> None:
    """Everything a cell does, on a program that does nothing: what is read from disk, mapped and cached then stays so."""
    before = simulate.outside(inventory)
    variant = {"name": "warm-up", "programs": [{"name": "nothing", "hook": NOTHING_HOOK}]}
    running = loader.Attempt(variant, nothing(), lambda _: nullcontext()).run()
    if running is not None:
        running.stop()
    for kind, size in (("ringbuf", (0, 0, os.sysconf("SC_PAGESIZE"))), ("perf_event_array", (4, 4, 1))):
        with suppress(OSError, libbpf.LibbpfError):
            fd = bpf.map_create(bpf.MAP_TYPES.index(kind), *size)
            stream = Stream.of(kind, fd, lambda _: None)
            if stream is not None:
                stream.poll(0)
                stream.close()
            os.close(fd)
    simulate.outside(lambda: settled(before))


def nothing() -> bytes:
    """A whole object whose one program, `nothing`, returns 0 at NOTHING_HOOK.

    It has BTF and calls a helper that libbpf replaces on old kernels, because libbpf asks the kernel a dozen questions before it loads such
    an object: once.
    """
    hook, code, license_ = NOTHING_HOOK.encode(), _READ_NOTHING + bpf.RETURN_0, b"GPL\0"
    names = b"\0.strtab\0.symtab\0license\0.BTF\0nothing\0" + hook + b"\0"
    # The function is the only symbol: name, FUNC and GLOBAL, its section (3), offset, size.
    symbols = bytes(24) + struct.pack("<IBBHQQ", names.index(b"nothing"), 0x12, 0, 3, 0, len(code))
    sections = [  # (name, sh_type, sh_flags, content, sh_link, sh_info, sh_entsize); 3 = STRTAB, 2 = SYMTAB, 1 = PROGBITS
        (b".strtab", 3, 0, names, 0, 0, 0),
        (b".symtab", 2, 0, symbols, 1, 1, 24),
        (hook, 1, 0x6, code, 0, 0, 0),
        (b"license", 1, 0x3, license_, 0, 0, 0),
        (b".BTF", 1, 0, _BTF_OF_AN_INT, 0, 0, 0),
    ]
    body, table = b"", bytes(64)
    for name, kind, flags, content, link, info, size in sections:
        at = 64 + len(body)
        table += struct.pack("<IIQQQQIIQQ", names.index(name), kind, flags, 0, at, len(content), link, info, 8, size)
        body += content.ljust(-(-len(content) // 8) * 8, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 1, 247, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(sections) + 1, 1)  # 247 = EM_BPF
    return b"\x7fELF\2\1\1".ljust(16, b"\0") + header + body + table
