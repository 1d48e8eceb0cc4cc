"""A failure that is foreseen, in the words that libbpf and the kernel would use: so the diagnosis has one table for both."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kmatrix.matrix import history
from kmatrix.objects.btf import ENUM_EXISTS, ENUM_VALUE, Relocation
from kmatrix.objects.code import Function
from kmatrix.predict.core import essential
from kmatrix.predict.kernel import Kernel, nearest
from kmatrix.predict.subject import Program, Subject
from kmatrix.predict.types import COMPOSITES, Node, View
from kmatrix.verdict.diagnosis import Diagnosis, Failing, diagnose

Words = Mapping[str, Any]
_KINDS = {"struct": "s", "union": "u", "enum": "eE", "typedef": "t", "int": "i"}


@dataclass
class Writer:
    """The failures of one object's programs."""

    subject: Subject
    _known: dict[tuple[object, ...], Diagnosis] = field(default_factory=dict)

    def cause(
        self,
        kernel: Kernel,
        program: Program,
        stage: str,
        error: str,
        *,
        kind: str,
        code: int = errno.EINVAL,
        log: str = "",
        btf: Words | None = None,
    ) -> Diagnosis:
        """The cause of a failure in these words; one of class `kind` in them, where the table knows none."""
        key = (program.name, stage, error, code, log, kernel.version, kernel.arch, repr(btf))
        if key not in self._known:
            failing = Failing(
                stage=stage,
                error=error,
                version=kernel.version,
                arch=kernel.arch,
                errno=code,
                log=log,
                section=program.section.removeprefix("?"),
                name=program.name,
                wants={"type": program.type, "attach_type": program.attach_type},
                btf=btf or {},
                lines=self.subject.lines,
            )
            found = diagnose(failing)
            self._known[key] = (
                found
                if found is not None
                else Diagnosis(kind, error, "give such kernels another program, or make this one optional")
            )
        return self._known[key]

    def at(self, program: Program, function: Function | None, index: int, words: str) -> str:
        """The verifier's log that ends at an instruction, with `words`."""
        line = self.subject.line(function, index)
        text = f"; {line.text}\n" if line is not None else ""
        number = f"{index}: (00) \n" if function is program.entry else ""
        return f"{text}{number}{words}\n"

    def of_map(self, kernel: Kernel, name: str) -> Diagnosis | None:
        """Why a map cannot be made; None where it can, as far as its definition tells."""
        shape = self.subject.map_shapes.get(name, {})
        definition = self.subject.code.info.definitions.get(name)
        kind = definition.type if definition is not None else ""
        if not kind:
            return None
        facts = {key: shape[key] for key in ("key_size", "value_size") if key in shape}
        failing = Failing(
            "map", "", kernel.version, kernel.arch, errno.EINVAL, name=name, map_type=kind, max_entries=shape.get("max_entries", 0),
            shape={**facts, "flags": shape.get("map_flags", 0)},
        )  # fmt: skip
        if not kernel.takes_map(kind):
            since = history.map_type_since(kind)
            if since is not None and kernel.version >= since:
                return Diagnosis(
                    "config",
                    f"map type {kind} needs an option which this kernel was built without",
                    "give such kernels a variant without it",
                )
            return diagnose(failing)
        return diagnose(failing) if kind in _SHAPED else None


_SHAPED = (
    "hash", "array", "percpu_hash", "percpu_array", "lru_hash", "lru_percpu_hash", "lpm_trie", "stack_trace", "prog_array", "perf_event_array",
    "ringbuf", "queue", "stack", "bloom_filter", "task_storage", "sk_storage", "inode_storage", "cgrp_storage", "devmap", "devmap_hash", "cpumap",
    "xskmap", "sockmap", "sockhash", "cgroup_array", "cgroup_storage", "percpu_cgroup_storage",
)  # fmt: skip
"""The map types of which a definition tells whether a kernel takes it."""


def relocation(asked: Relocation, kernel: Kernel) -> tuple[str, Words]:
    """libbpf's words for a relocation that came to nothing, and what the kernel has in its place (as kmatrix.guest.why finds it)."""
    tag = "enum" if asked.tag == "enum64" else asked.tag
    name = essential(asked.root)
    view = View(kernel.pack, kernel.number, kernel.bit)
    every = [node for letter in _KINDS.get(tag, "") for _, node in view.named(letter, name)]
    names: dict[str, Any] = {"kind": tag, "name": name, "there": bool(every), "alike": []}
    if not every:
        names["alike"] = kernel.alike("types", name, _KINDS.get(tag, "s")[0])
    if asked.kind in (ENUM_EXISTS, ENUM_VALUE):
        spelled = f"::{asked.path[0][1]}"
    else:
        path = [member for _, member in asked.path]
        spelled = f".{'.'.join(path)}" if path else ""
        if every and path:
            names["members"] = _members_like(every[0], path, view)
    words = f"failed to resolve CO-RE relocation <byte_off> [{asked.type}] {asked.tag} {asked.root}{spelled}"
    return words, {"type": names}


def _flat(node: Node, view: View) -> dict[str, Node]:
    node = view.bare(node)
    found: dict[str, Node] = {}
    for name, _, _, type_ in node.members if node.kind in COMPOSITES else ():
        if name:
            found[name] = type_
        else:
            found |= _flat(type_, view)
    return found


def _members_like(node: Node, path: list[str], view: View) -> list[str]:
    for name in path:
        members = _flat(node, view)
        if name not in members:
            return nearest((each for each in members if name in each), name)
        node = members[name]
    return []
