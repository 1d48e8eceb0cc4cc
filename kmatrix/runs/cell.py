"""One cell: a collector on a target. Runs it in a pristine VM, judges the facts, writes the record."""

from __future__ import annotations

import hashlib
import itertools
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kmatrix.guest import limit
from kmatrix.guest.cell_facts import CellFacts
from kmatrix.guest.triggers.kind import lasts
from kmatrix.host import paths
from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.objects import compiled
from kmatrix.objects.derived import derived
from kmatrix.objects.described import described
from kmatrix.objects.source_lines import SourceLines
from kmatrix.runs import cell_records, core_btf, external_btf, library, loader_files, real_machines
from kmatrix.runs.cell_records import Record
from kmatrix.runs.patience import INTERRUPTION, MARGIN
from kmatrix.runs.request import LOADER_FOLDER, request
from kmatrix.verdict.diagnosis import causes, has_failed
from kmatrix.verdict.expectation import Expectation, expected, only_warns
from kmatrix.verdict.expectation import undeclared as undeclared_features
from kmatrix.verdict.judge import Verdict, verdict
from kmatrix.verdict.observation import Observation, observed
from kmatrix.vm.errors import GuestError, KernelDied, KernelFails

if TYPE_CHECKING:
    from kmatrix.manifest.collector import Collector
    from kmatrix.matrix.kernel import Target
    from kmatrix.runs.loader_files import LoaderFile
    from kmatrix.runs.machine_room import MachineRoom
    from kmatrix.vm.console import Splat
    from kmatrix.vm.loaders.build import Built
    from kmatrix.vm.machine import Machine

TRIGGER_SECONDS = 10.0
"""Seconds that the guest gives a trigger at least."""
ATTEMPTS = 2
"""Infra trouble is the only class that is retried."""


def name_of(collector: Collector, target: Target) -> str:
    """A cell's id: `openat[5.4-arm64]`."""
    return f"{collector.name}[{target}]"


def reproduce(collector: Collector, target: Target, options: tuple[str, ...] = (), *, spelled: Callable[[str], str] = str) -> str:
    """The command that replays exactly this cell, from the current directory; `spelled` is what an option is called here."""
    path = collector.path.resolve()
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    item = shlex.quote(f"{shown}::{name_of(collector, target)}")
    return " ".join(
        ["pytest", item, f"{spelled('--kernels')}={target.kernel.name}", f"{spelled('--arch')}={target.arch}", *options]
    )


def run(
    collector: Collector,
    target: Target,
    room: MachineRoom,
    directory: Path,
    *,
    options: tuple[str, ...] = (),
    spelled: Callable[[str], str] = str,
) -> Record:
    """Run the cell and write its record under `directory`.

    Infra trouble is retried once; what remains of it is in the record (`failure` is `infra`). Raises InputError where the manifest, an
    object or the trigger is wrong: then there is no record, and an earlier one is gone.
    """
    cell_records.forget(directory, collector.name, str(target))
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    collector = derived(described(collector, [target.arch]), [target.arch])
    expectation = expected(collector, target, room.matrix)
    real_machines.check(collector, target)
    question = request(collector, target)
    built = library.obtain(collector.library, target.arch, mirrors=room.matrix.mirrors, reporter=room.reporter)
    files = loader_files.collect(collector, target.arch, mirrors=room.matrix.mirrors, reporter=room.reporter)
    command = reproduce(collector, target, options, spelled=spelled)
    retried = None
    for attempt in range(1, ATTEMPTS + 1):
        cell = _Cell(collector, target, room, directory, expectation, files, built)
        try:
            record = cell.run(question)
            break
        except InfraError as error:
            if attempt == ATTEMPTS:
                record = cell.record(None, Verdict(False, "infra", str(error)))
            else:
                retried = str(error)
    record = replace(record, reproduce=command, started=started, retried=retried, inputs=_inputs(collector, question, files))
    cell_records.write(record, directory)
    return record


def _inputs(collector: Collector, question: Mapping[str, Any], files: tuple[LoaderFile, ...]) -> dict[str, str]:
    """What was judged: the manifest, each variant's object and the loader's files, as sha256."""
    manifest = {collector.path.name: hashlib.sha256(collector.path.read_bytes()).hexdigest()}
    objects_ = {variant["name"]: variant["object"] for variant in question["variants"] if variant["object"] is not None}
    return manifest | objects_ | {file.name: hashlib.sha256(file.data).hexdigest() for file in files}


