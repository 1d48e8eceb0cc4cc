"""A C source as clang sees it: syntax tree with types, macros, preprocessor conditionals, sections. What the rules over C stand on.

libclang (PyPI's wheel, which brings clang itself) parses with -target bpf. It goes on after errors, and what it could not make sense of is not in the tree: a missing
header makes rules see less, never something that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from clang import cindex

from kmatrix.lint import kernel_header
from kmatrix.lint.preprocessor import Place
from kmatrix.lint.syntax import Access, Function, Macro, Map, Node, Record, is_unnamed, place_of, real_path
from kmatrix.matrix.arch import INFO, Arch

_KEEP_GOING = 0x200
_DETAILED = cindex.TranslationUnit.PARSE_DETAILED_PROCESSING_RECORD
OWN_INCLUDE = Path(__file__).with_name("include")
"""clang's own <stddef.h> and the like, which the wheel does not have."""
SYSTEM = ("/usr/include/", "/usr/local/include/", "/usr/lib/", str(OWN_INCLUDE))
_GENERATED_OR_LIBBPFS = frozenset(
    {"vmlinux.h", "bpf_helpers.h", "bpf_helper_defs.h", "bpf_core_read.h", "bpf_tracing.h", "bpf_endian.h", "usdt.bpf.h"}
)
"""Headers that are nobody's to mend, also where a project has its own copy."""
LIBBPF_READS = ("BPF_CORE_READ", "BPF_PROBE_READ", "bpf_core_", "BPF_CORE_", "BPF_SEQ_PRINTF")
"""How the macros begin of which the arguments are not evaluated as they stand."""

_INCLUDE_FOLDERS = ("bpf_common", "include", "headers", "vmlinux", "bpf_src")
ABOVE = 3
"""How many folders above a file its collector.toml and shared headers are looked for."""

_index: Any = None


def header_folders(path: Path) -> list[Path]:
    """The folders around a source in which projects have headers that several sources share."""
    return [folder / name for folder in list(path.parents)[:ABOVE] for name in _INCLUDE_FOLDERS if (folder / name).is_dir()]


def arguments(arch: Arch, includes: Sequence[Path], defines: Sequence[str]) -> list[str]:
    """clang's arguments for a source."""
    return [
        "-target", "bpf", "-O2", "-Wall", "-Wextra", f"-D__TARGET_ARCH_{INFO[arch].bpf2go}",
        *(f"-D{define}" for define in defines), *(f"-I{path}" for path in includes),
        "-isystem", str(OWN_INCLUDE), "-idirafter", "/usr/include/x86_64-linux-gnu", "-idirafter", "/usr/include/aarch64-linux-gnu",
    ]  # fmt: skip


def _lacks_vmlinux(unit: Any) -> bool:
    """Whether it includes a vmlinux.h that is nowhere to be found."""
    return any(each.spelling == "'vmlinux.h' file not found" for each in unit.diagnostics)


