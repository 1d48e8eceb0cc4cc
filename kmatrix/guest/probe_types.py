"""Probes of types: maps, programs, and how programs are attached and linked.

Maps and programs are libbpf's own probes. An attach or link type is asked for with a target that cannot be: a kernel that knows it complains
of the target (EBADF, ENODEV, ENOENT), one that does not of the type (EINVAL). Where that tells nothing, the program is attached for a moment.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ctypes import addressof, create_string_buffer

from . import bpf, confine, libbpf
from .cgroup import cgroup_root
from .facts import FACTS
from .probing import HARMLESS, INT, SYMBOL, Answer, Kernel, load_btf, words_of

PROG_ATTACH, PROG_DETACH, MAP_UPDATE = 8, 9, 2
BTF_KIND_STRUCT, BTF_KIND_TYPEDEF = 4, 8
NOWHERE = 0x7FFFFFF0
"""An interface that there is not."""
RETURN_1 = bpf.insn(0xB7, imm=1) + bpf.EXIT


def map_type(here: Kernel, name: str) -> Answer:
    """Create such a map, by libbpf's probe; one of struct_ops by hand, since libbpf 1.5 asks older kernels for what 6.9 brought."""
    if name == "struct_ops":
        try:
            with ExitStack() as stack:
                return _struct_ops_map(here, 0, stack)
        except OSError as error:
            return False, words_of(error)
    there, said = _libbpf(libbpf.probe_map_type, FACTS["map"][name].number, "the map is created", "the map is not created")
    if there is None and name.endswith("_storage"):
        return False, "it takes BTF, and none can be loaded"
    return there, said


def prog_type(_: Kernel, name: str) -> Answer:
    """Load such a program, by libbpf's probe."""
    return _libbpf(libbpf.probe_prog_type, FACTS["prog"][name].number, "loads", "does not load")


def _libbpf(probe: libbpf.Function, number: int, yes: str, no: str) -> Answer:
    with libbpf.said():
        found: int = probe(number, None)
    if found < 0:
        return None, f"libbpf cannot tell: {bpf.error_text(-found)}"
    return found == 1, yes if found == 1 else no


def attach_type(here: Kernel, name: str) -> Answer:
    """Attach such a program for a moment, or ask to with a target that cannot be."""
    number = FACTS["attach"][name].number
    try:
        with ExitStack() as stack:
            return _ATTACH.get(number, _on_cgroup)(here, number, stack)
    except OSError as error:
        return False, words_of(error)


def link_type(here: Kernel, name: str) -> Answer:
    """Create such a link for a moment, or ask to with a target that cannot be."""
    try:
        with ExitStack() as stack:
            how, number = _LINKS[name]
            return how(here, number, stack)
    except OSError as error:
        return False, words_of(error)


Attach = Callable[[Kernel, int, ExitStack], Answer]


def _load(kind: int, expected: int, stack: ExitStack, code: bytes = bpf.RETURN_0, ident: int = 0) -> int:
    fd = bpf.prog_load(kind, code, expected_attach_type=expected, attach_btf_id=ident)
    stack.callback(os.close, fd)
    return fd


def _complains(error: OSError, *wanted: int) -> Answer:
    return error.errno in wanted, words_of(error)


# -- cgroups and sockets -----------------------------------------------------------------------------------------------------

_PROGRAM: Mapping[int, int] = {
    **dict.fromkeys((0, 1), 8), **dict.fromkeys((2, 12, 13, 34), 9), 3: 13, **dict.fromkeys((4, 5, 38), 14), 6: 15, 7: 16, 16: 20,
    **dict.fromkeys((8, 9, 10, 11, 14, 15, 19, 20, 29, 30, 31, 32, 49, 50, 51, 52, 53), 18), 17: 22, 18: 23, **dict.fromkeys((21, 22), 25),
}  # fmt: skip
"""Attach type → the type of the programs that it is for, of those that BPF_PROG_ATTACH takes."""
_MUST_RETURN_1 = frozenset({19, 20, *range(29, 33), *range(49, 54)})


def _on_cgroup(_: Kernel, number: int, stack: ExitStack) -> Answer:
    """Also on infrared devices: both are file descriptors, of which -1 is none."""
    expected = number if number > 7 else 0  # those before could not say
    prog = _load(_PROGRAM[number], expected, stack, RETURN_1 if number in _MUST_RETURN_1 else bpf.RETURN_0)
    try:
        bpf.bpf(PROG_ATTACH, struct.pack("=iIII", -1, prog, number, 0))
    except OSError as error:
        return _complains(error, errno.EBADF)
    return None, "attached to nothing"


