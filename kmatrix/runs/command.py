"""A command in a target's VM: what it needs is brought along, its streams are the host's, and how it ended is told.

    ended = run(room, target, ["./pkg.test", "-test.v"], Streams(stdout=sys.stdout.buffer.write, stderr=…), Options(timeout=60))

`kmatrix exec` and `kmatrix test` both are this.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.paths import scratch_console
from kmatrix.matrix.kernel import Target
from kmatrix.runs import bring, carried
from kmatrix.runs.carried import Disk, Item
from kmatrix.runs.machine_room import MachineRoom, Shape
from kmatrix.vm import stream
from kmatrix.vm.console import Splat
from kmatrix.vm.errors import GuestError, GuestTimeout, KernelDied
from kmatrix.vm.machine import Machine
from kmatrix.vm.stream import Conversation, Ended, Sink

CORE_BYTES = 512 << 20
"""How large a core dump becomes at most: what is more is cut off."""
_GATHER_TIMEOUT = 120.0
_PREPARE_TIMEOUT = 60.0
_OOM = re.compile(r"(?:Out of memory|[Mm]emory cgroup out of memory): Kill(?:ed)? process \d+ \((.*?)\)")


@dataclass(frozen=True)
class Streams:
    """Where output goes as it comes, and where input and signals come from."""

    stdout: Sink
    stderr: Sink
    stdin: int | None = None
    """A descriptor to read; None for an empty input."""
    signals: AbstractContextManager[int] | None = None
    """Entered while the command runs: a descriptor to read, one byte a signal, each of which is sent to the command's process group
    (kmatrix.runs.signals). `nullcontext(fd)` for a descriptor as it is."""
    console: Sink | None = None
    """Takes the guest's console as it comes."""


@dataclass(frozen=True)
class Options:
    """What a command gets beside its arguments."""

    files: tuple[Item, ...] = ()
    """Files and folders to bring along, beside those that the command names."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the guest's environment; `bring.PASSED` of the host's is passed on in any case."""
    cwd: Path | None = None
    """The host's folder that the command is given in (None: the current one). It works in a folder of that path in the guest."""
    timeout: float = math.inf
    """Seconds that the command may take, counted from its start in the guest."""
    shape: Shape = field(default_factory=Shape)
    sysctl: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    """A user of the guest's, or UID[:GID]; None for root."""
    caps: tuple[str, ...] | None = None
    """The capabilities that are left to it; None for all that the user has."""
    cores: Path | None = None
    """The host's folder for core dumps; None for none."""
    gdb: int | None = None
    """A port of 127.0.0.1 on which the machine waits for gdb before the command starts; there is no time limit then."""


def spelled(options: Options, files: Sequence[str] = (), dirs: Sequence[str] = ()) -> tuple[str, ...]:
    """The options of `kmatrix exec` that say the same, for a command that reproduces; without the timeout, core dumps and gdb."""
    shape = options.shape
    words = [f"--file={text}" for text in files] + [f"--dir={text}" for text in dirs]
    words += [f"--env={name}={value}" for name, value in options.env.items()]
    words += [f"--memory={shape.memory_mib}"] if shape.memory_mib else []
    words += [f"--cpus={shape.cpus}"] if shape.cpus else []
    words += [f"--cmdline={text}" for text in shape.cmdline]
    words += [f"--sysctl={name}={value}" for name, value in options.sysctl.items()]
    words += [f"--user={options.user}"] if options.user else []
    words += [f"--cap={','.join(options.caps) or 'none'}"] if options.caps is not None else []
    return tuple(words)


@dataclass(frozen=True)
class Result:
    """How a command ended, and what came of it."""

    exit: int | None
    """The exit status; None where a signal ended it, or the guest ended under it."""
    signal: int | None
    timed_out: bool
    error: str | None
    """Why it could not be started (`exit` is 126 or 127)."""
    died: Splat | None
    """The panic, oops or lockup that ended the guest: class `kernel`."""
    splats: tuple[Splat, ...]
    """Every piece of kernel trouble on the console, also what the command survived."""
    oom: tuple[str, ...]
    """Names of the processes that the kernel killed because the guest's memory was full (kmatrix's own left out)."""
    full: tuple[str, ...]
    """File systems of the guest that had no room left at some time."""
    cores: tuple[Path, ...]
    """Core dumps on the host."""
    brought_back: tuple[Path, ...]
    """Coverage and profiles on the host."""
    console: str
    """What the guest's console said."""
    seconds: float
    """From the command's start to its end."""

    @property
    def status(self) -> int:
        """The exit status as a shell says it: 128 and the signal, 124 at the time limit, 125 where the kernel died."""
        if self.timed_out:
            return 124
        if self.died is not None:
            return 125
        return self.exit if self.exit is not None else 128 + (self.signal or 0)


