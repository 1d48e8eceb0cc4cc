"""The records as one HTML file that needs nothing beside it: the table, and each cell to be opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kmatrix.host.errors import InputError
from kmatrix.manifest.types import BEHAVIOURS
from kmatrix.matrix.arch import ARCHES
from kmatrix.report import causes, reds, table
from kmatrix.report.explain import look_in, simulation, words
from kmatrix.report.names import target_key
from kmatrix.runs.cell_records import Record, path_of
from kmatrix.verdict.failure import FAILURES

_TEMPLATE = Path(__file__).with_name("page.html")


def render(records: Iterable[Record], directory: Path, bad: Sequence[InputError] = (), *, to: Path | None = None) -> str:
    """The page of the records under the kmatrix directory; `bad` are the files there that are none, `to` the file that the page goes to."""
    found = table.ordered(records)
    targets = sorted({record.target for record in found}, key=target_key)
    kinds = Counter(map(_kind, found))
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE.parent), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"kind": _kind, "mark": table.mark, "title": reds.title, "look_in": look_in, "simulation": simulation}
    return environment.get_template(_TEMPLATE.name).render(
        headline=table.headline(found),
        counts=[(kind, kinds[kind]) for kind in (*reversed(BEHAVIOURS), "bad", "infra") if kind in kinds],
        run=_run(found),
        reds=reds.alike(found),
        greens=[record for record in found if record.ok],
        arches=[(arch, names) for arch in ARCHES if (names := [name for name in targets if name.endswith(f"-{arch}")])],
        collectors=list(dict.fromkeys(record.collector for record in found)),
        cells={(record.collector, record.target): record for record in found},
        simulated={record.target for record in found if record.simulated},
        causes=causes.relevant,
        cause_names=causes.names,
        cause_places=lambda cause: causes.places([cause]),
        words=lambda record: "\n".join(words(record, directory)),
        console=lambda record: _link(record, directory, to),
        path=lambda record: path_of(directory, record.collector, record.target),
        failures=FAILURES,
        bad=bad,
    )


def _run(records: Sequence[Record]) -> list[tuple[str, str]]:
    """When, where and with what the cells ran, as the records have it."""
    begun = sorted(record.started for record in records if record.started)
    when = " to ".join(dict.fromkeys((begun[0], begun[-1]))) if begun else ""

    def said(key: str) -> str:
        return "; ".join(sorted({record.versions[key] for record in records if record.versions.get(key)}))

    facts = [
        ("cells begun", when),
        ("host", said("host")),
        ("kmatrix", said("kmatrix")),
        ("QEMU", said("qemu")),
        ("VMs run by", said("accel")),
        ("objects loaded by", said("loader")),
    ]
    return [(name, text) for name, text in facts if text]


def _link(record: Record, directory: Path, to: Path | None) -> str | None:
    """The address of the cell's console log: from beside the page where that is a file, else the whole path; None where there is none."""
    path = directory / record.console if record.console is not None else None
    if path is None or not path.is_file():
        return None
    return quote(os.path.relpath(path, to.resolve().parent)) if to is not None else path.resolve().as_uri()


def _kind(record: Record) -> str:
    """What a cell's colour tells: the behaviour shown, or that something is wrong, or that the machine room is."""
    return str(record.observed) if record.ok else "infra" if record.failure == "infra" else "bad"
