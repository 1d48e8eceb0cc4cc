"""`--fix`: the edits of the findings, applied where they are certain to be an improvement, and taken back where clang then disagrees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kmatrix.host.errors import InputError
from kmatrix.host.paths import write_whole
from kmatrix.lint.engine import Options, Report, lint
from kmatrix.lint.findings import Edit, Finding

_ROUNDS = 5
"""One edit may make room for another (a chain of reads inside a read); this many times is more than sources have needed."""


def fix(paths: Sequence[Path], options: Options) -> tuple[Report, int]:
    """Mend what can be mended under `paths`, and what is left: the report after it, and how many findings were mended.

    A file in which clang finds more errors than before is put back as it was. Raises InputError where a file cannot be written.
    """
    report = lint(paths, options)
    before, mended, refused = report.errors, 0, set[str]()
    for _ in range(_ROUNDS):
        chosen = [f for f in report.findings if f.edits and not {e.file for e in f.edits} & refused]
        originals, count = _apply(chosen)
        if not originals:
            break
        report = lint(paths, options)
        worse = {file for file, errors in report.errors.items() if errors > before.get(file, 0)} & set(originals)
        if worse:
            for file in worse:
                _write(Path(file), originals[file])
            refused |= worse
            report = lint(paths, options)
            count -= sum(1 for f in chosen if {e.file for e in f.edits} & worse)
        mended += count
    return report, mended


def _apply(findings: Iterable[Finding]) -> tuple[dict[str, bytes], int]:
    """Write the edits; returns what the files were, and how many findings were dealt with."""
    edits: dict[str, set[Edit]] = {}
    count = 0
    for finding in findings:
        # All of a finding's edits, or none; the same edit (an include) may serve several findings.
        if any(_overlaps(edit, other) for edit in finding.edits for other in edits.get(edit.file, ()) if other != edit):
            continue
        for edit in finding.edits:
            edits.setdefault(edit.file, set()).add(edit)
        count += 1
    originals = {}
    for file, own in edits.items():
        path = Path(file)
        data = originals[file] = path.read_bytes()
        for edit in sorted(own, key=lambda e: (e.start, e.end, e.text), reverse=True):
            data = data[: edit.start] + edit.text.encode() + data[edit.end :]
        _write(path, data)
    return originals, count


def _overlaps(one: Edit, other: Edit) -> bool:
    if one.start == one.end or other.start == other.end:  # an insertion disturbs only what it falls into
        return one.start < other.end and other.start < one.end and one.file == other.file
    return one.file == other.file and one.start < other.end and other.start < one.end


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data, mode=path.stat().st_mode & 0o7777)
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path), fix="make it writable, or leave out --fix") from None
