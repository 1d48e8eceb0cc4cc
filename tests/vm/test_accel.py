"""The accelerator is chosen by what was seen, and the answer says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kmatrix.host.errors import InfraError, InputError
from kmatrix.matrix.arch import Arch, host_arch
from kmatrix.runs import doctor
from kmatrix.vm import GuestTimeout, VmSpec, accel
from kmatrix.vm.accel import Accel, choose
from tests.vm.test_virtme import a_spec

HOST: Arch = host_arch() or "x86_64"
FOREIGN: Arch = "arm64" if HOST == "x86_64" else "x86_64"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    return path


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[VmSpec]:
    """Every machine that was booted to prove KVM; it works."""
    seen: list[VmSpec] = []

    def prove(spec: VmSpec) -> Accel:
        seen.append(spec)
        return Accel("kvm", "seen")

    monkeypatch.setattr(accel, "_prove", prove)
    return seen


def pick(request: str, arch: Arch, device: Path) -> Accel:
    spec = a_spec(arch)
    return choose(request, spec.kernel, spec.image, device=device)


def test_a_foreign_arch_is_emulated(device: Path, proofs: list[VmSpec]) -> None:
    answer = pick("auto", FOREIGN, device)
    assert answer.name == "tcg"
    assert FOREIGN in answer.why
    assert not proofs


def test_without_a_device_nothing_is_booted(tmp_path: Path, proofs: list[VmSpec]) -> None:
    answer = pick("auto", HOST, tmp_path / "none")
    assert answer == Accel("tcg", f"there is no {tmp_path / 'none'}")
    assert not proofs


def test_a_device_that_does_not_open(tmp_path: Path, proofs: list[VmSpec]) -> None:
    answer = pick("auto", HOST, tmp_path)  # a folder: not even root can open it for writing
    assert answer.name == "tcg"
    assert "cannot be opened" in answer.why
    assert not proofs


def test_a_real_boot_decides_once(device: Path, proofs: list[VmSpec]) -> None:
    assert pick("auto", HOST, device) == Accel("kvm", "seen")
    assert pick("auto", HOST, device) == Accel("kvm", "seen")
    assert [spec.accel for spec in proofs] == ["kvm"]


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("{"), lambda path: path.unlink()], ids=["damaged", "gone"])
def test_a_lost_answer_is_found_again(device: Path, proofs: list[VmSpec], spoil: Callable[[Path], object], tmp_path: Path) -> None:
    pick("auto", HOST, device)
    (known,) = (tmp_path / "cache" / "accel").glob("*.json")
    spoil(known)
    assert pick("auto", HOST, device).name == "kvm"
    assert len(proofs) == 2


def test_another_boot_of_the_host_asks_again(
    device: Path, proofs: list[VmSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick("auto", HOST, device)
    monkeypatch.setattr(accel, "_host_key", lambda arch: f"{arch}-another")
    pick("auto", HOST, device)
    assert len(proofs) == 2
    assert [path.name for path in (tmp_path / "cache" / "accel").glob("*.json")] == [f"{HOST}-another.json"]


def test_a_kernel_that_stays_silent_under_kvm(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*args: object, **options: object) -> None:  # noqa: ARG001
        raise GuestTimeout("no answer to boot in 5 s; the console is empty")

    monkeypatch.setattr(accel, "boot", silent)
    answer = pick("auto", HOST, device)
    assert answer.name == "tcg"
    assert "the console is empty" in answer.why
    monkeypatch.setattr(accel, "boot", lambda *args, **options: pytest.fail("it was to remember"))  # noqa: ARG005
    assert pick("auto", HOST, device) == answer


def test_explicit_requests(device: Path, tmp_path: Path, proofs: list[VmSpec]) -> None:
    assert pick("tcg", HOST, device) == Accel("tcg", "as asked")
    assert pick("kvm", HOST, device) == Accel("kvm", "as asked")
    with pytest.raises(InputError, match=FOREIGN):
        pick("kvm", FOREIGN, device)
    with pytest.raises(InfraError, match="there is no"):
        pick("kvm", HOST, tmp_path / "none")
    with pytest.raises(InputError, match="xen"):
        pick("xen", HOST, device)
    assert not proofs


def test_auto_settles_on_this_very_host(native_spec: VmSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever /dev/kvm is worth here: an answer comes, and machines of that kind boot (test_machine boots them by TCG).
    answer = choose("auto", native_spec.kernel, native_spec.image)
    assert answer.why
    monkeypatch.setattr(accel, "boot", lambda *args, **options: pytest.fail("it was to remember"))  # noqa: ARG005
    assert choose("auto", native_spec.kernel, native_spec.image) == answer


@pytest.mark.parametrize(
    "why", ["there is no /dev/kvm", "/dev/kvm cannot be opened: Permission denied", "KVM runs no guests on this host"]
)
def test_doctor_says_what_to_do_without_kvm(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "known", lambda _arch: Accel("tcg", why))
    found = next(finding for finding in doctor.examine() if finding.what == "acceleration")
    assert found.level == "note"
    assert ("usermod -aG kvm" in found.fix) is ("Permission" in why)
    assert found.fix
