"""`kmatrix kernels adopt`: a machine's kernel, over SSH from a server on the loopback, and from this machine's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import paramiko
import pytest
from click.testing import CliRunner, Result

from kmatrix.cli import adopt as verb
from kmatrix.cli import cli
from kmatrix.host.errors import InfraError, InputError
from kmatrix.kernels import adopt
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.load import load_matrix

from .fabricate import bzimage, module
from .ssh_server import Host, ssh_host, write_key

RELEASE = "6.1.0-9-amd64"
CONFIG = 'CONFIG_KPROBES=y\nCONFIG_BPF_LSM=y\nCONFIG_LSM="lockdown,yama"\nCONFIG_DEBUG_INFO_BTF=y\n# CONFIG_FPROBE is not set\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine: of its modules a guest needs overlay, which needs another that it would not by itself."""
    tree = f"lib/modules/{RELEASE}"
    files = {
        f"boot/vmlinuz-{RELEASE}": bzimage(RELEASE),
        "boot/vmlinuz-6.1.0-8-amd64": b"an older one",
        f"boot/config-{RELEASE}": CONFIG.encode(),
        f"{tree}/kernel/fs/overlayfs/overlay.ko": module("overlay", "nouveau"),
        f"{tree}/kernel/drivers/gpu/nouveau.ko": module("nouveau"),
        f"{tree}/kernel/drivers/gpu/amdgpu.ko": module("amdgpu"),
        f"{tree}/modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
        "etc/hostname": b"web 1\n",
        "etc/os-release": b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "proc/cmdline": b"BOOT_IMAGE=/boot/vmlinuz quiet lockdown=integrity\n",
    }
    for path, data in files.items():
        (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / path).write_bytes(data)
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store, a home without keys and known hosts, and a folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr(verb, "KernelStore", lambda: KernelStore(tmp_path / "store"))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["kernels", "adopt", *map(str, arguments)])


def over_ssh(host: Host, tmp_path: Path, *more: str) -> Result:
    identity = tmp_path / "id"
    if not identity.exists():
        write_key(host.user_key, identity)
    return call(f"ssh://root@127.0.0.1:{host.port}", "--identity", identity, *more)


def test_over_ssh(root: Path, tmp_path: Path) -> None:
    """Image, configuration, and the modules that a guest needs; the image may need sudo."""
    with ssh_host(root, RELEASE, private=f"boot/vmlinuz-{RELEASE}") as host:
        done = over_ssh(host, tmp_path, "--host-key", adopt.fingerprint(host.key), "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    said: dict[str, Any] = json.loads(done.stdout)
    assert (said["kernel"], said["arch"], said["release"]) == ("web-1", "x86_64", RELEASE)
    entry = KernelStore(tmp_path / "store").find("web-1", "x86_64")
    assert entry is not None and entry.modules is not None  # noqa: PT018
    assert {path.stem for path in entry.modules.rglob("*.ko")} == {"overlay", "nouveau"}
    assert not any("amdgpu" in path for path in host.read)
    assert not any("6.1.0-8" in path for path in host.read)
    assert f"sudo -n cat /boot/vmlinuz-{RELEASE}" in host.read
    kernel = load_matrix().kernels["web-1"]
    assert kernel.distribution == "Debian GNU/Linux 12 (bookworm)"
    assert kernel.cmdline == ("lockdown=integrity",)
    assert kernel.config["FPROBE"] is False
    assert "KPROBES" not in kernel.config
    assert kernel.has("lsm", "x86_64") is False


def test_a_host_key_is_never_accepted_silently(root: Path, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    with ssh_host(root, RELEASE) as host:
        name, found = f"[127.0.0.1]:{host.port}", adopt.fingerprint(host.key)
        refused = over_ssh(host, tmp_path).exception
        assert isinstance(refused, InputError)
        assert f"is not known: ecdsa-sha2-nistp256 {found}" in refused.message
        assert found in str(refused.fix)
        refused = over_ssh(host, tmp_path, "--host-key", "SHA256:another").exception
        assert isinstance(refused, InfraError)
        other = paramiko.ECDSAKey.generate()
        known.write_text(f"{name} {other.get_name()} {other.get_base64()}\n")
        refused = over_ssh(host, tmp_path, "--known-hosts", str(known)).exception
        assert isinstance(refused, InfraError)
        assert f"the host key is {found}, and known_hosts has {adopt.fingerprint(other)}" in refused.message
        assert host.read == []
        known.write_text(f"{name} {host.key.get_name()} {host.key.get_base64()}\n")
        assert over_ssh(host, tmp_path, "mine", "--known-hosts", str(known)).exit_code == 0
    assert KernelStore(tmp_path / "store").refs() == [("mine", "x86_64")]


def test_a_folder_that_may_not_be_read_is_no_lost_connection(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(paramiko.SFTPClient, "listdir_attr", refuse)
    with ssh_host(root, RELEASE) as host:
        refused = over_ssh(host, tmp_path, "--host-key", adopt.fingerprint(host.key)).exception
    assert isinstance(refused, InfraError)
    assert refused.message.startswith(f"/lib/modules/{RELEASE}")
    assert KernelStore(tmp_path / "store").refs() == []


def test_no_connection(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("no key")
    refused = call("ssh://root@127.0.0.1:1").exception
    assert isinstance(refused, InfraError)
    assert "no connection" in refused.message
    assert isinstance(call("ssh://a b").exception, InputError)
    missing = call("ssh://root@127.0.0.1:1", "--known-hosts", tmp_path / "none")
    assert (missing.exit_code, "does not exist" in missing.output) == (2, True)


def test_from_files(root: Path, tmp_path: Path) -> None:
    """Once more under the name only with --replace; another kernel's name is refused."""
    local = ("local", "--root", root, "--release", RELEASE)
    assert call(*local).exit_code == 0
    assert "has one already" in str(call(*local).exception)
    assert call(*local, "--replace").exit_code == 0
    assert Path("kernels.toml").read_text().count("[kernels.web-1]") == 1
    assert "is another kernel already" in str(call("local", "6.12", *local[1:]).exception)
    (root / f"boot/vmlinuz-{RELEASE}").unlink()
    assert "has no image of its kernel" in str(call("local", "other", *local[1:]).exception)
    assert KernelStore(tmp_path / "store").refs() == [("web-1", "x86_64")]
    assert "other" not in Path("kernels.toml").read_text()
