"""What cilium/ebpf says in words of its own, where libbpf has others for the same cause; seen with 0.9.1 and 0.11.0."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kmatrix.verdict.diagnosis import lacks
from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, Row, first_line, fixed, naming, where

_GUARD = (
    "guard the access with bpf_core_field_exists or bpf_core_type_exists, and read what other kernels have by a flavour of the type"
)


def _poisoned(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """A CO-RE relocation that came to nothing: cilium/ebpf puts a call of no helper there, and does not say for what.

    The object says it: by the relocation that it has for the instruction.
    """
    relocation = failing.lines.relocated(failing.name, failing.log) if failing.lines is not None else None
    if relocation is None:
        what = "what the program reads here by CO-RE is not in this kernel: the type, the field, or the field with this kind"
        return Diagnosis("btf-field", f"CO-RE: {what}", _GUARD, None, where(failing))
    members = [member for _, member in relocation.path]
    name, tag = relocation.root.split("___")[0], relocation.tag or "type"
    path = ".".join([name, *members])
    at = naming(failing, members[-1] if members else name) or where(failing)
    what = f"CO-RE: btf:{path} is not in this kernel, or of another kind"
    if not members:
        return Diagnosis("btf-type", f"CO-RE: btf:{tag} {name} is not in this kernel", _GUARD, None, at)
    if tag == "enum":
        return Diagnosis(
            "btf-enum",
            f"CO-RE: btf:enum {name} has no {members[-1]} on this kernel",
            "guard it with bpf_core_enum_value_exists",
            None,
            at,
        )
    return Diagnosis("btf-field", what, _GUARD, None, at)


def _no_function(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    return Diagnosis(
        "library",
        f"cilium/ebpf {match['version']} has no function that attaches {match['what']}",
        "take a newer cilium/ebpf (KMATRIX_CILIUM_EBPF), or attach it by the application's own means",
        None,
        first_line(failing),
    )


_ASKED: Mapping[str, tuple[str, str, str]] = {
    "bpf2bpf calls": (
        "instruction",
        "instruction call_function (a call of a function of the program's own)",
        "make the functions __always_inline",
    ),
    "read- and write-only maps": (
        "global-data",
        "global variables (.data, .rodata, .bss)",
        "keep values in a map on such kernels; for cilium/ebpf, also let no program of the object need .rodata (the texts of bpf_printk are there)",
    ),
    "mmapable maps": ("map-flag", "flag BPF_F_MMAPABLE", "give such kernels a map without the flag"),
    "nested maps": ("map-type", "maps of maps", "give such kernels a variant without them"),
    "bpf_link": ("attach-type", "BPF links", "attach it by other means on such kernels"),
}
"""What cilium/ebpf finds out of a kernel by small loads of its own, as it calls it: class, cause, remedy."""


def unsupported(failing: Failing, match: re.Match[str]) -> Diagnosis:
    """A feature that cilium/ebpf did not find in the kernel, with the release that it knows for it."""
    kind, what, fix = _ASKED.get(
        match["what"], ("library", f"cilium/ebpf finds no {match['what']} in this kernel", "give such kernels a variant without it")
    )
    return Diagnosis(kind, what, fix, match["since"], where(failing) or first_line(failing))


UNSUPPORTED = r"(?:: |^)(?P<what>[^:]+) not supported \(requires >= v(?P<since>\d+\.\d+)\)"

CILIUM: tuple[tuple[str, Row], ...] = (
    (UNSUPPORTED, unsupported),
    (
        r"load kernel spec: (?:no BTF found|no BTF for kernel|open |not supported)|no BTF found for kernel version",
        lacks.no_kernel_btf,
    ),
    (r"(?:invalid|unknown) func unknown#195896080|instruction poisoned by CO-RE|bad relocation", _poisoned),
    (
        r"can't read types: type id \d+: unknown kind: Unknown \((?P<kind>\d+)\)",
        fixed(
            "library",
            "this cilium/ebpf does not read the kernel's BTF: it does not know kind {kind} (19 is enum64, which kernels have from 6.0 on)",
            "take cilium/ebpf 0.10 or newer",
        ),
    ),
    (
        r"program type is unspecified \(cilium/ebpf (?P<version>\S+) does not know SEC\(\"(?P<section>[^\"]+)\"\)\)",
        fixed(
            "section",
            "cilium/ebpf {version} does not know what kind of program section {section} is for",
            "name the section as this version does, take a newer one, or let the loader set the type",
        ),
    ),
    (r"cilium/ebpf (?P<version>\S+) has no function that attaches (?P<what>.*)", _no_function),
)
