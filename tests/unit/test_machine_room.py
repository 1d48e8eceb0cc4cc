"""What is strict of a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kmatrix import kernels
from kmatrix.host.errors import InputError
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Kernel
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.selection import asked_for
from kmatrix.runs.machine_room import MachineRoom, refuse_missing
from tests.kernels.fabricate import staged

TARGETS = load_matrix().targets("5.4,6.1", "all")


def refused(missing: list[str], kernels: str | None, arch: str | None) -> str:
    with pytest.raises(InputError) as error:
        refuse_missing(TARGETS, dict.fromkeys(missing, "no"), kernels=kernels, arch=arch)
    return error.value.message


def test_kernels_asked_for_have_to_be_there_each() -> None:
    assert refused(["5.4-arm64"], "5.4,6.1", None) == "--kernels=5.4,6.1 asks for kernels that cannot be had:\n  5.4-arm64: no"
    refuse_missing(TARGETS, {}, kernels="5.4,6.1", arch="all")


def test_of_an_arch_asked_for_one_has_to_be_there() -> None:
    none, some = ["5.4-arm64", "6.1-arm64"], ["5.4-arm64", "5.4-x86_64"]
    said = refused([*none, "5.4-x86_64"], None, "all")
    assert said == "--arch=all: no kernel for arm64 can be had:\n  5.4-arm64: no\n  6.1-arm64: no"
    refuse_missing(TARGETS, dict.fromkeys(some, "no"), kernels=None, arch="all")


def test_a_bare_run_takes_what_there_is() -> None:
    refuse_missing(TARGETS, {str(target): "no" for target in TARGETS}, kernels=None, arch=None)


def test_arches_that_lack_a_kernel_for_the_same_reason_share_a_line() -> None:
    missing = {f"5.4-{arch}": f"kmatrix kernels build 5.4 --arch {arch}" for arch in ("x86_64", "arm64")}
    with pytest.raises(InputError) as error:
        refuse_missing(TARGETS, missing | {"6.1-arm64": "no"}, kernels="5.4,6.1", arch=None)
    assert error.value.message.splitlines()[1:] == [
        "  5.4 (x86_64, arm64): kmatrix kernels build 5.4 --arch ARCH",
        "  6.1-arm64: no",
    ]


def test_store_is_what_is_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path))
    store = KernelStore()
    for name, arch in (("5.4", "arm64"), ("6.12", "x86_64"), ("6.12", "arm64"), ("of-another-project", "arm64")):
        store.add(name, arch, lambda folder: staged(folder, release="5.4.1" if "5.4" in str(folder) else "6.12.1"))
    monkeypatch.setattr(MachineRoom, "unavailable", lambda *_, **__: {})
    room = MachineRoom(load_matrix())
    assert [str(target) for target in room.targets("store", "all")] == ["5.4-arm64", "6.12-x86_64", "6.12-arm64"]
    assert [str(target) for target in room.targets("store", "x86_64")] == ["6.12-x86_64"]
    assert [str(target) for target in room.targets("6.1, store", "arm64")] == ["5.4-arm64", "6.12-arm64", "6.1-arm64"]
    assert room.targets(None, "all") == load_matrix().targets("default", "all")


def test_an_image_that_several_targets_boot_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path))
    store = KernelStore()
    store.add("6.1", "arm64", lambda folder: staged(folder, release="6.1.1"))
    asked: list[str] = []
    availability = kernels.availability

    def counted(kernel: Kernel, arch: Arch, *others: Any, **options: Any) -> str | None:
        asked.append(f"{kernel.image_of.name}-{arch}")
        return availability(kernel, arch, *others, **options)

    monkeypatch.setattr(kernels, "availability", counted)
    matrix = load_matrix()
    targets = matrix.targets("6.1, 6.1-cgroup1, 5.4-sim, 5.15, 5.15-nobtf", "arm64")
    missing = MachineRoom(matrix).unavailable(targets, fetch=False)
    alone = {str(t): availability(t.kernel, t.arch, store, mirrors=matrix.mirrors) for t in targets}
    assert missing == {name: reason for name, reason in alone.items() if reason is not None}
    assert "5.15-nobtf-arm64" in missing  # which is not built as 5.15 is
    assert {"6.1-arm64", "6.1-cgroup1-arm64"}.isdisjoint(missing)
    assert len(asked) == len(set(asked)) < len(targets)


@pytest.mark.parametrize(("written", "asked"), [(None, None), ("default", None), (" default ", None), ("5.4", "5.4"), ("", "")])
def test_the_default_set_is_not_strict(written: str | None, asked: str | None) -> None:
    assert asked_for(written) == asked
