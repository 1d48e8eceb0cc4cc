"""What the running kernel can do: one small function a feature, each by trying it out.

The names are those of kmatrix.matrix.features. A probe returns (True | False | None, why): None where the guest cannot tell. Its docstring
says how it finds out and where the fact comes from. No probe leaves anything in the kernel.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from ctypes import addressof, byref, create_string_buffer, sizeof
from typing import Any

from . import bpf, confine, libbpf, surroundings
from .cgroup import cgroup_root
from .probing import HARMLESS, INT, SYMBOL, Answer, Kernel, load_btf, words_of, writable

Probe = Callable[[Kernel], Answer]

# enum bpf_prog_type, enum bpf_map_type, enum bpf_attach_type, helper numbers (include/uapi/linux/bpf.h)
SOCKET_FILTER, KPROBE, SCHED_CLS, TRACEPOINT, RAW_TRACEPOINT, TRACING, LSM = 1, 2, 3, 5, 17, 26, 29
ARRAY, PERF_EVENT_ARRAY, RINGBUF, TASK_STORAGE = 2, 4, 27, 29
TRACE_FENTRY, LSM_MAC, PERF_EVENT, KPROBE_MULTI = 24, 27, 41, 42
PROBE_READ, GET_CURRENT_CGROUP_ID, PROBE_READ_KERNEL, GET_CURRENT_TASK_BTF = 4, 80, 113, 158


@contextmanager
def _loaded(*args: Any, **options: Any) -> Iterator[int]:
    fd = bpf.prog_load(*args, **options)
    try:
        yield fd
    finally:
        os.close(fd)


def _loads(kind: int, insns: bytes, **options: Any) -> Answer:
    try:
        with _loaded(kind, insns, **options):
            return True, "loads"
    except OSError as error:
        return False, words_of(error)


def _map(kind: int, key: int, value: int, entries: int) -> Answer:
    try:
        os.close(bpf.map_create(kind, key, value, entries))
    except OSError as error:
        return False, words_of(error)
    return True, "the map is created"


# -- the probes --------------------------------------------------------------------------------------------------------------


def btf(kernel: Kernel) -> Answer:
    """libbpf finds and parses the kernel's BTF. In /sys/kernel/btf since 341dfcf8d78e (5.4); libbpf also looks for a vmlinux on disk."""
    if kernel.btf is None:
        return False, kernel.btf_why or "no /sys/kernel/btf/vmlinux"
    return True, f"{libbpf.btf_type_cnt(kernel.btf)} types"


def ringbuf(_: Kernel) -> Answer:
    """Create a ring buffer of one page. 457f44363a88 (5.8); the size is a multiple of the page, which is up to 64 KiB on arm64."""
    return _map(RINGBUF, 0, 0, os.sysconf("SC_PAGESIZE"))


def perf_buffer(_: Kernel) -> Answer:
    """Create a perf event array and a perf event to put into it. a43eec304259 (4.4); needs PERF_EVENTS."""
    try:
        os.close(bpf.map_create(PERF_EVENT_ARRAY, 4, 4, 1))
        os.close(bpf.perf_event_open(1, 10, sample_type=1 << 10))  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_BPF_OUTPUT, PERF_SAMPLE_RAW
    except OSError as error:
        return False, words_of(error)
    return True, "map and event are created"


def cgroup_v2(_: Kernel) -> Answer:
    """A hierarchy of version 2 is mounted: what a host with version 1 alone lacks, whatever its kernel could. 67e9c74b8a87 (4.5)."""
    root = cgroup_root()
    return root is not None, f"mounted on {root}" if root is not None else "not in /proc/self/mounts"


def global_data(_: Kernel) -> Answer:
    """Load a program that takes an array's value by address. d8eca5bbb2be (5.2)."""
    try:
        array = bpf.map_create(ARRAY, 4, 32, 1)
    except OSError as error:
        return False, words_of(error)
    try:
        value_address = bpf.insn(0x18, dst=1, src=2, imm=array) + bpf.insn(0)  # ldimm64 r1, BPF_PSEUDO_MAP_VALUE
        return _loads(SOCKET_FILTER, value_address + bpf.RETURN_0)
    finally:
        os.close(array)