class Unit:
    """A source file and all that it includes, for one arch."""

    def __init__(
        self,
        path: Path,
        arch: Arch,
        *,
        includes: Sequence[Path] = (),
        defines: Sequence[str] = (),
        text: str | None = None,
    ) -> None:
        global _index
        if _index is None:
            _index = cindex.Index.create()
        self.path = str(path.resolve())
        self.arch: Arch = arch
        unsaved = [(self.path, text)] if text is not None else None
        given = ["-x", "c", *arguments(arch, includes, defines)]
        self.unit = _index.parse(self.path, args=given, unsaved_files=unsaved, options=_DETAILED | _KEEP_GOING)
        if _lacks_vmlinux(self.unit) and (home := kernel_header.folder(arch)) is not None:
            given += ["-idirafter", str(home)]
            self.unit = _index.parse(self.path, args=given, unsaved_files=unsaved, options=_DETAILED | _KEEP_GOING)
        self.records: dict[int, Record] = {}
        self._texts: dict[str, bytes] = {}
        self._helpers: dict[int, int | None] = {}
        self.functions: dict[str, Function] = {}
        self.globals: list[Node] = []
        self.registers: list[Node] = []
        """The declarations of struct pt_regs, of all flavours."""
        self.maps: list[Map] = []
        self.macros: dict[str, list[Macro]] = {}
        """The uses of macros, by file."""
        self.defined: dict[str, str] = {}
        """Macros and the file that defines them."""
        self.inclusions: dict[str, list[tuple[str, Place, str]]] = {}
        """By file: each included name as written, where, and the file that it is (empty: not found)."""
        self.sections: dict[str, str] = {}
        """By function or variable: the argument of its SEC()."""
        self._collect()

    # --- what is in it ---

    def _collect(self) -> None:
        cursors = list(self.unit.cursor.get_children())
        found = {
            (real_path(each.location.file.name), each.location.line): real_path(each.include.name)
            for each in self.unit.get_includes()
            if each.location.file is not None
        }
        declarations: list[Node] = []
        for cursor in cursors:
            node = Node(cursor)
            if node.kind == "MACRO_DEFINITION":
                where = cursor.location.file
                self.defined[node.name] = real_path(where.name) if where else ""
            elif node.kind == "MACRO_INSTANTIATION":
                start, end = node.start, node.end
                if not self.is_foreign(start.file):
                    self.macros.setdefault(start.file, []).append(Macro(node.name, start.file, start.offset, end.offset, start))
            elif node.kind == "INCLUSION_DIRECTIVE":
                if not self.is_foreign(node.start.file):
                    self.inclusions.setdefault(node.start.file, []).append(
                        (node.name, node.start, found.get((node.start.file, node.start.line), ""))
                    )
            else:
                declarations.append(node)
        for node in declarations:
            if node.kind in ("FUNCTION_DECL", "VAR_DECL"):
                if self.is_foreign(node.place.file):
                    continue
                section = self.section_of(node)
                if section:
                    self.sections[node.name] = section
                if node.kind == "VAR_DECL":
                    self.globals.append(node)
                    self._map(node)
                elif node.cursor.is_definition():
                    self.functions[node.name] = Function(node, self.sections.get(node.name, ""))
            elif node.kind == "STRUCT_DECL" and node.name.startswith("pt_regs") and not self.is_foreign(node.place.file):
                self.registers.append(node)

    def is_foreign(self, file: str) -> bool:
        """Whether the file is not the project's: libbpf's or the system's headers, or a generated vmlinux.h."""
        return not file or file.startswith(SYSTEM) or file.rpartition("/")[2] in _GENERATED_OR_LIBBPFS

    @cached_property
    def files(self) -> list[str]:
        """The project's files in it, the source first."""
        included = {real_path(inclusion.include.name) for inclusion in self.unit.get_includes()}
        return [self.path, *sorted(name for name in included if not self.is_foreign(name) and name != self.path)]

    @cached_property
    def included_names(self) -> frozenset[str]:
        """The ends of the paths of all that is included: `bpf/bpf_helpers.h`, `vmlinux.h`."""
        paths = [Path(inclusion.include.name) for inclusion in self.unit.get_includes()]
        return frozenset({path.name for path in paths} | {"/".join(path.parts[-2:]) for path in paths})

    @cached_property
    def errors(self) -> list[tuple[str, Place]]:
        """clang's errors."""
        return [(str(d.spelling), place_of(d.location)) for d in self.unit.diagnostics if d.severity >= cindex.Diagnostic.Error]

    @cached_property
    def implicit(self) -> list[tuple[str, Place]]:
        """Names called without a declaration, or used as values without one."""
        found = []
        for diagnostic in self.unit.diagnostics:
            text = str(diagnostic.spelling)
            if text.startswith(("call to undeclared function", "implicit declaration of function", "use of undeclared identifier")):
                found.append((text.split("'")[1], place_of(diagnostic.location)))
        return found

    def section_of(self, node: Node) -> str:
        """The section that a declaration is put in by SEC("…")."""
        for child in node.children:
            if child.kind == "UNEXPOSED_ATTR":
                words = self.tokens(child.start.file, child.start.offset, child.end.offset)
                if words[:1] and words[0] in ("SEC", "section", "__section"):
                    return "".join(word.strip('"') for word in words if word.startswith('"'))
        return ""

    def text(self, start: Place, end: Place) -> str:
        """The source's text between two places of one file."""
        return self._data(start.file)[start.offset : end.offset].decode(errors="replace")

    def _data(self, file: str) -> bytes:
        if file not in self._texts:
            self._texts[file] = Path(file).read_bytes()
        return self._texts[file]

    def tokens(self, file: str, start: int, end: int) -> list[str]:
        """The tokens between two offsets of a file."""
        handle = self.unit.get_file(file)
        first, last = (cindex.SourceLocation.from_offset(self.unit, handle, offset) for offset in (start, end))
        found = [token.extent for token in self.unit.get_tokens(extent=cindex.SourceRange.from_locations(first, last))]
        data = self._data(file)
        return [data[e.start.offset : e.end.offset].decode(errors="replace") for e in found if e.start.offset < end]

    @cached_property
    def programs(self) -> list[Function]:
        """The entry functions."""
        skip = (".maps", "maps", "license", "version", ".text", ".ksyms", ".rodata", ".data", ".bss", ".struct_ops")
        return [f for f in self.functions.values() if f.section and not f.section.startswith(skip)]

    def program_of(self, function: Function) -> Function | None:
        """The program that a function is, or is the body of (BPF_PROG and its like make ____name for name)."""
        if function in self.programs:
            return function
        outer = self.functions.get(function.name.removeprefix("____")) if function.name.startswith("____") else None
        return outer if outer is not None and outer in self.programs else None

    @cached_property
    def reachable(self) -> list[Function]:
        """The functions that are in the object: programs, and what they call."""
        seen: dict[str, Function] = {}
        todo = list(self.programs) + [f for f in self.functions.values() if f.node.cursor.storage_class.name != "STATIC"]
        while todo:
            function = todo.pop()
            if function.name not in seen:
                seen[function.name] = function
                todo += [self.functions[c.callee()] for c in function.calls if c.callee() in self.functions]
        return list(seen.values())

    @cached_property
    def callers(self) -> dict[str, list[Function]]:
        """By function: the functions that call it."""
        found: dict[str, list[Function]] = {}
        for function in self.functions.values():
            for call in function.calls:
                found.setdefault(call.callee(), []).append(function)
        return found

    def programs_with(self, function: Function) -> list[Function]:
        """The programs that a function is part of."""
        seen: set[str] = set()
        todo, found = [function], []
        while todo:
            each = todo.pop()
            if each.name in seen:
                continue
            seen.add(each.name)
            program = self.program_of(each)
            if program is not None:
                found.append(program)
            todo += self.callers.get(each.name, [])
        return list(dict.fromkeys(found))

    def _map(self, node: Node) -> None:
        if self.sections.get(node.name) != ".maps":
            return
        numbers: dict[str, tuple[int, Place]] = {}
        for member in node.type.get_fields():
            pointee = member.type.get_pointee()
            if pointee.kind == cindex.TypeKind.CONSTANTARRAY:
                numbers[member.spelling] = (pointee.element_count, place_of(member.location))
        kind, _ = numbers.get("type", (0, node.place))
        entries, where = numbers.get("max_entries", (None, node.place))
        self.maps.append(Map(node.name, kind, entries, node.place, where))

    def helper(self, call: Node) -> int | None:
        """The number of the kernel's helper that a call calls: libbpf declares each as a pointer of that value."""
        declaration = call.cursor.referenced
        if declaration is None or declaration.kind.name != "VAR_DECL":
            return None
        key = int(declaration.hash)
        if key not in self._helpers:
            literals = [c for c in declaration.walk_preorder() if c.kind.name == "INTEGER_LITERAL"]
            text = [token.spelling for token in literals[-1].get_tokens()] if literals else []
            self._helpers[key] = int(text[0]) if text and text[0].isdigit() else None
        return self._helpers[key]

    # --- macros ---

    def macros_at(self, place: Place) -> list[Macro]:
        """The macro uses around a place, the outermost first."""
        return [m for m in self.macros.get(place.file, ()) if m.start <= place.offset < m.end]

    def in_read_macro(self, place: Place) -> bool:
        """Whether the place is in an argument of a CO-RE macro."""
        return any(macro.name.startswith(LIBBPF_READS) for macro in self.macros_at(place))

    def from_project_macro(self, place: Place) -> bool:
        """Whether the place is in the use of a macro that the project defines."""
        return any(not self.is_foreign(self.defined.get(macro.name, "")) for macro in self.macros_at(place))

    def uses(self, *names: str) -> Iterator[Macro]:
        """The uses of macros of these names in the project's files."""
        for macros in self.macros.values():
            yield from (macro for macro in macros if macro.name in names)

    # --- records ---

    def record(self, type_: Any) -> Record | None:
        """The struct or union that a type is."""
        declaration = type_.get_canonical().get_declaration()
        if declaration.kind.name not in ("STRUCT_DECL", "UNION_DECL"):
            return None
        declaration = declaration.get_definition() or declaration
        key = int(declaration.hash)
        if key not in self.records:
            anonymous = "unnamed" in declaration.spelling or "anonymous" in declaration.spelling
            name = "" if anonymous else declaration.spelling.split("___")[0]
            relocated = any(child.kind.name == "UNEXPOSED_ATTR" for child in declaration.get_children())
            self.records[key] = Record(name, place_of(declaration.location).file, relocated)
        return self.records[key]

    def access(self, node: Node) -> tuple[Access, Node, bool] | None:
        """What a MEMBER_REF_EXPR reads: the access, its base, and whether through a pointer (->).

        A member of an unnamed struct or union is one of the structure around it.
        """
        if node.kind != "MEMBER_REF_EXPR" or not node.children or is_unnamed(node):
            return None
        base = node.children[0]
        while base.kind == "MEMBER_REF_EXPR" and is_unnamed(base) and base.children:
            base = base.children[0]
        pointer = base.type.kind == cindex.TypeKind.POINTER
        record = self.record(base.type.get_pointee() if pointer else base.type)
        return (Access(record, node.name), base, pointer) if record is not None else None

    def chain(self, node: Node) -> list[Access]:
        """The accesses of a->b.c, from the first to the last; through unnamed members too."""
        found: list[Access] = []
        current: Node | None = node
        while current is not None:
            current = current.bare()
            while current.kind == "ARRAY_SUBSCRIPT_EXPR":
                current = current.children[0].bare()
            what = self.access(current)
            if what is None:
                break
            found.append(what[0])
            current = what[1]
        return found[::-1]
