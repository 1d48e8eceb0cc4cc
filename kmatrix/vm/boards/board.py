"""A real machine of kernels.toml, as this process has it: reached, made ready, used for one cell at a time, and brought back after a panic."""

from __future__ import annotations

import getpass
import os
import platform
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from kmatrix.host import paths
from kmatrix.host.errors import InfraError
from kmatrix.host.progress import Quiet, Reporter
from kmatrix.matrix.arch import parse_arch
from kmatrix.matrix.hosts import Host
from kmatrix.matrix.kernel import Target
from kmatrix.vm import guest_image
from kmatrix.vm.boards import carried, identity
from kmatrix.vm.boards.connection import Connection
from kmatrix.vm.boards.identity import Identity
from kmatrix.vm.boards.machine import RealMachine
from kmatrix.vm.boards.session import STUB, Session, There
from kmatrix.vm.console import Splat
from kmatrix.vm.errors import GuestError, KernelDied, KernelFails, VmLost
from kmatrix.vm.machine import agent_digest
from kmatrix.vm.spec import VmSpec

_UPLOAD = 600.0
_AGAIN = 2.0
"""Seconds between two looks at whether a machine is back."""
_NETWORK = 15.0
"""Seconds in which a machine that is only out of reach for a moment may answer again."""
_REBOOT_COMMAND = 120.0


@dataclass(frozen=True)
class RealSpec(VmSpec):
    """What a real machine is made of, in the terms of a VM."""

    host: str = ""

    def __str__(self) -> str:
        return f"{self.host}: {self.kernel.release} ({self.arch}, a real machine)"


