"""`--dist kmatrix` in pytest-xdist's controller: workers here and, by SSH, on other machines, which get what the run takes and send back records.

xdist starts the workers, and asks through its hooks. What it would do by itself (to copy Python packages and the project with its own
rsync, and to have paths of the command line name files in that copy) is left out for workers on other machines: kmatrix.runs.workers does that.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import execnet
import pytest
import xdist.remote
from xdist.report import report_collection_diff

from kmatrix.host import paths
from kmatrix.host.errors import KmatrixError
from kmatrix.matrix.arch import ARCHES, INFO, Arch, host_arch
from kmatrix.plugin import TEST_RECORD, far, options, unrun
from kmatrix.plugin.held import Event, Held
from kmatrix.plugin.run import Run
from kmatrix.plugin.scheduling import TargetScheduling
from kmatrix.plugin.summary import RECORD
from kmatrix.runs import record_files, shards
from kmatrix.runs.workers import address, link, muster, project, ready
from kmatrix.runs.workers.address import ADDOPTS, Address
from kmatrix.runs.workers.muster import Luggage, Worker
from kmatrix.runs.workers.plan import Host

LOCAL = "this machine"


class Fleet:
    """The workers of a run, as pytest-xdist's controller asks for them."""

    def __init__(self, config: pytest.Config, run: Run) -> None:
        self._config, self._run = config, run
        self._local = Host(LOCAL, _local_arches(), host_arch(), is_local=True)
        self._workers: dict[tuple[object, ...], Worker] = {}
        """By address: those on other machines."""
        self._luggage: Luggage | None = None
        self._nodes: dict[Any, Host] = {}
        self._count: Counter[Host] = Counter()
        """Workers of each host."""
        self._specs: dict[Host, Any] = {}
        """The spec of a worker of each host: to start another."""
        self._setting_up: Any = None
        self._params: Any = None
        self._lost: dict[Any, str] = {}
        self._notes: list[str] = []
        self._why: list[tuple[str, Mapping[Arch, str]]] = []
        """What each host cannot run, and why."""
        self._sched: TargetScheduling | None = None

    # -- before the workers start

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_setupnodes(self, specs: list[Any]) -> None:
        """Speak with the workers, leave out those that can run nothing, and bring to the others what they lack."""
        try:
            remote = self._remote(specs)
            self._local.ready |= {str(target) for target in self._run.selected}
            if remote:
                self._call(remote, any(spec.popen for spec in specs))
                record_files.check_directory(self._run.directory)
                if self._run.shard is None:
                    shards.forget_account(self._run.directory)
        except KmatrixError as error:
            raise pytest.UsageError(str(error)) from None
        specs[:] = [spec for spec in specs if spec.popen or address_of(spec).key in self._workers]
        if not specs:
            raise pytest.UsageError("\n".join(["none of the workers can run a cell:", *self._notes]))
        for number, spec in enumerate(specs):
            spec.id = f"gw{number}"  # of several, the first speaks
            if not spec.popen:
                where = address_of(spec)
                # As kmatrix.runs.workers.link has them: what is refused there must not be let in here.
                spec.ssh = f"{' '.join(link.OPTIONS)} {where.ssh}"
                spec.python, spec.chdir = where.python, None
            self._specs[self._host(spec)] = spec
            self._count[self._host(spec)] += 1
        self._xdist.nodemanager.roots = []  # xdist's own copying

    def _remote(self, specs: Sequence[Any]) -> dict[tuple[object, ...], Address]:
        if self._config.option.rsyncdir:
            raise pytest.UsageError("--rsyncdir: with --dist kmatrix the project reaches the workers by itself; leave it out")
        for spec in specs:
            if spec.via or spec.socket or spec.vagrant_ssh or (spec.popen and spec.chdir):
                raise pytest.UsageError(f"--tx {spec}: --dist kmatrix has workers of popen and of ssh=user@host; use one of these")
        found = [address_of(spec) for spec in specs if not spec.popen]
        return {each.key: each for each in found}

    def _call(self, remote: Mapping[tuple[object, ...], Address], with_local: bool) -> None:
        run, accel = self._run, options.value(self._config, "--accel")
        reporter = run.room.reporter
        workers = muster.connect([*remote.values()], accel)
        try:
            targets = run.targets
            asked = {target.arch for target in targets}
            fit = []
            for worker in workers:
                self._why.append((worker.host.name, worker.able.why))
                if worker.able.arches & asked or not asked:
                    fit.append(worker)
                else:
                    why = "; ".join(dict.fromkeys(worker.able.why[arch] for arch in sorted(asked)))
                    self._note(f"{worker.address} gets no cells: {why}")
            arches = {arch for worker in fit for arch in worker.able.arches}
            files = self._project()
            luggage = muster.pack(run.room, [target for target in targets if target.arch in arches], files, reporter)
            self._luggage = luggage
            muster.each(lambda worker: self._equip(worker, luggage), fit)
            if with_local:
                self._local.ready &= set(
                    ready.ready(str(self._cwd), self._kernels_file, [str(t) for t in targets], luggage.pins, accel)
                )
        finally:
            for worker in workers:
                worker.link.close()
        for worker in fit:
            self._workers[worker.address.key] = worker
            self._note(worker.account)
            if worker.left:
                self._note(f"{worker.address} gets no cells of {', '.join(worker.left)}: its disk has no room for them")
            for arch, why in worker.able.why.items():
                if arch in asked:
                    self._note(f"{worker.address} gets no cells of {arch}: {why}")

    def _equip(self, worker: Worker, luggage: Luggage) -> None:
        muster.equip(worker, luggage, self._run.room.reporter)
        file = Path(self._kernels_file) if self._kernels_file else None
        muster.look_for_snapshots(worker, luggage, self._cwd, file, options.value(self._config, "--accel"))

    def _project(self) -> project.Project:
        config, matrix = self._config, self._run.matrix_files
        roots = [config.rootpath]
        for word in config.args:
            named = self._cwd / word.partition("::")[0]
            if named.exists():
                roots.append(named)
        files = [*matrix, *([config.inipath] if config.inipath is not None else [])]
        if any(getattr(config.option, name, False) for name in ("lf", "failedfirst", "newfirst", "stepwise")):
            cache = config.rootpath / config.getini("cache_dir") / "v" / "cache"
            files += [path for name in ("lastfailed", "nodeids", "stepwise") if (path := cache / name).is_file()]
        ignored = [str(each) for each in (*config.option.rsyncignore, *config.getini("rsyncignore"))]
        return project.gather(roots, files, ignored, leave=[self._run.directory], within=[self._cwd])

    # -- a worker starts

    def pytest_xdist_newgateway(self, gateway: Any) -> None:
        """xdist reads the arguments next: of a worker elsewhere, they go with its code (see `far`)."""
        if not gateway.spec.popen:
            self._params = self._config.invocation_params
            self._config.invocation_params = dataclasses.replace(self._params, args=())

    def pytest_configure_node(self, node: Any) -> None:
        """Tell it what it is to know, and hold back what it reports of tests that it has not finished."""
        if self._params is not None:
            self._config.invocation_params, self._params = self._params, None
        spec = node.gateway.spec
        self._setting_up = spec
        self._nodes[node] = self._host(spec)
        told: dict[str, Any] = {"far": not spec.popen, "beside": self._count[self._nodes[node]]}
        if self._luggage is not None:
            told["targets"] = [str(target) for target in self._run.targets]
        if not spec.popen and self._luggage is not None:
            told["pins"] = [dict(pin) for pin in self._luggage.pins]
        if self._run.shard is not None:
            told["seconds"] = dict(self._run.shard.seconds)
        node.workerinput["kmatrix"] = told
        node.putevent = Held(node.putevent, lambda event: self._down(node, event))
        if self._sched is not None:
            self._sched.coming.append(node)
            self._sched.replaces = False

    def pytest_xdist_getremotemodule(self) -> Any:
        """xdist's own code; of a worker elsewhere with what comes before it."""
        spec, self._setting_up = self._setting_up, None
        if spec is None or spec.popen:
            return None
        tree, luggage = self._workers[address_of(spec).key].tree, self._luggage
        assert luggage is not None
        files, config = luggage.project, self._config
        args = [files.argument(str(word), tree, self._cwd) for word in config.invocation_params.args]
        args.append(f"--rootdir={files.there(config.rootpath, tree)}")
        if config.inipath is not None:
            args += ["-c", str(files.there(config.inipath, tree))]
        if self._kernels_file is not None:
            args.append(f"{options.long('--kernels-file')}={files.there(Path(self._kernels_file), tree)}")
        cwd = files.there(self._cwd, tree)
        assert cwd is not None
        environment = {ADDOPTS: os.environ.get(ADDOPTS, "")}
        home = str(Path(tree).parent)
        return far.source(inspect.getsource(xdist.remote), cwd=cwd, project=home, args=args, environment=environment)

    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> TargetScheduling:  # noqa: ARG002
        """The scheduler of --dist kmatrix."""
        hosts = list(dict.fromkeys(self._nodes.values()))
        arches = {str(target): target.arch for target in self._run.selected}
        self._sched = TargetScheduling(self._nodes.__getitem__, arches, hosts, differs=self._differs, reinforce=self._start_another)
        self._sched.coming = [*self._nodes]
        return self._sched

    # -- a worker ends

    def _down(self, node: Any, event: Event) -> Event:
        """Runs in the thread that received from the worker. Where its machine is gone, it has ended, and xdist starts none in its place."""
        spec = node.gateway.spec
        if spec.popen or link.answers(address_of(spec)):
            return event
        self._lost[node] = str(event[1].get("error"))
        node.workeroutput = {"exitstatus": 0, "shouldfail": False, "shouldstop": False}
        return "workerfinished", {"node": node}

    @pytest.hookimpl(tryfirst=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Before the scheduler has it removed."""
        host = self._nodes.get(node)
        if host is None or self._sched is None:
            return
        if node in self._lost:
            host.alive = False
            self._note(f"{host.name} was lost (worker {node.gateway.id}): its cells go to other workers")
        self._sched.replaces = bool(error)
        self._sched.gone(node)

    def _start_another(self, host: Host) -> None:
        """Start a worker on a host whose workers take no more."""
        controller = self._xdist
        old = self._specs[host]
        spec = execnet.XSpec(str(old))
        for name in ("ssh", "python", "chdir", "popen", "ssh_config"):
            setattr(spec, name, getattr(old, name))
        controller.nodemanager.group.allocate_id(spec)
        self._note(f"another worker ({spec.id}) starts on {host.name}")
        controller._active_nodes.add(controller.nodemanager.setup_node(spec, controller.queue.put))

    def _differs(self, node: Any, wanted: Sequence[str], found: Sequence[str]) -> None:
        host, worker = self._nodes[node], node.gateway.id
        self._note(f"worker {worker} on {host.name} collected other tests than the rest, and gets none")
        said = report_collection_diff(wanted, found, "the others", worker)
        report = pytest.CollectReport(nodeid=worker, outcome="failed", longrepr=said, result=[])
        self._config.hook.pytest_collectreport(report=report)

    # -- reports

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        """Put in the kmatrix directory what came with the report, and have its properties name that."""
        folder, files = report.__dict__.pop(far.ROOT, None), report.__dict__.pop(far.FILES, None)
        spec = getattr(getattr(getattr(report, "node", None), "gateway", None), "spec", None)
        if spec is None or spec.popen:
            return
        marks = (RECORD, TEST_RECORD)
        if report.when == "setup" and not any(name in marks for name, _ in report.user_properties):
            unrun.forget(report.nodeid, self._run)
        told = self._told_here(spec, folder)
        for name, content in (files or {}).items():
            if not Path(name).is_absolute() and ".." not in Path(name).parts:
                paths.write_whole(self._run.directory / name, told(content) if name.endswith(".json") else content)
        report.user_properties = [
            (name, str(self._run.directory / Path(*Path(value).parts[-2:])) if name in marks else value)
            for name, value in report.user_properties
        ]
        if isinstance(report.longrepr, str):
            report.longrepr = told(report.longrepr.encode()).decode()

    def _told_here(self, spec: Any, folder: str | None) -> Callable[[bytes], bytes]:
        """What a worker says, with its paths of the project and of the records as they are here."""
        tree, luggage = self._workers[address_of(spec).key].tree, self._luggage
        ours = {tree: str(luggage.project.base)} if luggage is not None else {}
        if folder is not None:
            ours[folder] = str(self._run.directory)

        def told(content: bytes) -> bytes:
            for there, here in ours.items():
                content = content.replace(there.encode(), here.encode())
            return content

        return told

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        """What nobody ran is an error of the machine room, each once."""
        result = yield
        sched = self._sched
        if sched is not None and not self._xdist.shouldstop:
            if sched.plan is None and self._lost:
                raise pytest.UsageError("every worker was lost before it had collected: see whether the machines can be reached")
            if sched.plan is not None and sched.collection is not None:
                for cell in sched.plan.pending:
                    nodeid = sched.collection[cell]
                    sched.plan.give_up(cell)
                    unrun.report(nodeid, self._run, self._why_not(sched.plan.targets[cell]), self._config)
        return result

    def _why_not(self, target: str | None) -> str:
        """Why no worker ran a test of the target."""
        arch = next((each.arch for each in self._run.selected if str(each) == target), None)
        said = [f"{host.name} was lost" for host in dict.fromkeys(self._nodes.values()) if not host.alive]
        said += [f"{name}: {why[arch]}" for name, why in self._why if arch is not None and arch in why]
        said += [f"{each.address}: its disk has no room" for each in self._workers.values() if target in each.left]
        if arch is not None and arch not in self._local.arches and self._local in self._nodes.values():
            said.append(f"{LOCAL}: {INFO[arch].qemu} is not in its PATH")
        if self._luggage is not None and target is not None and target in self._luggage.missing:
            said.append(self._luggage.missing[target].partition("\n")[0])
        return f"no worker can run it: {'; '.join(said) or 'those that could have ended'}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Who worked on the run, and who did not."""
        if self._workers or self._notes:
            terminalreporter.section("kmatrix: workers")
            for note in self._notes:
                terminalreporter.write_line(note)

    # -- inside

    @property
    def _xdist(self) -> Any:
        return self._config.pluginmanager.get_plugin("dsession")

    @property
    def _cwd(self) -> Path:
        return Path(self._config.invocation_params.dir)

    @property
    def _kernels_file(self) -> str | None:
        file = self._run.kernels_file
        return str(file) if file is not None else None

    def _host(self, spec: Any) -> Host:
        return self._local if spec.popen else self._workers[address_of(spec).key].host

    def _note(self, text: str) -> None:
        self._notes.append(text)
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None and self._config.option.verbose >= 0:
            terminal.ensure_newline()
            terminal.write_line(f"kmatrix: {text}")


def address_of(spec: Any) -> Address:
    """The address that xdist's spec of a worker has."""
    return address.parse(str(spec).partition("execmodel=main_thread_only//")[2] or str(spec))


def _local_arches() -> frozenset[Arch]:
    return frozenset(arch for arch in ARCHES if shutil.which(INFO[arch].qemu))
