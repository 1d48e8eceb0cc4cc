"""Where a pointer comes from, and so whether the verifier lets a program follow it.

Within one source, by assignments regardless of their order; the parameters of the program's own functions have what their callers pass. What cannot be told is `unknown`,
and no rule speaks of it.
"""

from __future__ import annotations

from typing import Literal

from clang import cindex

from kmatrix.lint.facts import TYPED_SECTIONS, section_kind
from kmatrix.lint.source import Unit
from kmatrix.lint.syntax import Function, Node

Origin = Literal["typed", "context", "own", "number", "unknown"]
"""`typed`: the verifier knows the kernel's type behind it. `context`: the program's argument. `own`: stack, map, ring buffer, packet.
`number`: a kernel (or user) address that came as a mere number."""

_TYPED_CALLS = frozenset(
    (
        "bpf_get_current_task_btf", "bpf_task_pt_regs", "bpf_sock_from_file", "bpf_skc_to_tcp_sock", "bpf_skc_to_tcp6_sock", "bpf_skc_to_udp6_sock",
        "bpf_skc_to_tcp_timewait_sock", "bpf_skc_to_tcp_request_sock", "bpf_skc_to_unix_sock", "bpf_skc_to_mptcp_sock", "bpf_sk_lookup_tcp", "bpf_sk_lookup_udp",
        "bpf_skc_lookup_tcp", "bpf_sk_fullsock", "bpf_tcp_sock", "bpf_get_listener_sock", "bpf_kptr_xchg", "bpf_per_cpu_ptr", "bpf_this_cpu_ptr",
    )
)  # fmt: skip
_OWN_CALLS = frozenset(
    (
        "bpf_map_lookup_elem", "bpf_map_lookup_percpu_elem", "bpf_ringbuf_reserve", "bpf_sk_storage_get", "bpf_inode_storage_get", "bpf_task_storage_get",
        "bpf_cgrp_storage_get", "bpf_get_local_storage", "bpf_dynptr_data",
    )
)  # fmt: skip
NUMBER_CALLS = frozenset({"bpf_get_current_task", "bpf_get_func_ip"})
READS = (
    "bpf_probe_read", "bpf_probe_read_kernel", "bpf_probe_read_user", "bpf_probe_read_str", "bpf_probe_read_kernel_str", "bpf_probe_read_user_str",
    "bpf_core_read", "bpf_copy_from_user",
)  # fmt: skip