def prog_names(_: Kernel) -> Answer:
    """Load a program with a name and read it back. cb4d2b3f03d8 (4.15)."""
    try:
        with _loaded(SOCKET_FILTER, bpf.RETURN_0, name="kmatrix") as fd:
            name = bpf.prog_info(fd).name
    except OSError as error:
        return False, words_of(error)
    return name == "kmatrix", f"the name reads back as {name!r}"


def bpf2bpf(_: Kernel) -> Answer:
    """Load a program that calls another. cc8b0b92a169 (4.16)."""
    call = bpf.insn(0x85, src=1, imm=1)  # BPF_PSEUDO_CALL of the instruction after the next
    return _loads(SOCKET_FILTER, call + bpf.EXIT + bpf.RETURN_0)


def bounded_loops(_: Kernel) -> Answer:
    """Load a program that counts to four with a jump back. 2589726d12a1 (5.3)."""
    loop = bpf.MOV_R0_0 + bpf.insn(0x07, imm=1) + bpf.insn(0xA5, imm=4, off=-2)  # r0 += 1; if r0 < 4 goto the addition
    return _loads(SOCKET_FILTER, loop + bpf.EXIT)


def insns_1m(_: Kernel) -> Answer:
    """Load a program of 4097 instructions. c04c0d2b968a (5.2; 4096 before)."""
    return _loads(SOCKET_FILTER, bpf.MOV_R0_0 * 4096 + bpf.EXIT)


def raw_tracepoint(_: Kernel) -> Answer:
    """Load a raw tracepoint program and attach it to sched_process_exit. c4f6699dfcb8 (4.17)."""
    try:
        with _loaded(RAW_TRACEPOINT, bpf.RETURN_0) as fd:
            os.close(bpf.raw_tracepoint_open(fd, b"sched_process_exit"))
    except OSError as error:
        return False, words_of(error)
    return True, "loads and attaches"


def _attaches_by_btf(kernel: Kernel, kind: int, attach_type: int, function: str) -> Answer:
    try:
        ident = kernel.btf_id(function)
        with _loaded(kind, bpf.RETURN_0, expected_attach_type=attach_type, attach_btf_id=ident) as fd:
            os.close(bpf.raw_tracepoint_open(fd))
    except OSError as error:
        return False, words_of(error)
    return True, f"attaches to {function}"


def fentry(kernel: Kernel) -> Answer:
    """Attach an fentry program, for loading proves nothing.

    fec56f5890d9 (5.5) on x86_64. On arm64 the JIT side came with efc9909fdce0 (6.0) and the ftrace side with 2aa6ac03516d (6.4): between
    them, and before, attaching answers ENOTSUPP.
    """
    return _attaches_by_btf(kernel, TRACING, TRACE_FENTRY, HARMLESS)


def lsm(kernel: Kernel) -> Answer:
    """Attach an LSM program to file_mprotect, where bpf is among the active LSMs (else it would never run).

    fc611f47f218 (5.7) on x86_64; on arm64 with 2aa6ac03516d (6.4), as fentry.
    """
    active = confine.outside(surroundings.lsms)
    if "bpf" not in active:
        return False, f"bpf is not among the active LSMs ({', '.join(active) or 'unknown'})"
    return _attaches_by_btf(kernel, LSM, LSM_MAC, "bpf_lsm_file_mprotect")


def task_storage(_: Kernel) -> Answer:
    """libbpf's probe of the map type (it needs BTF for key and value). 4cf1bc1f1045 (5.11)."""
    with libbpf.said():
        found: int = libbpf.probe_map_type(TASK_STORAGE, None)
    return found == 1, "the map is created" if found == 1 else "the map is not created"


