"""A pytest run that has to do with kmatrix: collection of collector.toml, one item a cell, the table at the end.

kmatrix.plugin, which pytest loads in every run of the environment, imports this when it is needed.

A cell runs in its item's setup and is judged in its call: trouble of the machine room is then an ERROR, a broken promise a FAILURE.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kmatrix.fetch import network
from kmatrix.host import garbage
from kmatrix.host.errors import InputError, KmatrixError
from kmatrix.host.later import later
from kmatrix.host.toml import read_toml
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.kernel import Target
from kmatrix.objects import compiled
from kmatrix.objects.described import described
from kmatrix.plugin import TEST_RECORD, WARNING, options, sharding, summary
from kmatrix.plugin.run import Run
from kmatrix.plugin.summary import RECORD, SKIPPED
from kmatrix.report.causes import classes, headlines
from kmatrix.runs import cell as cells
from kmatrix.runs import cell_records, record_files, shards
from kmatrix.runs.cell_records import Record
from kmatrix.runs.record_files import DEFAULT_DIRECTORY
from kmatrix.vm.machine import Machine

if TYPE_CHECKING:
    from kmatrix.plugin import guest_tests
    from kmatrix.report import explain
    from kmatrix.runs import guest_test
else:  # a run of cells that are as promised needs none of them
    guest_tests, guest_test = later("kmatrix.plugin.guest_tests"), later("kmatrix.runs.guest_test")
    explain = later("kmatrix.report.explain")

_RUN = pytest.StashKey[Run]()


# -- collection --------------------------------------------------------------------------------------------------------------


class CollectorFile(pytest.File):
    """A collector.toml."""

    def collect(self) -> Iterator[pytest.Item]:
        """One item a target."""
        run = started(self.config)
        try:
            collector = load_collector(self.path, run.room.matrix.defined)
            other = run.collected.setdefault(collector.name, self.path)
            if other != self.path:
                raise InputError(
                    f"the collector {collector.name!r} is also {other}", where=str(self.path), fix="give one another collector.name"
                )
            if run.wants(collector):
                arches = dict.fromkeys(target.arch for target in run.targets)
                built = compiled.check(collector, arches)
                described(collector, arches)  # what its events are must be the same in all objects
                if run.speaks and (old := compiled.out_of_date(collector, built)):
                    self.warn(pytest.PytestWarning(old))
                for each in run.loaded(collector) if collector.variants else ():
                    yield from [CellItem.from_parent(self, collector=each, target=target) for target in run.targets]
                if collector.test is not None:
                    test = guest_test.of_collector(collector, run.config.invocation_params.dir)
                    for target in run.targets:
                        yield guest_tests.TestItem.from_parent(self, test=test, target=target, run=lambda: run)
        except KmatrixError as error:
            raise self.CollectError(f"{error}{self._opt_out(run)}") from None

    def _opt_out(self, run: Run) -> str:
        """How to go on without kmatrix, where the file may be another tool's: it has none of what every collector.toml of kmatrix has."""
        with suppress(KmatrixError):
            if {"schema", "collector", "variant"} & read_toml(self.path).keys():
                return ""
        shown = os.path.relpath(self.path, run.config.invocation_params.dir)
        return f"\n  If another tool's: pytest --ignore={shown} leaves it out, and pytest -p no:kmatrix runs without kmatrix."


def _leaves_records(item: pytest.Item) -> bool:
    if isinstance(item, CellItem) or {"cell", "vm"} & set(getattr(item, "fixturenames", ())):
        return True
    return isinstance(item, guest_tests.TestItem)


