#!/usr/bin/python3 -ISBu
"""PID 1 of the guest: mounts, opens the channel to the host, receives the agent over it and runs it.

Copied into the image as /sbin/kmatrix-init, so an edit here makes a new image; the agent does not live in the image. Whatever goes
wrong is said on the console in one line that starts `kmatrix-init:`, and the VM powers off, so that the host notices at once.

The host's first line on the port is {"agent": base64 of a zip}; nothing may follow it before the agent's hello. The zip goes to
AGENT, to the front of sys.path, and `agent.main(port)` runs in a child: PID 1 itself only reaps, so it never takes a wait away
from the agent's own subprocesses.
"""

# ruff: noqa: PTH101, PTH102, PTH103, PTH110, PTH112, PTH115, PTH123, PTH208, PTH211
# pathlib takes longer to import than all the rest, where the CPU is emulated.

import binascii
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import time
import traceback

PORT_NAME = "kmatrix"
PORT_TIMEOUT = 10.0  # seconds: the driver's probe may still be under way when PID 1 starts
AGENT = "/run/kmatrix/agent.zip"
MODULES_DISK = "kmatrix-modules"  # the disk's serial number

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND = 1, 2, 4, 8, 4096
MNT_DETACH = 2
PSEUDO = MS_NOSUID | MS_NODEV | MS_NOEXEC
EBUSY = 16
RB_POWER_OFF = 0x4321FEDC
RNDADDENTROPY = 0x40085203
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

CGROUPS = "/sys/fs/cgroup"

