"""Machines for tests: an sshd in a network namespace of its own, with a cache, a home and a PATH of its own. Takes root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from conftest import lacking

SSHD = "/usr/sbin/sshd"


@dataclass
class Machine:
    """A worker, reached by the name that `config` gives it."""

    name: str
    folder: Path
    config: Path
    space: str
    known_hosts: Path
    python: str = sys.executable
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def tx(self) -> str:
        """What --tx takes."""
        return f"ssh={self.name}//ssh_config={self.config}//python={self.python}"

    @property
    def is_up(self) -> bool:
        return all(daemon.poll() is None for daemon in self._daemons)

    def kill(self) -> None:
        """What a power cut does to all that runs there."""
        found = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True, check=False).stdout.split()
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for daemon in self._daemons:
            daemon.wait()


def need_namespaces() -> None:
    """Skip the test where there is no sshd, or no right to make a network namespace."""
    if not Path(SSHD).exists() or shutil.which("ip") is None:
        lacking("sshd or ip not installed: apt-get install openssh-server iproute2")
    made = subprocess.run(["ip", "netns", "add", f"km{os.getpid()}"], capture_output=True, check=False)
    if made.returncode != 0:
        lacking("no right to make network namespaces: these tests take root")
    subprocess.run(["ip", "netns", "del", f"km{os.getpid()}"], check=True)


@contextmanager
def machines(root: Path, paths: Mapping[str, str]) -> Iterator[dict[str, Machine]]:
    """Machines by name, each with its PATH."""
    with ExitStack() as stack:
        keys = root / "keys"
        keys.mkdir()
        _keygen(keys / "user")
        config = root / "ssh_config"
        config.write_text("")
        yield {
            name: stack.enter_context(_machine(root / name, name, path, keys, config, number))
            for number, (name, path) in enumerate(paths.items())
        }


@contextmanager
def _machine(folder: Path, name: str, path: str, keys: Path, config: Path, number: int) -> Iterator[Machine]:
    folder.mkdir()
    (folder / "home").mkdir()
    _keygen(folder / "host_key")
    space, subnet = f"km{os.getpid()}-{number}", f"10.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
    here, there = f"{subnet}.{4 * number + 1}", f"{subnet}.{4 * number + 2}"
    link = f"km{os.getpid() & 0xFFFFF}{number}"
    known = folder / "known_hosts"
    key = (folder / "host_key.pub").read_text().split()
    known.write_text(f"{there} {key[0]} {key[1]}\n")
    with config.open("a") as file:
        file.write(
            f"Host {name}\n  HostName {there}\n  User root\n  IdentityFile {keys}/user\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n"
        )
    environment = {"PATH": path, "HOME": str(folder / "home"), "KMATRIX_CACHE": str(folder / "cache")}
    (folder / "sshd_config").write_text(
        f"ListenAddress {there}\nHostKey {folder}/host_key\nAuthorizedKeysFile {keys}/user.pub\nStrictModes no\nUsePAM no\n"
        f"PermitRootLogin yes\nPasswordAuthentication no\nPidFile none\nMaxStartups 50\n"
        f"SetEnv {' '.join(f'{name}={value}' for name, value in environment.items())}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    try:
        for command in (
            f"ip netns add {space}",
            f"ip link add {link}h type veth peer name {link}g netns {space}",
            f"ip addr add {here}/30 dev {link}h",
            f"ip link set {link}h up",
            f"ip -n {space} addr add {there}/30 dev {link}g",
            f"ip -n {space} link set {link}g up",
            f"ip -n {space} link set lo up",
        ):
            subprocess.run(command.split(), check=True, capture_output=True)
        command = ["ip", "netns", "exec", space, SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
        with (folder / "sshd.log").open("wb") as log:
            daemon = subprocess.Popen(command, stderr=log, start_new_session=True)
        machine = Machine(name, folder, config, space, known, _daemons=[daemon])
        _wait(machine, folder / "sshd.log")
        try:
            yield machine
        finally:
            machine.kill()
    finally:
        subprocess.run(["ip", "link", "del", f"{link}h"], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def _wait(machine: Machine, log: Path) -> None:
    end = time.monotonic() + 20
    while "listening" not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    # The route to a new link takes a moment.
    while subprocess.run(["ssh", "-F", machine.config, machine.name, "true"], capture_output=True, check=False).returncode:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
