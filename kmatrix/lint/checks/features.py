"""KM3: how a program finds out what the kernel can do, and what it does where it cannot."""

from __future__ import annotations

from kmatrix.lint import facts
from kmatrix.lint.checks import Finding, Iterator, Source
from kmatrix.lint.facts import section_kind
from kmatrix.lint.preprocessor import Condition
from kmatrix.lint.syntax import Function, Macro, Node

_ENUMERATORS = ("BPF_FUNC_", "BPF_MAP_TYPE_", "BPF_PROG_TYPE_", "BPF_TRACE_", "BPF_LINK_TYPE_")
_ALWAYS_DEFINED = frozenset({"bpf_core_field_exists", "BPF_CORE_READ", "BPF_CORE_READ_INTO", "bpf_core_read"})
_EXISTENCE = ("__builtin_preserve_field_info", "__builtin_preserve_type_info", "__builtin_preserve_enum_value")


def check(source: Source) -> Iterator[Finding]:
    """The findings of KM301 to KM307."""
    for file in source.files:
        for condition in file.conditions:
            yield from _conditional(condition)
    for function in source.unit.functions.values():
        yield from _btf_branch(source, function)
        yield from _requirements(source, function)
        yield from _by_hand(source, function)
        yield from _first_event(source, function)
        yield from _version(source, function)


def _conditional(condition: Condition) -> Iterator[Finding]:
    for name, place in condition.names:
        # `#ifndef X` that defines X is how a header brings what an older one lacks.
        if name in condition.defines and condition.form[0] == "ifndef":
            continue
        if name.startswith(_ENUMERATORS):
            test = (
                "bpf_core_enum_value_exists(enum bpf_func_id, …)"
                if name.startswith("BPF_FUNC_")
                else "bpf_core_enum_value_exists()"
            )
            yield Finding(
                "KM301", place, f"{name} is an enumerator, which the preprocessor never knows: test {test} in the program"
            )
        elif name in _ALWAYS_DEFINED:
            yield Finding(
                "KM302",
                place,
                f"{name} is a macro of <bpf/bpf_core_read.h>, there on every kernel: the test tells nothing; what must run without BTF is an object of its own",
            )
        elif name == "LINUX_VERSION_CODE":
            yield Finding(
                "KM307", place, "LINUX_VERSION_CODE is the build host's version: test the field, type or helper in the program"
            )


# --- KM303 -------------------------------------------------------------------------------------------------------------------------


def _btf_branch(source: Source, function: Function) -> Iterator[Finding]:
    if not source.may_use_btf or "CORE_COMPAT_FALLBACK" in source.unit.defined:
        return
    for node in function.nodes:
        if node.kind != "IF_STMT" or len(node.children) < 2 or source.unit.from_project_macro(node.start):
            continue
        test = next((n for n in node.children[0].walk() if n.kind == "MEMBER_REF_EXPR" and n.name == "has_btf"), None)
        if test is None:
            continue
        negated = any(
            n.kind == "UNARY_OPERATOR" and source.unit.tokens(n.start.file, n.start.offset, n.start.offset + 1) == ["!"]
            for n in node.children[0].walk()
        )
        other = node.children[1] if negated else (node.children[2] if len(node.children) > 2 else None)
        if other is not None and any(n.kind == "CALL_EXPR" for n in other.walk()):
            yield Finding(
                "KM303",
                node.start,
                "without BTF the object is refused as a whole, so the branch for it never runs: put it into an object of its own, without relocations",
            )


# --- KM304, KM305 ------------------------------------------------------------------------------------------------------------------


def _within(source: Source, function: Function, *names: str) -> list[Macro]:
    if function.body is None:
        return []
    start, end = function.body.start, function.body.end
    return sorted(
        (m for m in source.unit.uses(*names) if m.file == start.file and start.offset <= m.start < end.offset),
        key=lambda m: m.start,
    )


def _network(section: str) -> tuple[str, frozenset[int]] | None:
    name = section.removeprefix("?")
    return next((entry for prefix, entry in facts.NETWORK_SECTIONS.items() if name.startswith(prefix)), None)