def _on_sockmap(_: Kernel, number: int, stack: ExitStack) -> Answer:
    """On a map of sockets that has none; without the map a kernel takes the attach type, and to no purpose."""
    sockets = bpf.map_create(15, 4, 4, 1)
    stack.callback(os.close, sockets)
    prog = _load(_PROGRAM[number], number if number > 7 else 0, stack)
    bpf.bpf(PROG_ATTACH, struct.pack("=IIII", sockets, prog, number, 0))
    bpf.bpf(PROG_DETACH, struct.pack("=IIII", sockets, prog, number, 0))
    return True, "attaches to a map of sockets"


def _flow_dissector(_: Kernel, number: int, stack: ExitStack) -> Answer:
    """On this network namespace, and off again."""
    prog = _load(_PROGRAM[number], 0, stack)
    try:
        bpf.bpf(PROG_ATTACH, struct.pack("=IIII", 0, prog, number, 0))
    except OSError as error:
        return _complains(error, errno.EEXIST)
    bpf.bpf(PROG_DETACH, struct.pack("=IIII", 0, prog, number, 0))
    return True, "attaches to the network namespace"


def _reuseport(_: Kernel, number: int, stack: ExitStack) -> Answer:
    """A kernel that knows the two attach types of these programs refuses others; older ones take any."""
    _load(21, number, stack)
    try:
        _load(21, 1, stack)
    except OSError as error:
        return error.errno == errno.EINVAL, "this attach type is taken, and a wrong one is refused"
    return False, "any attach type is taken"


# -- tracing -----------------------------------------------------------------------------------------------------------------


def _by_btf(here: Kernel, number: int, stack: ExitStack) -> Answer:
    kind, function = _BTF_TARGETS[number]
    ident = here.btf_id(function, BTF_KIND_TYPEDEF) if function.startswith("btf_trace_") else here.btf_id(function)
    prog = _load(kind, number, stack, ident=ident)
    os.close(bpf.raw_tracepoint_open(prog))
    return True, f"attaches to {function}"


_BTF_TARGETS: Mapping[int, tuple[int, str]] = {
    23: (26, "btf_trace_sched_process_exit"),
    24: (26, HARMLESS),
    25: (26, HARMLESS),
    26: (26, "security_file_mprotect"),
    27: (29, "bpf_lsm_file_mprotect"),
}


def _iter(here: Kernel, number: int, stack: ExitStack) -> Answer:
    prog = _load(26, number, stack, ident=here.btf_id("bpf_iter_task"))
    os.close(bpf.link_create(prog, 0, number))
    return True, "attaches to tasks"


def _lsm_cgroup(here: Kernel, number: int, stack: ExitStack) -> Answer:
    root = cgroup_root()
    if root is None:
        return None, "cgroup v2 is not mounted"
    prog = _load(29, number, stack, RETURN_1, here.btf_id("bpf_lsm_socket_bind"))
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, folder)
    os.close(bpf.link_create(prog, folder, number))
    return True, f"attaches to {root}"


def _kprobe_multi(here: Kernel, number: int, stack: ExitStack) -> Answer:
    symbol = create_string_buffer(SYMBOL.encode())
    symbols = create_string_buffer(struct.pack("=Q", addressof(symbol)))
    prog = _probe_program(here, number, stack)
    os.close(bpf.link_create(prog, 0, number, struct.pack("=IIQQQ", 0, 1, addressof(symbols), 0, 0)))
    return True, f"attaches to {SYMBOL}"


def _uprobe_multi(here: Kernel, number: int, stack: ExitStack) -> Answer:
    path = create_string_buffer(b"/nonexistent")
    offsets = create_string_buffer(struct.pack("=Q", 0x1000))
    prog = _probe_program(here, number, stack)
    try:
        bpf.link_create(prog, 0, number, struct.pack("=QQQQIII", addressof(path), addressof(offsets), 0, 0, 1, 0, 0))
    except OSError as error:
        return _complains(error, errno.ENOENT)
    return None, "attached to a file that is not there"


def _probe_program(here: Kernel, number: int, stack: ExitStack) -> int:
    fd = bpf.prog_load(2, bpf.RETURN_0, expected_attach_type=number, kern_version=here.version_code)
    stack.callback(os.close, fd)
    return fd


def _linked_to_nothing(kind: int) -> Attach:
    """BPF_LINK_CREATE on fd -1."""

    def ask(_: Kernel, number: int, stack: ExitStack) -> Answer:
        prog = _load(kind, number if number == 36 else 0, stack)
        try:
            bpf.bpf(bpf.LINK_CREATE, struct.pack("=IiII", prog, -1, number, 0))
        except OSError as error:
            return _complains(error, errno.EBADF)
        return None, "linked to nothing"

    return ask


def _raw_tracepoint(_: Kernel, __: int, stack: ExitStack) -> Answer:
    prog = _load(17, 0, stack)
    return _is_link(bpf.raw_tracepoint_open(prog, b"sched_process_exit"), stack)


def _tracing_link(here: Kernel, number: int, stack: ExitStack) -> Answer:
    prog = _load(26, number, stack, ident=here.btf_id(HARMLESS))
    return _is_link(bpf.raw_tracepoint_open(prog), stack)


