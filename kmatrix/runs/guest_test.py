"""A test command on targets: run in each one's guest, read while it prints, judged, recorded. `kmatrix test` and [test] are this."""

from __future__ import annotations

import os
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kmatrix.host import paths
from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.threads import results
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.guest_test import filled
from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.matrix.kernel import Target
from kmatrix.objects import program
from kmatrix.runs import bring, command, guest_test_records
from kmatrix.runs.carried import Item
from kmatrix.runs.command import Options, Result, Streams
from kmatrix.runs.guest_test_records import TestRecord
from kmatrix.runs.machine_room import MachineRoom, Shape
from kmatrix.verdict.suites.judge import Ended, Judgement, judge
from kmatrix.verdict.suites.read import FORMATS, Lines, Reader, Suite
from kmatrix.verdict.suites.subtest import SubTest

TIMEOUT = 600.0
"""Seconds that a command may take where nothing else is said."""
_NO_FILE = re.compile(
    r"""(?:open(?:at)?|stat|exec|file) ?["'‘]?([^\s"':’]+)["'’]?: [Nn]o such file or directory|No such file or directory: ["'‘]([^"'’]+)"""
)
"""What Go, C and Python say of a file that is not there, with its path."""
_NO_MATCH = re.compile(r"(?i)\bno (?:such |matching |test )?(?:files?|fixtures?|objects?)\b")
"""What tests say where their pattern of paths matches nothing (`No files given`); Go's Glob gives no error for it."""
_MESSAGE = re.compile(r"^(panic: |fatal error: |.*(?:Segmentation fault|[Aa]ssertion .* failed)).*$", re.MULTILINE)

Watch = Callable[[str, bytes], None]
"""Is given a target's name and what the command prints on it, as it comes."""


@dataclass(frozen=True)
class GuestTest:
    """A test command, before a target is chosen: {arch}, {goarch}, {machine} and {kernel} in its words stand for the target's."""

    name: str
    command: tuple[str, ...]
    folder: Path
    """The host's folder that the command is given in, and that paths are relative to."""
    files: tuple[str, ...] = ()
    """PATH or PATH:GUEST."""
    dirs: tuple[str, ...] = ()
    format: str | None = None
    """A name of kmatrix.verdict.suites.read.FORMATS; None where it is to be recognised."""
    arches: tuple[Arch, ...] = ARCHES
    not_counted: Callable[[Target], Mapping[str, str]] = field(default=lambda _: {})
    """The patterns of sub-tests' names whose failures do not count on a target, each with why."""
    options: Options = field(default_factory=lambda: Options(timeout=TIMEOUT))
    spelled: tuple[str, ...] = ()
    """The options of `kmatrix exec` that say the same: for the command that reproduces."""
    asked_in: Path | None = None
    """The folder that the user is in, where that is not `folder`."""

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise InputError(f"unknown format {self.format!r}", where=self.name, fix=f"one of: {', '.join(FORMATS)}")

    def words(self, target: Target) -> tuple[str, ...]:
        """The command on the target."""
        return tuple(filled(word, target.kernel.name, target.arch) for word in self.command)

    def items(self, target: Target) -> tuple[Item, ...]:
        """What is brought along to the target. Raises InputError for what is not there."""
        found = []
        for folder, texts in ((False, self.files), (True, self.dirs)):
            for text in texts:
                item = Item.parse(_at(self.folder, filled(text, target.kernel.name, target.arch)), folder=folder)
                found.append(item)
        return tuple(found)

    def unfit(self, target: Target) -> str | None:
        """Why the command is not for the target's arch; None where it is. A program without a placeholder is for its own arch alone."""
        if target.arch not in self.arches:
            return f"it is for {' and '.join(self.arches)}"
        word = self.words(target)[0]
        path = self.folder / word
        if "/" not in word or not path.is_file() or (read := program.read(path)) is None or read.runs_on(target.arch):
            return None
        return f"{word} is a program for {read.arch_name}; write {{goarch}}, {{arch}} or {{machine}} in its path for one a target"


def _at(folder: Path, text: str) -> str:
    """PATH or PATH:GUEST of a folder, for whoever works in another."""
    return text if text.startswith("/") else str(folder / text)


def name_of(argv: Sequence[str]) -> str:
    """The name of a test command that has none: its program's file name, in the characters that a record's may have."""
    stem = re.sub(r"[._-]?\{\w+\}", "", Path(argv[0]).name)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "test"


