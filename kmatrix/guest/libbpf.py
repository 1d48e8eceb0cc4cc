"""libbpf by ctypes: the reference loader, as the guest's distribution ships it (1.1 or newer).

Only what kmatrix calls is declared. Failures raise LibbpfError with libbpf's errno. What libbpf says it says in C, on stderr, where
`said` collects it: a Python callback would be entered for every debug line and formats nothing faster.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

from .bpf import error_text

Function = Callable[..., Any]


class LibbpfError(Exception):
    """A libbpf call failed."""

    def __init__(self, call: str, errno: int) -> None:
        self.call = call
        self.errno = errno
        super().__init__(f"{call}: {_text(errno)}")


class OpenOpts(ctypes.Structure):
    """struct bpf_object_open_opts (libbpf 1.0; libbpf takes a shorter one than its own)."""

    _fields_ = (
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_bool),
        ("pin_root_path", c_char_p),
        ("unused", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
        ("kernel_log_buf", c_void_p),
        ("kernel_log_size", c_size_t),
        ("kernel_log_level", c_uint32),
    )


class TcHook(ctypes.Structure):
    """struct bpf_tc_hook."""

    _fields_ = (("sz", c_size_t), ("ifindex", c_int), ("attach_point", c_int), ("parent", c_uint32))


class TcOpts(ctypes.Structure):
    """struct bpf_tc_opts."""

    _fields_ = (
        ("sz", c_size_t),
        ("prog_fd", c_int),
        ("flags", c_uint32),
        ("prog_id", c_uint32),
        ("handle", c_uint32),
        ("priority", c_uint32),
    )


class KsyscallOpts(ctypes.Structure):
    """struct bpf_ksyscall_opts."""

    _fields_ = (("sz", c_size_t), ("bpf_cookie", c_uint64), ("retprobe", c_bool))


class UprobeOpts(ctypes.Structure):
    """struct bpf_uprobe_opts (libbpf 1.0)."""

    _fields_ = (
        ("sz", c_size_t),
        ("ref_ctr_offset", c_size_t),
        ("bpf_cookie", c_uint64),
        ("retprobe", c_bool),
        ("func_name", c_char_p),
    )


SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
"""ring_buffer_sample_fn(ctx, data, size)."""
PERF_SAMPLE = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_void_p, c_uint32)
"""perf_buffer_sample_fn(ctx, cpu, data, size)."""
PERF_LOST = ctypes.CFUNCTYPE(None, c_void_p, c_int, ctypes.c_uint64)
"""perf_buffer_lost_fn(ctx, cpu, count)."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8  # <malloc.h>

_lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
_declared: list[Function] = []


def _declare(name: str, result: Any, *arguments: Any) -> Function:
    function = getattr(_lib, name)
    function.restype = result
    function.argtypes = arguments
    _declared.append(function)
    return function  # type: ignore[no-any-return]


version_string: Function = _declare("libbpf_version_string", c_char_p)
_strerror = _declare("libbpf_strerror", c_int, c_int, c_char_p, c_size_t)
probe_map_type = _declare("libbpf_probe_bpf_map_type", c_int, c_int, c_void_p)
probe_prog_type = _declare("libbpf_probe_bpf_prog_type", c_int, c_int, c_void_p)

btf_load_vmlinux = _declare("btf__load_vmlinux_btf", c_void_p)
btf_free = _declare("btf__free", None, c_void_p)
btf_find_by_name_kind = _declare("btf__find_by_name_kind", c_int, c_void_p, c_char_p, c_uint32)
btf_type_by_id = _declare("btf__type_by_id", c_void_p, c_void_p, c_uint32)
btf_name_by_offset = _declare("btf__name_by_offset", c_char_p, c_void_p, c_uint32)
btf_type_cnt = _declare("btf__type_cnt", c_uint32, c_void_p)

object_open_mem = _declare("bpf_object__open_mem", c_void_p, c_char_p, c_size_t, POINTER(OpenOpts))
object_btf = _declare("bpf_object__btf", c_void_p, c_void_p)
object_load = _declare("bpf_object__load", c_int, c_void_p)
object_close = _declare("bpf_object__close", None, c_void_p)
next_program = _declare("bpf_object__next_program", c_void_p, c_void_p, c_void_p)
next_map = _declare("bpf_object__next_map", c_void_p, c_void_p, c_void_p)

