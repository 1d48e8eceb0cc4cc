"""KM2: how kernel memory is read."""

from __future__ import annotations

from collections.abc import Iterable

from clang import cindex

from kmatrix.lint import facts
from kmatrix.lint.checks import Edit, Finding, Iterator, Place, Source, unevaluated
from kmatrix.lint.facts import section_kind
from kmatrix.lint.flow import NUMBER_CALLS
from kmatrix.lint.source import Function, Node, Record

_READS = ("bpf_probe_read", "bpf_probe_read_kernel", "bpf_probe_read_str", "bpf_probe_read_kernel_str")
_CHECKED = (*_READS, "bpf_probe_read_user", "bpf_probe_read_user_str")
_ALIKE = (frozenset({"request", "request_queue"}), frozenset({"kernfs_node", "kernfs_node_id"}))
"""Structures of which a test of one tells about the other."""


def check(source: Source) -> Iterator[Finding]:
    """The findings of KM201 to KM210."""
    for function in source.unit.functions.values():
        yield from _direct(source, function)
        yield from _offsets(source, function)
        yield from _probe_reads(source, function)
        yield from _unchecked(source, function)
        yield from _fields(source, function)
        yield from _cgroups(source, function)
        yield from _identifiers(source, function)


def _is_kernels(record: Record) -> bool:
    return record.relocated or record.name in facts.KERNEL_STRUCTS


# --- KM201, KM203: direct access ---------------------------------------------------------------------------------------------------


def _direct(source: Source, function: Function) -> Iterator[Finding]:
    unit = source.unit
    for node in function.nodes:
        what = unit.access(node)
        if what is None or not what[2] or not _is_kernels(what[0].record):
            continue
        if unit.in_read_macro(node.place) or unevaluated(node):
            continue
        if _is_store(source, node) and source.flow.origin(what[1]) == "number":
            text = _short(source.text(_outermost(node).start, _outermost(node).end))
            yield Finding(
                "KM201", node.place, f"{text} is the kernel's memory, which a program cannot write: keep the value in a map"
            )
        if not _is_load(node) or _goes_on(node):
            continue
        origin = source.flow.origin(what[1])
        if origin == "number":
            yield _untrusted(source, node)
        elif origin == "typed" and not what[0].record.relocated and source.may_use_btf and not _is_fixed(source, node):
            yield _unrelocated(node, what[0].record)


def _is_fixed(source: Source, node: Node) -> bool:
    """Whether all that is accessed from the pointer on is where it has always been."""
    chain = source.unit.chain(_outermost(node))
    return all(access.field in facts.FIXED.get(access.record.name, ()) for access in chain)


def _outermost(node: Node) -> Node:
    """`p->a.b[1]` of its part `p->a`: all that is within the structure that p points to."""
    while node.parent is not None and (
        node.parent.kind == "PAREN_EXPR"
        or (node.parent.kind == "MEMBER_REF_EXPR" and node.type.kind != cindex.TypeKind.POINTER)
        or (node.parent.kind == "ARRAY_SUBSCRIPT_EXPR" and node.parent.children[0] is node)
        or (node.parent.kind == "UNEXPOSED_EXPR" and node.type.kind == cindex.TypeKind.CONSTANTARRAY and _subscripted(node.parent))
    ):
        node = node.parent
    return node


def _subscripted(node: Node) -> bool:
    return node.parent is not None and node.parent.kind == "ARRAY_SUBSCRIPT_EXPR" and node.parent.children[0] is node


def _is_load(node: Node) -> bool:
    """Whether a member's value is read, not its address taken."""
    outer = _outermost(node)
    return outer.parent is not None and outer.parent.kind == "UNEXPOSED_EXPR" and outer.type.kind != cindex.TypeKind.CONSTANTARRAY


def _is_store(source: Source, node: Node) -> bool:
    """Whether a member is assigned to."""
    outer = _outermost(node)
    above = outer.parent
    if above is None or len(above.children) != 2 or above.children[0] is not outer:
        return False
    return above.kind == "COMPOUND_ASSIGNMENT_OPERATOR" or (above.kind == "BINARY_OPERATOR" and source.flow.operator(above) == "=")