def check_name(name: str) -> str:
    """`name`, if a record may be called so. Raises InputError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise InputError(f"{name!r} is no name for a test", where="--name", fix="use letters, digits, '.', '_' and '-'")
    return name


def of_collector(collector: Collector, cwd: Path) -> GuestTest | None:
    """The test command of a collector's manifest; None where it has none. `cwd` is where commands that reproduce are to be given."""
    said = collector.test
    if said is None:
        return None
    folder = collector.path.absolute().parent
    options = Options(env=said.env, timeout=said.timeout, shape=Shape(memory_mib=said.memory, cpus=said.cpus))
    return GuestTest(
        name=collector.name,
        command=said.command,
        folder=folder,
        files=said.files,
        dirs=said.dirs,
        format=said.format,
        arches=said.arches,
        not_counted=lambda target: said.not_counted(target.has),
        options=options,
        spelled=command.spelled(options, said.files, said.dirs),
        asked_in=cwd,
    )


def run_all(
    test: GuestTest, targets: Sequence[Target], room: MachineRoom, directory: Path, watch: Watch | None = None
) -> tuple[list[TestRecord], dict[str, str]]:
    """Run the test on the targets side by side; the records, and the targets that it is not for, each with why.

    Raises InputError where it is for none of them, and for what is wrong with the command.
    """
    unfit = {str(target): why for target in targets if (why := test.unfit(target)) is not None}
    fit = [target for target in targets if str(target) not in unfit]
    if not fit:
        raise InputError(f"nothing to run: {next(iter(unfit.values()), 'no target is selected')}", where=test.name)
    for target in fit:
        test.items(target)  # what is not there is said before a VM runs
    _check_built(test, fit)
    # The VMs of one target's first run make its snapshot one at a time: the store's lock sees to it.
    stop = Stop()
    with ThreadPoolExecutor(max_workers=max(1, min(len(fit), len(os.sched_getaffinity(0))))) as pool:
        try:
            return results([pool.submit(run, test, target, room, directory, watch, stop) for target in fit]), unfit
        except BaseException:
            stop.now()
            raise


def _check_built(test: GuestTest, targets: Sequence[Target]) -> None:
    """Raises InputError where the program is built for some arches and not for others, which may be meant: then `--arch` says so."""
    word = test.command[0]
    if "/" not in word:
        return
    missing = [target for target in targets if not (test.folder / test.words(target)[0]).is_file()]
    has = dict.fromkeys(target.arch for target in targets if target not in missing)
    lacks = dict.fromkeys(target.arch for target in missing)
    if missing and has and not has.keys() & lacks.keys():
        raise InputError(
            "there is no such file",
            where=test.words(missing[0])[0],
            fix=f"build it for {' and '.join(lacks)}, correct the path, or test {' and '.join(has)} alone: --arch={next(iter(has))}",
        )