program_name = _declare("bpf_program__name", c_char_p, c_void_p)
program_section = _declare("bpf_program__section_name", c_char_p, c_void_p)
program_fd = _declare("bpf_program__fd", c_int, c_void_p)
program_type = _declare("bpf_program__type", c_int, c_void_p)
program_attach_type = _declare("bpf_program__expected_attach_type", c_int, c_void_p)
program_insn_cnt = _declare("bpf_program__insn_cnt", c_size_t, c_void_p)
program_autoload = _declare("bpf_program__autoload", c_bool, c_void_p)
program_set_autoload = _declare("bpf_program__set_autoload", c_int, c_void_p, c_bool)
program_set_log_buf = _declare("bpf_program__set_log_buf", c_int, c_void_p, c_void_p, c_size_t)
program_set_log_level = _declare("bpf_program__set_log_level", c_int, c_void_p, c_uint32)
program_set_type = _declare("bpf_program__set_type", c_int, c_void_p, c_int)
program_set_attach_type = _declare("bpf_program__set_expected_attach_type", c_int, c_void_p, c_int)
program_set_attach_target = _declare("bpf_program__set_attach_target", c_int, c_void_p, c_int, c_char_p)
program_attach_kprobe = _declare("bpf_program__attach_kprobe", c_void_p, c_void_p, c_bool, c_char_p)
program_attach_ksyscall = _declare("bpf_program__attach_ksyscall", c_void_p, c_void_p, c_char_p, POINTER(KsyscallOpts))
program_attach_tracepoint = _declare("bpf_program__attach_tracepoint", c_void_p, c_void_p, c_char_p, c_char_p)
program_attach_raw_tracepoint = _declare("bpf_program__attach_raw_tracepoint", c_void_p, c_void_p, c_char_p)
program_attach_uprobe = _declare(
    "bpf_program__attach_uprobe_opts", c_void_p, c_void_p, c_int, c_char_p, c_size_t, POINTER(UprobeOpts)
)
program_attach = _declare("bpf_program__attach", c_void_p, c_void_p)
program_attach_cgroup = _declare("bpf_program__attach_cgroup", c_void_p, c_void_p, c_int)
program_attach_xdp = _declare("bpf_program__attach_xdp", c_void_p, c_void_p, c_int)
program_attach_perf_event = _declare("bpf_program__attach_perf_event", c_void_p, c_void_p, c_int)
prog_attach = _declare("bpf_prog_attach", c_int, c_int, c_int, c_int, c_uint32)
prog_detach = _declare("bpf_prog_detach2", c_int, c_int, c_int, c_int)
program_set_type = _declare("bpf_program__set_type", c_int, c_void_p, c_int)
program_set_attach_type = _declare("bpf_program__set_expected_attach_type", c_int, c_void_p, c_int)
program_set_attach_target = _declare("bpf_program__set_attach_target", c_int, c_void_p, c_int, c_char_p)
xdp_attach = _declare("bpf_xdp_attach", c_int, c_int, c_int, c_uint32, c_void_p)
xdp_query_id = _declare("bpf_xdp_query_id", c_int, c_int, c_int, POINTER(c_uint32))
tc_hook_create = _declare("bpf_tc_hook_create", c_int, POINTER(TcHook))
tc_hook_destroy = _declare("bpf_tc_hook_destroy", c_int, POINTER(TcHook))
tc_attach = _declare("bpf_tc_attach", c_int, POINTER(TcHook), POINTER(TcOpts))
tc_query = _declare("bpf_tc_query", c_int, POINTER(TcHook), POINTER(TcOpts))

map_name = _declare("bpf_map__name", c_char_p, c_void_p)
map_fd = _declare("bpf_map__fd", c_int, c_void_p)
map_max_entries = _declare("bpf_map__max_entries", c_uint32, c_void_p)
map_type = _declare("bpf_map__type", c_int, c_void_p)
map_key_size = _declare("bpf_map__key_size", c_uint32, c_void_p)
map_value_size = _declare("bpf_map__value_size", c_uint32, c_void_p)
map_flags = _declare("bpf_map__map_flags", c_uint32, c_void_p)
map_attach_struct_ops = _declare("bpf_map__attach_struct_ops", c_void_p, c_void_p)
map_set_autocreate = _declare("bpf_map__set_autocreate", c_int, c_void_p, c_bool)
map_set_type = _declare("bpf_map__set_type", c_int, c_void_p, c_uint32)
map_set_key_size = _declare("bpf_map__set_key_size", c_int, c_void_p, c_uint32)
map_set_value_size = _declare("bpf_map__set_value_size", c_int, c_void_p, c_uint32)
map_set_max_entries = _declare("bpf_map__set_max_entries", c_int, c_void_p, c_uint32)
map_set_inner_map_fd = _declare("bpf_map__set_inner_map_fd", c_int, c_void_p, c_int)
map_set_pin_path = _declare("bpf_map__set_pin_path", c_int, c_void_p, c_char_p)
map_initial_value = _declare("bpf_map__initial_value", c_void_p, c_void_p, POINTER(c_size_t))

