"""KM5: what a source uses, against what the variants that it is the source of claim in collector.toml."""

from __future__ import annotations

from kmatrix.host import version as versions
from kmatrix.lint import facts
from kmatrix.lint.checks import Finding, Iterator, Place, Source
from kmatrix.lint.claims import Claim
from kmatrix.lint.facts import Needed, section_kind
from kmatrix.lint.syntax import Function, Node
from kmatrix.matrix.arch import ARCHES

_GLOBAL_DATA = Needed((5, 2), "global_data")
_NO_DATA = (".maps", "maps", "license", "version", ".ksyms", ".struct_ops")
_RELOCATING = (
    "__builtin_preserve_access_index",
    "__builtin_preserve_field_info",
    "__builtin_preserve_type_info",
    "__builtin_preserve_enum_value",
    "__builtin_btf_type_id",
)


def check(source: Source) -> Iterator[Finding]:
    """The findings of KM501 to KM504."""
    if not source.claims or source.is_header:
        return
    yield from _global_data(source)
    yield from _relocations(source)
    yield from _maps(source)
    yield from _newer(source)


def lacking(source: Source, needed: Needed, programs: list[Function]) -> Claim | None:
    """The first variant that claims a kernel which may not have what is needed, on any arch."""
    for claim in source.claims:
        for program in programs or [None]:  # type: ignore[list-item]
            name = program.name if program is not None else None
            arches = claim.arches_of(name) if name else claim.variant.arches
            if any(claim.lacks(needed, arch, name) for arch in arches):
                return claim
    return None


def _oldest(claim: Claim) -> str:
    return versions.text(min(claim.floor(arch) for arch in claim.variant.arches or ARCHES))


def _needs(needed: Needed) -> str:
    return f'add "{needed.feature}" to its needs' if needed.feature else "raise min_kernel"


# --- KM501 -------------------------------------------------------------------------------------------------------------------------


def _global_data(source: Source) -> Iterator[Finding]:
    claim = lacking(source, _GLOBAL_DATA, [])
    if claim is None:
        return
    tail = f"takes global data (5.2), and {claim} claims {_oldest(claim)}"
    used = {node.key for function in source.unit.reachable for node in function.nodes if node.kind == "DECL_REF_EXPR"}
    for node in source.unit.globals:
        section = source.unit.sections.get(node.name, "")
        if section.startswith(_NO_DATA) or node.key not in used or node.cursor.storage_class.name == "EXTERN":
            continue
        if source.unit.is_foreign(node.place.file) or node.type.get_pointee().kind.name == "FUNCTIONPROTO":
            continue
        yield Finding("KM501", node.place, f"{node.name} {tail}: keep it in a map, or on the stack")
    for function in source.unit.reachable:
        for node in function.nodes:
            if node.kind == "VAR_DECL" and node.cursor.storage_class.name == "STATIC":
                printk = next((m for m in source.unit.macros_at(node.place) if "printk" in m.name), None)
                if printk is not None:
                    yield Finding(
                        "KM501",
                        printk.place,
                        f"the format of {printk.name} {tail}: bpf_debug_printk() has it on the stack, as has bpf_trace_printk() with a char fmt[] = …",
                    )
                else:
                    yield Finding("KM501", node.place, f"static {node.name} {tail}: keep it in a map, or on the stack")
            elif node.kind == "STRING_LITERAL" and _is_pointer(node):
                yield Finding(
                    "KM501",
                    node.start,
                    f"a string literal that is pointed to {tail}: make it an array on the stack, char text[] = …",
                )


def _is_pointer(node: Node) -> bool:
    """Whether a string literal is more than the initial value of an array."""
    for above in node.ancestors():
        if above.kind == "VAR_DECL":
            return bool(above.type.kind.name != "CONSTANTARRAY")
        if above.kind in ("INIT_LIST_EXPR", "STATIC_ASSERT", "StaticAssert", "ASM_STMT") or above.kind.endswith("ATTR"):
            return False
        if above.kind == "CALL_EXPR":
            return not above.callee().startswith("__builtin_")
        if above.kind == "CXX_UNARY_EXPR":
            return False
    return False


