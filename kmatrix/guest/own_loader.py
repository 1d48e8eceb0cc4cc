"""A collector's own agent: started, waited for, watched and stopped; what it did is read off the kernel, never believed.

All that is new in a pristine guest's kernel is the agent's. Which variant that is, `recognise` says; whether a program is attached, the
kernel: its links, the programs at the perf events and raw tracepoints that the agent's processes hold, at cgroups, and at interfaces.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple, cast

from . import bpf, command, confine, kernel, observe, opened, processes, recognise, simulate
from .cell_facts import AttemptReport, CellFacts, Inventory, LoaderReport, MapReport, ProgramReport
from .cgroup import cgroup_root
from .observe import read_text
from .output import LineStream, Output
from .privileges import Privileges

MEMLOCK = 64 << 10
"""Bytes of locked memory that an agent starts with, as from every kernel before 5.16: one that forgets to ask for more must show it."""
WORDS = 5  # lines of the agent's output that are its message
STABLE = 0.1
"""Seconds for which what is attached must stay the same where that is the sign to go."""

_LACKS_LIBRARY = re.compile(
    r"(?:error while loading shared libraries: |Error loading shared library )([^:\s]+): "  # glibc's and musl's words
    r"|(/\S+\.so\S*: version `[^']+' not found)"
)
_CGROUP_TYPES = ("cgroup_skb", "cgroup_sock", "cgroup_sock_addr", "cgroup_device", "cgroup_sysctl", "cgroup_sockopt", "sock_ops")
_INTERFACE_TYPES = ("xdp", "sched_cls", "sched_act")
ATTACH_TYPES = 64
"""Above every attach type that a kernel knows; those that are none of a cgroup's are refused at once."""


class _Look(NamedTuple):
    """One look at the kernel."""

    now: Inventory
    programs: list[recognise.Entry]
    """What was not there before, each with the `hook` that the kernel names, or None."""
    maps: list[recognise.Entry]
    via: Mapping[int, str]
    """How programs are attached, by id."""


