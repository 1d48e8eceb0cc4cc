"""What is linted: files found, sources parsed for the arches that they tell apart, findings of all rules gathered, suppressed, sorted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clang.cindex import TranslationUnitLoadError

from kmatrix.host.errors import InputError
from kmatrix.lint import generate, objects, suppress
from kmatrix.lint.checks import Source, arches, claimed, features, fields, headers, identifiers, reads
from kmatrix.lint.claims import claims, stem
from kmatrix.lint.findings import Finding
from kmatrix.lint.preprocessor import Comment, Place, Scanner
from kmatrix.lint.rules import RULES
from kmatrix.lint.source import ABOVE, Unit, header_folders
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.load import COLLECTOR_FILE, load_collector
from kmatrix.objects.compiled import is_bpf

_CHECKS = (headers.check, reads.check, fields.check, identifiers.check, features.check, arches.check, claimed.check)
_SKIPPED = frozenset({".git", ".venv", "venv", "node_modules", "__pycache__", ".kmatrix", "vendor"})
_EXPLAINED_BY = frozenset({"KM101", "KM102", "KM104", "KM304"})
"""Rules whose findings are the reason of clang's errors."""


@dataclass(frozen=True)
class Options:
    """What is looked for, and how sources are compiled."""

    select: frozenset[str] = frozenset(RULES)
    includes: tuple[Path, ...] = ()
    defines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What came out."""

    findings: list[Finding]
    suppressed: int
    files: int
    """How many files were looked at."""
    errors: dict[str, int]
    """By C file: clang's errors in it, whether or not a rule explains them."""


@dataclass
class Files:
    """What there is under the paths given."""

    sources: list[Path] = field(default_factory=list)
    headers: list[Path] = field(default_factory=list)
    go: list[Path] = field(default_factory=list)
    objects: list[Path] = field(default_factory=list)
    manifests: list[Path] = field(default_factory=list)
    roots: list[Path] = field(default_factory=list)

    def covers(self, file: str) -> bool:
        """Whether findings in a file are asked for."""
        path = Path(file)
        return any(root == path or root in path.parents for root in self.roots)


def find(paths: Sequence[Path]) -> Files:
    """The files under `paths` (default: the collectors below the current directory). Raises InputError."""
    files = Files()
    for path in paths:
        if not path.exists():
            raise InputError("no such file or folder", where=str(path), fix="check the path")
        if path.is_dir():
            files.roots.append(path.resolve())
            for each in _walk(path):
                _sort(files, each, named=False)
        else:
            # A source given by itself stands for the headers beside it too.
            files.roots.append(path.resolve())
            _sort(files, path, named=True)
    return files


def default_paths() -> list[Path]:
    """The folders below the current one that have a collector.toml; of several with a common parent that shares headers, that."""
    folders = sorted({manifest.parent for manifest in _walk(Path()) if manifest.name == COLLECTOR_FILE})
    if not folders:
        raise InputError(
            "no collector.toml below the current directory", fix="name the sources, objects or folders: kmatrix lint PATH…"
        )
    common = [folder.parent / "bpf_common" for folder in folders]
    return sorted({*folders, *(each for each in common if each.is_dir())})


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        yield from (Path(root) / name for name in sorted(names))


def _sort(files: Files, path: Path, *, named: bool) -> None:
    name = path.name
    if name.endswith(".bpf.c") or (named and name.endswith(".c")):
        files.sources.append(path)
    elif name.endswith(".h") and name != "vmlinux.h":
        files.headers.append(path)
    elif name == "generate.go" or (named and name.endswith(".go")):
        files.go.append(path)
    elif name.endswith(".o") and (named or is_bpf(path)):
        files.objects.append(path)
    elif name == COLLECTOR_FILE:
        files.manifests.append(path)
    elif named:
        raise InputError("not a C source, header, Go file, object or collector.toml", where=str(path), fix="name one, or a folder")