def _goes_on(node: Node) -> bool:
    """Whether what is read is a pointer that is followed: the whole of a->b->c is one finding."""
    above = _outermost(node).parent
    while above is not None and above.kind in ("UNEXPOSED_EXPR", "PAREN_EXPR"):
        above = above.parent
    if above is None or above.kind != "MEMBER_REF_EXPR":
        return False
    outer = _outermost(above)
    return outer.parent is None or outer.parent.kind != "UNARY_OPERATOR"


def _untrusted(source: Source, node: Node) -> Finding:
    outer = _outermost(node)
    text = source.text(outer.start, outer.end)
    parts = _hops(text)
    head = f"{_short(text)} follows a pointer that the verifier takes for a number"
    if not source.may_use_btf:
        return Finding("KM201", node.place, f"{head}: read it with bpf_probe_read(), or leave it out where there is no BTF")
    if parts is None or source.unit.from_project_macro(node.place):
        return Finding("KM201", node.place, f"{head}: read it with BPF_CORE_READ()")
    if outer.cursor.is_bitfield() or (outer.cursor.referenced is not None and outer.cursor.referenced.is_bitfield()):
        return Finding("KM201", node.place, f"{head}: read the bit field with BPF_CORE_READ_BITFIELD_PROBED()")
    new = f"BPF_CORE_READ({', '.join(parts)})"
    edits = [
        Edit(outer.start.file, outer.start.offset, outer.end.offset, new),
        source.include(outer.start.file, "bpf/bpf_core_read.h"),
    ]
    if "BPF_CORE_READ" in source.unit.defined:
        edits.pop()
    safe = not source.without_btf
    return Finding("KM201", node.place, f"{head}: {new}", tuple(edit for edit in edits if edit is not None) if safe else ())


def _hops(text: str) -> list[str] | None:
    """`a->b->c.d` as [a, b, c.d]; None where it is anything but names, members and constant subscripts."""
    parts = [part.strip() for part in text.split("->")]
    if len(parts) < 2 or not all(part and all(c.isalnum() or c in "_.[]" for c in part) for part in parts):
        return None
    return parts


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "…"


def _unrelocated(node: Node, record: Record) -> Finding:
    return Finding(
        "KM203",
        node.place,
        f"struct {record.name} has no preserve_access_index here, so {node.name} is read at the offset that this declaration gives it: "
        "add __attribute__((preserve_access_index)), or read it with BPF_CORE_READ()",
    )


# --- KM202: offsets ----------------------------------------------------------------------------------------------------------------


def _offsets(source: Source, function: Function) -> Iterator[Finding]:
    if not source.may_use_btf or any(section_kind(p.section).startswith("u") for p in source.unit.programs_with(function)):
        return  # without BTF there are only offsets; in uprobes they are the program's
    for node in function.nodes:
        if node.kind != "BINARY_OPERATOR" or len(node.children) != 2:
            continue
        literal = next((c for c in node.children if c.bare().kind == "INTEGER_LITERAL"), None)
        other = next((c for c in node.children if c is not literal), None)
        if literal is None or other is None or source.flow.operator(node) != "+" or not _bytewise(other):
            continue
        origin = source.flow.origin(other)
        if _is_data(source, other) or is_registers(source, other):
            continue
        if (origin in ("number", "typed") or (origin == "unknown" and _points_into_kernel(source, other))) and is_read(node):
            yield Finding(
                "KM202",
                node.place if node.place.line else node.start,
                f"{_short(source.text(node.start, node.end))} is one kernel's offset: name the field, and read it with BPF_CORE_READ()",
            )


def is_registers(source: Source, node: Node) -> bool:
    """Whether it is struct pt_regs, of which the offsets are KM401's to speak of."""
    inner = node.bare()
    record = source.unit.record(inner.type.get_pointee()) if inner.type.kind == cindex.TypeKind.POINTER else None
    return record is not None and record.name == "pt_regs"


def _is_data(source: Source, node: Node) -> bool:
    """Whether it points to bytes or to a packet, and was not cast to that: offsets are not the kernel's then."""
    inner = node.bare()
    if inner.type.kind != cindex.TypeKind.POINTER:
        return False
    pointee = inner.type.get_pointee()
    record = source.unit.record(pointee)
    if record is not None and record.name in facts.PACKET_STRUCTS:
        return True
    is_bytes = pointee.kind in (cindex.TypeKind.CHAR_S, cindex.TypeKind.SCHAR, cindex.TypeKind.UCHAR)
    return is_bytes and not _holds_structure(source, inner)