class OwnLoader:
    """The agent of one cell."""

    def __init__(self, request: Mapping[str, Any], before: Inventory, refuted: Collection[str], facts: CellFacts) -> None:
        self._spec: Mapping[str, Any] = request["loader"]
        self._variants = request["variants"]
        self._before, self._refuted, self._facts = before, refuted, facts
        self._own: LoaderReport = {
            "command": list(self._spec["command"]),
            "ready": None, "exit": None, "signal": None, "killed": False, "died": None, "failure": None, "cannot_start": None,
            "left": [], "processes": [], "stdout": "", "stderr": "",
        }  # fmt: skip
        facts["loader"] = self._own
        self._resources = ExitStack()
        self._news = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._outputs: dict[str, Output] = {}
        self._ready_pattern = re.compile(self._spec["ready"]["line"], re.MULTILINE) if "line" in self._spec["ready"] else None
        self._seen: tuple[float, Any] | None = None
        self.stream: LineStream | None = None
        self.raw: list[bytes] = []

    # -- from start to ready ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it is ready or has ended; what runs, or why nothing does, is in the facts."""
        started = time.monotonic()
        self._tree = self._resources.enter_context(processes.adopting())
        try:
            self._launch()
        except OSError as error:
            self._own["cannot_start"] = self._own["failure"] = _cannot_start(error, self._spec)
            return
        why = self._await_ready(started + float(self._spec["ready_timeout"]))
        if why is None:
            self._own["ready"] = round(time.monotonic() - started, 3)
        self._own["processes"] = simulate.outside(self._survey)
        self._recognise(why)

    def _launch(self) -> None:
        spec = self._spec
        # Without a TZ, glibc looks for /etc/localtime (which the guest has not) at every time stamp: a tool that shows opens shows its own.
        environment = {**os.environ, "TZ": "UTC0", **spec["env"]}
        privileges = confine.privileges()
        self._process = subprocess.Popen(
            spec["command"], cwd=spec["folder"], env={**environment, **privileges.environ}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=lambda: _enter(privileges),
        )  # fmt: skip
        for name in ("stdout", "stderr"):
            pipe = getattr(self._process, name)
            keep = spec["lines"] and name == spec["events"]
            self._outputs[name] = Output(os.dup(pipe.fileno()), self._news, self._ready_pattern, keep=keep)
            pipe.close()
        if spec["lines"]:
            self.stream = LineStream(self._outputs[spec["events"]], self._news, self.raw.append)

    def _await_ready(self, deadline: float) -> str | None:
        """None once it is ready; else why it is not, in words."""
        while True:
            status = self._status()
            if self._is_ready(status):
                return None
            if status is not None and (status != 0 or not self._tree.members()):
                self._drain()
                if status == 0 and self._is_ready(status):  # the line may have come with the end
                    return None
                return self._ending(status) + (" before it was ready" if status == 0 else "")
            if time.monotonic() > deadline:
                return f"was not ready within {self._spec['ready_timeout']:g} s ({_sign(self._spec['ready'])})"
            with self._news:
                self._news.wait(0.02)

    def _status(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def _is_ready(self, status: int | None) -> bool:
        ready = self._spec["ready"]
        if "line" in ready:
            return any(output.matched for output in self._outputs.values())
        if "file" in ready:
            return os.path.exists(os.path.join(self._spec["folder"], ready["file"]))
        if ready["when"] == "exit":
            return status == 0
        return bool(simulate.outside(lambda: self._is_attached(final=status == 0)))

    def _is_attached(self, *, final: bool) -> bool:
        """Whether some variant is there with all its required programs attached, and nothing more comes."""
        there = self._look()
        for variant in self._variants if there.programs else ():
            found = recognise.match(variant, there.programs, there.maps, self._refuted)
            attached = self._attached(variant, found, there.via)
            if found.whole and all(p["name"] in attached for p in variant["programs"] if _must_be_attached(p)):
                state = ([entry["id"] for kind in ("programs", "maps", "links") for entry in there.now[kind]], self._descriptors())
                if self._seen is None or self._seen[1] != state:
                    self._seen = (time.monotonic(), state)
                return final or time.monotonic() - self._seen[0] >= STABLE
        self._seen = None
        return False

    def _descriptors(self) -> list[int]:
        return [len(processes.bpf_files(process.pid)) for process in self._tree.members()]

    # -- what it did --------------------------------------------------------------------------------------------------------------

    def _recognise(self, why: str | None) -> None:
        """Fill the facts: an attempt for each variant up to the one that runs; a refusal; or why there is neither."""
        name = self._spec["command"][0]
        said = f"{name} {why}" if why else None
        if said is not None and (words := self._words()):
            said += f": {words}"
        look: _Look = simulate.outside(self._look)
        there = recognise.in_words(look.programs, look.maps)
        status = self._status()
        for variant in self._variants:
            found = recognise.match(variant, look.programs, look.maps, self._refuted)
            report = self._report(variant, found, look.via)
            self._facts["attempts"].append(report)
            if why is None and found.whole:
                self._facts["running"] = variant["name"]
                return
            unlike = f"it lacks {', '.join(found.missing)}; in the kernel: {there}"
            report["stage"], report["error"] = "attach" if found.whole else "load", {"errno": None, "text": said or unlike}
        if why is None and not look.programs:
            self._facts["refusal"] = f"{name} runs on and has loaded no program: {self._words()}"
        elif why is None:
            self._own["failure"] = f"{name} runs in none of its variants; in the kernel: {there}"
        elif self._lacks_library():
            self._own["cannot_start"] = self._own["failure"] = f"{name} cannot start: {self._words()}"
        elif status is not None and status > 0 and status in (self._spec["refusal_exits"] or (status,)):
            self._facts["refusal"] = said
        else:
            self._own["failure"] = said

    def _report(self, variant: Mapping[str, Any], found: recognise.Match, via: Mapping[int, str]) -> AttemptReport:
        """An attempt in the form that our own loader gives it."""
        attached = simulate.outside(lambda: self._attached(variant, found, via))
        programs: dict[str, ProgramReport] = {}
        for program in variant["programs"]:
            name = program["name"]
            report = programs[name] = cast(ProgramReport, opened.blank(program["hook"]))
            if (entry := found.programs.get(name)) is not None:
                report["id"], report["tag"], report["type"], report["loaded"] = entry["id"], entry["tag"], entry["type"], True
                report["attached"], report["via"] = name in attached, attached.get(name)
                if recognise.elsewhere(program["hook"], entry["hook"]):
                    report["error"] = f"it is attached to {entry['hook']}"
        maps: dict[str, MapReport] = {name: {"id": entry["id"], "type": entry["type"]} for name, entry in found.maps.items()}
        log = self._outputs["stderr"].text().splitlines()[-50:]
        return {"variant": variant["name"], "stage": None, "error": None, "programs": programs, "maps": maps, "log": log}

    def _look(self) -> _Look:
        """What is new in the kernel, and where it is attached, by the kernel's account."""
        now = observe.inventory()
        via = {link["prog_id"]: "link" for link in now["links"]}
        hooks: dict[int, str] = {}
        for process in self._tree.members():
            for fd, kind in processes.bpf_files(process.pid).items():
                if kind in processes.ATTACHABLE and (told := bpf.task_fd_query(process.pid, fd)) and told[0]:
                    via.setdefault(told[0], "perf_event" if "perf_event" in kind else "raw_tracepoint")
                    hooks[told[0]] = told[1]
        programs: list[recognise.Entry] = [
            {**entry, "hook": hooks.get(entry["id"])} for entry in recognise.new(self._before["programs"], now["programs"])
        ]
        loose = {entry["type"] for entry in programs if entry["id"] not in via}
        if not loose.isdisjoint(_CGROUP_TYPES):
            via = dict.fromkeys(_on_cgroups(), "cgroup") | via
        if not loose.isdisjoint(_INTERFACE_TYPES):
            via = dict.fromkeys(_on_interfaces(), "netlink") | via
        return _Look(now, programs, recognise.new(self._before["maps"], now["maps"]), via)

    def _attached(self, variant: Mapping[str, Any], found: recognise.Match, via: Mapping[int, str]) -> dict[str, str]:
        """How each program of the variant is attached, by name: those of which the kernel says that they are."""
        hooks = {program["name"]: program["hook"] for program in variant["programs"]}
        there = {name: entry for name, entry in found.programs.items() if not recognise.elsewhere(hooks[name], entry["hook"])}
        named = {name: via[entry["id"]] for name, entry in there.items() if entry["id"] in via}
        if kernel.version() < (4, 15):  # which does not tell what is at a perf event, but has room for one
            named |= {name: "perf_event" for name in found.programs if name not in named and _taken(hooks[name])}
        return named

    def _survey(self) -> list[dict[str, Any]]:
        """Its processes, and what of BPF each holds."""
        found = []
        for process in self._tree.members():
            files = processes.bpf_files(process.pid)
            found.append({"pid": process.pid, "name": process.name, **processes.held(process.pid, files)})
        return found

    def note_attached(self) -> None:
        """A program that has run is attached, also where the kernel does not say where to."""
        for report in self._facts["attempts"][-1]["programs"].values():
            if report["loaded"] and not report["attached"] and report["runs"] and not report["error"]:
                report["attached"], report["via"] = True, "ran"

    # -- the end ------------------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have it end, as it is told to; after that nothing of it runs, and the facts say how it went."""
        if self._process is not None:
            self._end(self._process)
        self._resources.close()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        status = process.poll()
        if status and self._own["ready"] is not None:
            self._drain()
            self._own["died"] = f"{self._ending(status)} before it was told to stop: {self._words()}"
        if status is None or (status == 0 and (self._tree.members() or self._told_by_command)):
            self._tell(process)
        self._own["killed"] = process.poll() is None
        self._own["left"] = [p.name for p in self._tree.members() if p.pid != process.pid]
        self._tree.kill(but=process.pid)
        status = process.wait()
        self._own["exit"] = status if status >= 0 else None
        self._own["signal"] = signal.Signals(-status).name if status < 0 else None
        for output in self._outputs.values():
            output.thread.join(2.0)
        for name, output in self._outputs.items():
            self._own["stdout" if name == "stdout" else "stderr"] = output.text()

    @property
    def alive(self) -> bool:
        """Whether it, or something that it started, runs."""
        return self._process is not None and (self._process.poll() is None or bool(self._tree.members()))

    @property
    def _told_by_command(self) -> bool:
        return not isinstance(self._spec["stop"], str)

    def _tell(self, process: subprocess.Popen[bytes]) -> None:
        """Tell it to stop, and wait until neither it nor what it started is there, or the time is up."""
        spec, deadline = self._spec, time.monotonic() + float(self._spec["stop_timeout"])
        if self._told_by_command:
            command.run(list(spec["stop"]), env=spec["env"], cwd=spec["folder"], timeout=float(spec["stop_timeout"]))
        elif process.poll() is None:
            process.send_signal(signal.Signals[spec["stop"]])
        else:  # it has become a daemon
            self._tree.signal(signal.Signals[spec["stop"]])
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._tree.reap(but=process.pid)
                if not self._tree.members():
                    return
            time.sleep(0.01)

    def _drain(self) -> None:
        """It has ended: wait for the last of what it wrote (a process that it left behind may keep the pipes open)."""
        for output in self._outputs.values():
            output.thread.join(0.5)

    def _words(self) -> str:
        """Its message: the last lines of its standard error, or output."""
        for name in ("stderr", "stdout"):
            output = self._outputs.get(name)
            lines = [line.strip() for line in output.text().splitlines() if line.strip()] if output else []
            if lines:
                return "; ".join(lines[-WORDS:])
        return "it said nothing"

    def _lacks_library(self) -> bool:
        return bool(_LACKS_LIBRARY.search(self._outputs["stderr"].text()))

    @staticmethod
    def _ending(status: int) -> str:
        return f"ended with {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"


def _must_be_attached(program: Mapping[str, Any]) -> bool:
    return bool(program.get("required", True) and program.get("attach", True))


def _enter(privileges: Privileges) -> None:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (MEMLOCK, MEMLOCK))
    privileges.confine()


