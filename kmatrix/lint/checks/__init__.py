"""The rules over C, one module a concern: each has check(), which gives the findings of one source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from kmatrix.guest.fact import NEVER
from kmatrix.host.version import Version
from kmatrix.lint import facts
from kmatrix.lint.claims import Claim
from kmatrix.lint.facts import section_kind
from kmatrix.lint.findings import Edit, Finding
from kmatrix.lint.flow import Flow
from kmatrix.lint.preprocessor import File, Place, Scanner
from kmatrix.lint.source import Unit
from kmatrix.lint.syntax import Node


@dataclass
class Source:
    """One source to lint: clang's view of it, and which kernels it claims."""

    unit: Unit
    scanner: Scanner
    claims: tuple[Claim, ...]
    is_header: bool = False
    """Parsed by itself, included by none of the sources: what it lacks its includers may have."""
    by_bpf2go: bool = False
    """A generate.go compiles it."""

    @cached_property
    def flow(self) -> Flow:
        """Where its pointers come from."""
        return Flow(self.unit)

    @cached_property
    def files(self) -> list[File]:
        """The source and the project's headers that it includes."""
        return [self.scanner.file(self.unit.unit, path) for path in self.unit.files]

    def file(self, path: str) -> File:
        """One of its files."""
        return self.scanner.file(self.unit.unit, path)

    @property
    def may_use_btf(self) -> bool:
        """Whether some variant of it has BTF (or none is known)."""
        return not self.claims or any(claim.has_btf for claim in self.claims)

    @property
    def without_btf(self) -> list[Claim]:
        """The variants of it that claim kernels without BTF."""
        return [claim for claim in self.claims if not claim.has_btf]

    @property
    def follows_the_standard(self) -> bool:
        """Whether it is a collector's, or uses the standard's headers: code in other styles is not held to the standard's habits."""
        return bool(self.claims) or bool({"vmlinux_minimal.h", "core_compat.h"} & self.unit.included_names)

    @cached_property
    def own_floor(self) -> Version:
        """The oldest release that it can be for by what it uses without asking: for a source that no manifest says it of."""
        needed = [facts.map_needs(each.type).since for each in self.unit.maps]
        needed += [
            facts.SECTION_NEEDS[kind].since for p in self.unit.programs if (kind := section_kind(p.section)) in facts.SECTION_NEEDS
        ]
        for function in self.unit.reachable:
            asks = any(call.callee().startswith("__builtin_preserve_enum") for call in function.calls)
            numbers = [] if asks else [self.unit.helper(call) for call in function.calls]
            needed += [facts.helper_needs(number).since for number in numbers if number is not None]
        return max([facts.BTF_FLOOR, *(release for release in needed if release < NEVER)])

    @cached_property
    def loaded_by_go(self) -> bool:
        """Whether cilium/ebpf loads it, as far as that shows: it is for bpf2go, and no collector.toml says what it claims."""
        first = next(iter(self.file(self.unit.path).comments), None)
        return not self.claims and (self.by_bpf2go or (first is not None and "go:build" in first.text))

    @cached_property
    def missing(self) -> bool:
        """Whether an included file was not found: then much may be undeclared that is not wrong."""
        return any("file not found" in text for text, _ in self.unit.errors)

    def text(self, start: Place, end: Place) -> str:
        """The source's text between two places of one file."""
        return self.unit.text(start, end)

    def include(self, file: str, header: str) -> Edit | None:
        """The edit that includes `<header>` in a file, after its last include; None where there is none to go by or it is there."""
        includes = self.file(file).includes
        if not includes or any(name == header or name.endswith("/" + header) for name, _, _ in includes):
            return None
        last = includes[-1][2]
        return Edit(file, last, last, f"\n#include <{header}>")


def unevaluated(node: Node) -> bool:
    """Whether an expression is only looked at for its type or place: in sizeof, in a CO-RE builtin, in &…"""
    below = node
    for above in node.ancestors():
        if above.kind == "CXX_UNARY_EXPR":
            return True
        if above.kind == "CALL_EXPR" and above.callee().startswith("__builtin_"):
            return True
        if above.kind == "VAR_DECL" and below.start < above.place and not below.kind.endswith("_DECL"):
            return True  # typeof(…) in front of the name
        if above.kind in ("COMPOUND_STMT", "FUNCTION_DECL"):
            return False
        below = above
    return False


__all__ = ["Edit", "Finding", "Iterator", "Place", "Source", "unevaluated"]
