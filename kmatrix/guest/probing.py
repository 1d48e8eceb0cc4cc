"""What all probes share: the kernel that is asked, found out once, and how an answer is said."""

from __future__ import annotations

import errno
import gzip
import os
import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from ctypes import addressof, create_string_buffer
from typing import Any

from . import bpf, libbpf
from .btf_types import Types
from .observe import tracefs

Answer = tuple[bool | None, str]
"""Whether it is there (None: the guest cannot tell), and why."""
BTF_KIND_STRUCT, BTF_KIND_FUNC = 4, 12

HARMLESS = "bpf_fentry_test1"
"""A function that exists to be attached to (net/bpf/test_run.c, since 5.5)."""
SYMBOL = "vfs_open"
"""A function that every supported kernel has and allows kprobes on."""


class Kernel:
    """What several probes want to know, found out once."""

    def __init__(self) -> None:
        self.release = os.uname().release
        self.tracefs = tracefs()
        self.config = read_config(self.release)
        self.homes: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
        """By program type, how a program of it can be loaded (kmatrix.guest.probe_programs)."""
        self._btf: int | None = None
        self._btf_why = ""
        self._tried_btf = False

    @property
    def btf(self) -> int | None:
        """libbpf's parsed vmlinux BTF."""
        if not self._tried_btf:
            self._tried_btf = True
            with libbpf.said() as lines:
                self._btf = libbpf.btf_load_vmlinux()
            self._btf_why = "; ".join(lines)
        return self._btf

    @property
    def btf_why(self) -> str:
        """What libbpf said about the BTF."""
        return self._btf_why

    @property
    def types(self) -> Types:
        """The kernel's types; OSError where it has no BTF."""
        if self.btf is None:
            raise OSError(errno.ENOENT, f"no BTF: {self._btf_why}")
        return Types(self.btf)

    def btf_id(self, name: str, kind: int = BTF_KIND_FUNC) -> int:
        """The BTF id of a kernel function (or of a type of another kind); OSError where there is none."""
        ident = self.types.find(name, kind)
        if ident is None:
            raise OSError(errno.ENOENT, f"the kernel's BTF has no {'function ' if kind == BTF_KIND_FUNC else ''}{name}")
        return ident

    def member(self, name: str, member: str) -> tuple[int, int]:
        """The BTF id of a struct and the place of a member in it; OSError where there is none."""
        found = self.types.member(name, member)
        if found is None:
            raise OSError(errno.ENOENT, f"the kernel's BTF has no {name}.{member}")
        return found

    def struct(self, name: str) -> tuple[int, int]:
        """The BTF id of a struct and its size in bytes; OSError where there is none."""
        ident = self.btf_id(name, BTF_KIND_STRUCT)
        return ident, self.types.size(ident)

    @property
    def version_code(self) -> int:
        """LINUX_VERSION_CODE, which kprobe programs had to name before 5.0 (6c4fc209fcf9)."""
        found = re.match(r"(\d+)\.(\d+)\.?(\d+)?", self.release)
        major, minor, patch = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
        return major << 16 | minor << 8 | min(patch, 255)

    def close(self) -> None:
        """Free the BTF."""
        if self._btf is not None:
            libbpf.btf_free(self._btf)
            self._btf = None


def read_config(release: str) -> Mapping[str, str] | None:
    """The kernel's configuration (options without CONFIG_, set ones only), from the kernel itself or beside its image; else None."""
    for path in ("/proc/config.gz", f"/boot/config-{release}", f"/lib/modules/{release}/config"):
        with suppress(OSError):
            opener = gzip.open if path.endswith(".gz") else open
            with opener(path, "rt") as file:
                return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", file.read(), re.MULTILINE))
    return None


def words_of(error: OSError) -> str:
    """The error by name, and what is said of it (by the verifier, where it had a look)."""
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    return f"{name}: {error.strerror}"


def writable(kernel: Kernel, file: str, definition: str, removal: str) -> Answer:
    """Whether a file of tracefs takes the definition of a probe, which is removed again."""
    if kernel.tracefs is None:
        return None, "tracefs is not mounted"
    try:
        for line in (definition, removal):
            # Not open(): it would seek to the end, which these files refuse.
            fd = os.open(f"{kernel.tracefs}/{file}", os.O_WRONLY | os.O_APPEND)
            try:
                os.write(fd, line.encode() + b"\n")
            finally:
                os.close(fd)
    except OSError as error:
        return False, words_of(error)
    return True, f"{file} takes {definition.split()[-1]}"


INT = struct.pack("=IIII", 1, 1 << 24, 4, 1 << 24 | 32)
"""The BTF of int: name, kind int, 4 bytes, signed, 32 bits."""


def load_btf(types: bytes, strings: bytes) -> int:
    """Load a BTF object; its fd."""
    blob = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings
    data = create_string_buffer(blob, len(blob))
    return bpf.bpf(bpf.BTF_LOAD, struct.pack("=QQIII", addressof(data), 0, len(blob), 0, 0))
