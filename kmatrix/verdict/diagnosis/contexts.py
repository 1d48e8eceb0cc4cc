"""What a program reads of its context and the kernel does not give: fields of `struct __sk_buff` and its kin, and of a tracepoint's record."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kmatrix.guest.table_context import field
from kmatrix.matrix.arch import Arch
from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, first_line, release, where

_REGISTERS: Mapping[Arch, int] = {"x86_64": 168, "arm64": 272}
"""Bytes of the registers with which the context of a perf_event program begins (bpf_user_pt_regs_t)."""
_ADDR = (4, 16)
"""bpf_perf_event_data.addr: 95da0cdb723b."""


def context(failing: Failing, match: re.Match[str]) -> Diagnosis:
    """A field that the verifier does not let the program have: newer than the kernel, or not for this kind of program."""
    kind = str(failing.wants.get("type") or "")
    at = int(match["at"]) if match["at"] else None
    if at is None and (newest := _newest(failing, kind)) is not None:
        return newest
    known = field(kind, at) if at is not None else None
    if kind == "perf_event" and at == _REGISTERS[failing.arch] + 8 and failing.version < _ADDR:
        return _newer(failing, "bpf_perf_event_data.addr", release(_ADDR), where(failing))
    if known is not None and failing.version < known[1].since:
        return _newer(failing, f"{known[0]}.{known[1].name}", release(known[1].since), where(failing))
    what = _OTHER.get(kind, "a field of the context that this kernel does not give, or not to this kind of program")
    fix = "read it only where the kernel has it, or give such kernels a variant"
    if known is not None:
        what = f"{known[0]}.{known[1].name} is not for programs of type {kind} on this kernel, or not in this way"
        fix = "read another field, or use another kind of program; some fields may only be read, or only be read whole"
    return Diagnosis("context", what, fix, None, where(failing))


_OTHER: Mapping[str, str] = {
    "kprobe": "the program reads beyond struct pt_regs, or writes to it, which this kernel does not allow",
    "raw_tracepoint": "the program reads beyond the arguments of a raw tracepoint (12 at most)",
    "tracepoint": "the program reads beyond the largest record that a tracepoint may have",
}
"""What may be wrong with the contexts that have no fields of their own, by program type."""


def _newest(failing: Failing, kind: str) -> Diagnosis | None:
    """The field that is newer than the kernel, where the verifier does not say where it stopped: it found the field when it rewrote the program."""
    for at, _, line in failing.lines.context_reads(failing.name) if failing.lines is not None else ():
        known = field(kind, at)
        if known is not None and failing.version < known[1].since:
            return _newer(failing, f"{known[0]}.{known[1].name}", release(known[1].since), line)
    return None


def _newer(failing: Failing, name: str, since: str, at: str | None) -> Diagnosis:
    return Diagnosis(
        "context",
        f"context field {name}",
        f"give kernels before {since} a program that does not read it; a test at run time does not help",
        since,
        at or first_line(failing),
    )


def record(failing: Failing) -> Diagnosis | None:
    """A program that reads beyond the record of its tracepoint, which the kernel finds when it is attached (EACCES, 32bbe0078afe)."""
    known = failing.btf.get("record")
    if not known:
        return None
    reads = failing.lines.context_reads(failing.name) if failing.lines is not None else []
    read = next((each for each in reads if each[1] > known["size"]), None)
    at = f" (byte {read[0]})" if read is not None else ""
    fields = ", ".join(known["fields"])
    return Diagnosis(
        "context",
        f"the program reads beyond{at} the record of tracepoint {known['name']}, which has {known['size']} bytes on this kernel ({fields})",
        "read what every kernel's record has (events/…/format), or a field of struct trace_event_raw_… by CO-RE, behind bpf_core_field_exists",
        None,
        (read[2] if read is not None else None) or first_line(failing),
    )