# (what, where, type, flags, options). The image is read-only and shared by all VMs, so what is written to is a tmpfs.
NEEDED = (
    ("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=755"),  # not every kernel has CONFIG_DEVTMPFS_MOUNT
    ("proc", "/proc", "proc", PSEUDO, ""),
    ("sysfs", "/sys", "sysfs", PSEUDO, ""),
    ("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"),
    ("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
    ("tmpfs", "/var/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
    ("tmpfs", "/root", "tmpfs", MS_NOSUID | MS_NODEV, "mode=700"),
)
# A kernel may be built without any of these: the agent's probes say which.
WANTED = (
    ("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666,gid=5"),
    ("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
    ("bpf", "/sys/fs/bpf", "bpf", PSEUDO, "mode=700"),
    ("debugfs", "/sys/kernel/debug", "debugfs", PSEUDO, ""),
    ("tracefs", "/sys/kernel/tracing", "tracefs", PSEUDO, ""),
    ("cgroup2", CGROUPS, "cgroup2", PSEUDO, ""),  # since 4.5
)
# The parameter by which systemd(1) is told not to use version 2 of cgroups: the same here.
LEGACY_CGROUPS = (
    "systemd.unified_cgroup_hierarchy=0",
    "systemd.unified_cgroup_hierarchy=no",
    "systemd.unified_cgroup_hierarchy=false",
)
TOGETHER = ("cpu,cpuacct", "net_cls,net_prio")  # controllers that systemd mounts as one hierarchy

libc = ctypes.CDLL(None, use_errno=True)


class Fatal(Exception):
    """The guest cannot come up; the text goes to the console."""


def say(text: str) -> None:
    """One line on the console."""
    print(f"kmatrix-init: {text}", flush=True)


def mount(what: str, where: str, kind: str, flags: int = 0, options: str = "") -> int:
    """mount(2): 0 or the errno. Already mounted there (by an initramfs, or the kernel itself) is as good as mounted."""
    if libc.mount(what.encode(), where.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None) == 0:
        return 0
    error = ctypes.get_errno()
    return 0 if error == EBUSY else error


def writable_root() -> None:
    """Make a tmpfs the root, with the image's files in it: /usr is bound, the rest (settings, links, empty folders) is copied.

    So a program's files can be put at the path that they have on the host, whatever that is.
    """
    new = "/mnt"
    if error := mount("tmpfs", new, "tmpfs", 0, "mode=755"):
        raise Fatal(f"cannot mount tmpfs on {new}: {os.strerror(error)}")
    copy_tree("/", new, leave=("usr", "mnt", "lost+found", "proc", "sys", "dev", "run", "tmp", "root"))
    for name in ("usr", "mnt", "proc", "sys", "dev", "run", "tmp", "root"):
        os.mkdir(f"{new}/{name}")
    if error := mount("/usr", f"{new}/usr", "", MS_BIND):
        raise Fatal(f"cannot bind /usr: {os.strerror(error)}")
    os.chdir(new)
    # The old root comes to lie on the new one, and is taken away there: pivot_root(2).
    if libc.pivot_root(b".", b".") or libc.umount2(b".", MNT_DETACH):
        raise Fatal(f"cannot make a tmpfs the root: {os.strerror(ctypes.get_errno())}")
    os.chdir("/")


def copy_tree(source: str, target: str, leave: "tuple[str, ...]" = ()) -> None:
    """Copy the folders, links and files below `source`, but for what is named in `leave`."""
    with os.scandir(source) as entries:
        for entry in entries:
            to = f"{target}/{entry.name}"
            if entry.name in leave:
                continue
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), to)
                continue
            if entry.is_dir():
                os.mkdir(to)
                copy_tree(entry.path, to)
            elif entry.is_file():
                with open(entry.path, "rb") as file, open(to, "wb") as copy:
                    copy.write(file.read())
            else:
                continue
            os.chmod(to, entry.stat().st_mode & 0o7777)


def disk(serial: str) -> "str | None":
    """The device node of the disk with this serial number."""
    for name in sorted(os.listdir("/sys/block")):
        path = f"/sys/block/{name}/serial"
        if os.path.exists(path):
            with open(path) as file:
                if file.read().strip() == serial:
                    return f"/dev/{name}"
    return None


def mount_all() -> None:
    """Everything the agent and the programs under test expect to be mounted."""
    for what, where, kind, flags, options in NEEDED:
        if error := mount(what, where, kind, flags, options):
            raise Fatal(f"cannot mount {kind} on {where}: {os.strerror(error)}")
    legacy = legacy_cgroups()
    for what, where, kind, flags, options in WANTED:
        if kind == "cgroup2" and legacy:
            mount_legacy_cgroups()
            continue
        if where.startswith("/dev/"):
            os.makedirs(where, exist_ok=True)
        if os.path.isdir(where):
            mount(what, where, kind, flags, options)
    modules = disk(MODULES_DISK)
    if modules is not None and (error := mount(modules, "/lib/modules", "ext4", MS_RDONLY)):
        raise Fatal(f"cannot mount the kernel's modules ({modules}) on /lib/modules: {os.strerror(error)}")
    for path, mode in (("/run/kmatrix", 0o700), ("/run/sshd", 0o755), ("/run/lock", 0o1777)):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)


def legacy_cgroups() -> bool:
    """Whether the kernel's command line asks for cgroups of version 1."""
    with open("/proc/cmdline") as cmdline:
        return any(word in LEGACY_CGROUPS for word in cmdline.read().split())


def mount_legacy_cgroups() -> None:
    """Every controller in a hierarchy of version 1 as a host of such days has them, the named one of systemd's, and no version 2."""
    mount("tmpfs", CGROUPS, "tmpfs", PSEUDO, "mode=755")
    with open("/proc/cgroups") as table:
        rows = [line.split() for line in table if not line.startswith("#")]
    there = [row[0] for row in rows if row[3] == "1"]
    groups = [group for group in TOGETHER if all(name in there for name in group.split(","))]
    groups += [name for name in there if not any(name in group.split(",") for group in groups)]
    for group in groups:
        os.makedirs(f"{CGROUPS}/{group}", exist_ok=True)
        mount("cgroup", f"{CGROUPS}/{group}", "cgroup", PSEUDO, group)
    os.makedirs(f"{CGROUPS}/systemd", exist_ok=True)
    mount("cgroup", f"{CGROUPS}/systemd", "cgroup", PSEUDO, "none,name=systemd")


def take_console() -> None:
    """Standard input and outputs on /dev/console, also where the kernel could not open it before /dev was mounted."""
    console = os.open("/dev/console", os.O_RDWR | os.O_NOCTTY)
    for fd in (0, 1, 2):
        if fd != console:
            os.dup2(console, fd)
    if console > 2:
        os.close(console)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode, 1, closefd=False) for fd, mode in enumerate("rww"))


