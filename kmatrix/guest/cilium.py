"""An object that cilium/ebpf has opened: the cilium loader (kmatrix/vm/loaders/cilium, a static program) does what libbpf does in `opened`.

The agent starts one such process for each object and tells it what to do over a socket: JSON after four bytes of length, and the
descriptors of programs and maps after the answer to `load`. What the process attached lives as long as it does, or until it is told.
"""

from __future__ import annotations

import array
import base64
import errno
import gzip
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from . import bpf, cilium_attach, confine, limit
from .confirm import Attachment
from .libbpf import LibbpfError
from .library import PACKED, CannotSet, Opened, Program, Refused, Report

BINARY = "/run/kmatrix/vm/loaders/cilium"
OBJECT = "/run/kmatrix/vm/loaders/object.o"
_PER_MESSAGE = 64
"""How many descriptors come in one message (main.go)."""
_ANSWER = 120.0
"""Seconds that anything but the verifier may take."""
_TICK = 0.25

_PROGRAM = re.compile(r"program (\w+): ")
_MAP = re.compile(r"map ([\w.]+): ")


class Process:
    """A cilium loader that runs."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._stderr = os.memfd_create("cilium")
        with theirs:
            self._process = subprocess.Popen(
                [BINARY, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, op: str, seconds: float | None = None, **more: Any) -> tuple[dict[str, Any], list[int]]:
        """The answer to a request, and the descriptors that came with it.

        With `seconds`, the verifier may be at work on one program for so long. Raises Refused, also where the process ended.
        """
        text = json.dumps({"op": op, **more}).encode()
        with self._said_at_the_end():
            self._socket.sendall(struct.pack("=I", len(text)) + text)
            self._wait(seconds)
            (size,) = struct.unpack("=I", self._read(4))
            answer: dict[str, Any] = json.loads(self._read(size))
            fds = self._descriptors(len(answer.get("fds") or ()))
        if (failure := answer.get("error")) is not None:
            raise _refused(failure)
        return answer, fds

    def close(self) -> None:
        """Have everything detached and unloaded, and the process gone."""
        with suppress(Refused, OSError):
            self.ask("close")
        self._socket.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._stderr)

    def _read(self, size: int) -> bytes:
        pieces = []
        while size:
            piece = self._socket.recv(min(size, 1 << 20))
            if not piece:
                raise EOFError
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _descriptors(self, count: int) -> list[int]:
        """The descriptors after an answer, each with its message of one byte."""
        found: list[int] = []
        while len(found) < count:
            fds = array.array("i")
            data, ancillary, _, _ = self._socket.recvmsg(1, socket.CMSG_SPACE(_PER_MESSAGE * fds.itemsize))
            if not data:
                raise EOFError
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
            for fd in fds:
                os.set_inheritable(fd, False)
            found += fds
        return found

    def _wait(self, seconds: float | None) -> None:
        """Wait until there is something to read; end the process where the verifier takes longer than `seconds` for one program."""
        start = time.monotonic()
        progress, since, used = -1, start, 0.0
        while not select.select([self._socket], [], [], _TICK)[0]:
            now = time.monotonic()
            if seconds is None:
                if now - start > _ANSWER:
                    self._process.kill()
                    raise Refused(f"cilium/ebpf's process did not answer in {_ANSWER:g} s")
                continue
            loaded, in_kernel = self._loaded(), self._in_the_kernel()
            if loaded != progress:
                progress, since, used = loaded, now, in_kernel
            elif in_kernel - used >= seconds or now - since >= limit.AT_MOST * seconds + _ANSWER:
                self._process.send_signal(signal.SIGKILL)
                raise Refused(f"the verifier was still at work after {seconds:g} s", errno.EAGAIN)

    def _loaded(self) -> int:
        """How many programs the process has got from the kernel so far."""
        count = 0
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{self.pid}/fd"):
                with suppress(OSError):
                    count += os.readlink(f"/proc/{self.pid}/fd/{fd}") == "anon_inode:bpf-prog"
        return count

    def _in_the_kernel(self) -> float:
        """Seconds of CPU that the process has used in the kernel: the verifier's, but not those in which BTF is read."""
        try:
            with open(f"/proc/{self.pid}/stat") as file:
                return int(file.read().rpartition(")")[2].split()[12]) / limit.TICKS
        except OSError:
            return 0.0

    @contextmanager
    def _said_at_the_end(self) -> Iterator[None]:
        """The end of the process is told with what it said last."""
        try:
            yield
        except (EOFError, ConnectionError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
            size = os.lseek(self._stderr, 0, os.SEEK_END)
            said = os.pread(self._stderr, 1 << 16, 0).decode("utf-8", "replace").strip() if size else ""
            how = self._process.returncode
            lines = [f"cilium/ebpf's process ended ({_ending(how)})", *said.splitlines()]
            raise Refused("; ".join(lines[:2]), lines=lines) from None


def _ending(status: int | None) -> str:
    if status is None:
        return "it does not answer"
    if status == -signal.SIGKILL:
        return "SIGKILL: the guest may be out of memory"
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _unpack() -> None:
    if os.path.exists(BINARY):
        return
    try:
        with gzip.open(PACKED["cilium"]) as packed, open(f"{BINARY}.new", "wb") as file:
            file.write(packed.read())
    except OSError as error:
        raise Refused(f"the cilium loader is not in the guest: {error}", error.errno) from None
    os.chmod(f"{BINARY}.new", 0o755)
    os.rename(f"{BINARY}.new", BINARY)


def _lay_out(data: bytes) -> None:
    """The loader's program and the object, where whoever loads can read them."""
    _unpack()
    with open(OBJECT, "wb") as file:
        file.write(data)
    os.chmod(OBJECT, 0o644)
    for folder in (os.path.dirname(BINARY), os.path.dirname(os.path.dirname(BINARY))):
        os.chmod(folder, 0o711)


def _refused(failure: Mapping[str, Any]) -> Refused:
    """A failure as the loader tells of it, with what it is about."""
    text, log = failure["text"], "\n".join(failure["log"] or ())
    blamed, bad = _PROGRAM.match(text), _MAP.match(text)
    number = failure["errno"] or (errno.EOPNOTSUPP if failure["unsupported"] else None)
    return Refused(text, number, program=blamed[1] if blamed else None, map_=bad[1] if bad else None, log=f"{log}\n" if log else "")


class Object:
    """An opened object; after `load`, its programs and maps are in the kernel until `close`."""

    def __init__(self, data: bytes, btf: str | None) -> None:
        confine.outside(lambda: _lay_out(data))
        self.process = Process()
        try:
            told, _ = self.process.ask("open", object=OBJECT)
        except Refused:
            self.process.close()
            raise
        self.version = str(told["version"])
        self.programs: dict[str, Report] = dict(sorted((told.get("programs") or {}).items()))
        self.maps: dict[str, Report] = dict(sorted((told.get("maps") or {}).items()))
        self._chosen = list(self.programs)
        self._fds: dict[tuple[str, str], int] = {}
        self._of_programs: dict[str, dict[str, Any]] = {}
        self._of_maps: dict[str, dict[str, Any]] = {}
        self._values: dict[str, list[dict[str, Any]]] = {}
        self._btf = btf or ""

    def section(self, name: str) -> str:
        """The name of a program's section."""
        return str(self.programs[name]["section"])

    def autoload(self, name: str) -> bool:
        """As for libbpf: a `?` before a section's name says that its loader turns the program on."""
        return not self.section(name).startswith("?")

    def insns(self, name: str) -> int:
        """How many instructions a program has."""
        return int(self.programs[name]["insns"])

    def wanted(self, name: str) -> Report:
        """What a program is to be: its type, by name, and its expected attach type, by number."""
        asked = {**self.programs[name], **self._of_programs.get(name, {})}
        return {
            "type": bpf.name_of(bpf.PROG_TYPES, int(asked["type"])),
            "attach_type": int(asked.get("attachType") or asked["attach_type"]),
        }

    def asked_of(self, name: str) -> Report:
        """What the object asks of a map, as far as it was set."""
        found = dict(self.maps[name])
        asked = self._of_maps.get(name, {})
        found.update({key: asked[_CAMEL[key]] for key in found if _CAMEL.get(key) in asked})
        return {**found, "type": bpf.name_of(bpf.MAP_TYPES, int(found["type"]))}

    def choose(self, names: Collection[str]) -> None:
        """Load these programs and no others."""
        self._chosen = [name for name in self.programs if name in names]

    def leave_out(self, name: str) -> None:
        """Do not create this map."""
        self._of_maps.setdefault(name, {})["leave"] = True

    def set_bytes(self, section: str, offset: int, data: bytes) -> None:
        """Write into the initial value of global variables."""
        if section not in self.maps:
            raise CannotSet(f"variables: cilium/ebpf {self.version} has no map {section} of this object")
        self._values.setdefault(section, []).append({"offset": offset, "data": base64.b64encode(data).decode()})

    def set_map(self, name: str, key: str, value: int) -> None:
        """Set type, key_size, value_size or max_entries of a map."""
        self._of_maps.setdefault(name, {})[_CAMEL[key]] = value

    def set_inner(self, name: str, inner: Report, resources: ExitStack) -> None:
        """Say what maps a map of maps holds."""
        del resources
        self._of_maps.setdefault(name, {})["inner"] = {
            key: inner[key] for key in ("type", "key_size", "value_size", "max_entries", "flags")
        }

    def set_pin(self, name: str, path: str) -> None:
        """Pin a map there once it is created, or take the one that is pinned there."""
        self._of_maps.setdefault(name, {})["pin"] = path

    def set_program(self, name: str, key: str, value: int | str) -> None:
        """Set type, expected_attach_type or attach_to of a program."""
        self._of_programs.setdefault(name, {})[_CAMEL[key]] = value

    def load(self, seconds: float = limit.SECONDS) -> list[str]:
        """Create the maps and load the chosen programs, in one collection. Raises Refused."""
        for name in self._chosen:
            if self.wanted(name)["type"] == bpf.PROG_TYPES[0]:
                # NewCollection leaves it out without a word, and LoadAndAssign, which an application calls, says this.
                said = f"program {name}: cannot load program {name}: program type is unspecified"
                raise Refused(f'{said} (cilium/ebpf {self.version} does not know SEC("{self.section(name)}"))', program=name)
        settings = {"values": self._values, "maps": self._of_maps, "programs": self._of_programs, "btf": self._btf}
        told, fds = self.process.ask("load", seconds, programs=self._chosen, settings=settings)
        self._fds = {(each["kind"], each["name"]): fd for each, fd in zip(told["fds"], fds, strict=True)}
        for name, made in (told.get("maps") or {}).items():
            self.maps[name] = made
        return []

    def fd(self, name: str) -> int:
        """The descriptor of a loaded program; -1 where it is not in the kernel."""
        return self._fds.get(("program", name), -1)

    def map_fd(self, name: str) -> int:
        """The descriptor of a map; -1 where there is none."""
        return self._fds.get(("map", name), -1)

    def attach(self, name: str, resources: ExitStack, to: str | None) -> tuple[Attachment, list[str]]:
        """Attach a loaded program where its section says, or `to` that target."""
        wanted = self.wanted(name)
        program = Program(self.fd(name), self.section(name).lstrip("?"), bpf.prog_info(self.fd(name)).type, wanted["attach_type"])
        try:
            return cilium_attach.attach(self.process, self.version, name, program, resources, to), []
        except (OSError, LibbpfError) as error:  # what is attached by hand goes through calls that libbpf has for it
            words = error.strerror if isinstance(error, OSError) else None
            raise Refused(words or str(error), error.errno, lines=[]) from None

    def close(self) -> None:
        """Everything of the object out of the kernel, but for what is pinned."""
        bpf.close(*self._fds.values())
        self._fds = {}
        self.process.close()


_CAMEL = {
    "type": "type",
    "key_size": "keySize",
    "value_size": "valueSize",
    "max_entries": "maxEntries",
    "expected_attach_type": "attachType",
    "attach_to": "attachTo",
}


def open_object(data: bytes, name: str, *, kconfig: str | None = None, btf: str | None = None) -> Opened:
    """The object opened by cilium/ebpf. Raises Refused."""
    del name
    if kconfig is not None:
        raise Refused("kconfig: cilium/ebpf takes no configuration of the kernel from its application", errno.EOPNOTSUPP)
    return Object(data, btf)
