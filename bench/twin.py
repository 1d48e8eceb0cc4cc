"""Twins: a collector's CO-RE object compiled once more, without CO-RE, for the layout of one kernel.

The sources stay as they are. Of the headers, each structure that CO-RE would relocate is written anew, with its members where the kernel's
BTF has them; and what CO-RE would ask of the kernel (is there such a field, a type, an enumerator?) is answered by the compiler. So the
twin is what one would get with that kernel's own headers, and the difference between the two objects, once loaded, is what CO-RE costs.

clang's own syntax tree says what the structures are. A member that the kernel has not is made volatile, a type aligned to 4096: no code that
runs reads them, and that is how the compiler tells.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kmatrix.matrix.arch import INFO, Arch
from kmatrix.objects.btf import ARRAY, ENUM, ENUM64, INT, PTR, STRUCT, UNION, Btf

ABSENT = 4096
PRELUDE = """\
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#define preserve_access_index
#define __builtin_preserve_access_index(expression) (expression)
#define __builtin_preserve_field_info(field, what) ({{ \\
	_Static_assert((what) == BPF_FIELD_EXISTS, "the twin knows no other question about a field"); \\
	!__builtin_types_compatible_p(__typeof__(&(field)), volatile __typeof__(field) *); }})
#define __builtin_preserve_type_info(type, what) ({{ \\
	_Static_assert((what) == BPF_TYPE_EXISTS, "the twin knows no other question about a type"); \\
	__alignof__(__typeof__(type)) != {absent}; }})
#undef bpf_core_enum_value_exists
#define bpf_core_enum_value_exists(type, value) KERNEL_HAS_##value
{enumerators}
"""

Node = Mapping[str, Any]


def compile_twin(source: Path, arch: Arch, btf: Btf, work: Path, *, defines: tuple[str, ...] = ()) -> Path:
    """The twin of the object of `source` (COLLECTORS/NAME/x.bpf.c) for a kernel with these types; made in the empty folder `work`."""
    tree = work / "collectors"
    shutil.copytree(source.parents[1], tree, ignore=shutil.ignore_patterns("build"))
    enumerators: set[str] = set()
    trees = {header: _syntax_tree(header, arch) for header in tree.glob("*/*.h") if "preserve_access_index" in header.read_text()}
    for header, parsed in trees.items():
        enumerators |= _rewrite(header, parsed, btf)
    there = btf.enumerators()
    questions = "\n".join(f"#define KERNEL_HAS_{name} {int(_plain(name) in there)}" for name in sorted(enumerators))
    (work / "prelude.h").write_text(PRELUDE.format(absent=ABSENT, enumerators=questions))
    output = work / "twin.o"
    includes = ["-include", str(tree / "bpf_common" / "vmlinux_minimal.h"), "-include", str(work / "prelude.h")]
    twin = tree / source.parent.name / source.name
    compile_object(twin, output, arch, *includes, "-DBPF_NO_PRESERVE_ACCESS_INDEX", *(f"-D{name}" for name in defines))
    return output


def compile_object(source: Path, output: Path, arch: Arch, *options: str) -> Path:
    """Compile as collectors/Makefile does. Raises CalledProcessError, clang's words on the terminal."""
    flags = ["-target", "bpf", "-g", "-O2", "-Wall", "-Wextra", "-Werror", f"-D__TARGET_ARCH_{INFO[arch].bpf2go}"]
    subprocess.run(["clang", *flags, *options, "-c", str(source), "-o", str(output)], check=True)
    return output


def _syntax_tree(header: Path, arch: Arch) -> Node:
    command = [
        "clang",
        "-target",
        "bpf",
        f"-D__TARGET_ARCH_{INFO[arch].bpf2go}",
        "-fsyntax-only",
        "-Xclang",
        "-ast-dump=json",
        "-x",
        "c",
    ]
    tree: Node = json.loads(subprocess.run([*command, str(header)], check=True, stdout=subprocess.PIPE).stdout)
    return tree