def _holds_structure(source: Source, node: Node) -> bool:
    """Whether it is a variable for bytes that is never given any but the address of one of the kernel's structures."""
    values = source.flow.assigned(node) if node.kind == "DECL_REF_EXPR" else []
    return bool(values) and all(value.bare().callee() in NUMBER_CALLS or _points_into_kernel(source, value) for value in values)


def _points_into_kernel(source: Source, node: Node) -> bool:
    """Whether what was cast to bytes or to a number is a pointer to one of the kernel's structures."""
    inner = node.bare()
    record = source.unit.record(inner.type.get_pointee()) if inner.type.kind == cindex.TypeKind.POINTER else None
    return record is not None and _is_kernels(record)


def _bytewise(node: Node) -> bool:
    """Whether adding to it counts bytes: char *, void *, or an integer that holds an address."""
    kind = node.type.kind
    if kind == cindex.TypeKind.POINTER:
        return bool(node.type.get_pointee().get_size() == 1 or node.type.get_pointee().kind == cindex.TypeKind.VOID)
    return bool(kind in (cindex.TypeKind.ULONG, cindex.TypeKind.ULONGLONG, cindex.TypeKind.LONG, cindex.TypeKind.LONGLONG))


def is_read(node: Node) -> bool:
    """Whether the address is read from: by a helper, or followed."""
    below = node
    for above in node.ancestors():
        if above.kind == "CALL_EXPR":
            if above.callee().startswith("__builtin_"):
                below = above
                continue
            return above.callee() in _READS and len(above.arguments()) > 2 and above.arguments()[2] is below
        if above.kind in ("UNARY_OPERATOR", "ARRAY_SUBSCRIPT_EXPR", "MEMBER_REF_EXPR"):
            return True
        if above.kind not in ("PAREN_EXPR", "UNEXPOSED_EXPR", "CSTYLE_CAST_EXPR"):
            return False
        below = above
    return False


# --- KM203, KM204: bpf_probe_read --------------------------------------------------------------------------------------------------


def _probe_reads(source: Source, function: Function) -> Iterator[Finding]:
    unit = source.unit
    if not source.may_use_btf or source.without_btf:
        return
    for call in function.calls:
        if call.callee() not in _READS or len(call.arguments()) != 3 or unit.macros_at(call.place):
            continue
        target, size, address = call.arguments()
        from_ = address.bare()
        if from_.kind == "UNARY_OPERATOR" and from_.children:
            from_ = from_.children[0].bare()
        chain = [a for a in unit.chain(from_) if a.record.name]
        if from_.kind != "MEMBER_REF_EXPR" or not chain or not _is_kernels(chain[-1].record):
            continue
        what = unit.access(from_)
        if what is None or source.flow.origin(what[1]) in ("context", "own"):
            continue
        text = source.text(from_.start, from_.end)
        if call.callee() in ("bpf_probe_read", "bpf_probe_read_str"):
            yield _legacy(source, call, target, size, text)
        elif not chain[-1].record.relocated:
            yield _unrelocated(from_, chain[-1].record)


def _legacy(source: Source, call: Node, target: Node, size: Node, text: str) -> Finding:
    into = source.text(target.start, target.end)
    hops = _hops(text)
    is_string = call.callee() == "bpf_probe_read_str"
    macro = "BPF_CORE_READ_STR_INTO" if is_string else "BPF_CORE_READ_INTO"
    measured = "".join(source.text(size.start, size.end).split())
    bare = into.strip().removeprefix("&").strip()
    is_address = into.strip().startswith("&")
    # The macros read sizeof(*destination) bytes: only where that is what the call says.
    same = measured in (f"sizeof({bare})", f"sizeof{bare}") if is_address else measured == f"sizeof(*{bare})"
    is_array = target.bare().type.kind == cindex.TypeKind.CONSTANTARRAY
    if is_array and measured == f"sizeof({bare})":
        into, same = f"&{bare}", True
    simple = all(c.isalnum() or c in "_.[]->& " for c in into)
    if hops is None or not same or not simple:
        return Finding("KM204", call.place, f"{call.callee()} of {_short(text)}: {macro}(destination, pointer, field) relocates it")
    new = f"{macro}({into.strip()}, {', '.join(hops)})"
    edits = [Edit(call.start.file, call.start.offset, call.end.offset, new)]
    header = source.include(call.start.file, "bpf/bpf_core_read.h") if "BPF_CORE_READ" not in source.unit.defined else None
    if header is not None:
        edits.append(header)
    return Finding("KM204", call.place, f"{call.callee()} of {_short(text)}: {new}", tuple(edits))


