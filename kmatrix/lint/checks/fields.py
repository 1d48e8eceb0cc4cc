"""KM206 to KM208: fields that a kernel has and another has not."""

from __future__ import annotations

from kmatrix.host import version as versions
from kmatrix.lint import facts
from kmatrix.lint.checks import Finding, Iterator, Place, Source
from kmatrix.lint.syntax import Function, Node

_ALIKE = (frozenset({"request", "request_queue"}), frozenset({"kernfs_node", "kernfs_node_id"}))
"""Structures of which a test of one tells about the other."""


def check(source: Source) -> Iterator[Finding]:
    """The findings of KM206 to KM208."""
    for function in source.unit.functions.values():
        yield from _fields(source, function)


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
                f"{record.name}.{field} is gone since {versions.text(span.until)} ({span.note}): no kernel with BTF has it",
            )
            continue
        if guarded is None:
            guarded = _guarded(source, function)
        floor = min((c.floor(unit.arch) for c in source.claims if c.has_btf), default=source.own_floor)
        if (span.until is None and (span.since or floor) <= floor) or record.name in guarded or _in_test(node):
            continue
        since = f"since {versions.text(span.since)}" if span.since else f"until {versions.text(span.until or facts.BTF_FLOOR)}"
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
