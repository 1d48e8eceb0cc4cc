"""The end of a pytest run: reds that are alike told once, the tables, and what ran the VMs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kmatrix.host.errors import KmatrixError
from kmatrix.host.later import later
from kmatrix.plugin import TEST_RECORD, options
from kmatrix.plugin.run import Run
from kmatrix.report import grid, table
from kmatrix.runs import cell_records, shards
from kmatrix.runs.cell_records import Record

if TYPE_CHECKING:
    from kmatrix.plugin import reds
    from kmatrix.report import differences
    from kmatrix.report import tests as test_report
    from kmatrix.runs import guest_test_records
else:  # what only reds, tests in guests, or several loaders need
    reds, differences = later("kmatrix.plugin.reds"), later("kmatrix.report.differences")
    test_report, guest_test_records = later("kmatrix.report.tests"), later("kmatrix.runs.guest_test_records")

RECORD = "kmatrix_record"
"""The property that carries a record's path from an xdist worker to the terminal."""
SKIPPED = "kmatrix_skipped"
"""The property that carries why there was nothing to try."""
_FOLDED = pytest.StashKey[dict[str, list[Any]]]()


def fold_reds(terminalreporter: Any, config: pytest.Config, directory: Path) -> None:
    """Have pytest tell once of cells that fail alike (with -vv, of each)."""
    if not {"failed", "error"} & terminalreporter.stats.keys():
        return
    each = config.option.verbose >= 2
    config.stash[_FOLDED] = reds.fold(terminalreporter.stats, _record_of, directory, each=each)


def unfold_reds(terminalreporter: Any, config: pytest.Config) -> None:
    """Have all of them counted again, and listed in the short summary."""
    terminalreporter.stats.update(config.stash.get(_FOLDED, {}))


def _record_of(report: Any) -> Record | None:
    path = _properties(report).get(RECORD)
    return cell_records.read(Path(path)) if path is not None else None


def summarise(terminalreporter: Any, config: pytest.Config, run: Run) -> None:
    """The table, and what this run's options could not be called."""
    if said := options.clash(config):
        terminalreporter.write_line(said)
    properties = [_properties(report) for reports in terminalreporter.stats.values() for report in reports]
    records = [cell_records.read(Path(path)) for path in dict.fromkeys(p[RECORD] for p in properties if RECORD in p)]
    skipped = {(p["collector"], f"{p['kernel']}-{p['arch']}"): p[SKIPPED] for p in properties if SKIPPED in p}
    left_out: Mapping[str, str] = {}
    if run.error is None and (records or run.collected):
        with suppress(KmatrixError):  # a wrong kernels.toml was said at collection
            left_out = {} if run.asked is not None else run.unavailable
    tests = [guest_test_records.read(Path(path)) for path in dict.fromkeys(p[TEST_RECORD] for p in properties if TEST_RECORD in p)]
    if tests:
        terminalreporter.section("kmatrix: tests in guests")
        told = config.option.tbstyle != "no"
        colour, width = terminalreporter._tw.hasmarkup, grid.terminal_width()
        terminalreporter.write_line(test_report.render(tests, {}, colour=colour, width=width, brief=told))
    if records or skipped or (left_out and run.collected):
        terminalreporter.section("kmatrix")
        writer, told = terminalreporter._tw, config.option.tbstyle != "no"
        said = table.render(records, left_out, skipped=skipped, colour=writer.hasmarkup, width=grid.terminal_width(), brief=told)
        terminalreporter.write_line(said)
        if differ := differences.of_records(records, width=grid.terminal_width()):
            terminalreporter.write_line(f"\n{differ}")
        if ran := table.accelerators(records):
            terminalreporter.write_line(f"\nVMs: {ran}")
    if run.shard is None:
        with suppress(OSError, KmatrixError):  # of use for later shards alone
            shards.keep_durations([*records, *tests])
    elif run.chosen is not None:
        terminalreporter.write_line(str(run.chosen))
    if run.error is not None:
        terminalreporter.write_line(f"ERROR: {run.error}", red=True)


def _properties(report: Any) -> dict[str, str]:
    return dict(getattr(report, "user_properties", ()))
