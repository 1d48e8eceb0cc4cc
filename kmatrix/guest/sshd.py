"""The network and sshd, for people: started when somebody asks for a shell, never before."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import time
from contextlib import suppress
from typing import Any

FOLDER = "/run/kmatrix/ssh"
ADDRESS, NETMASK, GATEWAY = "10.0.2.15", "255.255.255.0", "10.0.2.2"
"""What QEMU's user network gives its first guest."""
PORT = 22

SIOCADDRT, SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x890B, 0x8913, 0x8914, 0x8916, 0x891C
IFF_UP, RTF_UP, RTF_GATEWAY = 1, 1, 2

_process: subprocess.Popen[bytes] | None = None


def start(authorized_key: str, host_key: str | None = None, timeout: float = 60.0) -> dict[str, Any]:
    """Bring eth0 up and sshd to listen; returns port, address, and the host's public key.

    `authorized_key` is a line of authorized_keys; `host_key` a private key in OpenSSH's form (one is made if not given). Raises
    RuntimeError with sshd's own words where it does not come up within `timeout` seconds.
    """
    global _process
    interface = _network(timeout)
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    _write("authorized_keys", authorized_key.rstrip("\n") + "\n")
    key = f"{FOLDER}/host_key"
    if host_key is not None:
        _write("host_key", host_key.rstrip("\n") + "\n")
        public = _run("ssh-keygen", "-y", "-f", key)
        _write("host_key.pub", public)
    elif not os.path.exists(key):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "kmatrix", "-f", key)
    if _process is None or _process.poll() is not None:
        _process = _sshd(key)
    _await_listening(_process, time.monotonic() + timeout)
    with open(f"{key}.pub") as file:
        return {"port": PORT, "address": ADDRESS, "interface": interface, "host_key": file.read().strip()}


def _write(name: str, text: str) -> None:
    path = f"{FOLDER}/{name}"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _sshd(key: str) -> subprocess.Popen[bytes]:
    sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin")
    if sshd is None:
        raise RuntimeError("the guest image has no sshd")
    options = {
        "ListenAddress": f"0.0.0.0:{PORT}",
        "HostKey": key,
        "AuthorizedKeysFile": f"{FOLDER}/authorized_keys",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "PrintMotd": "no",
        "PidFile": "none",
        "UseDNS": "no",
        "AcceptEnv": "LANG LC_* COLORTERM",
        "Subsystem": "sftp internal-sftp",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    with open(f"{FOLDER}/log", "wb") as log:
        return subprocess.Popen(
            [sshd, "-D", "-e", "-f", "/dev/null", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _await_listening(process: subprocess.Popen[bytes], deadline: float) -> None:
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        # Ask the kernel rather than connect: a connection costs sshd a process.
        with open("/proc/net/tcp") as table:
            if any(line.split()[1].endswith(f":{PORT:04X}") and line.split()[3] == "0A" for line in list(table)[1:]):
                return
        time.sleep(0.02)
    with open(f"{FOLDER}/log") as log:
        raise RuntimeError(f"sshd does not listen: {log.read().strip() or 'it said nothing'}")


def _network(timeout: float) -> str:
    """The first Ethernet interface, up, with QEMU's address; its name."""
    deadline = time.monotonic() + min(timeout, 10.0)
    name = _ethernet()
    if name is None and os.path.isdir(f"/lib/modules/{os.uname().release}"):
        subprocess.run(["modprobe", "-q", "virtio_net"], stdin=subprocess.DEVNULL, check=False)
    while (name := _ethernet()) is None:
        if time.monotonic() > deadline:
            raise RuntimeError("no network interface: the kernel lacks virtio_net, or QEMU was started without one")
        time.sleep(0.02)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:

        def address(text: str) -> bytes:
            return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))

        def request(what: int, payload: bytes) -> bytes:
            return fcntl.ioctl(sock, what, name.encode().ljust(16, b"\0") + payload.ljust(24, b"\0"))

        request(SIOCSIFADDR, address(ADDRESS))
        request(SIOCSIFNETMASK, address(NETMASK))
        (flags,) = struct.unpack_from("=H", request(SIOCGIFFLAGS, b""), 16)
        request(SIOCSIFFLAGS, struct.pack("=H", flags | IFF_UP))
        # struct rtentry: pad, dst, gateway, genmask, flags, …
        route = struct.pack("=Q16s16s16sH", 0, address("0.0.0.0"), address(GATEWAY), address("0.0.0.0"), RTF_UP | RTF_GATEWAY)
        with suppress(FileExistsError):  # started before
            fcntl.ioctl(sock, SIOCADDRT, route.ljust(120, b"\0"))
    return name


def _ethernet() -> str | None:
    """The first Ethernet interface with a device behind it: dummy0 comes before eth0 and leads nowhere."""
    for name in sorted(os.listdir("/sys/class/net")):
        with open(f"/sys/class/net/{name}/type") as file:
            if file.read().strip() == "1" and os.path.exists(f"/sys/class/net/{name}/device"):  # ARPHRD_ETHER
                return name
    return None