# --- KM205: results ----------------------------------------------------------------------------------------------------------------


def _unchecked(source: Source, function: Function) -> Iterator[Finding]:
    assigned = {
        node.children[0].bare().key
        for node in function.nodes
        if node.kind == "BINARY_OPERATOR" and len(node.children) == 2 and source.flow.operator(node) == "="
    }
    for node in function.nodes:
        if node.kind not in ("CALL_EXPR", "StmtExpr") or not _is_statement(node):
            continue
        call = node if node.kind == "CALL_EXPR" else next((n for n in reversed(list(node.walk())) if n.callee() in _CHECKED), None)
        if call is None or call.callee() not in _CHECKED or not call.arguments():
            continue
        target = call.arguments()[0].bare()
        if target.kind != "UNARY_OPERATOR" or not target.children:
            continue
        variable = target.children[0].bare()
        declaration = next((n for n in function.nodes if n.kind == "VAR_DECL" and n.key == variable.key), None)
        if declaration is None or variable.kind != "DECL_REF_EXPR" or declaration.key in assigned or _initialised(declaration):
            continue
        if declaration.type.kind in (cindex.TypeKind.RECORD, cindex.TypeKind.CONSTANTARRAY):
            continue
        macros = source.unit.macros_at(node.place)
        hops = sum(1 for n in node.walk() if n.callee() in _CHECKED)
        if hops < 2 and not source.follows_the_standard:
            continue  # elsewhere only where a NULL on the way is likely
        name = macros[0].name if macros else call.callee()
        yield Finding(
            "KM205",
            node.place,
            f"{name} may fail, and leaves 0 in {variable.name} then: check its result, or initialise {variable.name} and so say what a failed read means",
        )


def _is_statement(node: Node) -> bool:
    """Whether the value of an expression is dropped."""
    above = node.parent
    while above is not None and above.kind in ("UNEXPOSED_EXPR", "PAREN_EXPR"):
        above = above.parent
    if above is None:
        return False
    if above.kind == "COMPOUND_STMT":
        # The last of a statement expression is its value.
        return above.parent is None or above.parent.kind != "StmtExpr"
    return (
        above.kind in ("IF_STMT", "FOR_STMT", "WHILE_STMT") and above.children[0] is not node and node.place > above.children[0].end
    )


def _initialised(declaration: Node) -> bool:
    return any(
        child.kind not in ("TYPE_REF", "UNEXPOSED_ATTR") and child.start >= declaration.place for child in declaration.children
    )


# --- KM206, KM207, KM208: fields ---------------------------------------------------------------------------------------------------


def _asked(source: Source, function: Function) -> Iterator[tuple[str, str, Place]]:
    """What a function's bpf_core_field_exists and bpf_core_type_exists ask for: structure, field (empty: the type), place."""
    for call in function.calls:
        given = call.arguments()
        if (
            call.callee() == "__builtin_preserve_field_info"
            and len(given) == 2
            and given[1].bare().name in ("BPF_FIELD_EXISTS", "")
        ):
            chain = source.unit.chain(given[0])
            if chain:
                yield chain[-1].record.name, chain[-1].field, given[0].bare().place
        elif call.callee() == "__builtin_preserve_type_info" and given:
            record = source.unit.record(given[0].type)
            if record is not None:
                yield record.name, "", call.place