_numbers = itertools.count()


class _Cell:
    """One try of a cell: what is known of it so far, so that a try that comes to nothing leaves that in the record."""

    def __init__(
        self,
        collector: Collector,
        target: Target,
        room: MachineRoom,
        directory: Path,
        expectation: Expectation,
        files: tuple[LoaderFile, ...],
        built: Built | None = None,
    ) -> None:
        self.collector = collector
        self.files, self.built = files, built
        self.target = target
        self.room = room
        self.directory = directory
        self.expectation = expectation
        self.start = time.monotonic()
        self.stages: dict[str, float] = {}
        self.facts: CellFacts | None = None
        self.probe: Mapping[str, Any] = {}
        self.extra: dict[str, dict[str, Any]] = {}
        """What was found of features with a parameter, as the probe's `features` and `why`."""
        self.splat: str | None = None
        self.console: Path | None = None
        self.versions: Mapping[str, str] = {}
        self.warned: tuple[str, ...] = ()

    def run(self, question: Mapping[str, Any]) -> Record:
        """The record of the cell; raises InfraError where the machine room fails."""
        self.room.spec(self.target)  # fetching and building is not the cell's time
        self.versions = self.room.versions(self.target)
        try:
            question = {**question, "found": self._look_up()}
            self.stages["prepare"] = time.monotonic() - self.start
            with self._own_console() as console:
                self._ask(question, console)
        except KernelFails as error:
            if not only_warns(self.collector, self.target):
                raise
            self.splat = (
                error.message
            )  # a coming kernel that does not come up is news of that kernel, and no trouble of this machine
        if self.facts is not None:
            self.stages |= self.facts["timings"]
            _loader_started(self.collector, self.facts)
            _trigger_ran(self.collector, self.target, self.facts)
            if self.facts["running"] is None and not (self.facts["trigger"] or {"ok": True})["ok"]:
                self._pull_without(question)
        mark = time.monotonic()
        observation, verdict = self._judge()
        self.stages["judge"] = time.monotonic() - mark
        return self.record(observation, verdict)

    def _look_up(self) -> dict[str, bool]:
        """Have the features with a parameter probed that decide anything here, and expect what follows; all that was found, own names too.

        Raises InputError for one that neither kernels.toml declares nor the guest can tell.
        """
        names = sorted(name for name in self.collector.relevant_features(self.target.arch) if ":" in name)
        mark = time.monotonic()
        findings = self.room.found(self.target, names)
        if findings:
            self.stages["probe"] = time.monotonic() - mark
        found = {name: each.there for name, each in findings.items() if each.there is not None}
        undeclared = undeclared_features(self.collector, self.target)
        for name in undeclared:
            if name not in found:
                raise InputError(
                    f"{name}: the guest of {self.target} cannot tell ({findings[name].why}), and nothing declares it",
                    where=str(self.collector.path),
                    fix=f'declare it in kernels.toml: kernels."{self.target.kernel.name}".features = {{ "{name}" = true }} (or false)',
                )
        self.extra = {
            "features": {name: each.there for name, each in findings.items()},
            "why": {n: f.why for n, f in findings.items()},
        }
        self.target = self.target.knowing(self.collector.defined, {name: found[name] for name in undeclared})
        self.expectation = expected(self.collector, self.target, self.room.matrix)
        own = {name: self.target.has(name) for name in self.collector.defined}
        if self.target.kernel.btf is not None:
            found["btf"] = True
        return found | {name: there for name, there in own.items() if there is not None}

    def _ask(self, question: Mapping[str, Any], console: Path) -> None:
        mark = time.monotonic()
        with _machine(self.room, self.target, console) as (vm, probe):
            probe = external_btf.known(probe, self.target)
            self.probe = {**probe, **{part: {**probe.get(part, {}), **more} for part, more in self.extra.items()}}
            self.stages["restore"] = time.monotonic() - mark
            self.warned = self.room.boot_warnings(self.target)
            try:
                external_btf.bring(vm, self.target)
                self._bring_files(vm)
                question = {**question, "variants": [self._with_core_btf(vm, variant) for variant in question["variants"]]}
                self.facts = cast(CellFacts, vm.call("cell", question, now=time.time(), timeout=_patience(self.collector)))
                trouble = vm.splat()
                self.splat = _said(trouble) if trouble else _tainted(self.facts)
            except KernelDied as death:
                self.splat = _said(death.splat)
            except GuestError as error:
                raise InfraError(f"the guest's agent failed: {error.message}\n{error.traceback}", where=str(self.target)) from None
            mark = time.monotonic()
        self.stages["kill"] = time.monotonic() - mark

    def _with_core_btf(self, vm: Machine, variant: dict[str, Any]) -> dict[str, Any]:
        """A variant of the request, with the few kernel types that its object needs (the guest reads all of them otherwise)."""
        if variant["object"] is None:
            return variant
        info = compiled.load(self.collector, self.collector.variant(variant["name"]), self.target.arch)
        return {**variant, "core_btf": core_btf.minimal(vm, self.target, info, self.collector.library)}

    def _pull_without(self, question: Mapping[str, Any]) -> None:
        """The trigger fails after a refusal: only where it works in a VM that never saw the collector, that is the collector's doing."""
        nothing: dict[str, Any] = {"variants": [], "objects": {}, "loader": None, "min_kernel": None}
        with paths.scratch_console("trigger") as console, _machine(self.room, self.target, console) as (vm, _):
            facts = vm.call("cell", {**question, **nothing}, now=time.time(), timeout=_patience(self.collector))
        if not facts["trigger"]["ok"]:
            raise _trigger_fails(self.collector, self.target, facts["trigger"])

    def _bring_files(self, vm: Machine) -> None:
        """The files of the collector's own loader, or the library's program, to where it will run."""
        mark = time.monotonic()
        own = self.collector.loader is not None
        loader = "the collector's own" if own else library.bring(vm, self.collector.library, self.built)
        self.versions = {**self.versions, "loader": loader}
        for file in self.files:
            vm.put(f"{LOADER_FOLDER}/{file.name}", file.data, file.mode)
        if self.files or self.built is not None:
            self.stages["files"] = time.monotonic() - mark

    @contextmanager
    def _own_console(self) -> Iterator[Path]:
        """A log of this try's own (two runs in one folder must not read each other's), which gets its lasting name at the end."""
        name = f"{self.collector.name}@{self.target}.log"
        own = self.directory / "console" / f".{name}.{os.getpid()}-{next(_numbers)}"
        own.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield own
        finally:
            if own.exists():
                self.console = own.replace(own.with_name(name))

    def _judge(self) -> tuple[Observation | None, Verdict]:
        if self.facts is None:
            return None, Verdict(False, "kernel", self.splat or "the kernel died")
        seen = observed(self.collector, self.target, self.facts)
        probed = self.probe.get("features", {})
        return seen, verdict(self.collector, self.target, self.expectation, seen, self.facts, probe=probed, splat=self.splat)

    def _causes(self) -> list[dict[str, Any]]:
        """Why what failed did: the objects' lines of source are read only where something failed."""
        failed = [attempt for attempt in (self.facts["attempts"] if self.facts else ()) if has_failed(attempt)]
        if not failed:
            return []
        own = self.collector.loader is not None
        names = [] if own else [attempt["variant"] for attempt in failed]
        infos = {name: compiled.load(self.collector, self.collector.variant(name), self.target.arch) for name in names}
        lines = {name: SourceLines(info.data) for name, info in infos.items()}
        situation = self.probe.get("surroundings")
        return causes(failed, self.target.kernel.version, self.target.arch, lines, own_loader=own, situation=situation)

    def record(self, observation: Observation | None, verdict: Verdict) -> Record:
        """The record of what is known by now."""
        self.stages["total"] = time.monotonic() - self.start
        return Record(
            cell=name_of(self.collector, self.target),
            collector=self.collector.name,
            kernel=self.target.kernel.name,
            arch=self.target.arch,
            expected=self.expectation.behaviour,
            observed=observation.behaviour if observation else None,
            ok=verdict.ok,
            failure=verdict.failure,
            reason=verdict.reason,
            facts=self.facts,
            probe=self.probe or None,
            timings={name: round(seconds, 4) for name, seconds in self.stages.items()},
            console=str(self.console.relative_to(self.directory)) if self.console else None,
            versions=self.versions,
            expectation=_plain(self.expectation),
            causes=self._causes(),
            boot_warnings=self.warned,
            warning=not verdict.ok and verdict.failure != "infra" and only_warns(self.collector, self.target),
            simulated=self.target.simulated.account(self.target.arch) if self.target.simulated is not None else None,
            machine=self.room.real.account(self.target),
        )


