"""virtme-ng's command lines become ours: what it must decide stays, what its own guest needs goes."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from kmatrix.host.errors import InfraError, InputError
from kmatrix.kernels.entry import KernelEntry
from kmatrix.matrix.arch import Arch
from kmatrix.vm import VmSpec, footprint_mib, virtme
from kmatrix.vm.guest_image import GuestImage
from kmatrix.vm.spec import AccelName

# As virtme-ng 1.42 printed them, shortened only in the kernel parameters.
X86_TCG = """/usr/bin/qemu-system-x86_64 -m 256M -drive if=none,id=virtme-root,file=/i/root.ext4,format=raw,readonly=on
 -device virtio-blk-pci,drive=virtme-root -fsdev local,id=virtfs7,path=/v/guest,security_model=none,readonly=on,multidevs=remap
 -device virtio-9p-pci,fsdev=virtfs7,mount_tag=virtme.guesttools -device i6300esb,id=watchdog0 -machine q35 -cpu max -parallel none
 -net none -echr 1 -chardev file,path=/proc/self/fd/2,id=dmesg -device virtio-serial-pci -device virtconsole,chardev=dmesg
 -chardev stdio,id=console,signal=off,mux=off -serial chardev:console -vga none -display none -smp 1 -kernel /k/vmlinuz
 -append 'virtme_console=ttyS0 console=hvc0 root=/dev/vda init=/bin/sh -- -c "exec x"' -initrd /w/initrd"""
X86_KVM = X86_TCG.replace("-machine q35 -cpu max", "-machine accel=kvm:tcg -cpu host,topoext=on")
ARM_TCG = (
    X86_TCG.replace("x86_64", "aarch64")
    .replace("-device i6300esb,id=watchdog0 ", "")
    .replace("-machine q35 -cpu max", "-M virt -cpu cortex-a57")
    .replace("-pci", "-device")
)
ARM_KVM = ARM_TCG.replace("-M virt", "-machine accel=kvm:tcg -M virt,gic-version=host").replace("cortex-a57", "host")


def a_spec(arch: Arch = "x86_64", modules: bool = True) -> VmSpec:
    here = Path("/k")
    kernel = KernelEntry(
        digest="k" * 64,
        path=here,
        arch=arch,
        release="6.1.0-test",
        source={},
        btf=True,
        image=here / "vmlinuz",
        modules=here / "modules" if modules else None,
        modules_image=here / "modules,1.ext4" if modules else None,
        config=None,
        manifest={},
    )
    return VmSpec(kernel, GuestImage(arch, "key", Path("/i"), {"digest": "i" * 64}), cmdline=("lsm=bpf", "quiet"))


@pytest.fixture
def initrd(tmp_path: Path) -> Path:
    path = tmp_path / "initrd"
    path.write_bytes(b"cpio")
    return path


def assembled(command: str, spec: VmSpec, work: Path, initrd: Path | None) -> list[str]:
    return list(virtme.assemble(shlex.split(command.replace("\n", "")), spec, work, initrd).argv)


def values(argv: list[str], option: str) -> list[str]:
    return [argv[at + 1] for at, item in enumerate(argv) if item == option]


COMMANDS: list[tuple[Arch, str, AccelName, str, list[str]]] = [
    ("x86_64", X86_TCG, "tcg", "pci", ["q35", "memory-backend=ram"]),
    ("x86_64", X86_KVM, "kvm", "pci", ["memory-backend=ram"]),
    ("arm64", ARM_TCG, "tcg", "device", ["virt", "memory-backend=ram"]),
    ("arm64", ARM_KVM, "kvm", "device", ["virt,gic-version=host", "memory-backend=ram"]),
]


def test_emulated_cpus_take_turns(tmp_path: Path, initrd: Path) -> None:
    spec = dataclasses.replace(a_spec("x86_64"), accel="tcg")
    assert values(assembled(X86_TCG, spec, tmp_path, initrd), "-accel") == ["tcg,tb-size=128"]
    several = dataclasses.replace(spec, cpus=2)
    assert values(assembled(X86_TCG, several, tmp_path, initrd), "-accel") == ["tcg,tb-size=128,thread=single"]


@pytest.mark.parametrize(("arch", "command", "accel", "bus", "machines"), COMMANDS)
def test_what_stays_and_what_goes(
    arch: Arch, command: str, accel: AccelName, bus: str, machines: list[str], tmp_path: Path, initrd: Path
) -> None:
    spec = dataclasses.replace(a_spec(arch), accel=accel)
    argv = assembled(command, spec, tmp_path, initrd)
    text = " ".join(argv)
    assert values(argv, "-machine") == machines
    assert [value.partition(",")[0] for value in values(argv, "-accel")] == [accel]
    assert values(argv, "-cpu") == values(shlex.split(command), "-cpu")
    assert "accel=" not in text
    for gone in ("9p", "fsdev", "stdio", "hvc0", "virtconsole", "virtme_console", "/proc/self/fd/2", "init=/bin/sh"):
        assert gone not in text
    assert ("i6300esb,id=watchdog0" in text) == (arch == "x86_64")
    assert values(argv, "-serial") == ["chardev:console"]
    assert [value for value in values(argv, "-device") if "serial" in value and "virtio-blk" not in value] == [
        f"virtio-serial-{bus}",
        "virtserialport,name=kmatrix,chardev=agent",
    ]
    assert values(argv, "-netdev") == ["user,id=ssh,restrict=on"]
    assert values(argv, "-append") == [virtme.cmdline(spec)]
    assert values(argv, "-initrd") == ["{initrd}"]
    assert "-no-reboot" in argv
    assert not values(argv, "-chardev"), "they name descriptors of one run"


@pytest.mark.parametrize(("arch", "command", "order"), [("x86_64", X86_TCG, [0, 1, 2, 3]), ("arm64", ARM_TCG, [3, 2, 1, 0])])
def test_the_root_disk_is_vda_and_the_modules_vdb(arch: Arch, command: str, order: list[int], tmp_path: Path, initrd: Path) -> None:
    drives = values(assembled(command, a_spec(arch), tmp_path, initrd), "-drive")
    root, modules, carried, scratch = (drives[at] for at in order)
    assert "file=/i/root.ext4" in root
    assert "file=/k/modules,,1.ext4,format=raw,readonly=on" in modules
    assert carried == "{carried}"
    assert "driver=null-co,size=67108864," in scratch


@pytest.mark.parametrize(
    ("command", "config", "cpu"),
    [
        (ARM_TCG, "CONFIG_ARM64_16K_PAGES=y\n", "cortex-a76"),
        (ARM_TCG, "CONFIG_ARM64_4K_PAGES=y\n# CONFIG_ARM64_16K_PAGES is not set\n", "cortex-a57"),
        (ARM_TCG, None, "cortex-a57"),
        (ARM_KVM, "CONFIG_ARM64_16K_PAGES=y\n", "host"),
    ],
)
def test_a_kernel_of_other_pages_gets_a_cpu_that_has_them(command: str, config: str | None, cpu: str, tmp_path: Path) -> None:
    spec = a_spec("arm64")
    if config is not None:
        (tmp_path / "config").write_text(config)
        spec = dataclasses.replace(spec, kernel=dataclasses.replace(spec.kernel, config=tmp_path / "config"))
    assert values(assembled(command, spec, tmp_path, None), "-cpu") == [cpu]


def test_more_cpus_than_the_machine_has_are_one_error() -> None:
    assert dataclasses.replace(a_spec("x86_64"), cpus=64).cpus == 64
    assert dataclasses.replace(a_spec("arm64"), cpus=8).cpus == 8
    with pytest.raises(InputError, match="a machine of arm64 has 8 CPUs at most, not 9"):
        dataclasses.replace(a_spec("arm64"), cpus=9)


def test_what_virtme_may_add_one_day_stays(tmp_path: Path) -> None:
    argv = assembled(X86_TCG.replace("-smp 1", "-smp 1 -device new-thing,id=x -no-acpi"), a_spec(), tmp_path, None)
    assert "new-thing,id=x" in values(argv, "-device")
    assert "-no-acpi" in argv
    assert "-initrd" not in argv


def test_a_kernel_that_virtme_unpacked_is_taken_along(tmp_path: Path) -> None:
    image = tmp_path / ".cache" / "Image"
    image.parent.mkdir()
    image.write_bytes(b"unpacked")
    command = shlex.split(ARM_TCG.replace("\n", "").replace("/k/vmlinuz", str(image)))
    plan = virtme.assemble(command, a_spec("arm64"), tmp_path, None)
    assert plan.files == {"kernel": b"unpacked"}
    assert values(list(plan.argv), "-kernel") == ["{kernel}"]


def test_a_resumed_machine_loads_no_kernel(tmp_path: Path, initrd: Path) -> None:
    plan = virtme.assemble(shlex.split(X86_TCG.replace("\n", "")), a_spec(), tmp_path, initrd)
    assert set(plan.argv) - set(plan.resume) == {
        "-kernel",
        "/k/vmlinuz",
        "-initrd",
        "{initrd}",
        "-append",
        virtme.cmdline(a_spec()),
    }
    assert [item for item in plan.argv if item in plan.resume] == list(plan.resume)


def test_paths_are_put_in() -> None:
    argv = ("-initrd", "{initrd}", "-object", "memory-backend-file,id=ram,mem-path={ram},share={share}", "-append", "x={ram}")
    filled = virtme.substitute(argv, {"initrd": "/a,b", "ram": "/c,d"}, share=False)
    assert filled == ["-initrd", "/a,b", "-object", "memory-backend-file,id=ram,mem-path=/c,,d,share=off", "-append", "x={ram}"]
    assert "share=on" in virtme.substitute(argv, {"ram": "/r"}, share=True)[3]


def test_the_kernels_parameters() -> None:
    assert virtme.cmdline(a_spec("arm64")) == (
        "root=/dev/vda ro rootwait console=ttyAMA0 panic=-1 printk.time=1 loglevel=5 init=/sbin/kmatrix-init lsm=bpf quiet"
    )


@pytest.mark.parametrize(("arch", "package"), [("x86_64", "qemu-system-x86"), ("arm64", "qemu-system-arm")])
def test_a_missing_qemu_says_what_to_install(arch: Arch, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    virtme.qemu.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)  # noqa: ARG005
    with pytest.raises(InfraError) as caught:
        virtme.qemu(arch)
    assert caught.value.fix == f"apt-get install {package}"


def test_virtmes_refusal_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusal = subprocess.CompletedProcess([], 1, "", "usage…\nvirtme-run: error: /k/vmlinuz does not exist\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: refusal)  # noqa: ARG005
    with pytest.raises(InfraError, match="/k/vmlinuz does not exist"):
        virtme.compose(a_spec(), tmp_path)


def test_composing_leaves_nothing(native_spec: VmSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, temp, work = (tmp_path / name for name in ("home", "temp", "work"))
    for folder in (home, temp, work):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(temp))
    plan = virtme.compose(native_spec, work)
    assert plan.files["initrd"].startswith(b"0707"), "a cpio archive"
    assert not list(home.iterdir())
    assert not list(temp.iterdir())


def test_the_footprint_grows_with_the_guest() -> None:
    small = a_spec()
    assert footprint_mib(dataclasses.replace(small, memory_mib=1024)) - footprint_mib(small) == 1024 - 256
    assert footprint_mib(small) > 256


def test_a_machine_is_named_with_what_is_unusual_of_it() -> None:
    usual = dataclasses.replace(a_spec("arm64"), cmdline=())
    assert str(usual).endswith(" (arm64, tcg)")
    unusual = dataclasses.replace(usual, memory_mib=512, cpus=2, cmdline=("lockdown=integrity",))
    assert str(unusual).endswith(" (arm64, tcg, 512 MiB, 2 CPUs, lockdown=integrity)")


def test_qemu_is_asked_for_its_version_once_and_again_where_it_could_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    program, asked = tmp_path / "qemu-system-x86_64", tmp_path / "asked"
    monkeypatch.setattr(virtme, "qemu", lambda _: program)

    def version(words: str) -> str:
        program.write_text(f"#!/bin/sh\necho >> {asked}\n{words}\n")
        program.chmod(0o755)
        os.utime(program, (1, len(words)))
        said = [(virtme.qemu_identity.cache_clear(), virtme.qemu_version.__wrapped__("x86_64"))[1] for _ in range(2)]
        assert said[0] == said[1]
        return said[0]

    assert version("exit 127") == ""
    assert asked.read_text() == "\n" * 2  # a library that it lacks may have come
    assert version("echo QEMU 7; echo more") == "QEMU 7"
    assert asked.read_text() == "\n" * 3
    assert version("echo QEMU 10") == "QEMU 10"
    virtme.qemu_identity.cache_clear()
