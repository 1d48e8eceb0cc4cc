"""The pytest plugin: options, collection of collector.toml, one item a cell, fixtures, the table at the end. Thin.

A cell runs in its item's setup and is judged in its call: trouble of the machine room is then an ERROR, a broken promise a FAILURE.
"""

from __future__ import annotations

import ctypes
import fnmatch
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from kmatrix.fetch import download
from kmatrix.host.errors import InputError, KmatrixError
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.progress import Quiet, Step, Terminal
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.load import COLLECTOR_FILE, load_collector
from kmatrix.matrix.arch import parse_arches
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.selection import DEFAULT_SET, Matrix
from kmatrix.objects import compiled
from kmatrix.report import table
from kmatrix.report.explain import explain
from kmatrix.runs import cell as cells
from kmatrix.runs import cell_records
from kmatrix.runs.cell_records import DEFAULT_DIRECTORY, Record
from kmatrix.runs.machine_room import MachineRoom, refuse_missing
from kmatrix.vm.machine import Machine
from kmatrix.vm.spec import DEFAULT_MEMORY_MIB

_RECORD = "kmatrix_record"
"""The property that carries a record's path from an xdist worker to the terminal."""
_SKIPPED = "kmatrix_skipped"
"""The property that carries why there was nothing to try."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The matrix options."""
    group = parser.getgroup("kmatrix", "eBPF collectors over a kernel × arch matrix")
    group.addoption(
        "--kernels",
        metavar="EXPR",
        help="kernels: 5.4,6.1 | '>=5.8' | 5.4..6.1 | a set of kernels.toml | all (what can be had of: default)",
    )
    group.addoption("--arch", metavar="ARCH", help="x86_64, arm64 or all (default)")
    group.addoption("--collectors", metavar="NAMES", help="run only these collectors (comma-separated names)")
    group.addoption(
        "--accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="how VMs run; auto uses KVM where a guest was seen to boot under it",
    )
    group.addoption("--cold", action="store_true", help="boot every VM afresh instead of restoring a snapshot")
    group.addoption("--offline", action="store_true", help="fetch nothing: what is not on this machine cannot be had")
    group.addoption(
        "--kmatrix-dir", metavar="DIR", default=DEFAULT_DIRECTORY, help=f"where records and consoles go ({DEFAULT_DIRECTORY})"
    )
    group.addoption(
        "--kernels-file", metavar="FILE", help="a kernels.toml of your own (default: the nearest above the current directory)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; check an explicit selection before anything else happens."""
    config.addinivalue_line("markers", "kernel(name): the kernel of a cell")
    config.addinivalue_line("markers", "arch(name): the arch of a cell")
    config.addinivalue_line("markers", "collector(name): the collector of a cell")
    if config.getoption("--offline"):
        download.go_offline()
    run = Run(config)
    config.stash[_RUN] = run
    if run.is_worker:
        _die_with_parent()
        return
    try:
        if run.explicit:
            run.check_explicit()
        if config.getoption("--kmatrix-dir") != DEFAULT_DIRECTORY:
            cell_records.check_directory(run.directory)
    except KmatrixError as error:
        raise pytest.UsageError(str(error)) from None


_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """An xdist worker must not outlive pytest (its QEMU dies with it): by itself it would first finish its cell."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Run:
    """What one pytest run shares: options, matrix, targets, the machine room."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.directory = (config.invocation_params.dir / config.getoption("--kmatrix-dir")).resolve()
        self.is_worker = hasattr(config, "workerinput")
        self.explicit = config.getoption("--kernels") is not None or config.getoption("--arch") is not None
        self.collected: dict[str, Path] = {}
        """The collectors found, by name (of xdist's controller: what its workers found)."""
        self.error: str | None = None
        """Why the run was given up when all was collected."""

    @property
    def speaks(self) -> bool:
        """Whether this process is the one of several that says what each of them finds."""
        return not self.is_worker or self.config.workerinput["workerid"] == "gw0"  # type: ignore[attr-defined]

    @cached_property
    def matrix(self) -> Matrix:
        """kernels.toml, as found from where pytest was called."""
        given = self.config.getoption("--kernels-file")
        return load_matrix(self.config.invocation_params.dir, file=Path(given) if given else None)

    @cached_property
    def selected(self) -> tuple[Target, ...]:
        """The targets asked for, whether or not they can be had."""
        given = self.config.getoption("--kernels")
        kernels = DEFAULT_SET if given is None else given
        return self.matrix.targets(kernels, self.arch)

    @property
    def arch(self) -> str:
        """The arches asked for, as they were written."""
        given: str | None = self.config.getoption("--arch")
        return "all" if given is None else given

    @cached_property
    def room(self) -> MachineRoom:
        """The machine room; its progress shows in the terminal (of the one process that has it)."""
        capture = self.config.pluginmanager.getplugin("capturemanager")
        reporter = Quiet() if self.is_worker or capture is None else _Uncaptured(capture)
        return MachineRoom(
            self.matrix, accel=self.config.getoption("--accel"), cold=self.config.getoption("--cold"), reporter=reporter
        )

    @cached_property
    def unavailable(self) -> dict[str, str]:
        """The targets selected that cannot be had, and why."""
        return self.room.unavailable(self.selected, asked=self.config.getoption("--kernels") is not None)

    @property
    def targets(self) -> list[Target]:
        """The targets that run: all that were asked for by --kernels (`check_explicit` saw to them), of a bare run's what can be had."""
        if self.config.getoption("--kernels") is not None:
            return list(self.selected)
        return [target for target in self.selected if str(target) not in self.unavailable]

    def check_explicit(self) -> None:
        """An explicit request is strict: what cannot be had is an error, never a silent skip."""
        parse_arches(self.arch)
        kernels, arch = self.config.getoption("--kernels"), self.config.getoption("--arch")
        targets = self.selected
        if not self.config.getoption("collectonly"):
            refuse_missing(targets, self.unavailable, kernels=kernels, arch=arch)

    def wants(self, collector: Collector) -> bool:
        """Whether --collectors lets this one run."""
        given = self.config.getoption("--collectors")
        return given is None or collector.name in [name.strip() for name in given.split(",")]

    def check_collectors(self) -> None:
        """Raises InputError where --collectors named one that was not there."""
        given = self.config.getoption("--collectors")
        if given is None or not self.collected:
            return
        wanted = [name.strip() for name in given.split(",") if name.strip()]
        unknown = [name for name in wanted if name not in self.collected]
        if unknown or not wanted:
            what = (
                f"unknown collector {unknown[0]!r}{did_you_mean(unknown[0], self.collected)}" if unknown else "no collector given"
            )
            raise InputError(what, where="--collectors", fix=f"collected here: {', '.join(sorted(self.collected))}")

    def options(self) -> tuple[str, ...]:
        """The options that a reproduction needs besides kernel and arch."""
        chosen = [f"--accel={self.config.getoption('--accel')}"] if self.config.getoption("--accel") != "auto" else []
        chosen += ["--cold"] if self.config.getoption("--cold") else []
        chosen += [f"--kernels-file={self.config.getoption('--kernels-file')}"] if self.config.getoption("--kernels-file") else []
        return tuple(chosen)


_RUN = pytest.StashKey[Run]()


class _Uncaptured(Terminal):
    """Progress that is seen although pytest captures output."""

    def __init__(self, capture: Any) -> None:
        super().__init__()
        self._capture = capture

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        """One step, drawn past the capture."""
        with self._capture.global_and_fixture_disabled(), super().step(label) as step:
            yield step


# -- collection --------------------------------------------------------------------------------------------------------------


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.File | None:
    """Each collector.toml is a file of cells."""
    return CollectorFile.from_parent(parent, path=file_path) if file_path.name == COLLECTOR_FILE else None


class CollectorFile(pytest.File):
    """A collector.toml."""

    def collect(self) -> Iterator[pytest.Item]:
        """One item a target."""
        run = self.config.stash[_RUN]
        try:
            collector = load_collector(self.path)
            other = run.collected.setdefault(collector.name, self.path)
            if other != self.path:
                raise InputError(
                    f"the collector {collector.name!r} is also {other}", where=str(self.path), fix="give one another collector.name"
                )
            if run.wants(collector):
                built = compiled.check(collector, dict.fromkeys(target.arch for target in run.targets))
                if run.speaks and (old := compiled.out_of_date(collector, built)):
                    self.warn(pytest.PytestWarning(old))
                yield from [CellItem.from_parent(self, collector=collector, target=target) for target in run.targets]
        except KmatrixError as error:
            raise self.CollectError(str(error)) from None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What makes the whole run senseless ends it here: a collector asked for by name that is not there, records that cannot be written."""
    run = config.stash[_RUN]
    try:
        run.check_collectors()
        if not config.getoption("collectonly") and any(_leaves_records(item) for item in items):
            cell_records.check_directory(run.directory)
    except KmatrixError as error:
        if not run.is_worker:
            raise pytest.UsageError(str(error)) from None
        run.error = str(error)  # xdist loses what its workers raise here: the controller says it
        items.clear()


def _leaves_records(item: pytest.Item) -> bool:
    return isinstance(item, CellItem) or {"cell", "vm"} & set(getattr(item, "fixturenames", ())) != set()


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

    def setup(self) -> None:
        """Run the cell; raises what is not the collector's fault."""
        run = self.config.stash[_RUN]
        if why := compiled.nothing_for(self.collector, self.target.arch):
            self.user_properties += [("collector", self.collector.name), ("kernel", self.target.kernel.name)]
            self.user_properties += [("arch", self.target.arch), (_SKIPPED, why)]
            cell_records.forget(run.directory, self.collector.name, str(self.target))  # of when there was a variant
            pytest.skip(why)
        with _said_plainly():
            self.record = cells.run(self.collector, self.target, run.room, run.directory, options=run.options())
        path = cell_records.path_of(run.directory, self.record.collector, self.record.target)
        properties = ("collector", "kernel", "arch", "expected", "observed", "failure", "reason")
        self.user_properties += [(name, str(getattr(self.record, name) or "")) for name in properties]
        if self.target.simulated is not None:
            self.user_properties.append(("simulated", str(self.target.simulated)))
        self.user_properties.append((_RECORD, str(path)))
        if self.record.failure == "infra":
            pytest.fail(f"infra: {self.record.reason}\n  reproduce {self.record.reproduce}", pytrace=False)

    def runtest(self) -> None:
        """Judge it."""
        assert self.record is not None, "setup ran the cell"
        if not self.record.ok:
            raise CellFailed(self.record)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A failed cell explains itself."""
        if isinstance(excinfo.value, CellFailed):
            run = self.config.stash[_RUN]
            return explain(excinfo.value.record, run.directory)
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


# -- fixtures ----------------------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `target` (or `vm`, or `cell`) runs once a target."""
    if _takes_our_target(metafunc):
        run = metafunc.config.stash[_RUN]
        try:
            params = [
                pytest.param(target, id=str(target), marks=[pytest.mark.kernel(target.kernel.name), pytest.mark.arch(target.arch)])
                for target in run.targets
            ]
        except KmatrixError as error:
            raise pytest.UsageError(str(error)) from None
        metafunc.parametrize("target", params, indirect=True)


def _takes_our_target(metafunc: pytest.Metafunc) -> bool:
    """Whether the test's `target` is this plugin's fixture, and not an argument or a fixture of the test's own."""
    for marker in metafunc.definition.iter_markers("parametrize"):
        names = marker.args[0] if marker.args else marker.kwargs.get("argnames", ())
        if "target" in (names.replace(",", " ").split() if isinstance(names, str) else names):
            return False
    definitions = metafunc._arg2fixturedefs.get("target", ())
    # A fixture of the same name that takes ours is followed to it.
    decides = next((d for d in reversed(definitions) if d.func.__module__ == __name__ or "target" not in d.argnames), None)
    return decides is not None and decides.func.__module__ == __name__


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    """The target (kernel × arch) of this test; every target selected by --kernels and --arch in turn."""
    chosen: Target = request.param
    return chosen


@pytest.fixture
def vm(target: Target, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A pristine VM of `target`, killed after the test: `vm.run([...])`, `vm.put(...)`, `vm.call(op, …)`."""
    run = request.config.stash[_RUN]
    console = run.directory / "console" / f"{request.node.name}.log".replace(os.sep, "_")
    console.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _said_plainly():
            machine, _ = stack.enter_context(run.room.machine(target, console))
        yield machine


@pytest.fixture
def cell(target: Target, request: pytest.FixtureRequest) -> Callable[[Path | str], Record]:
    """A function that runs a collector (the path of its folder or collector.toml) on `target` and returns the record."""
    run = request.config.stash[_RUN]

    def run_cell(path: Path | str) -> Record:
        with _said_plainly():
            collector = load_collector(Path(path))
            if why := compiled.nothing_for(collector, target.arch):
                pytest.skip(why)
            return cells.run(collector, target, run.room, run.directory, options=run.options())

    return run_cell


# -- reports -----------------------------------------------------------------------------------------------------------------


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Where the records go."""
    run = config.stash[_RUN]
    return [
        f"kmatrix: kernels {config.getoption('--kernels') or DEFAULT_SET}, arch {config.getoption('--arch') or 'all'}, records in {run.directory}"
    ]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table."""
    properties = [_properties(report) for reports in terminalreporter.stats.values() for report in reports]
    run = config.stash[_RUN]
    records = [cell_records.read(Path(path)) for path in dict.fromkeys(p[_RECORD] for p in properties if _RECORD in p)]
    skipped = {(p["collector"], f"{p['kernel']}-{p['arch']}"): p[_SKIPPED] for p in properties if _SKIPPED in p}
    left_out: Mapping[str, str] = {}
    if run.error is None and (records or run.collected):
        with suppress(KmatrixError):  # a wrong kernels.toml was said at collection
            left_out = {} if run.config.getoption("--kernels") is not None else run.unavailable
    if records or skipped or (left_out and run.collected):
        terminalreporter.section("kmatrix")
        writer = terminalreporter._tw
        said = table.render(records, left_out, skipped=skipped, colour=writer.hasmarkup, width=writer.fullwidth)
        terminalreporter.write_line(said)
    if run.error is not None:
        terminalreporter.write_line(f"ERROR: {run.error}", red=True)


def _properties(report: Any) -> dict[str, str]:
    return dict(getattr(report, "user_properties", ()))


# -- side by side, with pytest-xdist (whose hooks are there only where it is loaded) --------------------------------------------


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells the controller, which collects nothing itself, what it found; the controller ends as its workers say."""
    run = session.config.stash[_RUN]
    if run.is_worker:
        found = {name: str(path) for name, path in run.collected.items()}
        session.config.workeroutput[_RECORD] = {"collected": found, "error": run.error}  # type: ignore[attr-defined]
    elif run.error is not None:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker found."""
    told = getattr(node, "workeroutput", {}).get(_RECORD)
    if told:
        run = node.config.stash[_RUN]
        run.collected |= {name: Path(path) for name, path in told["collected"].items()}
        run.error = run.error or told["error"]


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto`: one worker a core, as far as memory goes (a VM takes its guest's memory and QEMU's own).

    None, which leaves it to xdist, where the user has said how many, and for tests that have nothing to do with kmatrix: the plugin is
    loaded wherever it is installed.
    """
    return workers_here() if _in_play(config) else None


def _in_play(config: pytest.Config) -> bool:
    """Whether the run has to do with kmatrix: one of its options says so, or a collector.toml where pytest will look."""
    if any(config.getoption(option) is not None for option in ("--kernels", "--arch", "--collectors")):
        return True
    ignored = config.getini("norecursedirs")
    for argument in config.args:
        place = config.invocation_params.dir / argument.partition("::")[0]
        if place.name == COLLECTOR_FILE:
            return True
        for _, folders, names in os.walk(place):
            if COLLECTOR_FILE in names:
                return True
            folders[:] = [name for name in folders if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)]
    return False


BESIDE_MIB = 192
"""What a worker takes beside its guest's memory: QEMU (translated code under TCG), and the worker's Python."""


def workers(cores: int, available_mib: int) -> int:
    """How many VMs fit side by side: by cores, and by available memory in MiB; at least one."""
    return max(1, min(cores, available_mib // (DEFAULT_MEMORY_MIB + BESIDE_MIB)))


def workers_here() -> int | None:
    """How many VMs fit side by side on what this process may use of this machine; None where $PYTEST_XDIST_AUTO_NUM_WORKERS says it."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else workers(len(os.sched_getaffinity(0)), _available_mib())


def _available_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return DEFAULT_MEMORY_MIB + BESIDE_MIB
