"""Annotations for GitHub: a line `::error file=…,line=…` for each finding, which a pull request shows beside the line of source.

GitHub reads them from a step's output, and shows ten of a step: cells that fail alike are one finding.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmatrix.report import causes, reds, subtests, table
from kmatrix.report.causes import Cause
from kmatrix.report.names import shorten
from kmatrix.runs.cell_records import Record
from kmatrix.runs.guest_test_records import TestRecord

_PLACE = re.compile(r"(?:(?P<text>.*) @ )?(?P<name>[^/:\s]+):(?P<number>\d+)")
"""`text @ file:line`, as kmatrix.objects.lines writes it."""
_ASIDE = {".git", ".venv", "node_modules", "build", "dist", "__pycache__"}
"""Folders in which no source is looked for."""


_BY_CAUSES = ("load", "attach")
"""Failures that a cause says whole; of others, such as a wrong value, what was found is said as well."""


@dataclass(frozen=True)
class Spot:
    """Where a finding is shown."""

    file: Path
    """Seen from the repository's top folder."""
    line: int | None = None


def render(records: Iterable[Record], root: Path, here: Path | None = None) -> str:
    """The annotations of what is red, and then of warnings; `root` is the repository's top folder, `here` the one where pytest was called (else the same).

    Empty where there is neither.
    """
    found = table.ordered(records)
    groups = [*reds.alike(found), *reds.warnings(found)]
    return "".join(f"{line}\n" for group in groups for line in _of_group(group, root, here or root))


def of_commands(commands: Iterable[TestRecord]) -> str:
    """The annotations of test commands: each sub-test with one message once, with its targets. Their programs name lines without a folder."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for cell in subtests.cells(commands):
        if not cell.ok:
            groups.setdefault((cell.collector, cell.reason), []).append(cell)
    lines = []
    for (name, reason), found in groups.items():
        level = "warning" if found[0].failure == "infra" or all(cell.warning for cell in found) else "error"
        title = f"{name} on {shorten([cell.target for cell in found])}"
        lines.append(_command(level, None, title, f"{reason}\nreproduce: {found[0].reproduce}") + "\n")
    return "".join(lines)


def _of_group(group: Sequence[Record], root: Path, here: Path) -> Iterator[str]:
    first, manifest = group[0], _manifest(group[0], root, here)
    # The machines' failure is nothing that a change of the source mends.
    level = "warning" if first.failure == "infra" or first.warning else "error"
    told = False
    for cause in causes.relevant(first):
        for spot in _spots(cause, manifest, root):
            told = first.failure in _BY_CAUSES
            text = f"{causes.one_line(cause)}\nof {causes.names(cause)}\nfix: {cause['fix']}\nreproduce: {first.reproduce}"
            yield _command(level, spot, reds.title(group), text)
    if not told:
        why = causes.headlines(first)
        text = "\n".join([reds.summary(first), *([why] if why else []), f"reproduce: {first.reproduce}"])
        yield _command(level, Spot(manifest) if manifest is not None else None, reds.title(group), text)


def _manifest(record: Record, root: Path, here: Path) -> Path | None:
    """The cell's manifest, seen from `root`, as the command that replays the cell has it; None where it is not there."""
    words = shlex.split(record.reproduce)
    path = here / words[1].partition("::")[0] if len(words) > 1 else None
    return path.relative_to(root) if path is not None and path.is_file() and path.is_relative_to(root) else None


def _spots(cause: Cause, manifest: Path | None, root: Path) -> list[Spot]:
    """The places of a cause whose file is found, and has that text in that line: a file of the same name may be another's."""
    found = []
    for place in dict.fromkeys(cause["where"].values()):
        match = _PLACE.fullmatch(place)
        if match is not None and (file := _file(match["name"], int(match["number"]), match["text"], manifest, root)) is not None:
            found.append(Spot(file, int(match["number"])))
    return found


def _file(name: str, number: int, text: str | None, manifest: Path | None, root: Path) -> Path | None:
    """The file of that name with `text` in line `number` that is nearest to the manifest."""
    near = manifest.parent if manifest is not None else Path()
    for folder in dict.fromkeys([near, *near.parents]):
        for path in sorted((root / folder).rglob(name), key=lambda path: (len(path.parts), path)):
            seen = path.relative_to(root)
            if not _ASIDE & set(seen.parts) and _has(path, number, text):
                return seen
    return None


def _has(path: Path, number: int, text: str | None) -> bool:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return number <= len(lines) and (text is None or text.strip() in lines[number - 1])


def _command(level: str, spot: Spot | None, title: str, text: str) -> str:
    properties = {"file": spot.file.as_posix(), "line": spot.line} if spot is not None else {}
    shown = ",".join(
        f"{name}={_property(str(value))}" for name, value in {**properties, "title": title}.items() if value is not None
    )
    return f"::{level} {shown}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