def _patience(collector: Collector) -> float:
    """Seconds that the guest may take: the trigger (twice, where the first fails), the events, its own loader's start and stop (or
    the verifier's limit, once a variant and once an optional program, and twice for a program that is measured), and a margin for
    load and attach."""
    if collector.loader is not None:
        own = collector.loader.ready_timeout + collector.loader.stop_timeout
    else:
        tries = len(collector.variants) + sum(not program.required for program in collector.programs)
        tries += 2 * len(collector.measured)
        own = tries * (limit.AT_MOST * collector.load_timeout + INTERRUPTION)
    often = lasts(collector.trigger.request()) if collector.trigger is not None else 0.0
    return 2 * (max(collector.timeout, TRIGGER_SECONDS) + often) + collector.timeout + own + MARGIN


_TAINTS = {7: "D (died)", 9: "W (warned)", 14: "L (locked up)"}
"""Bits of /proc/sys/kernel/tainted that say what a silenced console does not (Documentation/admin-guide/tainted-kernels.rst)."""


def _tainted(facts: CellFacts) -> str | None:
    taint = facts.get("taint") or {"before": 0, "after": 0}
    new = int(taint["after"]) & ~int(taint["before"])
    flags = [name for bit, name in _TAINTS.items() if new >> bit & 1]
    return f"the kernel is tainted {', '.join(flags)}, though the console shows nothing" if flags else None