class CellItem(pytest.Item):
    """A cell: collector × target."""

    def __init__(self, *, collector: Collector, target: Target, **kwargs: Any) -> None:
        name = cells.name_of(collector, target)
        # Given whole, so that pytest reads the bracket as it does those of its own parametrized items (--lf compares them so).
        super().__init__(name=name, nodeid=f"{kwargs['parent'].nodeid}::{name}", **kwargs)
        self.collector = collector
        self.target = target
        self.record: Record | None = None
        self.add_marker(pytest.mark.kernel(target.kernel.name))
        self.add_marker(pytest.mark.arch(target.arch))
        self.add_marker(pytest.mark.collector(collector.name))
        if collector.stressed:
            self.add_marker(pytest.mark.stress)

    def setup(self) -> None:
        """Run the cell; raises what is not the collector's fault."""
        run = started(self.config)
        if why := compiled.nothing_for(self.collector, self.target.arch):
            self.user_properties += [("collector", self.collector.name), ("kernel", self.target.kernel.name)]
            self.user_properties += [("arch", self.target.arch), (SKIPPED, why)]
            cell_records.forget(run.directory, self.collector.name, str(self.target))  # of when there was a variant
            pytest.skip(why)
        if run.spares:
            run.room.expect(run.next_item.target if isinstance(run.next_item, CellItem) else None)
        with _said_plainly():
            self.record = cells.run(
                self.collector, self.target, run.room, run.directory, options=run.options(), spelled=run.spelled
            )
        path = cell_records.path_of(run.directory, self.record.collector, self.record.target)
        properties = ("collector", "kernel", "arch", "expected", "observed", "failure", "reason")
        self.user_properties += [(name, str(getattr(self.record, name) or "")) for name in properties]
        if cause := classes(self.record):
            self.user_properties += [("cause", cause), ("cause_text", headlines(self.record))]
        if self.target.simulated is not None:
            self.user_properties.append(("simulated", str(self.target.simulated)))
        self.user_properties.append((RECORD, str(path)))
        if self.record.warning:
            self.user_properties.append((WARNING, headlines(self.record) or self.record.reason.partition("\n")[0]))
        if self.record.failure == "infra":
            pytest.fail(f"infra: {self.record.reason}\n  reproduce {self.record.reproduce}", pytrace=False)

    def runtest(self) -> None:
        """Judge it."""
        assert self.record is not None, "setup ran the cell"
        if self.record.warning:
            pytest.xfail(
                f"{self.record.failure}: {self.record.reason}"
            )  # where --runxfail is given, this does nothing, and the cell fails
        if not self.record.ok:
            raise CellFailed(self.record)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A failed cell explains itself."""
        if isinstance(excinfo.value, CellFailed):
            run = started(self.config)
            return explain.explain(excinfo.value.record, run.directory, logs=self.config.option.verbose > 1)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the cell is defined."""
        return self.path, None, self.name


@contextmanager
def _said_plainly() -> Iterator[None]:
    """kmatrix's own errors end a setup as one message, without a traceback through kmatrix."""
    try:
        yield
    except KmatrixError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


class CellFailed(Exception):
    """The cell is not as promised."""

    def __init__(self, record: Record) -> None:
        super().__init__(f"{record.failure}: {record.reason}")
        self.record = record


# -- what the hooks of kmatrix.plugin ask for ---------------------------------------------------------------------------------


def started(config: pytest.Config) -> Run:
    """The run of this configuration, begun where it was not."""
    if _RUN not in config.stash:
        config.stash[_RUN] = Run(config)
    return config.stash[_RUN]


def next_item(config: pytest.Config, item: pytest.Item | None) -> None:
    """What runs after the item that runs now."""
    started(config).next_item = item


def finish(config: pytest.Config) -> None:
    """Nothing runs any more."""
    run = started(config)
    if run.has_room:
        run.room.close()


def is_begun(config: pytest.Config) -> bool:
    """Whether the run of this configuration has begun."""
    return _RUN in config.stash


def configure(config: pytest.Config) -> None:
    """Begin a run of which kmatrix's options are given: an explicit selection is checked before anything else happens."""
    if options.value(config, "--offline"):
        network.go_offline()
    run = started(config)
    if run.is_worker:
        return
    try:
        _ = run.libraries
        _ = run.shard
        if run.explicit:
            run.check_explicit()
        if config.option.kmatrix_dir != DEFAULT_DIRECTORY:
            record_files.check_directory(run.directory)
    except KmatrixError as error:
        raise pytest.UsageError(str(error)) from None


def distribute(config: pytest.Config) -> None:
    """Have this run's workers be those of --dist kmatrix."""
    from kmatrix.plugin.fleet import Fleet  # here, and not above: it takes pytest-xdist, and what other machines take

    config.pluginmanager.register(Fleet(config, started(config)), "kmatrix-fleet")