class Board:
    """One host. Cells come one after the other: within this process by a lock of its own, between processes by one on the machine."""

    def __init__(self, host: Host, *, reporter: Reporter | None = None, mirrors: Mapping[str, str] | None = None) -> None:
        self.host = host
        self._reporter = reporter or Quiet()
        self._mirrors = mirrors or {}
        self._turn = threading.RLock()
        self._connection: Connection | None = None
        self._known: Identity | None = None
        self._there: There | None = None
        """What is on the machine, as long as the connection stands."""
        self._lost: InfraError | None = None
        """Why nothing more is tried in this process."""
        self._spec: RealSpec | None = None
        self.changed: str | None = None
        """The kernel that the machine had at the last run, where it has another one now."""

    # -- who it is ----------------------------------------------------------------------------------------------------------------

    def target(self) -> Target:
        """The target that it is now: its kernel is read from it, and probed where it is another one than last time.

        Raises InfraError where it cannot be used.
        """
        with self._turn:
            if self._known is None and (known := identity.read(self.host)) is not None and known.probed:
                there = self._ready()
                if there.kernel == (known.release, known.version, known.machine):
                    self._known = replace(known, boot_id=there.boot_id)
            if self._known is None or not self._known.probed:
                with paths.scratch_console(f"host-{self.host.name}") as console, self.machine(console):
                    pass
            assert self._known is not None, "a session tells"
            return self._known.target(self.host)

    def spec(self) -> RealSpec:
        """Its machine in the terms of a VM. Raises InfraError."""
        with self._turn:
            if self._spec is None:
                self.target()
                self._spec = self._as_vm()
            return self._spec

    @property
    def account(self) -> dict[str, Any]:
        """What records and reports say of it."""
        known, told = self._known, {"name": self.host.name, "ssh": self.host.ssh}
        if known is None:
            return told
        told |= {"model": known.model, "node": known.node, "release": known.release}
        return told | {"cpus": known.cpus, "memory_mib": known.memory_mib, "changed": self.changed}

    # -- a session ------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def machine(self, console: Path) -> Iterator[tuple[RealMachine, Mapping[str, Any]]]:
        """The machine, for this caller alone, with what the probe finds there; its kernel's messages go to the file `console`.

        Nothing of ours is left on it afterwards. Raises InfraError, also where something is.
        """
        with self._turn:
            if self._lost is not None:
                raise self._lost
            session = self._session()
            self._note(session.machine)
            with RealMachine(session, self._spec or self._as_vm(), console, self._after) as vm:
                vm.seconds = 0.0
                try:
                    probe = self._probe(vm)
                except KernelDied as death:
                    raise KernelFails(f"the kernel dies of the probe of its features: {death}", where=self.host.where) from None
                except GuestError as error:
                    raise InfraError(f"{self.host.name} could not be probed: {error}", where=self.host.where) from None
                yield vm, probe
            if session.left:
                raise InfraError(
                    f"{self.host.name}: this is left of kmatrix after its cleaning: {', '.join(session.left)}",
                    where=self.host.where,
                    fix="remove it by hand, or have the machine start again",
                )

    def _session(self) -> Session:
        there, connection = self._ready(), self._connected()
        try:
            session = Session(self.host, connection, there, _who(), self._waiting)
            self._there = replace(there, has_code=True)
            return session
        except InfraError:
            if not connection.alive:
                self._drop()
            raise

    def _waiting(self, holder: str) -> None:
        with self._reporter.step(f"{self.host.name} is in use: waiting for {holder}"):
            pass

    def _note(self, said: Mapping[str, Any]) -> None:
        """Keep what the machine is, and see whether it has another kernel than last time."""
        now, before = Identity.of(said), self._known or identity.read(self.host)
        if before is not None and before.is_like(now):
            self._known = replace(now, probe=before.probe, agent=before.agent)
            return
        if before is not None:
            self.changed = before.kernel
            self._spec = None
            with self._reporter.step(f"{self.host.name} has another kernel: {now.kernel}, before {before.kernel}; probing it anew"):
                pass
        self._known = now

    def _probe(self, vm: RealMachine) -> Mapping[str, Any]:
        assert self._known is not None, "noted before"
        if not self._known.probed:
            found = vm.call("probe", timeout=180)
            self._known = replace(self._known, probe=found, agent=agent_digest())
        identity.write(self.host, self._known)
        return self._known.probe

    def _as_vm(self) -> RealSpec:
        """What is known of it now, in the terms of a VM."""
        assert self._known is not None, "noted before"
        entry = self._known.entry(self.host, identity.folder())
        image = guest_image.obtain(entry.arch, mirrors=self._mirrors, reporter=self._reporter)
        return RealSpec(entry, image, memory_mib=self._known.memory_mib, host=self.host.name)

    # -- the way there --------------------------------------------------------------------------------------------------------------

    def _connected(self) -> Connection:
        if self._connection is not None and not self._connection.alive:
            self._drop()
        if self._connection is None:
            self._connection = Connection(self.host)
        return self._connection

    def close(self) -> None:
        """End the connection."""
        with self._turn:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._there = None

    def _ready(self) -> There:
        """What is on the machine, once it has all that it takes."""
        connection = self._connected()
        if self._there is None:
            self._there = self._bring(connection)
        return self._there

    def _bring(self, connection: Connection) -> There:
        """Have what is carried on the machine. Raises InfraError."""
        folder, code = self.host.folder, f"{self.host.folder}/agent-{agent_digest()[:16]}"
        said = connection.run(
            "uname -r; uname -v; uname -m; id -u; cat /proc/sys/kernel/random/boot_id; "
            f"echo folder $(ls -ldn {folder} 2>/dev/null); test ! -d {code} || echo code; "
            f"cd {folder} 2>/dev/null && ls -d root-*/.complete 2>/dev/null; :"
        )
        lines = said.out.splitlines()
        if said.status != 0 or len(lines) < 6:
            raise self._failed("tell its kernel and its user", said.err or said.out)
        release, version, machine, user, boot_id, listed = lines[:6]
        if user != "0":
            raise InfraError(
                f"{self.host.name}: the user has no root: the uid is {user}",
                where=f"{self.host.where}.ssh",
                fix="log in as root: loading BPF programs and clearing up after them takes it",
            )
        self._check_folder(listed.split()[1:])
        arch = parse_arch(machine, where=f"{self.host.where} ({self.host.ssh})")
        pack = carried.obtain(guest_image.obtain(arch, mirrors=self._mirrors, reporter=self._reporter), self._reporter)
        root = f"{folder}/{pack.name}"
        if f"{pack.name}/.complete" not in lines:
            upload(connection, self.host, pack, self._reporter)
        linker = f"{root}/{carried.LINKERS[arch]}"
        python = f"{linker} --library-path {linker.rpartition('/')[0]} {root}/usr/bin/python3 -sSu -c {shlex.quote(STUB)}"
        kernel = (release, version, machine)
        return There(root, code, "code" in lines[6:], kernel, boot_id, f"cd / && exec env -i PYTHONHOME={root}/usr {python}")

    def _check_folder(self, listed: list[str]) -> None:
        """Raises InfraError where somebody else could put programs into kmatrix's folder; `listed` is what ls -ldn says of it."""
        if len(listed) > 2 and (listed[2] != "0" or "w" in (listed[0][5], listed[0][8]) or not listed[0].startswith("d")):
            raise InfraError(
                f"{self.host.name}: others than root may write to {self.host.folder} there ({listed[0]}, uid {listed[2]})",
                where=f"{self.host.where}.folder",
                fix=f"remove it there, or have it root's own: chown root {self.host.folder}; chmod 755 {self.host.folder}",
            )

    def _failed(self, what: str, said: str) -> InfraError:
        return InfraError(f"{self.host.name} cannot {what}: {said.strip()[-300:] or 'it says nothing'}", where=self.host.where)

    # -- after a session that did not end well --------------------------------------------------------------------------------------

    def _after(self, splat: Splat | None, said: str) -> KernelDied | VmLost:
        """What became of the machine: it died (and is back, unless `_lost` says otherwise), or only the connection did. Raises InfraError."""
        assert self._known is not None, "there was a session"
        before = self._known.boot_id
        self._drop()
        boot = self._answers(_NETWORK if splat is None else 0.1)
        if boot is None:
            try:
                boot = self._reboot()
            except InfraError as error:
                self._lost = error
                if splat is None:
                    raise
        if splat is None and boot == before:
            return VmLost(f"{self.host.name}: the machine runs on, but the session ended: {said}", where=self.host.where)
        if splat is None:
            title = f"{self.host.name} started again meanwhile, and its kernel's last words did not get here"
            splat = Splat("panic", title, 1, None, (title, *self._kept_words().splitlines()))
        return KernelDied(splat, where=str(self._spec or self.host.name))

    def _answers(self, within: float) -> str | None:
        """The machine's boot, once it answers; None where it does not within so many seconds."""
        deadline = time.monotonic() + within
        impatient = replace(self.host, connect_timeout=min(self.host.connect_timeout, max(within, 5.0)))
        while True:
            with suppress(InfraError):
                connection = Connection(impatient)
                try:
                    said = connection.run("cat /proc/sys/kernel/random/boot_id")
                    if said.status == 0:
                        return said.out.strip()
                finally:
                    connection.close()
            if time.monotonic() > deadline:
                return None
            time.sleep(min(_AGAIN, within))

    def _reboot(self) -> str:
        """Have the machine start again; its boot then. Raises InfraError where it does not come back."""
        host = self.host
        if host.reboot is None:
            self._give_up(
                "it does not answer any more", "say how it starts again: reboot = a command, or empty where it does so by itself"
            )
        with self._reporter.step(f"{host.name} does not answer: waiting for it to start again"):
            if host.reboot:
                self._command(host.reboot)
            boot = self._answers(host.reboot_timeout)
        if boot is None:
            self._give_up(
                f"it did not come back within {host.reboot_timeout:g} s",
                "look at the machine; hosts.NAME.reboot_timeout gives it more",
            )
        return boot

    def _command(self, command: str) -> None:
        try:
            done = subprocess.run(
                command, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_REBOOT_COMMAND,
                env={**os.environ, "KMATRIX_HOST": self.host.name}, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            self._give_up(
                f"the command {command!r} did not end within {_REBOOT_COMMAND:g} s", "have it return once the machine starts again"
            )
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip())[-300:]
            self._give_up(f"the command {command!r} ended with {done.returncode}: {said or 'it says nothing'}", "try it by hand")

    def _give_up(self, what: str, fix: str) -> NoReturn:
        fix = fix.replace("NAME", self.host.name)
        raise InfraError(f"{self.host.name} is lost: {what}", where=f"{self.host.where}.reboot", fix=fix)

    def _kept_words(self) -> str:
        """What the machine's firmware kept of the kernel's last words (pstore), where it keeps any."""
        with suppress(InfraError):
            said = self._connected().run("cat /sys/fs/pstore/dmesg-* 2>/dev/null | tail -c 20000").out
            return re.sub(r"^<\d+>", "", said, flags=re.MULTILINE)
        return ""