def _is_link(fd: int, stack: ExitStack) -> Answer:
    """Whether what was attached is a link that others can find."""
    stack.callback(os.close, fd)
    found = bpf.link_info(fd)
    os.close(confine.outside(lambda: bpf.bpf(bpf.LINK_GET_FD_BY_ID, struct.pack("=III", found.id, 0, 0))))
    return True, f"link {found.id} is of type {found.type}"


# -- devices -----------------------------------------------------------------------------------------------------------------


def _xdp(_: Kernel, number: int, stack: ExitStack) -> Answer:
    """On the loopback interface, in generic mode."""
    prog = _load(6, number, stack, bpf.insn(0xB7, imm=2) + bpf.EXIT)  # XDP_PASS
    os.close(bpf.bpf(bpf.LINK_CREATE, struct.pack("=IIII", prog, 1, number, 2)))
    return True, "attaches to lo"


def _in_map(map_kind: int, first_word: int) -> Attach:
    """A program in an entry of a map of devices or CPUs."""

    def ask(_: Kernel, number: int, stack: ExitStack) -> Answer:
        prog = _load(6, number, stack, bpf.insn(0xB7, imm=2) + bpf.EXIT)
        fd = bpf.map_create(map_kind, 4, 8, 1)
        stack.callback(os.close, fd)
        key, value = create_string_buffer(struct.pack("=I", 0)), create_string_buffer(struct.pack("=Ii", first_word, prog))
        bpf.bpf(MAP_UPDATE, struct.pack("=IIQQQ", fd, 0, addressof(key), addressof(value), 0))
        return True, "an entry of the map takes the program"

    return ask


def _on_device(_: Kernel, number: int, stack: ExitStack) -> Answer:
    """tcx and netkit, on an interface that there is not."""
    prog = _load(3, number, stack)
    try:
        bpf.link_create(prog, NOWHERE, number, struct.pack("=IIQ", 0, 0, 0))
    except OSError as error:
        return _complains(error, errno.ENODEV)
    return None, "attached to no interface"


def _netfilter(_: Kernel, number: int, stack: ExitStack) -> Answer:
    """On IPv4's output, before connection tracking."""
    prog = _load(32, number, stack, RETURN_1)
    os.close(bpf.link_create(prog, 0, number, struct.pack("=IIiI", 2, 3, -300, 0)))
    return True, "attaches to IPv4's output"


def _struct_ops(here: Kernel, _: int, stack: ExitStack) -> Answer:
    """A map that says it will be linked (BPF_F_LINK)."""
    return _struct_ops_map(here, 1 << 13, stack)


def _struct_ops_map(here: Kernel, flags: int, stack: ExitStack) -> Answer:
    """A map of a congestion control's functions."""
    ident, size = here.struct("bpf_struct_ops_tcp_congestion_ops")
    btf = load_btf(INT, b"\0int\0")  # the kernel wants one, whatever is in it
    stack.callback(os.close, btf)
    attr = struct.pack("=IIIIIII16sIIIII", 26, 4, size, 1, flags, 0, 0, b"", 0, btf, 0, 0, ident)
    stack.callback(os.close, bpf.bpf(bpf.MAP_CREATE, attr))
    return True, "the map is created"


_ATTACH: Mapping[int, Attach] = {
    **dict.fromkeys((4, 5, 7, 38), _on_sockmap),
    17: _flow_dissector,
    **dict.fromkeys(_BTF_TARGETS, _by_btf),
    28: _iter,
    33: _in_map(14, 1),
    35: _in_map(16, 64),
    36: _linked_to_nothing(30),
    37: _xdp,
    **dict.fromkeys((39, 40), _reuseport),
    41: _linked_to_nothing(5),
    **dict.fromkeys((42, 56), _kprobe_multi),
    43: _lsm_cgroup,
    44: _struct_ops,
    45: _netfilter,
    **dict.fromkeys((46, 47, 54, 55), _on_device),
    **dict.fromkeys((48, 57), _uprobe_multi),
}
"""By attach type; the others are those of cgroups and infrared devices."""

_LINKS: Mapping[str, tuple[Attach, int]] = {
    "raw_tracepoint": (_raw_tracepoint, 0),
    "tracing": (_tracing_link, 24),
    "cgroup": (_linked_to_nothing(8), 0),
    "iter": (_iter, 28),
    "netns": (_linked_to_nothing(22), 17),
    "xdp": (_xdp, 37),
    "perf_event": (_linked_to_nothing(5), 41),
    "kprobe_multi": (_kprobe_multi, 42),
    "struct_ops": (_struct_ops, 44),
    "netfilter": (_netfilter, 45),
    "tcx": (_on_device, 46),
    "uprobe_multi": (_uprobe_multi, 48),
    "netkit": (_on_device, 54),
    "sockmap": (_linked_to_nothing(16), 7),
}
