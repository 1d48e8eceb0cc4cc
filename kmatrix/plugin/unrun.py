"""A cell that no worker could run: one error of the class infra, with a record of its own, so that no report lacks it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kmatrix import __version__
from kmatrix.host.errors import KmatrixError
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.load import COLLECTOR_FILE, load_collector
from kmatrix.matrix.kernel import Target
from kmatrix.plugin.run import Run
from kmatrix.plugin.scheduling import target_of
from kmatrix.plugin.summary import RECORD
from kmatrix.runs import cell, cell_records
from kmatrix.runs.cell_records import Record
from kmatrix.verdict.expectation import expected


def report(nodeid: str, run: Run, why: str, config: pytest.Config) -> None:
    """Report the test of that id as an error, for the reason given, and leave its record where it is a cell's."""
    properties = []
    record = _record(nodeid, run, why)
    if record is not None:
        properties.append((RECORD, str(cell_records.write(record, run.directory))))
    place = nodeid.partition("::")[0]
    made = pytest.TestReport(
        nodeid=nodeid,
        location=(place, None, nodeid.partition("::")[2]),
        keywords={},
        outcome="failed",
        longrepr=f"infra: {why}",
        when="setup",
        user_properties=properties,
    )
    config.hook.pytest_runtest_logreport(report=made)


def forget(nodeid: str, run: Run) -> None:
    """Remove the record of an earlier run of a cell that came to none in this one."""
    name, target = _names(nodeid, run)
    if name is not None and target is not None:
        cell_records.forget(run.directory, name, str(target))


def _names(nodeid: str, run: Run) -> tuple[str | None, Target | None]:
    """The collector's name in a cell's id, and its target; None for what is no cell."""
    place, _, item = nodeid.partition("::")
    targets = {str(target): target for target in run.selected}
    target = target_of(nodeid, targets)
    if Path(place).name != COLLECTOR_FILE or target is None or item.startswith("test:"):
        return None, None
    return item.partition("[")[0], targets[target]


def _record(nodeid: str, run: Run, why: str) -> Record | None:
    name, target = _names(nodeid, run)
    if name is None or target is None:
        return None
    try:
        collector = _collector(run.config.rootpath / nodeid.partition("::")[0], name, run)
        if collector is None:
            return None
        promised = expected(collector, target, run.room.matrix)
    except KmatrixError:  # whoever can run it says what is wrong with it
        return None
    return Record(
        cell=cell.name_of(collector, target),
        collector=collector.name,
        kernel=target.kernel.name,
        arch=target.arch,
        expected=promised.behaviour,
        observed=None,
        ok=False,
        failure="infra",
        reason=why,
        facts=None,
        probe=None,
        timings={},
        console=None,
        versions={"kmatrix": __version__},
        reproduce=cell.reproduce(collector, target, run.options(), spelled=run.spelled),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        simulated=target.simulated.account(target.arch) if target.simulated is not None else None,
    )


def _collector(path: Path, name: str, run: Run) -> Collector | None:
    loaded = load_collector(path, run.room.matrix.defined)
    return next((each for each in run.loaded(loaded) if each.name == name), None)