link_fd = _declare("bpf_link__fd", c_int, c_void_p)
link_destroy = _declare("bpf_link__destroy", c_int, c_void_p)

ring_buffer_new = _declare("ring_buffer__new", c_void_p, c_int, SAMPLE, c_void_p, c_void_p)
ring_buffer_poll = _declare("ring_buffer__poll", c_int, c_void_p, c_int)
ring_buffer_free = _declare("ring_buffer__free", None, c_void_p)
perf_buffer_new = _declare("perf_buffer__new", c_void_p, c_int, c_size_t, PERF_SAMPLE, PERF_LOST, c_void_p, c_void_p)
perf_buffer_poll = _declare("perf_buffer__poll", c_int, c_void_p, c_int)
perf_buffer_free = _declare("perf_buffer__free", None, c_void_p)


_spare: list[Function] = []


def keep_spare() -> None:
    """Load a second copy of libbpf, which has asked the kernel nothing yet: libbpf remembers what it found out about a kernel."""
    with open("/proc/self/maps") as maps:
        path = next(line.split()[-1] for line in maps if os.path.basename(line.split()[-1]).startswith("libbpf.so"))
    copy = os.memfd_create("libbpf-spare")  # another file: another copy of its variables
    try:
        with open(path, "rb") as file:
            os.sendfile(copy, file.fileno(), 0, os.fstat(file.fileno()).st_size)
        library = ctypes.CDLL(f"/proc/self/fd/{copy}", use_errno=True)
    finally:
        os.close(copy)
    for function in _declared:
        twin = getattr(library, function.__name__)
        twin.restype, twin.argtypes = function.restype, function.argtypes  # type: ignore[attr-defined]
        _spare.append(twin)
        if twin.__name__ == "btf__load_vmlinux_btf":
            twin()  # asks nothing of bpf(2), and touches much of what loading takes


def spare_kept() -> bool:
    """Whether there is one."""
    return bool(_spare)


def start_afresh() -> None:
    """From now on, use a libbpf that has not asked this kernel anything: what it learns it learns where it is used first."""
    if not _spare:
        keep_spare()
    twins = {id(function): twin for function, twin in zip(_declared, _spare, strict=True)}
    for name, value in list(globals().items()):
        if id(value) in twins:
            globals()[name] = twins[id(value)]
    _declared[:] = _spare
    _spare.clear()


def keep_memory() -> None:
    """Let the C library keep what it has got from the kernel, and load the kernel's BTF once to get that much.

    libbpf reads and indexes megabytes of BTF at every load of a CO-RE object. From fresh mappings, each page of that is a page fault,
    which costs more than the work where the CPU is emulated.
    """
    mallopt = ctypes.CDLL(None).mallopt
    options = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 512 << 20, M_TOP_PAD: 1 << 20}
    options[M_ARENA_MAX] = 1  # the thread that a simulation loads in (kmatrix.guest.simulate) has what this one got
    for option, size in options.items():
        mallopt(option, size)
    with said():
        btf = btf_load_vmlinux()
    if btf:
        btf_free(btf)


def _text(errno: int) -> str:
    if errno < 4000:  # libbpf's own start there
        return error_text(errno)
    buffer = ctypes.create_string_buffer(256)
    _strerror(errno, buffer, 256)
    return buffer.value.decode("utf-8", "replace")


def version() -> str:
    """libbpf's version, such as "v1.5"."""
    text: bytes = version_string()
    return text.decode()


def last_error(call: str) -> LibbpfError:
    """Why the last call, which returned NULL, did."""
    return LibbpfError(call, ctypes.get_errno())


def pointer(call: str, value: int | None) -> int:
    """The pointer a call returned; LibbpfError where it is NULL."""
    if not value:
        raise last_error(call)
    return value


def check(call: str, value: int) -> int:
    """The number a call returned; LibbpfError where it is a negative errno."""
    if value < 0:
        raise LibbpfError(call, -value)
    return value


def each(step: Function, owner: int) -> Iterator[int]:
    """The programs or maps of an object, in its order."""
    item: int | None = None
    while item := step(owner, item):
        yield item


@contextmanager
def said() -> Iterator[list[str]]:
    """Collect what libbpf says (its warnings and notes) meanwhile, as lines without their `libbpf: `."""
    lines: list[str] = []
    sys.stderr.flush()
    file = os.memfd_create("libbpf")
    kept = os.dup(2)
    os.dup2(file, 2)
    try:
        yield lines
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        size = os.lseek(file, 0, os.SEEK_END)
        text = os.pread(file, size, 0).decode("utf-8", "replace")
        os.close(file)
        lines += [line.removeprefix("libbpf: ") for line in text.splitlines() if line.strip()]