def send_records(config: pytest.Config) -> None:
    """Have this worker, on another machine, send with its reports what the tests leave."""
    from kmatrix.plugin.far import Sender

    config.pluginmanager.register(Sender(started(config).directory, (RECORD, TEST_RECORD)), "kmatrix-sender")


def check_items(config: pytest.Config, items: list[pytest.Item]) -> None:
    """End the whole run where it makes no sense: a collector asked for by name that is not there, records that cannot be written."""
    run = started(config)
    try:
        run.check_collectors()
        if not config.getoption("collectonly") and any(_leaves_records(item) for item in items):
            record_files.check_directory(run.directory)
            if run.shard is None and run.speaks:
                shards.forget_account(run.directory)
    except KmatrixError as error:
        if not run.is_worker:
            raise pytest.UsageError(str(error)) from None
        run.error = str(error)  # xdist loses what its workers raise here: the controller says it
        items.clear()


def choose_shard(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the items of --shard, of those that no other option took away."""
    run = started(config)
    if run.shard is None or run.error is not None:
        return
    account = run.directory if run.speaks and not config.getoption("collectonly") else None
    run.chosen = sharding.choose(config, items, run.shard, run.targets, account)


def settle(items: list[pytest.Item]) -> None:
    """What is left runs now. At the end of a run pytest looks twice through all that is there, for what tests left: cells leave nothing."""
    if items and all(isinstance(item, CellItem) for item in items):
        garbage.keep()


def chosen(told: dict[str, Any] | None) -> sharding.Chosen | None:
    """What a worker tells of its shard."""
    return sharding.Chosen(**told) if told is not None else None


def parametrize(metafunc: pytest.Metafunc) -> None:
    """One run of the test for each target."""
    run = started(metafunc.config)
    try:
        params = [
            pytest.param(target, id=str(target), marks=[pytest.mark.kernel(target.kernel.name), pytest.mark.arch(target.arch)])
            for target in run.targets
        ]
    except KmatrixError as error:
        raise pytest.UsageError(str(error)) from None
    metafunc.parametrize("target", params, indirect=True)


@contextmanager
def machine(target: Target, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The fixture `vm`."""
    run = started(request.config)
    console = run.directory / "console" / f"{request.node.name}.log".replace(os.sep, "_")
    console.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _said_plainly():
            vm, _ = stack.enter_context(run.room.machine(target, console))
        yield vm


def run_cell(path: Path | str, target: Target, config: pytest.Config) -> Record:
    """What the fixture `cell` does."""
    run = started(config)
    with _said_plainly():
        collector = load_collector(Path(path), run.room.matrix.defined)
        if why := compiled.nothing_for(collector, target.arch):
            pytest.skip(why)
        collector = run.loaded(collector)[0]
        return cells.run(collector, target, run.room, run.directory, options=run.options(), spelled=run.spelled)


def fold_reds(terminalreporter: Any, config: pytest.Config) -> None:
    """Have pytest tell once of cells that fail alike (with -vv, of each)."""
    summary.fold_reds(terminalreporter, config, started(config).directory)


def unfold_reds(terminalreporter: Any, config: pytest.Config) -> None:
    """Have all of them counted again, and listed in the short summary."""
    summary.unfold_reds(terminalreporter, config)


def tell_subtests(config: pytest.Config, report: pytest.TestReport) -> None:
    """Of a [test]'s report, have pytest take each sub-test for a test of its own; only the process that shows results does."""
    run = started(config)
    if run.is_worker or (record := guest_tests.record_of(report)) is None:
        return
    reports = [*guest_tests.subtest_reports(report, record)]
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None and terminal._session is not None:
        terminal._session.testscollected += len(reports) // 3  # of which pytest shows how many are through
    for each in reports:
        config.hook.pytest_runtest_logreport(report=each)


def summarise(terminalreporter: Any, config: pytest.Config) -> None:
    """The tables, and what else is to be said at the end."""
    summary.summarise(terminalreporter, config, started(config))