class _Run:
    def __init__(self, files: Files, options: Options) -> None:
        self.files = files
        self.options = options
        self.scanner = Scanner()
        self.found: list[Finding] = []
        self.suppressions: list[suppress.Suppression] = []
        self.collectors: list[Collector] = []
        self.directives: list[generate.Directive] = []
        self.scanned: set[str] = set()
        self.errors: dict[str, int] = {}
        self.by_source: dict[str, set[str]] = {}
        """By a source's stem: the codes found in it, which its objects need not repeat."""

    def run(self) -> Report:
        self._manifests()
        self._go()
        sources = dict.fromkeys(path.resolve() for path in self.files.sources)
        sources.update(dict.fromkeys(d.source for d in self.directives if d.source.is_file() and self.files.covers(str(d.source))))
        for path in sources:
            self._guarded(path, self._source)
        for path in self.files.headers:
            if str(path.resolve()) not in self.scanned:
                self._guarded(path.resolve(), self._header)
        of_objects = self._objects(sources)
        wanted = [f for f in self.found if f.code in self.options.select and (self.files.covers(f.place.file))]
        unique = _unique(wanted)
        left = suppress.apply(unique, self.suppressions, of_objects)
        idle = [f for f in suppress.unused(self.suppressions, self.options.select) if f.code in self.options.select]
        findings = sorted([*left, *idle], key=lambda f: (f.place.file, f.place.line, f.place.column, f.code))
        count = len(
            {str(p.resolve()) for p in (*sources, *self.files.headers, *self.files.go, *self.files.objects, *self.files.manifests)}
        )
        return Report(findings, len(unique) - len(left), count, self.errors)

    def _guarded(self, path: Path, look: Callable[[Path], None]) -> None:
        try:
            look(path)
        except OSError as error:
            self._cannot_be_read(path, error.strerror or str(error))
        except (UnicodeDecodeError, TranslationUnitLoadError) as error:
            self._cannot_be_read(path, f"this is no C source ({error})")

    def _cannot_be_read(self, path: Path, why: str) -> None:
        self.found.append(Finding("KM001", Place(str(path), 1, 1, 0), why))

    # --- one kind of file after another ---

    def _manifests(self) -> None:
        paths = {path.resolve() for path in self.files.manifests}
        for path in (*self.files.sources, *self.files.objects, *self.files.go):
            for folder in list(path.resolve().parents)[:ABOVE]:
                if (folder / COLLECTOR_FILE).is_file():
                    paths.add(folder / COLLECTOR_FILE)
                    break
        for path in sorted(paths):
            try:
                self.collectors.append(load_collector(path))
            except InputError as error:
                self.files.roots.append(path)  # what the sources claim is in it, so its error is theirs
                self._cannot_be_read(path, error.message)

    def _go(self) -> None:
        for path in self.files.go:
            try:
                data = path.read_bytes()
            except OSError as error:
                self._cannot_be_read(path.resolve(), error.strerror or str(error))
                continue
            own = generate.directives(path, data)
            self.directives += own
            for directive in own:
                self.found += generate.check(directive)
            self._suppressions(generate.comments(path, data))

    def _suppressions(self, comments: Iterable[Comment]) -> None:
        found, wrong = suppress.parse(comments)
        self.suppressions += found
        self.found += wrong

    def _flags(self, path: Path) -> tuple[list[Path], list[str]]:
        """Where a source's headers are looked for, and what is defined: what its generate.go says, and what stands around it."""
        mine = [d for d in self.directives if d.source == path]
        includes = [*self.options.includes, *(each for d in mine for each in d.includes), *header_folders(path)]
        return list(dict.fromkeys(includes)), [*self.options.defines, *(each for d in mine for each in d.defines)]

    def _source(self, path: Path) -> None:
        includes, defines = self._flags(path)
        aliases = [d.name for d in self.directives if d.source == path]
        first = Unit(path, "x86_64", includes=includes, defines=defines)
        units = [first]
        files = [self.scanner.file(first.unit, each) for each in first.files]
        if not aliases and not path.name.endswith(".bpf.c") and not any("SEC" in file.identifiers for file in files):
            if first.errors:  # which it is cannot be told: what was named must not pass unread
                self._unreadable(Source(first, self.scanner, (), by_bpf2go=False), self.found)
            return  # a C file, and not BPF's
        if any(file.has_code_for_one_arch for file in files):
            units.append(Unit(path, "arm64", includes=includes, defines=defines))
        for unit in units:
            source = Source(unit, self.scanner, claims(self.collectors, path, aliases), by_bpf2go=bool(aliases))
            found = [finding for check in _CHECKS for finding in check(source)]
            self._unreadable(source, found)
            self.found += found
            for name in (stem(path), *aliases):
                self.by_source.setdefault(name, set()).update(finding.code for finding in found)
            self._comments(source)

    def _header(self, path: Path) -> None:
        """A header that no source here includes: what it says by itself."""
        includes, defines = self._flags(path)
        source = Source(Unit(path, "x86_64", includes=includes, defines=defines), self.scanner, (), is_header=True)
        self.found += [finding for check in _CHECKS for finding in check(source)]
        self._comments(source)

    def _comments(self, source: Source) -> None:
        for file in source.files:
            if file.path not in self.scanned and self.files.covers(file.path):
                self._suppressions(file.comments)
            self.scanned.add(file.path)

    def _unreadable(self, source: Source, found: list[Finding]) -> None:
        for _, place in source.unit.errors:
            self.errors[place.file] = self.errors.get(place.file, 0) + 1
        told = " ".join(finding.message for finding in found if finding.code == "KM101")
        explained = bool({finding.code for finding in found} & _EXPLAINED_BY)

        def unexplained(text: str, place: Place) -> bool:
            missing = "file not found" in text and not source.unit.is_foreign(place.file)
            return not explained or (missing and text.split("'")[1] not in told)

        left = [error for error in source.unit.errors if unexplained(*error)]
        if not left:
            return
        text, place = left[0]
        if source.unit.is_foreign(place.file):
            place = Place(source.unit.path, 1, 1, 0)
        tail = " (-I DIR says where it is)" if "file not found" in text else ""
        found.append(Finding("KM001", place, f"clang: {text}{tail}; what depends on it was not checked"))

    def _objects(self, sources: Iterable[Path]) -> dict[str, str]:
        by_stem = {stem(path): str(path) for path in sources}
        by_stem |= {d.name: str(d.source) for d in self.directives}
        homes: dict[str, str] = {}
        seen: set[tuple[str, str]] = set()
        for path in self.files.objects:
            name = stem(path)
            place = Place(str(path.resolve()), 1, 1, 0)
            if name in by_stem:
                homes[place.file] = by_stem[name]
            try:
                for code, message in objects.check(path, claims(self.collectors, path)):
                    # Both arches' objects have it, or the source: said once.
                    said = (f"{path.parent}/{name}", code + message)
                    if said not in seen and code not in self.by_source.get(name, ()):
                        self.found.append(Finding(code, place, message))
                    seen.add(said)
            except InputError as error:
                self._cannot_be_read(path.resolve(), error.message)
        for collector in self.collectors:
            self.found += [
                Finding("KM704", Place(str(where.resolve()), 1, 1, 0), text) for where, text in objects.missing(collector)
            ]
        return homes


def _unique(findings: Iterable[Finding]) -> list[Finding]:
    """One finding a place: a header is seen from many sources. It is mended only if every one of them can do with it."""
    found: dict[tuple[str, str, int, int], Finding] = {}
    for finding in findings:
        first = found.setdefault(finding.key, finding)
        if first.edits and not finding.edits:
            found[finding.key] = finding
    return list(found.values())


def lint(paths: Sequence[Path], options: Options | None = None) -> Report:
    """Everything that the rules have to say about `paths`. Raises InputError for a path that is not there."""
    return _Run(find(paths), options or Options()).run()
