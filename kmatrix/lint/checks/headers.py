"""KM1: headers, the license, names that are libbpf's, maps of the old form."""

from __future__ import annotations

import difflib

from kmatrix.guest import bpf, sections
from kmatrix.lint import facts
from kmatrix.lint.checks import Finding, Iterator, Source
from kmatrix.lint.facts import section_kind


def check(source: Source) -> Iterator[Finding]:
    """The findings of KM101 to KM106."""
    yield from _system_headers(source)
    yield from _missing_headers(source)
    yield from _license(source)
    yield from _redefined(source)
    yield from _legacy_maps(source)
    yield from _section_names(source)


def _system_headers(source: Source) -> Iterator[Finding]:
    strict = source.follows_the_standard or bool(source.unit.errors)
    for inclusions in source.unit.inclusions.values():
        for name, place, resolved in inclusions:
            if not strict and name in facts.ALSO_USER_SPACES and resolved.startswith("/usr/include/linux/"):
                continue  # the interface header of that name: clone flags and the like
            if name in facts.C_LIBRARY or name.startswith("sys/"):
                yield Finding(
                    "KM101",
                    place,
                    f"<{name}> is a header of the build host's C library: take the kernel's types from vmlinux_minimal.h or vmlinux.h, and __builtin_memcpy and its like from clang",
                )
            elif name in facts.KERNEL_INTERNAL or name.startswith("net/"):
                yield Finding(
                    "KM101",
                    place,
                    f"<{name}> has one kernel's or one arch's layouts: take the types from vmlinux_minimal.h or vmlinux.h",
                )


def _missing_headers(source: Source) -> Iterator[Finding]:
    unit = source.unit
    if source.missing or source.is_header:
        return
    seen: set[str] = set()
    uses = list(unit.implicit)
    for file in source.files:
        if "SEC" not in unit.defined and "SEC" in file.identifiers and file.includes:
            uses.append(("SEC", file.includes[0][1]))
    for name, place in uses:
        header = facts.HEADER_OF.get(name)
        if header is None or header in seen or unit.is_foreign(place.file):
            continue
        seen.add(header)
        if header in unit.included_names:
            continue
        edit = source.include(place.file, header) if header.startswith("bpf/") else None
        written = f"<{header}>" if header.startswith("bpf/") else f'"bpf_common/{header}"'
        yield Finding("KM102", place, f"{name} is used without its header: #include {written}", (edit,) if edit else ())


def _license(source: Source) -> Iterator[Finding]:
    unit = source.unit
    if source.is_header or "license" in unit.sections.values() or not unit.programs:
        return
    called = {call.callee() for function in unit.reachable for call in function.calls} & facts.GPL_ONLY
    kinds = {section_kind(program.section) for program in unit.programs} & {"lsm", "struct_ops"}
    if called or kinds:
        what = f"{min(called)}() is" if called else f"{min(kinds)} programs are"
        yield Finding(
            "KM103",
            unit.programs[0].node.place,
            f'{what} for GPL-compatible programs only: add char LICENSE[] SEC("license") = "Dual BSD/GPL";',
        )


def _redefined(source: Source) -> Iterator[Finding]:
    if "bpf/bpf_endian.h" not in source.unit.included_names:
        return
    for file in source.files:
        for name, place in sorted((file.defines | file.functions).items()):
            if name in facts.ENDIAN_NAMES:
                yield Finding(
                    "KM104",
                    place,
                    f"{name} is a macro of <bpf/bpf_endian.h>, which is included too: use libbpf's, and remove this one",
                )


def _legacy_maps(source: Source) -> Iterator[Finding]:
    if source.loaded_by_go:
        return
    for node in source.unit.globals:
        if source.unit.sections.get(node.name) == "maps":
            yield Finding(
                "KM105",
                node.place,
                f'libbpf 1.x refuses SEC("maps"): define {node.name} with __uint(type, …) and __type(key, …) in SEC(".maps")',
            )


def _section_names(source: Source) -> Iterator[Finding]:
    for program in source.unit.programs:
        if sections.taken(program.section):
            continue
        found = sections.meant(program.section)
        if found is None:
            if near := _misspelt(program.section):
                yield Finding(
                    "KM106",
                    program.node.place,
                    f'libbpf knows no SEC("{program.section}"), and refuses the object: did you mean SEC("{near}")?',
                )
            continue
        kind = bpf.name_of(bpf.PROG_TYPES, found[0])
        yield Finding(
            "KM106",
            program.node.place,
            f'libbpf 1.x gives a program in SEC("{program.section}") no type, and refuses the object: {sections.advice(program.section)} (type {kind})',
        )


def _misspelt(section: str) -> str | None:
    """The section that a name is nearly. None where none is near: the loader of such a program may set its type."""
    name = section.lstrip("?")
    if near := difflib.get_close_matches(name, sections.WHOLE, n=1, cutoff=0.8):
        return near[0]
    kind, slash, target = name.partition("/")
    near = difflib.get_close_matches(kind, sections.WITH_TARGET, n=1, cutoff=0.75)
    return f"{near[0]}{slash}{target}" if near else None
