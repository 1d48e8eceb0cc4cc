"""The QEMU command line of a machine: composed by virtme-ng, made ours here.

virtme-ng knows which machine type, CPU, bus and module initramfs a kernel of either arch needs. It is asked once for a snapshot
(`virtme-run --dry-run --show-command --save-initramfs`), and what it says is kept: no virtme runs on the hot path. What it sets up
for its own guest (9p shares, consoles, its init) is taken out, our channel, console, monitor and kernel parameters are put in.
"""

from __future__ import annotations

import os
import shlex
import shutil
import site
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kmatrix.guest.triggers.block import SCRATCH
from kmatrix.host.errors import InfraError
from kmatrix.host.parsed import parsed
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.vm.spec import VmSpec

FORMAT = 6
"""Raised with every change here (or in snapshot.py) that makes old snapshots unfit."""

PORT = "kmatrix"
"""The virtio-serial port that the agent answers on."""

INIT = "/sbin/kmatrix-init"

CARRIED_BYTES = 16 << 30
"""The size of the disk for what a run brings along. A guest reads it once, at boot, so each file that stands behind the disk has it."""

SCRATCH_BYTES = 64 << 20
"""The size of the disk that block I/O goes to. Nothing stands behind it: it reads as zeros, and what is written to it is gone."""

_FLAGS = frozenset(
    {"-no-reboot", "-no-shutdown", "-nodefaults", "-nographic", "-no-user-config", "-S", "-snapshot", "-no-acpi", "-no-hpet"}
)
"""QEMU options that take no value; every other one takes one."""
_OURS = frozenset({"-append", "-initrd", "-chardev", "-serial", "-mon", "-monitor", "-qmp", "-echr", "-fsdev", "-virtfs", "-accel"})
"""Options of virtme's that never stay: its own guest's, or set by us."""
_DEVICES = ("virtio-9p", "virtio-serial", "virtconsole", "virtserialport", "vhost-user-fs")
"""Devices of virtme's own guest. An established 9p mount could not be saved; its serial ports would feed our standard output."""
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Plan:
    """A machine's command line, but for what differs from run to run.

    `argv` holds `{ram}` and `{share}` in the guest memory's backend, `{carried}` for the drive behind the disk of what a run brings along
    (see `carried_drive`), and `{kernel}` and `{initrd}` where one of `files` stands: what virtme made of the kernel's image and modules.
    """

    argv: tuple[str, ...]
    files: Mapping[str, bytes]

    @property
    def resume(self) -> tuple[str, ...]:
        """The command line of a machine that goes on from a saved state: all is in its memory, so no kernel is loaded.

        (QEMU would read kernel and initrd, 60 ms for an arm64 one, and then not use them.)
        """
        argv = list(self.argv)
        for option in ("-kernel", "-initrd", "-append"):
            if option in argv:
                at = argv.index(option)
                del argv[at : at + 2]
        return tuple(argv)


def substitute(argv: Sequence[str], paths: Mapping[str, str], *, share: bool) -> list[str]:
    """A plan's command line with `paths` put in; `share` writes the guest's memory back to its file."""
    inside = {f"{{{name}}}": quote(path) for name, path in paths.items()} | {"{share}": "on" if share else "off"}
    # -kernel and -initrd take a plain file name, where a comma stands for itself.
    whole = {f"{{{name}}}": path for name, path in paths.items()}
    out = []
    for item in argv:
        if item in whole:
            item = whole[item]
        elif item.startswith("memory-backend-file,"):
            for placeholder, value in inside.items():
                item = item.replace(placeholder, value)
        out.append(item)
    return out


def carried_drive(fd: int | None) -> str:
    """The drive behind the disk for what a run brings along: the file that is open as `fd`, CARRIED_BYTES long, or none (zeros).

    virtio-mmio has no hot-plug, so the disk is there from the boot on, and nobody has read from it when a snapshot is taken: a restored
    guest finds in it whatever file it is given.
    """
    if fd is None:
        return f"if=none,id=kmatrix-carried,driver=null-co,size={CARRIED_BYTES},read-zeroes=on"
    return f"if=none,id=kmatrix-carried,file=/proc/self/fd/{fd},format=raw,cache=unsafe"


def quote(text: str) -> str:
    """A value inside a QEMU option list: a comma is written twice."""
    return text.replace(",", ",,")


@lru_cache(maxsize=4)
def qemu(arch: Arch) -> Path:
    """The system emulator for `arch`. Raises InfraError, with the command that installs it, where there is none."""
    info = INFO[arch]
    found = shutil.which(info.qemu)
    if found is None:
        raise InfraError(f"{info.qemu} is not installed", where=arch, fix=f"apt-get install {info.qemu_package}")
    return Path(found).resolve()