def _rewrite(header: Path, tree: Node, btf: Btf) -> set[str]:
    """Put the kernel's layout into the structures of `header` that CO-RE relocates; the enumerators that it has."""
    text = header.read_bytes()  # clang counts bytes
    enumerators = {
        each["name"] for node in tree["inner"] if node["kind"] == "EnumDecl" for each in _inner(node, "EnumConstantDecl")
    }
    checks = []
    # From the end, so that what is replaced moves nothing that is still to be.
    for node in reversed([node for node in tree["inner"] if node["kind"] == "RecordDecl" and _is_relocated(node)]):
        begin, end = _extent(node)
        anew, its_checks = _written_anew(node, text, btf)
        text = text[:begin] + anew.encode() + text[end:]
        checks += its_checks
    header.write_bytes(text + "\n".join(["", *checks, ""]).encode())
    return enumerators


def _inner(node: Node, kind: str) -> list[Node]:
    return [each for each in node.get("inner", ()) if each["kind"] == kind]


def _is_relocated(node: Node) -> bool:
    here = "includedFrom" not in node["loc"]
    return here and bool(node.get("completeDefinition")) and bool(_inner(node, "BPFPreserveAccessIndexAttr"))


def _extent(node: Node) -> tuple[int, int]:
    begin, end = node["range"]["begin"], node["range"]["end"]
    return begin["offset"], end["offset"] + end["tokLen"]


def _written_anew(node: Node, text: bytes, btf: Btf) -> tuple[str, list[str]]:
    """`struct x { … }` with each member at its place in the kernel's own, all side by side in a union; and what checks that."""
    tag, name = node["tagUsed"], node["name"]
    real = _plain(name)
    members, checks = [], []
    for field in _fields(node):
        if "(unnamed " in field["type"]["qualType"] or "(anonymous " in field["type"]["qualType"]:
            raise NotImplementedError(f"{tag} {name}.{field['name']} is of a type without a name, which a twin does not follow")
        begin, end = _extent(field)
        declaration = " ".join(text[begin:end].decode().split())
        found = btf.member(tag, real, field["name"])
        if found is None or found.kind not in _kinds(field["type"]):
            members.append(f"volatile {declaration};")
            continue
        if found.bitfield or field.get("isBitfield"):
            raise NotImplementedError(f"{tag} {real}.{field['name']} is a bit field, which a twin cannot place")
        members.append(f"struct {{ char before_{field['name']}[{found.offset}]; {declaration}; }};")
        checks.append(f'_Static_assert(__builtin_offsetof({tag} {name}, {field["name"]}) == {found.offset}, "");')
    absent = "" if btf.has(tag, real) else f" __attribute__((aligned({ABSENT})))"
    return f"{tag} {name} {{ union {{ {' '.join(members)} }}; }}{absent}", checks


def _plain(name: str) -> str:
    """A name as libbpf looks it up: what follows ___ is the program's own."""
    return re.sub("___.*", "", name)


def _fields(node: Node) -> Iterator[Node]:
    """The members with names, also of nameless structures inside."""
    for field in _inner(node, "FieldDecl"):
        if field.get("name"):
            yield field
    for record in _inner(node, "RecordDecl"):
        if not record.get("name"):
            yield from _fields(record)


def _kinds(node: Node) -> tuple[int, ...]:
    """The kinds of BTF type that libbpf takes for compatible with a C type (bpf_core_fields_are_compat)."""
    spelled = node.get("desugaredQualType", node["qualType"])
    if spelled.endswith("*"):
        return (PTR,)
    if spelled.endswith("]"):
        return (ARRAY,)
    if "enum " in spelled:
        return (ENUM, ENUM64)
    if "struct " in spelled or "union " in spelled:
        return (STRUCT, UNION)
    return (INT,)
