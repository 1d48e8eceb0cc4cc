"""The records as one HTML file that needs nothing beside it: the table, and each cell to be opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kmatrix.host.errors import InputError
from kmatrix.manifest.types import BEHAVIOURS
from kmatrix.matrix.arch import ARCHES
from kmatrix.report import causes, table
from kmatrix.report.explain import look_in, simulation, words
from kmatrix.report.names import target_key
from kmatrix.runs.cell_records import Record, path_of
from kmatrix.verdict.failure import FAILURES

_TEMPLATE = Path(__file__).with_name("page.html")


def render(records: Iterable[Record], directory: Path, bad: Sequence[InputError] = ()) -> str:
    """The page of the records under the kmatrix directory; `bad` are the files there that are none."""
    found = table.ordered(records)
    targets = sorted({record.target for record in found}, key=target_key)
    kinds = Counter(map(_kind, found))
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE.parent), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"kind": _kind, "mark": table.mark, "look_in": look_in, "simulation": simulation}
    return environment.get_template(_TEMPLATE.name).render(
        headline=table.headline(found),
        counts=[(kind, kinds[kind]) for kind in (*reversed(BEHAVIOURS), "bad", "infra") if kind in kinds],
        records=sorted(found, key=lambda record: record.ok),  # what failed comes first
        arches=[(arch, names) for arch in ARCHES if (names := [name for name in targets if name.endswith(f"-{arch}")])],
        collectors=list(dict.fromkeys(record.collector for record in found)),
        cells={(record.collector, record.target): record for record in found},
        simulated={record.target for record in found if record.simulated},
        causes=causes.relevant,
        cause_names=causes.names,
        cause_places=lambda cause: causes.places([cause]),
        words=lambda record: "\n".join(words(record, directory)),
        path=lambda record: path_of(directory, record.collector, record.target),
        failures=FAILURES,
        bad=bad,
    )


def _kind(record: Record) -> str:
    """What a cell's colour tells: the behaviour shown, or that something is wrong, or that the machine room is."""
    return str(record.observed) if record.ok else "infra" if record.failure == "infra" else "bad"