@contextmanager
def _machine(room: MachineRoom, target: Target, console: Path) -> Iterator[tuple[Machine, Mapping[str, Any]]]:
    """A VM of the target; a kernel that dies before the collector is there says nothing about the collector."""
    with ExitStack() as stack:
        try:
            ready = stack.enter_context(room.machine(target, console))
        except KernelDied as death:
            raise KernelFails(
                f"the kernel does not come up: {_said(death.splat)}",
                where=str(target),
                fix=f"kmatrix shell {target.kernel.name} --arch {target.arch} --console --cold",
            ) from None
        yield ready


def _said(splat: Splat) -> str:
    return f"{splat.kind}: {splat.title}"


def _loader_started(collector: Collector, facts: CellFacts) -> None:
    """A loader that the guest cannot even start says nothing about kernels: what it lacks has to be brought."""
    own = facts.get("loader")
    if own and own["cannot_start"]:
        raise InputError(
            own["cannot_start"],
            where=f"{collector.path}: loader",
            fix='bring what it lacks in loader.files (a library, with env = { LD_LIBRARY_PATH = "." }), or link it statically',
        )


def _trigger_ran(collector: Collector, target: Target, facts: CellFacts) -> None:
    """A trigger that fails with the collector and without it says nothing about the collector; one that refers to nothing is wrong."""
    trigger = facts.get("trigger")
    if not trigger:
        return
    again = trigger.get("after")
    if not trigger["ok"] and not trigger.get("after_refusal") and not (again and again["ok"]):
        raise _trigger_fails(collector, target, trigger)
    if facts["running"] is None:
        return
    for name in collector.known_names() if trigger["ok"] else ():
        if name not in facts["known"]:
            raise InputError(
                f"known.{name}: the trigger knows no such thing{did_you_mean(name, facts['known'])}",
                where=f"{collector.path}: event",
                fix=f"it knows: {', '.join(sorted(facts['known']))}",
            )


def _trigger_fails(collector: Collector, target: Target, trigger: Mapping[str, Any]) -> InfraError:
    return InfraError(
        f"the trigger failed, also without the collector: {trigger.get('error') or trigger.get('exit')}",
        where=f"{collector.path}: trigger",
        fix=f"try it there: ssh ssh://{target.kernel.host.ssh.removeprefix('ssh://')}"
        if target.kernel.host is not None
        else f"try it in the guest: kmatrix shell {target.kernel.name} --arch {target.arch} --collector {collector.path.parent}",
    )


def _plain(expectation: Expectation) -> dict[str, Any]:
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in asdict(expectation).items()}