def _requirements(source: Source, function: Function) -> Iterator[Finding]:
    required = _within(source, function, "REQUIRE_CORE_FEATURES")
    if not required:
        return
    initial = _within(source, function, "INIT_CORE_COMPAT", "INIT_CORE_COMPAT_FOR")
    if not initial or initial[0].start > required[0].start:
        yield Finding(
            "KM304",
            required[0].place,
            "write INIT_CORE_COMPAT() (or INIT_CORE_COMPAT_FOR(type)) before it: it says what the refusal returns",
        )
        return
    program = source.unit.program_of(function)
    network = _network(program.section) if program is not None else None
    is_tc = program is not None and section_kind(program.section) in facts.TC_KINDS
    if program is None or (network is None and not is_tc):
        return
    wanted = network[0] if network is not None else "tc"
    words = source.unit.tokens(initial[0].file, initial[0].start, initial[0].end)
    given = words[2] if words[0] == "INIT_CORE_COMPAT_FOR" and len(words) > 2 else "tracing"
    if given != wanted:
        yield Finding(
            "KM305",
            initial[0].place,
            f'a refusal of SEC("{program.section}") must let traffic through: write INIT_CORE_COMPAT_FOR({wanted})',
        )


def _by_hand(source: Source, function: Function) -> Iterator[Finding]:
    """A refusal without the macros: `if (!bpf_core_…_exists(…)) return 0;`."""
    program = source.unit.program_of(function)
    network = _network(program.section) if program is not None else None
    if network is None:
        return
    for node in function.nodes:
        if node.kind != "IF_STMT" or len(node.children) < 2 or source.unit.from_project_macro(node.start):
            continue
        test = node.children[0]
        negated = test.bare().kind == "UNARY_OPERATOR" and source.text(test.start, test.end).lstrip("( ").startswith("!")
        if not negated or not any(n.callee() in _EXISTENCE for n in test.walk()):
            continue
        for returned in node.children[1].walk():
            if returned.kind == "RETURN_STMT" and returned.children and returned.children[0].bare().kind == "INTEGER_LITERAL":
                text = source.text(returned.children[0].start, returned.children[0].end)
                if text.strip("()") == "0":
                    yield Finding(
                        "KM305",
                        returned.start,
                        f'0 is a verdict of SEC("{program.section if program else ""}"): return {min(network[1])}, which lets traffic through',
                    )


# --- KM306 -------------------------------------------------------------------------------------------------------------------------


def _first_event(source: Source, function: Function) -> Iterator[Finding]:
    own = {g.key for g in source.unit.globals if not source.unit.sections.get(g.name, "").startswith((".maps", "license"))}
    for node in function.nodes:
        if node.kind != "IF_STMT" or len(node.children) < 2 or not _asks_for_zero(source, node.children[0]):
            continue
        asked = {n.key for n in node.children[0].walk() if n.kind == "DECL_REF_EXPR"} & own
        if not asked:
            continue
        # A flag and what it stands for; `if (!start) start = now;` is one store, and no harm.
        filled = [n.children[0] for n in node.children[1].walk() if _assigns(source, n) and _base(n.children[0]).key in own]
        if len(filled) > 1 and asked & {_base(place).key for place in filled}:
            name = next(g.name for g in source.unit.globals if g.key in asked)
            yield Finding(
                "KM306",
                node.start,
                f"{name} is filled in at the first event, while other CPUs may be reading it: let the loader decide, by bpf_core_enum_value_exists() "
                "and its like or by a const volatile that it sets",
            )


def _asks_for_zero(source: Source, test: Node) -> bool:
    text = source.text(test.start, test.end).strip("( ")
    return text.startswith("!") or text.replace(" ", "").endswith(("==0", "==false"))


def _assigns(source: Source, node: Node) -> bool:
    return node.kind == "BINARY_OPERATOR" and len(node.children) == 2 and source.flow.operator(node) == "="


def _base(node: Node) -> Node:
    node = node.bare()
    while node.kind in ("MEMBER_REF_EXPR", "ARRAY_SUBSCRIPT_EXPR") and node.children:
        node = node.children[0].bare()
    return node


# --- KM307 -------------------------------------------------------------------------------------------------------------------------


def _version(source: Source, function: Function) -> Iterator[Finding]:
    for node in function.nodes:
        if node.kind == "DECL_REF_EXPR" and node.name == "LINUX_KERNEL_VERSION":
            yield Finding(
                "KM307",
                node.place,
                "a version is not a feature set (vendors backport and switch off): test the field, type or helper itself with bpf_core_…_exists()",
            )
    for macro in _within(source, function, "LINUX_VERSION_CODE"):
        yield Finding(
            "KM307", macro.place, "LINUX_VERSION_CODE is the build host's version: test the field, type or helper in the program"
        )
