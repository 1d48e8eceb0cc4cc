"""Records of real cells, for the HTML report's tests: reference collectors, ones broken on purpose, and a case, on 5.4, 5.10, 6.1 and 6.12."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmatrix.runs import cell_records
from kmatrix.runs.cell_records import Record

FILE = Path(__file__).with_name("records.jsonl")
"""A line for each cell: `record`, and `console`, the text of its console log."""


def records(directory: Path) -> list[Record]:
    """The records, written under `directory` as a run leaves them."""
    for line in FILE.read_text().splitlines():
        entry = json.loads(line)
        _write(entry["record"], entry["console"], directory)
    return list(cell_records.read_all(directory))


def many(directory: Path, count: int) -> list[Record]:
    """`count` records: the real ones under other names, each with other numbers in what was said, so that no two logs are the same."""
    chance = random.Random(500)
    for number, entry in enumerate(_again(count)):
        record = json.loads(_renumbered(json.dumps(entry["record"]), chance))
        kernel, arch = f"{5 + number % 10 // 5}.{number % 5}", ("x86_64", "arm64")[number // 10 % 2]
        collector = f"collector-{number // 20:02}"
        record |= {"collector": collector, "kernel": kernel, "arch": arch, "cell": f"{collector}[{kernel}-{arch}]"}
        record["console"] = f"console/{collector}@{kernel}-{arch}.log"
        _write(record, _renumbered(entry["console"], chance), directory)
    return list(cell_records.read_all(directory))


def _again(count: int) -> Iterator[dict[str, Any]]:
    lines = FILE.read_text().splitlines()
    yield from (json.loads(lines[number % len(lines)]) for number in range(count))


def _renumbered(text: str, chance: random.Random) -> str:
    """The text with each number of three digits and more, such as an address or a pid, replaced by another of the same length."""
    return re.sub(r"(?<![\w.])[1-9]\d{2,}(?![\w.])", lambda found: str(chance.randrange(10 ** len(found[0]))), text)


def _write(data: dict[str, Any], console: str, directory: Path) -> None:
    path = cell_records.path_of(directory, data["collector"], f"{data['kernel']}-{data['arch']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    if data["console"] is not None:
        (directory / data["console"]).parent.mkdir(exist_ok=True)
        (directory / data["console"]).write_text(console)
