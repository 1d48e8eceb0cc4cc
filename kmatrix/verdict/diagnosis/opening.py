"""Why an object could not be opened, or nothing of it could be loaded: libbpf's own rules, before any program is the kernel's."""

from __future__ import annotations

import re

from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, used

_ROWS: tuple[tuple[str, str, str, str], ...] = (
    (
        r"legacy map definitions in 'maps' section are not supported|legacy map definitions",
        "object",
        'a map is defined in SEC("maps"), which libbpf 1.0 and newer do not take',
        'define it in SEC(".maps"), as a structure with __uint(type, …)',
    ),
    (
        r"extern '(?P<name>\w+)' \(strong\): not resolved|extern '(?P<other>\w+)' \(strong\)[^\n]*not found|failed to find BTF for extern '(?P<third>\w+)'",
        "extern",
        "extern {name} is not in this kernel, or not in its configuration",
        "declare it __weak, and test it before it is used",
    ),
    (
        r"BTF is required, but is missing or corrupted",
        "object",
        "the object has no BTF, and needs it",
        "compile with -g, and strip no more than llvm-strip -g does",
    ),
    (
        r"relocating instruction: call: \w+: unsupported binding|possible erroneous static qualifier",
        "object",
        "its programs call weak functions, such as those of libbpf's USDT header, and cilium/ebpf does not take that",
        "leave them out of an object that cilium/ebpf loads",
    ),
    (
        r"bad magic number|^(?:unexpected )?EOF$",
        "object",
        "this is not a BPF object",
        "compile it with clang -target bpf -g -O2",
    ),
    (
        r"invalid ELF|not a valid|failed to (?:open|get) ELF|elf: failed|Format not supported|elf: .* not supported",
        "object",
        "this is not a BPF object that libbpf can read",
        "compile it with clang -target bpf -g -O2",
    ),
    (
        r"failed to (?:set|adjust) program type|missing BPF prog type|unrecognized ELF section name",
        "section",
        "libbpf does not know what kind of program a section is for",
        "name the section as libbpf does (docs.kernel.org/bpf/libbpf/program_types.html), or let the loader set the type",
    ),
    (
        r"struct_ops reloc \w+: (?:cannot relocate non func ptr|invalid target prog|unsupported)[^\n]*",
        "struct-ops",
        "the structure of operations is not declared as the kernel has it: a member that a program is given to is no pointer to a function",
        "declare the members as the kernel's header does (vmlinux.h)",
    ),
    (
        r"struct_ops[^\n]*(?:not found|is not supported|missing)|failed to find (?:struct|kernel)[^\n]*_ops|struct_ops init_kern",
        "struct-ops",
        "the kernel does not have this set of operations, or has it with other members",
        "give such kernels a variant without it",
    ),
)


def of_object(failing: Failing) -> Diagnosis | None:
    """The cause of what befell the whole object."""
    for pattern, kind, what, fix in _ROWS:
        if match := re.search(pattern, failing.error):
            name = next((value for value in match.groupdict().values() if value), "")
            return Diagnosis(kind, what.format(name=name), fix, None, used(failing, name) if name else None)
    return None