def _helper(number: int) -> Answer:
    return _loads(
        TRACEPOINT, bpf.insn(0xB7, dst=1) + bpf.insn(0xB7, dst=2) + bpf.insn(0xB7, dst=3) + bpf.call(number) + bpf.RETURN_0
    )


def cgroup_id_helper(_: Kernel) -> Answer:
    """Load a tracepoint program that calls helper 80. bf6fa2c893c5 (4.18)."""
    return _helper(GET_CURRENT_CGROUP_ID)


def probe_read_kernel(_: Kernel) -> Answer:
    """Load a tracepoint program that calls helper 113, with its buffer on the stack. 6ae08ae3dea2 (5.5)."""
    frame = bpf.insn(0xBF, dst=1, src=10) + bpf.insn(0x07, dst=1, imm=-8)  # r1 = r10 - 8
    arguments = bpf.insn(0xB7, dst=2, imm=8) + bpf.insn(0xB7, dst=3)  # 8 bytes from address 0
    return _loads(TRACEPOINT, frame + arguments + bpf.call(PROBE_READ_KERNEL) + bpf.RETURN_0)


def probe_read(_: Kernel) -> Answer:
    """Load a tracepoint program that calls helper 4, with its buffer on the stack. 2541517c32be (4.1); lockdown takes it (9d1f8be5cf42, 5.4)."""
    frame = bpf.insn(0xBF, dst=1, src=10) + bpf.insn(0x07, dst=1, imm=-8)
    arguments = bpf.insn(0xB7, dst=2, imm=8) + bpf.insn(0xB7, dst=3)
    return _loads(TRACEPOINT, frame + arguments + bpf.call(PROBE_READ) + bpf.RETURN_0)


def current_task_btf(_: Kernel) -> Answer:
    """Load a tracepoint program that calls helper 158. 3ca1032ab7ab (5.11)."""
    return _helper(GET_CURRENT_TASK_BTF)


def kprobes(kernel: Kernel) -> Answer:
    """Define a kprobe through tracefs and remove it. 2541517c32be (4.1); a kprobe program loads without KPROBES, so loading is no proof."""
    return _no_events() or writable(kernel, "kprobe_events", f"p:kmatrix/probe {SYMBOL}", "-:kmatrix/probe")


def uprobes(kernel: Kernel) -> Answer:
    """Define a uprobe on the running interpreter through tracefs and remove it. 04a22fae4cbc (4.3)."""
    program = os.path.realpath("/proc/self/exe")
    return _no_events() or writable(kernel, "uprobe_events", f"p:kmatrix/probe {program}:0x1000", "-:kmatrix/probe")


def kprobe_pmu(_: Kernel) -> Answer:
    """The kprobe PMU has a type number. e12f03d7031a (4.17)."""
    try:
        with open("/sys/bus/event_source/devices/kprobe/type") as file:
            return True, f"type {file.read().strip()}"
    except OSError as error:
        return False, words_of(error)


def kprobe_multi(_: Kernel) -> Answer:
    """Attach one program to a list of one function. 0dcac2725406 (5.18); arm64: 4346ba160409 (6.14). Needs FPROBE."""
    symbol = create_string_buffer(SYMBOL.encode())
    symbols = create_string_buffer(struct.pack("=Q", addressof(symbol)))
    try:
        with _loaded(KPROBE, bpf.RETURN_0, expected_attach_type=KPROBE_MULTI) as fd:
            # link_create: prog_fd, target_fd, attach_type, flags, then kprobe_multi: flags, cnt, syms, addrs, cookies
            attr = struct.pack("=IIIIIIQQQ", fd, 0, KPROBE_MULTI, 0, 0, 1, addressof(symbols), 0, 0)
            os.close(bpf.bpf(bpf.LINK_CREATE, attr))
    except OSError as error:
        return False, words_of(error)
    return True, f"attaches to {SYMBOL}"


def syscall_tracepoints(kernel: Kernel) -> Answer:
    """The tracepoint of openat, which both arches have, has an id. 98b5c2c65c29 (4.7); needs FTRACE_SYSCALLS."""
    return _tracepoint(kernel, "syscalls/sys_enter_openat")


