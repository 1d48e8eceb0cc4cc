"""Attaching a tracing program to another place than its section names, as loaders do that choose it at run time."""

from __future__ import annotations

import ctypes
import errno

from . import libbpf


def attach_to(program: int, target: str) -> int | None:
    """libbpf's link of the program at `target`; None where libbpf's last error says why not.

    The section says how: `kprobe` and `kretprobe` at a function, `ksyscall` at a system call, `tp` at category/name, `raw_tp` at a name,
    `uprobe` and `uretprobe` at path:function. Of the others (fentry, fexit, LSM) libbpf was told before they were loaded.
    """
    kind = libbpf.program_section(program).decode().lstrip("?").partition("/")[0].removesuffix(".s").removesuffix(".w")
    link: int | None
    if kind in ("kprobe", "kretprobe"):
        link = libbpf.program_attach_kprobe(program, kind == "kretprobe", target.encode())
    elif kind in ("ksyscall", "kretsyscall"):
        options = libbpf.KsyscallOpts(sz=ctypes.sizeof(libbpf.KsyscallOpts), retprobe=kind == "kretsyscall")
        link = libbpf.program_attach_ksyscall(program, target.encode(), ctypes.byref(options))
    elif kind in ("tp", "tracepoint"):
        category, _, name = target.partition("/")
        link = libbpf.program_attach_tracepoint(program, category.encode(), name.encode())
    elif kind in ("raw_tp", "raw_tracepoint"):
        link = libbpf.program_attach_raw_tracepoint(program, target.encode())
    elif kind in ("uprobe", "uretprobe"):
        path, _, function = target.rpartition(":")
        if not path:
            raise OSError(errno.EINVAL, f"{target} is not path:function")
        opts = libbpf.UprobeOpts(sz=ctypes.sizeof(libbpf.UprobeOpts), retprobe=kind == "uretprobe", func_name=function.encode())
        link = libbpf.program_attach_uprobe(program, -1, path.encode(), 0, ctypes.byref(opts))
    else:
        link = libbpf.program_attach(program)
    return link