def _sign(ready: Mapping[str, str]) -> str:
    """What it was waited for, in words."""
    if "line" in ready:
        return f"no line with {ready['line']!r} came"
    if "file" in ready:
        return f"there is no {ready['file']}"
    return "no variant's programs are attached" if ready["when"] == "attached" else "it did not end"


def _cannot_start(error: OSError, spec: Mapping[str, Any]) -> str:
    """Why a command cannot be executed at all."""
    name = str(spec["command"][0])
    path = os.path.join(spec["folder"], name)
    if error.errno == errno.ENOENT and os.path.exists(path) and "/" in name:
        return f"{name} cannot start: the guest has no {_interpreter(path)}, which is to run it"
    if error.errno == errno.ENOENT:
        return f"{name} cannot start: it is not in the guest"
    if error.errno == errno.ENOEXEC:
        return f"{name} cannot start: it is no program (a script begins with #!)"
    return f"{name} cannot start: {error.strerror}"


def _interpreter(path: str) -> str:
    """What a file says is to run it: a script's first line, or an ELF program's PT_INTERP."""
    with open(path, "rb") as file:
        data = file.read(1 << 16)
    if data.startswith(b"#!"):
        return data[2:].split(b"\n", 1)[0].strip().decode("utf-8", "replace") or "interpreter"
    with suppress(struct.error):
        (at,), (count,) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<H", data, 56)
        for number in range(count):
            kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, at + 56 * number)
            if kind == 3:  # PT_INTERP
                return data[offset : offset + size].split(b"\0", 1)[0].decode("utf-8", "replace")
    return "interpreter"


