"""KM209 and KM210: which cgroup, and what identifies an object of the kernel."""

from __future__ import annotations

from collections.abc import Iterable

from clang import cindex

from kmatrix.lint.checks import Finding, Iterator, Source, unevaluated
from kmatrix.lint.checks.reads import is_kernels
from kmatrix.lint.syntax import Function, Node


def check(source: Source) -> Iterator[Finding]:
    """The findings of KM209 and KM210."""
    for function in source.unit.functions.values():
        yield from _cgroups(source, function)
        yield from _identifiers(source, function)


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
        if record is None or not is_kernels(record) or unevaluated(node):
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