class Stop:
    """Ends the commands of several threads: an interrupt reaches the main thread alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipes: list[int] = []
        self.is_set = False

    @contextmanager
    def signals(self) -> Iterator[int]:
        """A descriptor of signals for one command (kmatrix.runs.command.Streams.signals)."""
        read, write = os.pipe()
        with self._lock:
            self._pipes.append(write)
            if self.is_set:
                os.write(write, _KILLS)
        try:
            yield read
        finally:
            with self._lock:
                self._pipes.remove(write)
            os.close(read)
            os.close(write)

    def now(self) -> None:
        """Kill the commands that run, and those that are about to."""
        with self._lock:
            self.is_set = True
            for write in self._pipes:
                os.write(write, _KILLS)


_KILLS = bytes([signal.SIGINT] * 3)
"""The third signal is one that nothing survives (kmatrix.vm.stream)."""


def run(
    test: GuestTest, target: Target, room: MachineRoom, directory: Path, watch: Watch | None = None, stop: Stop | None = None
) -> TestRecord:
    """Run the test on one target and write its record under `directory`. Raises InputError for what is wrong with the command.

    `stop` ends it early; then there is no record.
    """
    guest_test_records.path_of(directory, test.name, str(target)).unlink(missing_ok=True)
    started, start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    heard = _Heard(test.format, None if watch is None else lambda data: watch(str(target), data))
    options = replace(test.options, files=(*test.options.files, *test.items(target)), cwd=test.folder)
    words = test.words(target)
    try:
        signals = stop.signals() if stop is not None else None
        result = command.run(room, target, words, Streams(heard.output, heard.error, signals=signals), options)
        judgement, infra = _judge(result, heard, test.not_counted(target), options.timeout), None
        data = bring.go_data(test.folder).left if bring.go_test(Path(words[0])) else ()
        judgement = replace(judgement, subtests=tuple(left_at_home(each, test.folder, data) for each in judgement.subtests))
    except InfraError as error:
        result, judgement, infra = None, None, str(error)
    suite = heard.suite()
    record = TestRecord(
        test=test.name,
        kernel=target.kernel.name,
        arch=target.arch,
        command=words,
        ok=judgement is not None and judgement.ok,
        failure=judgement.failure if judgement is not None else "infra",
        reason=judgement.reason if judgement is not None else infra or "",
        exit=result.exit if result is not None else None,
        signal=result.signal if result is not None else None,
        format=suite.format,
        subtests=judgement.subtests if judgement is not None else suite.subtests,
        output=suite.tail,
        errors=heard.errors(),
        timings={"command": round(result.seconds if result is not None else 0, 4), "total": round(time.monotonic() - start, 4)},
        console=_console(result, test, target, directory) if judgement is not None and not judgement.ok else None,
        versions=room.versions(target),
        reproduce=reproduce(test, target),
        simulated=target.simulated.account(target.arch) if target.simulated is not None else None,
        started=started,
        warning=target.kernel.real.moving and judgement is not None and not judgement.ok,
        brought=[str(path) for path in (*result.cores, *result.brought_back)] if result is not None else [],
    )
    if stop is None or not stop.is_set:
        guest_test_records.write(record, directory)
    return record


class _Heard:
    """What a command prints: read while it comes, its last lines kept."""

    def __init__(self, suite_format: str | None, watch: Callable[[bytes], None] | None) -> None:
        self._reader = Reader(suite_format)
        self._errors = Lines(self._reader.aside)
        self._watch = watch
        self._suite: Suite | None = None

    def output(self, data: bytes) -> None:
        """Of standard output."""
        self._reader.feed(data)
        if self._watch is not None:
            self._watch(data)

    def error(self, data: bytes) -> None:
        """Of standard error."""
        self._errors.feed(data)
        if self._watch is not None:
            self._watch(data)

    def suite(self) -> Suite:
        """What standard output told, when it is all there; a sub-test that broke off has what standard error says of it."""
        if self._suite is None:
            read, said = self._reader.end(), self.errors()
            found = _MESSAGE.search(said)
            cut = [_broken(each, found[0].strip() if found else "", said) if each.red else each for each in read.subtests]
            self._suite = replace(read, subtests=tuple(cut))
        return self._suite

    def errors(self) -> str:
        """The last lines of standard error."""
        return self._errors.end()


def _broken(subtest: SubTest, message: str, said: str) -> SubTest:
    """A red sub-test that said nothing of its own: a panic or a crash is told on standard error."""
    if subtest.message or not message:
        return subtest
    return replace(subtest, message=message, output=subtest.output or said)


def left_at_home(subtest: SubTest, folder: Path, test_data: Sequence[Path] = ()) -> SubTest:
    """A red sub-test that did not find a file, with how to bring it where the host has it.

    `test_data`: folders of a Go module that were not brought. What finds no file by a pattern names none.
    """
    if not subtest.red:
        return subtest
    found = _NO_FILE.search(subtest.message)
    if found is None:
        if not test_data or not _NO_MATCH.search(subtest.message):
            return subtest
        named = os.path.relpath(test_data[0], folder)
        return replace(subtest, message=f"{subtest.message} (the host has {named}: bring it with --dir={named})")
    named = found[1] or found[2]
    path = folder / named
    if not path.exists():
        return subtest
    option = (
        f"--file={named}"
        if path.is_file() and path.parent == folder
        else f"--dir={path.parent if named.startswith('/') else Path(named).parent}"
    )
    return replace(subtest, message=f"{subtest.message} (the host has it: bring it with {option})")


def _judge(result: Result, heard: _Heard, not_counted: Mapping[str, str], timeout: float) -> Judgement:
    trouble = result.died or next(iter(result.splats), None)
    ended = Ended(result.exit, result.signal, timeout if result.timed_out else None)
    judgement = judge(ended, heard.suite(), not_counted, f"{trouble.kind}: {trouble.title}" if trouble is not None else None)
    if judgement.ok:
        return judgement
    more = [result.error] if result.error is not None else []
    more += [f"the kernel killed {name}: the guest's memory was full (give it more with --memory)" for name in result.oom]
    more += [f"{place} was full (give the guest more with --memory)" for place in result.full]
    return replace(judgement, reason="; ".join((judgement.reason, *more)))


def _console(result: Result | None, test: GuestTest, target: Target, directory: Path) -> str | None:
    """Keep the guest's console; its path under the kmatrix directory."""
    if result is None or not result.console:
        return None
    kept = guest_test_records.console_of(test.name, str(target))
    paths.write_whole(directory / kept, result.console)
    return kept


def reproduce(test: GuestTest, target: Target) -> str:
    """The command that runs the test on the target alone; in it, the test's words as shlex.join writes them."""
    line = shlex.join(["kmatrix", "exec", *test.spelled, str(target), "--", *test.words(target)])
    if test.asked_in is None or test.asked_in == test.folder:
        return line
    return f"(cd {shlex.quote(os.path.relpath(test.folder, test.asked_in))} && {line})"