def _on_cgroups() -> set[int]:
    """The ids of the programs attached to any cgroup."""
    found: set[int] = set()
    for folder, _, _ in os.walk(cgroup_root() or "/nonexistent"):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for kind in range(ATTACH_TYPES):
                with suppress(OSError):
                    found.update(bpf.programs_on_cgroup(fd, kind) or ())
        finally:
            os.close(fd)
    return found


def _on_interfaces() -> set[int]:
    """The ids of the programs that bpftool finds at network interfaces (xdp, tc)."""
    done = command.run(["bpftool", "-j", "net", "show"], timeout=10)
    try:
        return set(_ids(json.loads(done["stdout"])))
    except ValueError:
        return set()


def _ids(part: Any) -> Iterator[int]:
    if isinstance(part, list):
        for each in part:
            yield from _ids(each)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key in ("id", "prog_id") and isinstance(value, int):
                yield value
            yield from _ids(value)


def _taken(hook: str) -> bool | None:
    """Whether a program is at this tracepoint, or at a kprobe defined through tracefs, on a kernel with room for one."""
    kind, _, name = hook.partition("/")
    root = observe.tracefs()
    if kind in ("tracepoint", "tp"):
        events = [name]
    else:  # "p:group/event function+0", of whoever defined it
        lines = [line.split() for line in observe.dynamic_probes()]
        function = re.escape(name.split("+")[0])
        events = [
            words[0].partition(":")[2] for words in lines if len(words) > 1 and re.fullmatch(rf"{function}(\+\w+)?", words[1])
        ]
    for event in events:
        with suppress(OSError, ValueError):
            if bpf.hook_is_taken(int(read_text(f"{root}/events/{event}/id"))):
                return True
    return False
