"""Whether this kernel has what a program would attach to: what a loader asks before it chooses between the forms of a program."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from . import libbpf, probe_facts
from .observe import read_text, tracefs

FUNC, TYPEDEF = 12, 8
"""BTF_KIND_* (Documentation/bpf/btf.rst)."""
Answer = tuple[bool | None, str]
"""None where the kernel cannot be asked but by trying."""
Features = Callable[[], Mapping[str, bool | None]]


class Reach:
    """Questions to the kernel, the costly ones asked once. `close` frees its BTF."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._btf: int | None = None
        self._asked = False

    def close(self) -> None:
        """Free the BTF."""
        if self._btf:
            libbpf.btf_free(self._btf)
            self._btf = None

    def lacking(self, needs: Sequence[str]) -> list[str]:
        """The features that the kernel was not found to have."""
        found = dict(self._features()) if needs else {}
        found |= probe_facts.find([name for name in needs if ":" in name and name not in found])["features"]
        return [name for name in needs if found.get(name) is not True]

    def target(self, section: str, chosen: Sequence[str]) -> tuple[str | None, bool | None, str]:
        """The first of the `chosen` targets (of what the section names, where none is) that the kernel has; whether it has one; why not."""
        kind, _, named = section.lstrip("?").partition("/")
        kind = kind.removesuffix(".s").removesuffix(".w")
        candidates = list(chosen) or ([named] if named else [])
        check = _CHECKS.get(kind)
        if check is None or not candidates:
            return (candidates[0] if candidates else None), None, ""
        answers = [check(self, candidate) for candidate in candidates]
        for candidate, (there, _) in zip(candidates, answers, strict=True):
            if there is not False:
                return candidate, there, ""
        return candidates[0], False, "; ".join(dict.fromkeys(why for _, why in answers))

    def _lacks(self, feature: str) -> bool:
        return self._features().get(feature) is False

    def _has_type(self, name: str, kind: int) -> bool:
        if not self._asked:
            self._asked = True
            with libbpf.said():
                self._btf = libbpf.btf_load_vmlinux()
        return bool(self._btf) and libbpf.btf_find_by_name_kind(self._btf, name.encode(), kind) > 0

    def trampoline(self, function: str) -> Answer:
        """fentry, fexit and fmod_ret: BPF trampolines (fec56f5890d9, 5.5; arm64 efc9909fdce0, 6.4 with d9452e8d6ee7), and the function in BTF."""
        if self._lacks("btf"):
            return False, "the kernel has no BTF"
        if self._lacks("fentry"):
            return False, f"no fentry on this kernel ({os.uname().release}, {os.uname().machine})"
        module, _, name = function.rpartition(":")
        if (not module and self._has_type(name, FUNC)) or _in_module(name, module or "*"):
            return True, ""
        return False, f"no function {function} in the kernel's BTF"

    def kprobe(self, function: str) -> Answer:
        """A kprobe is defined there and removed again, which the kernel refuses where there is no such function, or none may be put on it."""
        if self._lacks("kprobes"):
            return False, "no kprobes on this kernel"
        path = f"{tracefs()}/kprobe_events"
        if not os.path.exists(path):
            return None, "there are no kprobe_events"
        try:
            _write(path, f"p:kmatrix/reach {function}\n")
        except OSError as error:
            plain = error.errno in (
                errno.EINVAL,
                errno.ENOENT,
            )  # no such function, or one on the kernel's list of those that take none
            return False, f"no kprobe can be put on {function}" + ("" if plain else f" ({error.strerror})")
        _write(path, "-:kmatrix/reach\n")
        return True, ""

    def system_call(self, name: str) -> Answer:
        """The function of a system call, by the names that kernels give it (from 4.17 on with the arch in it)."""
        wanted = [f"__x64_sys_{name}", f"__arm64_sys_{name}", f"sys_{name}"]
        answers = [self.kprobe(each) for each in wanted]
        return next((answer for answer in answers if answer[0] is not False), (False, f"no system call {name}"))

    def tracepoint(self, name: str) -> Answer:
        """category/name, as tracefs lists it."""
        root = tracefs()
        if root is None:
            return None, "tracefs is not mounted"
        return (True, "") if os.path.isdir(f"{root}/events/{name}") else (False, f"no tracepoint {name}")

    def raw_tracepoint(self, name: str) -> Answer:
        """A tracepoint of any category (c4f6699dfcb8, 4.17)."""
        if self._lacks("raw_tracepoint"):
            return False, "no raw tracepoints on this kernel"
        root = tracefs()
        if root is None:
            return None, "tracefs is not mounted"
        if glob.glob(f"{root}/events/*/{name}") or self._has_type(f"btf_trace_{name}", TYPEDEF):
            return True, ""
        return None, ""  # one that has no trace event is not listed anywhere: try it

    def typed_tracepoint(self, name: str) -> Answer:
        """A raw tracepoint whose arguments are in BTF (ac4414b5ca47, 5.5: `btf_trace_NAME`)."""
        there = self._has_type(f"btf_trace_{name}", TYPEDEF)
        return (True, "") if there else (False, f"no tracepoint {name} in the kernel's BTF")

    def security_hook(self, name: str) -> Answer:
        """A hook of the LSM framework (9d3fdea789c8, 5.7)."""
        if self._lacks("lsm"):
            return False, "no BPF LSM on this kernel"
        there = self._has_type(f"bpf_lsm_{name}", FUNC)
        return (True, "") if there else (False, f"no LSM hook {name} in the kernel's BTF")


def _write(path: str, line: str) -> None:
    """Add a line. Python's own mode for that goes to the end first, which these files refuse."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def _in_module(function: str, module: str) -> bool:
    """Whether the BTF of a loaded module has the name."""
    needle = b"\0" + function.encode() + b"\0"
    for path in glob.glob(f"/sys/kernel/btf/{module}"):
        if os.path.basename(path) != "vmlinux":
            with suppress(OSError), open(path, "rb") as file:
                if needle in file.read():
                    return True
    return False


def possible_cpus() -> int:
    """How many CPUs the kernel may ever have: what per-CPU maps have values for."""
    last = read_text("/sys/devices/system/cpu/possible").strip().replace(",", "-").split("-")[-1]
    return int(last) + 1


_CHECKS: Mapping[str, Callable[[Reach, str], Answer]] = {
    "fentry": Reach.trampoline,
    "fexit": Reach.trampoline,
    "fmod_ret": Reach.trampoline,
    "kprobe": Reach.kprobe,
    "kretprobe": Reach.kprobe,
    "ksyscall": Reach.system_call,
    "kretsyscall": Reach.system_call,
    "tp": Reach.tracepoint,
    "tracepoint": Reach.tracepoint,
    "raw_tp": Reach.raw_tracepoint,
    "raw_tracepoint": Reach.raw_tracepoint,
    "tp_btf": Reach.typed_tracepoint,
    "lsm": Reach.security_hook,
}
"""By what a section's name begins with."""
