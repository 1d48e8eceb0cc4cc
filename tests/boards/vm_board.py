"""A "board": a VM that runs for long, with sshd and without anything that kmatrix's runs know of it, as a real machine would."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from kmatrix.matrix.hosts import Host
from kmatrix.matrix.load import load_matrix
from kmatrix.vm.launch import boot
from kmatrix.vm.machine import Machine
from kmatrix.vm.spec import VmSpec

SLOW = 300.0


class VmBoard:
    """The machine, its keys, and a kernels.toml that names it."""

    def __init__(self, spec: VmSpec, folder: Path, name: str = "board") -> None:
        self.spec = replace(spec, memory_mib=512)
        self.folder, self.name = folder, name
        self.port: int | None = None
        self._boots = 0
        for key in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(folder / key)]
            subprocess.run(command, check=True)
        self.vm = self.start()
        public = (folder / "host.pub").read_text().split()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public[0]} {public[1]}\n")
        self._wanted = folder / "reboot"
        self._over = threading.Event()
        self._power = threading.Thread(target=self._power_switch, daemon=True)
        self._power.start()
        self.write()

    def start(self) -> Machine:
        """Boot it, with sshd on the same port of this machine as before."""
        self._boots += 1
        vm = boot(self.spec, self.folder / f"console-{self._boots}.log", timeout=SLOW)
        vm.call("time", now=time.time())
        key = (self.folder / "user.pub").read_text()
        vm.call("sshd", authorized_key=key, host_key=(self.folder / "host").read_text(), timeout=SLOW)
        if self.port is None:
            self.port = vm.forward_ssh(22)
        else:
            vm.qmp.human(f"hostfwd_add ssh tcp:127.0.0.1:{self.port}-:22")
        return vm

    def sh(self, command: str) -> str:
        """Run a command on it, not by way of SSH; its output."""
        done = self.vm.run(["sh", "-c", command], timeout=SLOW)
        assert done.exit == 0, done.stderr
        return done.stdout.decode()

    def write(self, **more: str) -> Path:
        """Its kernels.toml; `more` are further lines of its entry, as TOML."""
        lines = {
            "ssh": f'"root@127.0.0.1:{self.port}"',
            "identity": '"user"',
            "known_hosts": '"known_hosts"',
            "connect_timeout": "120",
            "reboot": f'"touch {self._wanted}; while test -e {self._wanted}; do sleep 0.2; done"',
        } | more
        text = "\n".join(["schema = 1", f"[hosts.{self.name}]", *(f"{key} = {value}" for key, value in lines.items())])
        path = self.folder / "kernels.toml"
        path.write_text(text + "\n")
        return path

    def host(self, **more: str) -> Host:
        """The entry as kmatrix reads it."""
        return load_matrix(file=self.write(**more)).hosts[self.name]

    def _power_switch(self) -> None:
        """What the command `reboot` presses."""
        while not self._over.wait(0.2):
            if self._wanted.exists():
                self.vm.kill()
                self.vm = self.start()
                self._wanted.unlink()

    def close(self) -> None:
        """Switch it off."""
        self._over.set()
        self._power.join(SLOW)
        with suppress(Exception):
            self.vm.kill()