def tracepoints(kernel: Kernel) -> Answer:
    """The tracepoint of a process' start has an id, by which programs are attached. 98b5c2c65c29 (4.7); lockdown leaves tracefs empty (5.4)."""
    return _tracepoint(kernel, "sched/sched_process_exec")


def _tracepoint(kernel: Kernel, name: str) -> Answer:
    if kernel.tracefs is None:
        return False, "there is no tracefs with events in it that could be read"
    try:
        with open(f"{kernel.tracefs}/events/{name}/id") as file:
            ident = int(file.read())
    except OSError as error:
        return False, f"events/{name}/id: {words_of(error)}"
    return _no_events() or (True, f"events/{name} has id {ident}")


def _no_events() -> Answer | None:
    """That no perf event of a CPU may be opened, which attaching takes; None where one may (perf_event_open(2))."""
    try:
        os.close(bpf.perf_event_open(1, 10, sample_type=1 << 10))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            return False, f"a perf event cannot be opened: {words_of(error)}"
    return None


def _link_create(kind: int, attach_type: int) -> Answer:
    """BPF_LINK_CREATE of a loaded program on no target: EBADF from a kernel that got as far as the target."""
    try:
        with _loaded(kind, bpf.RETURN_0) as fd:
            bpf.bpf(bpf.LINK_CREATE, struct.pack("=IiII", fd, -1, attach_type, 0))
    except OSError as error:
        return error.errno == errno.EBADF, words_of(error)
    return None, "linked to nothing"


def bpf_link(_: Kernel) -> Answer:
    """Ask for a link with a program fd that is none: EBADF where the command is known. af6eea57437a (5.7)."""
    try:
        bpf.bpf(bpf.LINK_CREATE, struct.pack("=iiII", -1, -1, 0, 0))
    except OSError as error:
        return error.errno == errno.EBADF, words_of(error)
    return None, "linked nothing"


def perf_link(_: Kernel) -> Answer:
    """Ask for a link of a tracepoint program to a perf event that is none (as libbpf does). b89fbfbb854c (5.15)."""
    return _link_create(TRACEPOINT, PERF_EVENT)


def btf_load(_: Kernel) -> Answer:
    """Load a BTF object that describes int. 69b693f0aefa (4.18)."""
    try:
        os.close(load_btf(INT, b"\0int\0"))
    except OSError as error:
        return False, words_of(error)
    return True, "loads"


def btf_modules(kernel: Kernel) -> Answer:
    """A module's BTF is in /sys/kernel/btf, or the configuration says it would be. 36e68442d1af (5.11)."""
    with suppress(OSError):
        if modules := [name for name in os.listdir("/sys/kernel/btf") if name != "vmlinux"]:
            return True, f"{modules[0]} is in /sys/kernel/btf"
    if not os.path.isdir("/sys/kernel/btf"):
        return False, "no /sys/kernel/btf"
    if kernel.config is not None:
        value = kernel.config.get("DEBUG_INFO_BTF_MODULES")
        return value == "y", f"CONFIG_DEBUG_INFO_BTF_MODULES={value or 'n'}"
    with suppress(OSError), open("/proc/modules") as file:
        if file.read().strip():
            return False, "modules are loaded, none has BTF"
    return None, "no module is loaded and the configuration is not to be had"