def run(room: MachineRoom, target: Target, argv: Sequence[str], streams: Streams, options: Options | None = None) -> Result:
    """Run `argv` in a pristine VM of the target.

    Files of the host that it names are in the guest at the same path, with the libraries that they need (kmatrix.runs.bring).
    Raises InputError for what is wrong with the command, before a VM runs (a binary of another arch, a library that is nowhere), and
    for an option that this guest does not take; InfraError where the machine room fails. What happens to the command is in the result.
    """
    options = options or Options()
    spec = room.spec(target)
    plan = bring.plan(argv, options.cwd or Path.cwd(), spec.image, options.files, options.env)
    if not (plan.items or plan.back or options.cores):
        return _run(room, target, plan, streams, options, None)
    with carried.disk(plan.items) as disk:
        return _run(room, target, plan, streams, options, disk)


def _run(room: MachineRoom, target: Target, plan: bring.Plan, streams: Streams, options: Options, disk: Disk | None) -> Result:
    with (
        scratch_console(f"exec-{target}") as console,
        room.machine(target, console, shape=options.shape, carried=disk.fd if disk else None) as (vm, _),
    ):
        if streams.console is not None:
            vm.on_console(streams.console)
        _prepare(vm, target, plan, options, disk)
        if options.gdb is not None:
            vm.wait_for_gdb(options.gdb)
            streams.stderr(_gdb_line(vm, options.gdb).encode())
        died: Splat | None = None
        ended = Ended(None, None, False, False, None, ())
        with streams.signals or nullcontext() as signals:
            talk = Conversation(streams.stdout, streams.stderr, stdin=streams.stdin, signals=signals, timeout=options.timeout)
            try:
                ended = _converse(vm, plan, options, talk)
            except KernelDied as error:
                died = error.splat
            except GuestTimeout:  # it was told to end, and did not: the guest goes with it
                vm.kill()
                ended = Ended(None, int(signal.SIGKILL), False, talk.timed_out, None, ())
        cores, back = _gather(vm, plan, options, disk) if died is None and not vm.closed else ((), ())
        return Result(
            exit=ended.exit,
            signal=ended.signal,
            timed_out=ended.timed_out,
            error=ended.error,
            died=died,
            splats=vm.all_splats(),
            oom=tuple(name for name in _OOM.findall(vm.console_text()) if not name.startswith("kmatrix-")),
            full=ended.full,
            cores=cores,
            brought_back=back,
            console=vm.console_text(),
            seconds=talk.seconds,
        )


def _gdb_line(vm: Machine, port: int) -> str:
    """What to type, with the kernel's symbols where this host has them (Debian's package of them, linux-image-…-dbg)."""
    symbols = Path(f"/usr/lib/debug/boot/vmlinux-{vm.spec.kernel.release}")
    words = f"gdb -ex 'target remote 127.0.0.1:{port}'" + (f" {symbols}" if symbols.is_file() else "")
    return f"kmatrix: the guest waits until gdb lets it go on: {words}\n"


def _prepare(vm: Machine, target: Target, plan: bring.Plan, options: Options, disk: Disk | None) -> None:
    params = {
        "disk": disk is not None,
        "places": list(disk.places) if disk else [],
        "folders": [plan.cwd, *plan.folders],
        "sysctl": dict(options.sysctl),
        "cores": options.cores is not None,
        "user": options.user is not None or target.kernel.privileges.user is not None,
    }
    try:
        vm.call("prepare", params, timeout=_PREPARE_TIMEOUT)
    except GuestError as error:
        raise _guest_refuses(error, target) from None


def _converse(vm: Machine, plan: bring.Plan, options: Options, talk: Conversation) -> Ended:
    try:
        return stream.run(
            vm,
            plan.argv,
            talk,
            env=plan.env,
            cwd=plan.cwd,
            user=options.user,
            caps=options.caps,
            core=CORE_BYTES if options.cores is not None else 0,
        )
    except GuestError as error:
        raise _guest_refuses(error, str(vm.spec)) from None


def _guest_refuses(error: GuestError, where: object) -> InputError | InfraError:
    """What the guest does not take of what was asked for, or what failed in it."""
    if error.kind == "ValueError":
        return InputError(error.detail, where=str(where))
    return InfraError(f"the guest cannot be made ready: {error.detail}", where=str(where))


def _gather(vm: Machine, plan: bring.Plan, options: Options, disk: Disk | None) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Have the guest write out what is to come back; the core dumps, and the rest."""
    if disk is None or not (plan.back or options.cores):
        return (), ()
    try:
        answer = vm.call("gather", timeout=_GATHER_TIMEOUT, paths=[str(path) for path in plan.back])
    except GuestError as error:
        raise InfraError(f"what the command wrote cannot be had: {error.detail}", where=str(vm.spec)) from None
    except KernelDied:
        return (), ()
    vm.kill()
    targets = [path.parent if "*" in path.name else path for path in plan.back]
    back = disk.take_back(answer["found"], targets) if answer["found"] else []
    cores = disk.take_cores(options.cores) if options.cores is not None and answer["cores"] else []
    return tuple(cores), tuple(back)
