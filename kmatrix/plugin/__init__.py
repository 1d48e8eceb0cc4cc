"""The pytest plugin's entry point. Light: pytest loads it in every run of the environment, so it imports pytest and the standard library only.

What it takes to run cells (kmatrix.plugin.session) is imported when a collector.toml is collected, one of kmatrix's options is given, or
one of its fixtures is used.
"""

from __future__ import annotations

import fnmatch
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kmatrix.plugin import options

if TYPE_CHECKING:
    from kmatrix.matrix.kernel import Target
    from kmatrix.runs.cell_records import Record
    from kmatrix.vm.machine import Machine


class _AsWritten:
    """Imports the modules of kmatrix as they stand, before pytest's assertion rewriting finds them.

    pytest rewrites the asserts of every distribution that has a plugin. For that it reads, hashes and compares the source of each module
    that is imported, which took a third of the time that kmatrix's take. Their asserts tell mypy of types: no test is made of them.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, _target: object = None) -> ModuleSpec | None:
        """The module's spec; None for what is not kmatrix's, which the finders after this one look for."""
        return PathFinder.find_spec(name, path) if name.startswith("kmatrix.") else None


sys.meta_path.insert(0, _AsWritten)

COLLECTOR_FILE = "collector.toml"
TEST_RECORD = "kmatrix_test_record"
"""The property that carries the path of the record of a manifest's [test]."""
WARNING = "warning"
"""The property that says what of a cell is no failure, but a warning of what comes."""
_TOLD = "kmatrix_record"
"""What a worker's output holds for the controller."""
_SESSION = "kmatrix.plugin.session"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """The options' long names; `pytest_load_initial_conftests` adds the short ones."""
    options.add_long(parser)
    options.add_dist(parser)
    if pluginmanager._conftest_plugins:  # a conftest names this plugin: that hook is under way already
        config = pluginmanager.get_plugin("pytestconfig")
        assert config is not None, "pytest registers it first"
        options.add_short(config, parser)


