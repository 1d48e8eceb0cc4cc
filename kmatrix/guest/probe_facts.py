"""The probes of features with a parameter (`helper:bpf_loop`), by what stands before the colon. Only what is asked for is probed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import probe_image, probe_programs, probe_types
from .probing import Answer, Kernel

PROBES: Mapping[str, Callable[[Kernel, str], Answer]] = {
    "helper": probe_programs.helper,
    "map": probe_types.map_type,
    "prog": probe_types.prog_type,
    "attach": probe_types.attach_type,
    "link": probe_types.link_type,
    "kfunc": probe_programs.kfunc,
    "insn": probe_programs.insn,
    "btf": probe_image.btf,
    "symbol": probe_image.symbol,
    "tracepoint": probe_image.tracepoint,
    "tracepoint-field": probe_image.tracepoint_field,
    "sysctl": probe_image.sysctl,
    "module": probe_image.module,
}


def find(names: Sequence[str], config: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Of each feature named, whether the kernel has it (None: the guest cannot tell), why, and the seconds that it took.

    `config` is the configuration that came with the kernel's image, where one did.
    """
    found: dict[str, bool | None] = {}
    why: dict[str, str] = {}
    seconds: dict[str, float] = {}
    kernel = Kernel()
    try:
        for name in names:
            kind, _, parameter = name.partition(":")
            start = time.monotonic()
            try:
                if kind == "config":
                    found[name], why[name] = probe_image.config(kernel, parameter, config)
                else:
                    found[name], why[name] = PROBES[kind](kernel, parameter)
            except Exception as error:
                found[name], why[name] = None, f"the probe failed: {type(error).__name__}: {error}"
            seconds[name] = round(time.monotonic() - start, 4)
    finally:
        kernel.close()
    return {"features": found, "why": why, "seconds": seconds}