# --- KM502 -------------------------------------------------------------------------------------------------------------------------


def _relocations(source: Source) -> Iterator[Finding]:
    unit = source.unit
    if not source.without_btf:
        return
    claim = source.without_btf[0]
    seen: set[Place] = set()
    for function in unit.reachable:
        for node in function.nodes:
            place: Place | None = None
            what = unit.access(node)
            if node.kind == "CALL_EXPR" and node.callee() in _RELOCATING:
                macros = unit.macros_at(node.place)
                place = macros[0].place if macros else node.place
            elif what is not None and what[0].record.relocated and not _within_builtin(node):
                place = node.place
            if place is None or place in seen or any(m.start == place.offset and place != m.place for m in unit.macros_at(place)):
                continue
            seen.add(place)
            if any(m.name.startswith(("BPF_CORE", "bpf_core")) and m.place != place for m in unit.macros_at(place)):
                continue
            yield Finding(
                "KM502",
                place,
                f"a CO-RE relocation: without BTF the loader refuses the whole object, and {claim} does not need btf; "
                'use a helper or the record, or add "btf" to its needs',
            )


def _within_builtin(node: Node) -> bool:
    return any(
        a.kind == "CXX_UNARY_EXPR" or (a.kind == "CALL_EXPR" and a.callee().startswith("__builtin_")) for a in node.ancestors()
    )


# --- KM503, KM504 ------------------------------------------------------------------------------------------------------------------


def _maps(source: Source) -> Iterator[Finding]:
    for each in source.unit.maps:
        needed = facts.map_needs(each.type)
        claim = lacking(source, needed, [])
        if claim is None:
            continue
        if each.type == facts.RINGBUF:
            yield Finding(
                "KM503",
                each.place,
                f"the map is created before any program can test for it, and {claim} claims kernels from {_oldest(claim)} on (ring buffers: 5.8): "
                'leave it out of this object, or add "ringbuf" to its needs',
            )
        else:
            name = facts.MAP_NAMES.get(each.type, f"type {each.type}")
            yield Finding(
                "KM504",
                each.place,
                f"a {name} map needs {_release(needed)}, and {claim} claims kernels from {_oldest(claim)} on: {_needs(needed)}",
            )


def _release(needed: Needed) -> str:
    return versions.text(needed.since)


def _newer(source: Source) -> Iterator[Finding]:
    for program in source.unit.programs:
        needed = facts.SECTION_NEEDS.get(section_kind(program.section))
        claim = lacking(source, needed, [program]) if needed is not None else None
        if needed is not None and claim is not None:
            yield Finding(
                "KM504",
                program.node.place,
                f'SEC("{program.section}") needs {_release(needed)}, and {claim} claims kernels from {_oldest(claim)} on: {_needs(needed)}',
            )
    for function in source.unit.reachable:
        tested = _tested(function)
        for call in function.calls:
            number = source.unit.helper(call)
            if number is None or call.callee().removeprefix("bpf_") in tested:
                continue
            needed = facts.helper_needs(number)
            if needed.feature == "ringbuf" and any(m.type == facts.RINGBUF for m in source.unit.maps):
                continue  # KM503 says it of the map
            claim = lacking(source, needed, source.unit.programs_with(function))
            if claim is not None:
                more = ""
                if needed.feature == "cgroup_id_helper" and "cgroup_v2" in claim.needs():
                    more = " (cgroup_v2 does not say that the helper is there)"
                yield Finding(
                    "KM504",
                    call.start,
                    f"{call.callee()}() needs {_release(needed)}, and {claim} claims kernels from {_oldest(claim)} on: {_needs(needed)}{more}",
                )


def _tested(function: Function) -> set[str]:
    """The helpers that a function asks the kernel for by bpf_core_enum_value_exists."""
    return {
        node.name.split("___")[0].removeprefix("BPF_FUNC_")
        for call in function.calls
        if call.callee() == "__builtin_preserve_enum_value"
        for node in call.walk()
        if node.kind == "DECL_REF_EXPR"
    }