def _fields(source: Source, function: Function) -> Iterator[Finding]:
    unit = source.unit
    asked = list(_asked(source, function))
    for name, field, place in asked:
        if field in facts.STABLE.get(name, ()):
            yield Finding(
                "KM206",
                place,
                f"every supported kernel with BTF has {name}.{field}: the test is always true; read the field without it",
            )
    if not source.may_use_btf:
        return
    guarded: set[str] | None = None
    for node in function.nodes:
        what = unit.access(node)
        if what is None or what[0].record.name not in facts.CHANGED:
            continue
        record, field = what[0]
        span = facts.CHANGED[record.name].get(field)
        if span is None or not (record.relocated or unit.in_read_macro(node.place)):
            continue
        if span.until is not None and span.until <= facts.BTF_FLOOR:
            yield Finding(
                "KM208",
                node.place,
                f"{record.name}.{field} is gone since {_version(span.until)} ({span.note}): no kernel with BTF has it",
            )
            continue
        if guarded is None:
            guarded = _guarded(source, function)
        floor = min((c.floor(unit.arch) for c in source.claims if c.has_btf), default=source.own_floor)
        if (span.until is None and (span.since or floor) <= floor) or record.name in guarded or _in_test(node):
            continue
        since = f"since {_version(span.since)}" if span.since else f"until {_version(span.until)}"
        yield Finding(
            "KM207",
            node.place,
            f"{record.name}.{field} is there only {since} ({span.note}): test bpf_core_field_exists() and read the other form through a "
            f"second flavour, struct {record.name}___other",
        )


def _guarded(source: Source, function: Function) -> set[str]:
    """The structures that a function, or one that calls it, tests."""
    found: set[str] = set()
    todo, seen = [function], set()
    while todo:
        each = todo.pop()
        if each.name in seen:
            continue
        seen.add(each.name)
        found |= {name for name, _, _ in _asked(source, each)}
        todo += source.unit.callers.get(each.name, [])
    for group in _ALIKE:
        if group & found:
            found |= group
    return found


def _in_test(node: Node) -> bool:
    return any(a.kind == "CALL_EXPR" and a.callee() == "__builtin_preserve_field_info" for a in node.ancestors())


def _version(version: tuple[int, int] | None) -> str:
    return ".".join(map(str, version or ()))


# --- KM209, KM210: cgroups and identifiers -----------------------------------------------------------------------------------------


def _cgroups(source: Source, function: Function) -> Iterator[Finding]:
    for node in function.nodes:
        if node.kind != "ARRAY_SUBSCRIPT_EXPR" or len(node.children) != 2 or node.children[1].bare().kind != "INTEGER_LITERAL":
            continue
        what = source.unit.access(node.children[0].bare())
        if what is not None and what[0].field == "subsys" and what[0].record.name in ("css_set", "cgroup"):
            yield Finding(
                "KM209",
                node.children[0].bare().place,
                "subsys[] is one controller's hierarchy, which may be v1's: the v2 cgroup is css_set.dfl_cgrp "
                "(safe_cgroup_id_extraction(task), or bpf_get_current_cgroup_id() for the current task)",
            )


def _identifiers(source: Source, function: Function) -> Iterator[Finding]:
    for node in function.nodes:
        if node.kind != "CSTYLE_CAST_EXPR" or node.type.kind == cindex.TypeKind.POINTER or not node.children:
            continue
        inner = node.children[-1].bare()
        if inner.type.kind != cindex.TypeKind.POINTER:
            continue
        record = source.unit.record(inner.type.get_pointee())
        if record is None or not _is_kernels(record) or unevaluated(node):
            continue
        if _becomes_id(source, function, node):
            yield Finding(
                "KM210",
                node.start,
                f"the address of a struct {record.name} is no identifier: read the kernel's own (its id, inode number, pid), or leave the value absent (0)",
            )


def _becomes_id(source: Source, function: Function, node: Node) -> bool:
    hashed = False
    for above in node.ancestors():
        if above.kind == "BINARY_OPERATOR" and len(above.children) == 2:
            operator = source.flow.operator(above)
            if operator == "=":
                return _names_id(above.children[0].bare().name)
            hashed |= operator in ("^", "*", ">>", "<<", "%")
            if not hashed:
                return False
        elif above.kind == "VAR_DECL":
            return hashed or _names_id(above.name)
        elif above.kind == "RETURN_STMT":
            return hashed or _names_id(function.name)
        elif above.kind == "CALL_EXPR":
            return False
        elif above.kind not in ("PAREN_EXPR", "UNEXPOSED_EXPR", "CSTYLE_CAST_EXPR", "CONDITIONAL_OPERATOR"):
            return hashed
    return hashed


def _names_id(name: str) -> bool:
    words: Iterable[str] = name.lower().strip("_").split("_")
    return any(word in ("id", "ino", "inode") for word in words)