def configure() -> None:
    """The host name, the environment, randomness, and the loopback interface up (the kernel gives it 127.0.0.1 and ::1)."""
    os.environ.clear()
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", USER="root", TERM="dumb", LANG="C.UTF-8")
    os.chdir("/root")
    socket.sethostname("kmatrix")
    seed_random()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            request = bytearray(b"lo".ljust(40, b"\0"))  # struct ifreq: name[16], then the flags
            fcntl.ioctl(sock, SIOCGIFFLAGS, request)
            request[16] |= IFF_UP
            fcntl.ioctl(sock, SIOCSIFFLAGS, request)
    except OSError as error:  # a kernel without IPv4 still runs collectors
        say(f"no loopback interface: {error}")


def seed_random() -> None:
    """Let getrandom(2) answer at once: old kernels would make Python, ssh-keygen and sshd wait for minutes, with no hardware noise.

    What is credited comes from the kernel itself (which mixes in RDRAND and timings): enough for a VM that only its host can reach.
    """
    with open("/dev/urandom", "r+b", buffering=0) as device:
        noise = device.read(64)
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", 8 * len(noise), len(noise)) + noise)


def find_port() -> "str | None":
    """The device node of the virtio-serial port named PORT_NAME, if it is there."""
    folder = "/sys/class/virtio-ports"
    for port in os.listdir(folder) if os.path.isdir(folder) else ():
        with open(f"{folder}/{port}/name") as name:
            if name.read().strip() == PORT_NAME and os.path.exists(f"/dev/{port}"):
                return f"/dev/{port}"
    return None


def open_port() -> int:
    """The channel to the host, its driver loaded if it is a module."""
    deadline = time.monotonic() + PORT_TIMEOUT
    if find_port() is None and os.path.isdir(f"/lib/modules/{os.uname().release}"):
        for module in ("virtio_pci", "virtio_console"):
            os.spawnv(os.P_WAIT, "/sbin/modprobe", ["modprobe", "-q", module])
    while (port := find_port()) is None:
        if time.monotonic() > deadline:
            raise Fatal(f"no virtio-serial port named {PORT_NAME}: the kernel lacks virtio_console, or QEMU was started without it")
        time.sleep(0.005)
    return os.open(port, os.O_RDWR | os.O_CLOEXEC)


def receive_agent(port: int) -> None:
    """Read the host's first line and put the agent's zip at AGENT. Waits for the host for as long as it takes."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(port, 1 << 16)
        if not piece:  # no host at the other end yet
            time.sleep(0.005)
        line += piece
    try:
        archive = binascii.a2b_base64(json.loads(line)["agent"])
    except (ValueError, KeyError, TypeError) as error:
        raise Fatal(f'the host\'s first line is not {{"agent": base64}}: {error!r}') from None
    with open(AGENT, "wb") as file:
        file.write(archive)


def run_agent(port: int) -> None:
    """The child: becomes the agent; ends the process whatever happens."""
    status = 1
    try:
        os.setsid()
        sys.path.insert(0, AGENT)
        import agent  # type: ignore[import-not-found, unused-ignore]

        agent.main(port)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def reap_until(agent: int) -> str:
    """Reap orphans for as long as the agent lives; how it ended, in words."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == agent:
            code = os.waitstatus_to_exitcode(status)
            return f"the agent was killed by signal {-code}" if code < 0 else f"the agent ended with exit status {code}"


def main() -> None:
    """Bring the guest up, run the agent, power off."""
    try:
        writable_root()
        mount_all()
        take_console()
        configure()
        port = open_port()
        receive_agent(port)
        if (agent := os.fork()) == 0:
            run_agent(port)
        os.close(port)
        say(reap_until(agent))
    except Fatal as error:
        say(str(error))
    except BaseException as error:
        traceback.print_exc()
        say(f"{type(error).__name__}: {error}")
    libc.reboot(RB_POWER_OFF)


if __name__ == "__main__":
    main()
