"""BTF inside an image, beside it, and made of a vmlinux: what a kernel then says of itself."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import need_programs
from kmatrix import kernels
from kmatrix.fetch import archive
from kmatrix.host.errors import InputError
from kmatrix.host.progress import Quiet
from kmatrix.kernels import layout
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.image import BTF_MAGIC
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.kernel import SourceSpec

from .fabricate import CONFIG, btf_section, bzimage, deb, kernel, kernel_deb

RELEASE = "5.4.286"


def store_it(store: KernelStore, tmp_path: Path, files: dict[str, bytes], *, btf: bool = False) -> KernelEntry:
    (tmp_path / "k.deb").write_bytes(deb({f"boot/vmlinuz-{RELEASE}": bzimage(RELEASE, btf=btf)} | files))
    package = archive.deb(tmp_path / "k.deb")
    return store.add(
        "5.4", "x86_64", lambda into: layout.staged(layout.lay_out([package], "x86_64", into, where="k.deb"), {"kind": "import"})
    )


@pytest.mark.parametrize("name", [f"boot/btf-{RELEASE}", f"usr/share/{RELEASE}.btf"])
def test_beside(store: KernelStore, tmp_path: Path, name: str) -> None:
    entry = store_it(store, tmp_path, {name: btf_section()})
    assert entry.btf is False  # the kernel shows none
    assert entry.btf_file is not None
    assert entry.btf_file.read_bytes() == btf_section()
    assert any("takes it by path" in note for note in entry.manifest["notes"])
    assert store.verify("5.4", "x86_64") == []


def test_inside_is_enough(store: KernelStore, tmp_path: Path) -> None:
    entry = store_it(store, tmp_path, {f"boot/btf-{RELEASE}": btf_section()}, btf=True)
    assert (entry.btf, entry.btf_file) == (True, None)


def test_what_is_no_btf(store: KernelStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no BTF"):
        store_it(store, tmp_path, {f"boot/btf-{RELEASE}": b"text"})
    with pytest.raises(InputError, match="several BTF files"):
        store_it(store, tmp_path, {"a.btf": btf_section(), "b.btf": btf_section() + b"\0"})
    assert store.refs() == []


def test_made_of_its_vmlinux(store: KernelStore, tmp_path: Path) -> None:
    need_programs("pahole", "gcc")
    (tmp_path / "v.c").write_text(
        "struct task_struct { int pid; char comm[16]; } init_task; int main(void) { return init_task.pid; }\n"
    )
    for flag in ("-g", "-g0"):
        subprocess.run(["gcc", flag, "-o", str(tmp_path / f"vmlinux{flag}"), str(tmp_path / "v.c")], check=True)
    config = {f"boot/config-{RELEASE}": CONFIG.replace("CONFIG_DEBUG_INFO_BTF=y\n", "").encode()}
    entry = store_it(store, tmp_path, config | {f"boot/vmlinux-{RELEASE}": (tmp_path / "vmlinux-g").read_bytes()})
    assert entry.btf is False
    assert entry.btf_file is not None
    assert entry.btf_file.read_bytes().startswith(BTF_MAGIC)
    assert b"task_struct" in entry.btf_file.read_bytes()
    assert [path.name for path in entry.path.rglob("*vmlinux*")] == []
    without = store_it(KernelStore(tmp_path / "2"), tmp_path, config | {"boot/vmlinux": (tmp_path / "vmlinux-g0").read_bytes()})
    assert without.btf_file is None


def test_a_vmlinux_too_large_to_be_held(store: KernelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No BTF is made of it; the kernel beside it is good."""
    monkeypatch.setattr(archive, "FILE", 1 << 20)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")  # pahole is not run
    entry = store_it(store, tmp_path, {f"boot/vmlinux-{RELEASE}": bytes(2 << 20)})
    assert (entry.release, entry.btf_file) == (RELEASE, None)


@pytest.mark.parametrize(
    "files",
    [
        {f"usr/share/{number}.btf": btf_section() for number in range(5)},
        {f"boot/config-{number}": b"CONFIG_X=y\n" for number in range(5)},
        {f"boot/vmlinuz-{number}": bzimage(RELEASE) for number in range(5)},
        {"boot/config-1": bytes((4 << 20) + 1)},
        {f"usr/share/{number}.btf": bytes(300) for number in range(4)},
    ],
    ids=["btf", "config", "image", "large", "together"],
)
def test_more_than_is_held_in_memory(
    store: KernelStore, tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "usr/share/3.btf" in files and "usr/share/4.btf" not in files:
        monkeypatch.setattr(layout, "_HELD", len(bzimage(RELEASE, btf=False)) + 1000)
    with pytest.raises(InputError, match=r"holds more than a kernel's package does \("):
        store_it(store, tmp_path, files)


def test_one_with_btf_is_no_kernel_without(store: KernelStore, tmp_path: Path) -> None:
    """Each cell would fail as `table`, and not say why."""
    image = tmp_path / "image.deb"
    image.write_bytes(kernel_deb("5.4.9-amd64"))
    source = SourceSpec("package", options={"url": (image.as_uri(),), "trust": "first-use"})
    plain = kernel("5.4", (5, 4), source)
    without = replace(plain, name="5.4-nobtf", build=("nobtf",))
    with pytest.raises(InputError, match=r"the kernel has BTF, and kernels\.toml says that '5\.4-nobtf' is built without"):
        kernels.obtain(without, "x86_64", store, reporter=Quiet())
    assert store.refs() == []
    image.write_bytes(kernel_deb("5.4.9-amd64", bzimage("5.4.9-amd64", btf=False)))
    assert kernels.obtain(without, "x86_64", store, reporter=Quiet()).btf is False