def upload(connection: Connection, host: Host, pack: carried.Pack, reporter: Reporter) -> None:
    """Bring what is carried, whole or not at all: it gets its name by a rename. Raises InfraError."""
    work = f"{host.folder}/tmp-{os.getpid()}-{threading.get_native_id()}"
    root = f"{host.folder}/{pack.name}"
    mib = pack.size >> 20
    with reporter.step(f"{host.name}: bringing Python and libbpf ({mib} MiB, once)"):
        try:
            _run(connection, host, f"mkdir -p -m 755 {host.folder} && mkdir {work}")
            _run(connection, host, f"cat > {work}/busybox && chmod 755 {work}/busybox", pack.busybox.read_bytes())
            _run(connection, host, f"cat > {work}/root.tar.gz", pack.path.read_bytes())
            said = _run(connection, host, f"{work}/busybox sha256sum {work}/root.tar.gz")
            if said.split()[:1] != [pack.digest]:
                raise InfraError(
                    f"{host.name}: what was brought arrived damaged: its sha256 is {said[:64]}, and {pack.digest} was sent",
                    where=host.where,
                )
            unpack = f"mkdir {work}/root && {work}/busybox tar -xzf {work}/root.tar.gz -C {work}/root && rm {work}/root.tar.gz"
            unpack += f" && mv {work}/busybox {work}/root/usr/bin/busybox"  # what its commands are links to
            _run(
                connection,
                host,
                f"{unpack} && : > {work}/root/.complete && {{ mv {work}/root {root} || test -f {root}/.complete; }}",
            )
        finally:
            with suppress(InfraError):
                connection.run(f"rm -rf {work}", timeout=60)


def _run(connection: Connection, host: Host, command: str, data: bytes | None = None) -> str:
    said = connection.run(command, data, timeout=_UPLOAD)
    if said.status == 0:
        return said.out
    words = said.err.strip()[-300:] or f"exit status {said.status}"
    if "No space left" in words:
        fix = f"make room there (it takes 80 MiB), or give it another folder: hosts.{host.name}.folder"
        raise InfraError(f"{host.name}: the disk there is full: {words}", where=f"{host.where}.folder", fix=fix)
    fix = f"see that root may write and run programs below {host.folder} there; hosts.{host.name}.folder is another place"
    raise InfraError(f"{host.name}: what kmatrix brings cannot be put there: {words}", where=f"{host.where}.folder", fix=fix)


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user} on {platform.node()} (process {os.getpid()})"