def pytest_plugin_registered(plugin_name: str, manager: pytest.PytestPluginManager) -> None:
    """pytest-xdist may come after this plugin: what it adds is added to then."""
    config = manager.get_plugin("pytestconfig")
    if plugin_name.startswith("xdist") and config is not None:
        options.add_dist(config._parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> Iterator[None]:
    """The options' short names, as far as no plugin and no conftest has them."""
    options.look_past(early_config, parser, args)
    try:
        return (yield)
    finally:
        options.add_short(early_config, parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; where one of kmatrix's options is given, check it before anything else happens."""
    config.addinivalue_line("markers", "kernel(name): the kernel of a cell")
    config.addinivalue_line("markers", "arch(name): the arch of a cell")
    config.addinivalue_line("markers", "collector(name): the collector of a cell")
    config.addinivalue_line("markers", "stress: a cell under load (--stress)")
    options.set_free(config)
    config.pluginmanager.register(_SubTests(config), "kmatrix-subtests")
    if hasattr(config, "workerinput"):
        _die_with_parent()
    if options.given(config):
        _session().configure(config)
    if _is_far(config):
        _session().send_records(config)
    elif getattr(config.option, "dist", "no") == options.DIST and config.option.tx and not config.option.collectonly:
        _session().distribute(config)


def _is_far(config: pytest.Config) -> bool:
    """Whether this is a worker on another machine, under --dist kmatrix."""
    return bool(getattr(config, "workerinput", {}).get("kmatrix", {}).get("far"))


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Iterator[None]:
    """Before pytest-xdist reads its options."""
    if getattr(config.option, "dist", "no") == options.DIST and not config.option.usepdb:
        options.add_workers_here(config)
    return (yield)


def _session() -> Any:
    """kmatrix.plugin.session, imported."""
    if _SESSION not in sys.modules:
        from kmatrix.host import garbage

        garbage.keep_at_exit()  # pytest itself looks for what tests left, before
        with garbage.paused():
            importlib.import_module(_SESSION)
    return sys.modules[_SESSION]


def _begun(config: pytest.Config) -> bool:
    """Whether this run has to do with kmatrix so far."""
    loaded = sys.modules.get(_SESSION)
    return loaded is not None and loaded.is_begun(config)


def __getattr__(name: str) -> Any:
    """The names that stood in this module up to 0.1.0, imported when they are asked for (for one release)."""
    if name in ("CellFailed", "CellItem", "CollectorFile", "Run"):
        return getattr(_session(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """An xdist worker must not outlive pytest (its QEMU dies with it): by itself it would first finish its cell."""
    import ctypes  # only a worker pays for it

    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


# -- collection --------------------------------------------------------------------------------------------------------------


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.File | None:
    """Each collector.toml is a file of cells."""
    if file_path.name != COLLECTOR_FILE:
        return None
    found: pytest.File = _session().CollectorFile.from_parent(parent, path=file_path)
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What makes the whole run senseless ends it here."""
    if _begun(config):
        _session().check_items(config, items)


@pytest.hookimpl(trylast=True, specname="pytest_collection_modifyitems")
def pytest_kmatrix_choose_shard(config: pytest.Config, items: list[pytest.Item]) -> None:
    """After `-k`, `-m` and the like: of what is left, this shard's part."""
    if _begun(config):
        _session().choose_shard(config, items)
        _session().settle(items)


# -- fixtures ----------------------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `target` (or `vm`, or `cell`) runs once a target."""
    if _takes_our_target(metafunc):
        _session().parametrize(metafunc)


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
    with _session().machine(target, request) as machine:
        yield machine


@pytest.fixture
def cell(target: Target, request: pytest.FixtureRequest) -> Callable[[Path | str], Record]:
    """A function that runs a collector (the path of its folder or collector.toml) on `target` and returns the record."""
    return lambda path: _session().run_cell(path, target, request.config)


# -- reports -----------------------------------------------------------------------------------------------------------------


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What was asked for, where something was, and where the records go."""
    if not _begun(config):
        return []
    directory = (config.invocation_params.dir / config.option.kmatrix_dir).resolve()
    kernels, arch = options.value(config, "--kernels") or "default", options.value(config, "--arch") or "all"
    return [f"kmatrix: kernels {kernels}, arch {arch}, records in {directory}"]


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: Any) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """What is a warning alone is counted as `warned`: neither passed nor failed."""
    if hasattr(report, "wasxfail") and any(name == WARNING for name, _ in getattr(report, "user_properties", ())):
        return "warned", "w", ("WARNED", {"yellow": True})
    return None


class _SubTests:
    """Registered for its hook, which is not told the configuration."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A [test] of a manifest brings the results of its sub-tests, which follow its own."""
        if any(name == TEST_RECORD for name, _ in report.user_properties):
            _session().tell_subtests(self._config, report)


@pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_terminal_summary")
def pytest_kmatrix_fold_reds(terminalreporter: Any, config: pytest.Config) -> Iterator[None]:
    """Before pytest tells of each failure: of cells that fail alike, one is told of."""
    if not _begun(config):
        return (yield)
    _session().fold_reds(terminalreporter, config)
    try:
        return (yield)
    finally:
        _session().unfold_reds(terminalreporter, config)


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """The table; or, where somebody seems to look for one, that there is no collector here."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED or options.given(config):
        _say_where_collectors_are(terminalreporter, config)
    if _begun(config):
        _session().unfold_reds(terminalreporter, config)
        _session().summarise(terminalreporter, config)


def _say_where_collectors_are(terminalreporter: Any, config: pytest.Config) -> None:
    """One line where no collector.toml was found, nor a test that runs on targets; nothing where pytest itself has more to say."""
    if _begun(config) and _session().started(config).collected:
        return
    stats = terminalreporter.stats
    ours = any("kernel" in getattr(report, "keywords", ()) for reports in stats.values() for report in reports)
    if ours or stats.keys() & {"error", "deselected"} or getattr(config.option, "collectonly", False):
        return
    terminalreporter.write_line(
        f"kmatrix: no {COLLECTOR_FILE} was found here; call pytest where your collectors are, or name their folder. "
        "docs/tutorial.md shows how to write one, and `kmatrix run OBJECT.o` needs none."
    )


# -- side by side, with pytest-xdist (whose hooks are there only where it is loaded) --------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What runs next is known: its machine can be made ready. First, since whoever runs the item asks nobody after itself."""
    if _begun(item.config):
        _session().next_item(item.config, nextitem)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells the controller, which collects nothing itself, what it found; the controller ends as its workers say."""
    if not _begun(session.config):
        return
    run = _session().started(session.config)
    _session().finish(session.config)
    if run.is_worker:
        found = {name: str(path) for name, path in run.collected.items()}
        told = {"collected": found, "error": run.error, "shard": vars(run.chosen) if run.chosen else None}
        session.config.workeroutput[_TOLD] = told  # type: ignore[attr-defined]
    elif run.error is not None:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    elif session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and run.chosen is not None and run.chosen.is_spare:
        session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker found."""
    told = getattr(node, "workeroutput", {}).get(_TOLD)
    if told:
        run = _session().started(node.config)
        run.collected |= {name: Path(path) for name, path in told["collected"].items()}
        run.error = run.error or told["error"]
        run.chosen = run.chosen or _session().chosen(told["shard"])


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto`: one worker a core, as far as memory goes (a VM takes its guest's memory and QEMU's own).

    None, which leaves it to xdist, where the user has said how many, and for tests that have nothing to do with kmatrix: the plugin is
    loaded wherever it is installed.
    """
    return workers_here() if _in_play(config) else None


def _in_play(config: pytest.Config) -> bool:
    """Whether the run has to do with kmatrix: one of its options says so, or a collector.toml where pytest will look."""
    if any(options.value(config, option) is not None for option in ("--kernels", "--arch", "--collectors")):
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


WORKER_MIB = 224
"""What a worker takes: about 60 MiB that its VM has changed (docs/performance.md), 70 of Python, and room for a collector's maps and for what the
VMs of a target share."""


def workers(cores: int, available_mib: int) -> int:
    """How many VMs fit side by side: by cores, and by available memory in MiB; at least one."""
    return max(1, min(cores, available_mib // WORKER_MIB))


def workers_here() -> int | None:
    """How many VMs fit side by side on what this process may use of this machine; None where $PYTEST_XDIST_AUTO_NUM_WORKERS says it."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    from kmatrix.host.memory import available_mib  # only who asks for workers pays for it

    return workers(len(os.sched_getaffinity(0)), available_mib() or WORKER_MIB)
