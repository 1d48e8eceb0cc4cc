"""KM2: how kernel memory is read."""

from __future__ import annotations

from clang import cindex

from kmatrix.lint import facts
from kmatrix.lint.checks import Edit, Finding, Iterator, Source, unevaluated
from kmatrix.lint.facts import section_kind
from kmatrix.lint.flow import NUMBER_CALLS
from kmatrix.lint.syntax import Function, Node, Record

_READS = ("bpf_probe_read", "bpf_probe_read_kernel", "bpf_probe_read_str", "bpf_probe_read_kernel_str")
_CHECKED = (*_READS, "bpf_probe_read_user", "bpf_probe_read_user_str")


def check(source: Source) -> Iterator[Finding]:
    """The findings of KM201 to KM205."""
    for function in source.unit.functions.values():
        yield from _direct(source, function)
        yield from _offsets(source, function)
        yield from _probe_reads(source, function)
        yield from _unchecked(source, function)


def is_kernels(record: Record) -> bool:
    """Whether it is one of the kernel's structures."""
    return record.relocated or record.name in facts.KERNEL_STRUCTS


# --- KM201, KM203: direct access ---------------------------------------------------------------------------------------------------


def _direct(source: Source, function: Function) -> Iterator[Finding]:
    unit = source.unit
    for node in function.nodes:
        what = unit.access(node)
        if what is None or not what[2] or not is_kernels(what[0].record):
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
    return record is not None and is_kernels(record)


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
        if from_.kind != "MEMBER_REF_EXPR" or not chain or not is_kernels(chain[-1].record):
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