def memcg_accounting(_: Kernel) -> Answer:
    """Create a map under RLIMIT_MEMLOCK 0: EPERM where BPF memory counts against it, root or not. 97306be45fbe (5.11)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, hard))
    try:
        os.close(bpf.map_create(ARRAY, 4, 4096, 16))
    except OSError as error:
        return False, words_of(error)
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    return True, "a map is created under RLIMIT_MEMLOCK 0"


def cgroup_v1(_: Kernel) -> Answer:
    """The v1 file system is there (controllers may still be bound to v2)."""
    with open("/proc/filesystems") as file:
        there = any(line.split()[-1] == "cgroup" for line in file)
    return there, "in /proc/filesystems" if there else "not in /proc/filesystems"


def tc_clsact(_: Kernel) -> Answer:
    """Attach a classifier to the loopback interface through clsact, and remove both. 1f211a1b929c (4.5)."""
    hook = libbpf.TcHook(sz=sizeof(libbpf.TcHook), ifindex=1, attach_point=1, parent=0)
    whole = libbpf.TcHook(sz=sizeof(libbpf.TcHook), ifindex=1, attach_point=3, parent=0)
    with ExitStack() as stack:
        stack.enter_context(libbpf.said())
        created: int = libbpf.tc_hook_create(byref(hook))
        if created < 0:
            return False, bpf.error_text(-created)
        stack.callback(libbpf.tc_hook_destroy, byref(whole))
        fd = stack.enter_context(_loaded(SCHED_CLS, bpf.RETURN_0))
        try:
            bpf.prog_info(fd)
        except OSError:
            return None, "libbpf asks for the program's BPF_OBJ_GET_INFO_BY_FD before it attaches, which is 4.13"
        attached: int = libbpf.tc_attach(byref(hook), byref(libbpf.TcOpts(sz=sizeof(libbpf.TcOpts), prog_fd=fd)))
        return attached == 0, "attaches to lo" if attached == 0 else bpf.error_text(-attached)


PROBES: Mapping[str, Probe] = {
    probe.__name__: probe
    for probe in (
        btf, ringbuf, cgroup_v2, perf_buffer, global_data, prog_names, bpf2bpf, bounded_loops, insns_1m, raw_tracepoint, lsm, fentry,
        task_storage, cgroup_id_helper, probe_read, probe_read_kernel, current_task_btf, kprobes, uprobes, kprobe_pmu, kprobe_multi,
        tracepoints, syscall_tracepoints, bpf_link, perf_link, btf_load, btf_modules, memcg_accounting, cgroup_v1, tc_clsact,
    )
}  # fmt: skip

CONFIG_OPTIONS = re.compile(
    r"BPF(_SYSCALL|_JIT|_JIT_ALWAYS_ON|_EVENTS|_LSM|_UNPRIV_DEFAULT_OFF)?|SECURITY_LOCKDOWN_LSM|CGROUPS|CGROUP_BPF|MEMCG(_V1)?|DEBUG_INFO_BTF(_MODULES)?|KPROBES|KPROBE_EVENTS|"
    r"UPROBE_EVENTS|FTRACE_SYSCALLS|FUNCTION_TRACER|DYNAMIC_FTRACE(_WITH_\w+)?|FPROBE|PERF_EVENTS|NET_(CLS|ACT)_BPF|NET_SCH_INGRESS|"
    r"XDP_SOCKETS|IKCONFIG_PROC|MODULES|LSM|PREEMPT_RT|ARM64_\d+K_PAGES|FHANDLE"
)
"""The options worth reporting."""


def probe_all() -> dict[str, Any]:
    """Every feature, why, and what the kernel says of itself. A probe that breaks answers None with the error as its reason."""
    kernel = Kernel()
    features: dict[str, bool | None] = {}
    why: dict[str, str] = {}
    seconds: dict[str, float] = {}
    try:
        for name, probe in PROBES.items():
            start = time.monotonic()
            try:
                features[name], why[name] = probe(kernel)
            except Exception as error:
                features[name], why[name] = None, f"the probe failed: {type(error).__name__}: {error}"
            seconds[name] = round(time.monotonic() - start, 4)
        config = kernel.config and {name: value for name, value in kernel.config.items() if CONFIG_OPTIONS.fullmatch(name)}
    finally:
        kernel.close()
    return {
        "features": features,
        "why": why,
        "release": kernel.release,
        "machine": os.uname().machine,
        "page_size": os.sysconf("SC_PAGESIZE"),
        "config": config,
        "seconds": seconds,
    }