@lru_cache(maxsize=4)
def qemu_identity(arch: Arch) -> str:
    """What tells one QEMU from another without running it: path, size, time of change."""
    path = qemu(arch)
    stat = path.stat()
    return f"{path}:{stat.st_size}:{stat.st_mtime_ns}"


@lru_cache(maxsize=4)
def qemu_version(arch: Arch) -> str:
    """QEMU's first line of --version; empty where it cannot say it. It is asked once, and not in each process."""

    def asked() -> str:
        result = subprocess.run([qemu(arch), "--version"], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        if not (said := result.stdout.partition("\n")[0].strip()):
            raise ValueError("no version")  # nothing to keep: a library that it lacks may come
        return said

    try:
        return parsed("qemu", [qemu_identity(arch).encode()], asked)
    except ValueError:
        return ""


@lru_cache(maxsize=1)
def virtme_version() -> str:
    """The installed virtme-ng. Raises InfraError where there is none."""
    import importlib.metadata  # here, and not above: it is asked where a guest is booted

    try:
        return importlib.metadata.version("virtme-ng")
    except importlib.metadata.PackageNotFoundError:
        raise InfraError("virtme-ng is not installed", fix=f"{sys.executable} -m pip install virtme-ng") from None


def cmdline(spec: VmSpec) -> str:
    """The kernel's parameters, whole: QEMU takes the last -append, so nothing of virtme's stays.

    loglevel 5 shows warnings and worse, which is where every splat is; time stamps order them. A panic reboots at once, which
    -no-reboot turns into QEMU's end. An oops is left to be seen as an oops (no oops=panic), with its trace complete.
    """
    console = INFO[spec.arch].console
    ours = ["root=/dev/vda", "ro", "rootwait", f"console={console}", "panic=-1", "printk.time=1", "loglevel=5", f"init={INIT}"]
    return " ".join([*ours, *spec.cmdline])


def compose(spec: VmSpec, work: Path) -> Plan:
    """Have virtme-ng compose the command line for `spec`; `work` is an empty folder that may be removed afterwards.

    Raises InfraError where QEMU or virtme-ng is missing, or virtme-ng refuses.
    """
    qemu(spec.arch)
    virtme_version()
    initrd = work / "initrd"
    ask = [
        *(sys.executable, "-m", "virtme.commands.run"),
        *("--arch", {"arm64": "aarch64"}.get(spec.arch, spec.arch)),
        *("--kimg", str(spec.kernel.image), "--mods", "auto" if spec.kernel.modules else "none"),
        *("--root-disk", str(spec.image.path), "--root-fstype", "ext4", "--force-9p", "--busybox", str(spec.image.busybox)),
        *(() if spec.accel == "kvm" else ("--disable-kvm",)),
        *("--memory", f"{spec.memory_mib}M", "--cpus", str(spec.cpus), "--disable-monitor"),
        *("--dry-run", "--show-command"),
        *(("--save-initramfs", str(initrd)) if spec.kernel.modules else ()),
    ]
    # virtme asks file(1), else strings(1), which release an image is, to find its modules. A small host has neither, and an arm64 image
    # may show nothing; the store knows. kmod is in sbin, which an ordinary user's PATH may lack.
    answering = work / "bin" / "file"
    answering.parent.mkdir()
    answering.write_text(f"#!/bin/sh\necho 'kernel, version {spec.kernel.release}'\n", encoding="utf-8")
    answering.chmod(0o755)
    # HOME is where virtme unpacks some arm64 images into a cache; but Python may have virtme in the real one.
    environ = os.environ | {
        "HOME": str(work),
        "PYTHONUSERBASE": site.getuserbase(),
        "PATH": f"{answering.parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
    }
    try:
        answer = subprocess.run(
            ask, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environ, cwd=work, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise InfraError(f"virtme-ng did not answer in {_TIMEOUT:.0f} s", where=str(spec)) from None
    lines = [line for line in answer.stdout.splitlines() if "-kernel" in line]
    if answer.returncode or not lines:
        said = (answer.stderr.strip() or answer.stdout.strip()).splitlines()[-3:]
        raise InfraError(f"virtme-ng cannot compose a machine: {' / '.join(said) or 'no output'}", where=str(spec))
    return assemble(shlex.split(lines[-1]), spec, work, initrd if initrd.exists() else None)


def assemble(command: Sequence[str], spec: VmSpec, work: Path, initrd: Path | None) -> Plan:
    """virtme's command line turned into ours."""
    # -nodefaults: without QEMU's own CD drive, floppy and monitor a restore takes 0.1 s less.
    argv = [str(qemu(spec.arch)), "-no-user-config", "-nodefaults", *(word for word in _kept(command[1:]) if word != "-nodefaults")]
    files: dict[str, bytes] = {}
    at = argv.index("-kernel") + 1
    kernel = Path(argv[at])
    if kernel.is_relative_to(work):
        files["kernel"] = kernel.read_bytes()
        argv[at] = "{kernel}"
    if initrd is not None:
        files["initrd"] = initrd.read_bytes()
        argv += ["-initrd", "{initrd}"]
    if _CPU_OF_4K in argv and _has_other_pages(spec):
        argv[argv.index(_CPU_OF_4K)] = _CPU_OF_ANY
    bus = _bus(argv)
    argv += [
        *("-accel", _tcg(spec) if spec.accel == "tcg" else spec.accel, "-machine", "memory-backend=ram"),
        *("-object", f"memory-backend-file,id=ram,size={spec.memory_mib}M,mem-path={{ram}},share={{share}}"),
        *("-append", cmdline(spec)),
    ]
    if "-no-reboot" not in argv:
        argv.append("-no-reboot")
    disks = [
        ("kmatrix-carried", "{carried}"),
        (SCRATCH, f"if=none,id={SCRATCH},driver=null-co,size={SCRATCH_BYTES},read-zeroes=on"),
    ]
    if spec.kernel.modules_image is not None:
        modules = f"if=none,id=kmatrix-modules,file={quote(str(spec.kernel.modules_image))},format=raw,readonly=on"
        disks.insert(0, ("kmatrix-modules", modules))
    for name, drive in disks:
        # The root must stay /dev/vda. The kernel finds virtio-mmio devices in the reverse of QEMU's order, PCI ones in the same.
        # The others are found by their serial numbers.
        at = argv.index("-drive") if bus == "device" else len(argv)
        argv[at:at] = ["-drive", drive, "-device", f"virtio-blk-{bus},drive={name},serial={name}"]
    # romfile: no boot ROM to load for a card that nothing boots from.
    nic = f"virtio-net-{bus},netdev=ssh" + (",romfile=" if bus == "pci" else "")
    argv += [
        *("-serial", "chardev:console"),
        *("-device", f"virtio-serial-{bus}", "-device", f"virtserialport,name={PORT},chardev=agent"),
        *("-netdev", "user,id=ssh,restrict=on", "-device", nic),
        *("-mon", "chardev=qmp,mode=control"),
    ]
    return Plan(tuple(argv), files)


_CPU_OF_4K, _CPU_OF_ANY = "cortex-a57", "cortex-a76"
"""The arm64 CPU that virtme emulates, which has pages of 4 and 64 KiB, and one that has those of 16 KiB too. (ID_AA64MMFR0_EL1.TGran16; on the
first, a kernel of 16 KiB stops before it has a console.)"""
_OTHER_PAGES = ("CONFIG_ARM64_16K_PAGES=y", "CONFIG_ARM64_64K_PAGES=y")


def _has_other_pages(spec: VmSpec) -> bool:
    """Whether the kernel's configuration has pages of another size than 4 KiB."""
    config = spec.kernel.config
    return config is not None and any(option in _OTHER_PAGES for option in config.read_text(errors="replace").splitlines())


def _kept(options: Sequence[str]) -> list[str]:
    """virtme's options without those of its own guest."""
    kept: list[str] = []
    left = iter(options)
    for option in left:
        if option in _FLAGS:
            kept.append(option)
            continue
        value = next(left)
        if option in _OURS or (option == "-device" and value.startswith(_DEVICES)):
            continue
        if option in ("-machine", "-M"):
            # QEMU refuses -accel beside an accel= here.
            option, value = "-machine", ",".join(part for part in value.split(",") if not part.startswith("accel="))
            if not value:
                continue
        kept += [option, value]
    return kept


def _tcg(spec: VmSpec) -> str:
    """The accelerator's options.

    tb-size, in MiB: QEMU would otherwise let the translated code grow to an eighth of the host's memory. thread=single: the CPUs take turns.
    With a thread each, on a busy host, a kernel that patches its own code (jump labels, ftrace) now and then dies of it ("Oops: int3", seen in
    2 of 7 runs on 6.12-x86_64 with two CPUs), which is none of the program's doing.
    """
    return "tcg,tb-size=128" + (",thread=single" if spec.cpus > 1 else "")


def _bus(argv: Sequence[str]) -> str:
    """What virtme attaches virtio devices by: `pci`, or `device` for virtio-mmio."""
    disk = next(item for item in argv if item.startswith("virtio-blk-"))
    return disk.partition(",")[0].removeprefix("virtio-blk-")