class Flow:
    """The origins of the pointers of one source."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self._given: dict[int, set[str] | None] = {}
        self._values: dict[int, list[Node]] = {}
        """By variable: what is assigned to it."""
        self._filled: set[int] = set()
        """Variables that a read fills in."""
        self._passed: dict[str, list[Node]] = {}
        self._operators: dict[Node, str] = {}
        self._noted = False

    def _note(self, function: Function) -> None:
        for node in function.nodes:
            if node.kind == "VAR_DECL":
                initial = [
                    child
                    for child in node.children
                    if child.kind not in ("TYPE_REF", "UNEXPOSED_ATTR") and child.start >= node.place
                ]
                # A statement expression of a macro has its parts in one place: its variables have no initialiser of interest but the last part.
                if initial and not (self.unit.in_read_macro(node.place) and node.name.startswith("__")):
                    self._values.setdefault(node.key, []).append(initial[-1])
            elif node.kind == "BINARY_OPERATOR" and self._is_assignment(node):
                target = node.children[0].bare()
                if target.kind == "DECL_REF_EXPR":
                    self._values.setdefault(target.key, []).append(node.children[1])
            elif node.kind == "CALL_EXPR":
                if node.callee() in READS and node.arguments():
                    target = node.arguments()[0].bare()
                    if target.kind == "UNARY_OPERATOR" and target.children and target.children[0].bare().kind == "DECL_REF_EXPR":
                        self._filled.add(target.children[0].bare().key)
                elif node.callee() in self.unit.functions:
                    self._passed.setdefault(node.callee(), []).append(node)

    def _is_assignment(self, node: Node) -> bool:
        return self.operator(node) == "="

    def operator(self, node: Node) -> str:
        """The operator between the two sides; empty inside a macro, where the text does not show it."""
        if node not in self._operators:
            left, right = node.children[0].end, node.children[1].start
            text = ""
            if left.file == right.file and left.offset <= right.offset:
                text = self.unit.text(left, right).strip()
                if "/*" in text or "//" in text:
                    text = next(iter(self.unit.tokens(left.file, left.offset, right.offset)), "")
            self._operators[node] = text
        return self._operators[node]

    def _note_all(self) -> None:
        if not self._noted:
            self._noted = True
            for function in self.unit.functions.values():
                self._note(function)

    def assigned(self, variable: Node) -> list[Node]:
        """What is assigned to a variable, in all of the source; nothing where a read fills it in, or it is a parameter."""
        self._note_all()
        return [] if variable.key in self._filled else self._values.get(variable.key, [])

    def origin(self, node: Node) -> Origin:
        """Where the pointer that an expression gives comes from; `unknown` also where it may come from several places."""
        self._note_all()
        found = self._origins(node, 0) - {"null"}
        return found.pop() if len(found) == 1 else "unknown"  # type: ignore[return-value]

    def _origins(self, node: Node, depth: int) -> set[str]:
        if depth > 30:
            return {"unknown"}
        node = node.bare()
        kind = node.kind
        if kind == "DECL_REF_EXPR":
            return self._variable(node, depth)
        if kind == "CALL_EXPR":
            return self._call(node, depth)
        if kind == "StmtExpr":
            parts = node.children[0].children if node.children else []
            return self._origins(parts[-1], depth + 1) if parts else {"unknown"}
        if kind in ("MEMBER_REF_EXPR", "ARRAY_SUBSCRIPT_EXPR"):
            return self._loaded(node, depth)
        if kind == "UNARY_OPERATOR" and node.children:
            inner = node.children[0]
            sign = self.unit.tokens(node.start.file, node.start.offset, node.start.offset + 1)[:1]
            if sign == ["&"]:
                return self._address(inner, depth)
            return self._loaded(node, depth) if sign == ["*"] else {"unknown"}
        if kind == "CONDITIONAL_OPERATOR" and len(node.children) == 3:
            return self._origins(node.children[1], depth + 1) | self._origins(node.children[2], depth + 1)
        if kind == "BINARY_OPERATOR":
            sides = [child for child in node.children if child.type.kind == cindex.TypeKind.POINTER]
            return self._origins(sides[0], depth + 1) if len(sides) == 1 else self._integers(node, depth)
        if kind in ("INTEGER_LITERAL", "GNU_NULL_EXPR"):
            return {"null"}
        return {"unknown"}

    def _integers(self, node: Node, depth: int) -> set[str]:
        """Of a sum of numbers that becomes a pointer: what the one that is no constant is."""
        found = set()
        for child in node.children:
            if child.bare().kind != "INTEGER_LITERAL":
                found |= self._origins(child, depth + 1)
        return found or {"unknown"}

    def _address(self, inner: Node, depth: int) -> set[str]:
        inner = inner.bare()
        while inner.kind in ("MEMBER_REF_EXPR", "ARRAY_SUBSCRIPT_EXPR"):
            base = inner.children[0]
            if base.bare().type.kind == cindex.TypeKind.POINTER:
                return self._origins(base, depth + 1)
            inner = base.bare()
        return {"own"} if inner.kind == "DECL_REF_EXPR" else {"unknown"}

    def _variable(self, node: Node, depth: int) -> set[str]:
        declaration = node.cursor.referenced
        if declaration is None:
            return {"unknown"}
        if declaration.kind.name == "PARM_DECL":
            return self._parameter(node, depth)
        if declaration.kind.name != "VAR_DECL":
            return {"unknown"}
        if declaration.type.get_canonical().kind == cindex.TypeKind.CONSTANTARRAY:
            return {"own"}
        key = node.key
        if key in self._given:
            return self._given[key] or set()
        self._given[key] = None  # met again below it: a cycle adds nothing
        found: set[str] = {"number"} if key in self._filled else set()
        for value in self._values.get(key, ()):
            found |= self._origins(value, depth + 1)
        self._given[key] = found or {"unknown"}
        return self._given[key] or set()

    def _parameter(self, node: Node, depth: int) -> set[str]:
        function = next((f for f in self.unit.functions.values() if any(p.key == node.key for p in f.parameters)), None)
        if function is None:
            return {"unknown"}
        index = next(i for i, p in enumerate(function.parameters) if p.key == node.key)
        program = self.unit.program_of(function)
        if program is not None:
            if index == 0:
                return {"context"}
            return {"typed"} if section_kind(program.section) in TYPED_SECTIONS else {"number"}
        if function.node.cursor.storage_class.name != "STATIC":
            return {"unknown"}
        key = node.key
        if key in self._given:
            return self._given[key] or set()
        self._given[key] = None
        found: set[str] = set()
        for call in self._passed.get(function.name, ()):
            given = call.arguments()
            found |= self._origins(given[index], depth + 1) if index < len(given) else {"unknown"}
        if self._values.get(key):  # a parameter that is assigned to: by then it is something else
            found.add("unknown")
        self._given[key] = found or {"unknown"}
        return self._given[key] or set()

    def _call(self, node: Node, depth: int) -> set[str]:
        name = node.callee()
        if name in _TYPED_CALLS:
            return {"typed"}
        if name in _OWN_CALLS:
            return {"own"}
        if name in NUMBER_CALLS:
            return {"number"}
        function = self.unit.functions.get(name)
        if function is None or function.body is None:
            referenced = node.cursor.referenced
            is_kernels = referenced is not None and referenced.kind.name == "FUNCTION_DECL" and not name.startswith("__builtin")
            return {"typed"} if is_kernels else {"unknown"}  # an extern function is a kfunc
        found: set[str] = set()
        for each in function.nodes:
            if each.kind == "RETURN_STMT" and each.children:
                found |= self._origins(each.children[0], depth + 5)
        return found or {"unknown"}

    def _loaded(self, node: Node, depth: int) -> set[str]:
        """What a pointer is that was read through another."""
        base = node.children[0]
        while base.bare().kind == "MEMBER_REF_EXPR" and base.bare().type.kind != cindex.TypeKind.POINTER:
            base = base.bare().children[0]
        what = self.unit.access(node)
        origins = self._origins(base, depth + 1) if base.bare().type.kind == cindex.TypeKind.POINTER else {"unknown"}
        if origins == {"typed"}:
            # A void * behind a typed pointer is a number.
            return {"typed"} if node.type.get_pointee().kind != cindex.TypeKind.VOID else {"unknown"}
        if origins == {"number"}:
            return {"number"}
        if origins == {"context"}:
            return self._from_context(base, what[0].record.name if what else "")
        if origins == {"own"} and node.kind in ("UNARY_OPERATOR", "ARRAY_SUBSCRIPT_EXPR") and self._from_map(base):
            return {"number"}
        return {"unknown"}

    def _from_map(self, base: Node) -> bool:
        """Whether a pointer is a map's value: what it held of kernel pointers is numbers by now."""
        base = base.bare()
        values = self._values.get(base.key, []) if base.kind == "DECL_REF_EXPR" else [base]
        return bool(values) and all(v.bare().kind == "CALL_EXPR" and v.bare().callee() == "bpf_map_lookup_elem" for v in values)

    def _from_context(self, base: Node, record: str) -> set[str]:
        if record in ("pt_regs", "user_pt_regs", "bpf_raw_tracepoint_args") or record.startswith("trace_event_raw_"):
            return {"number"}
        if record.startswith(("bpf_iter__",)):
            return {"typed"}
        if record:
            return {"unknown"}
        function = next((a for a in base.ancestors() if a.kind == "FUNCTION_DECL"), None)
        program = (
            self.unit.program_of(self.unit.functions[function.name]) if function and function.name in self.unit.functions else None
        )
        if program is None:
            return {"unknown"}
        return {"typed"} if section_kind(program.section) in TYPED_SECTIONS else {"number"}
