"""Kernels under circumstances, booted: each is as its name says, and the guest's probe finds the features that are declared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from tests.guest.conftest import Guest

CLI = ["-c", "import sys; sys.argv[0] = 'kmatrix'; from kmatrix.cli import main; main()"]


@pytest.mark.parametrize(
    ("target", "script", "said"),
    [
        ("6.1+lockdown-x86_64", "mount -t securityfs none /mnt; cat /mnt/lockdown", "none integrity [confidentiality]"),
        ("6.12+lockdown-arm64", "mount -t securityfs none /mnt; cat /mnt/lockdown", "none integrity [confidentiality]"),
        ("6.1+nolsm-x86_64", "mount -t securityfs none /mnt; cat /mnt/lsm", "lockdown,capability,yama"),
        ("6.1+cgroup1-arm64", "grep -c 'cgroup2' /proc/mounts || true", "0"),
        ("6.12+harden+cpus=2+mem=512M-x86_64", "cat /proc/sys/net/core/bpf_jit_harden; nproc", "2\n2"),
    ],
)
def test_the_guest_is_as_the_name_says(boot: Callable[[str], Guest], target: str, script: str, said: str) -> None:
    guest = boot(target)
    done = guest.vm.run(["sh", "-c", script], timeout=30)
    assert done.stdout.decode().strip() == said, done.stderr
    differing = {
        name: (guest.target.has(name), found, guest.probe["why"].get(name))
        for name, found in guest.probe["features"].items()
        if found is not None and found is not guest.target.has(name)
    }
    assert differing == {}


def test_lockdown_takes_a_helper_away_and_the_cause_is_told(
    compiled: Callable[[str, Target], bytes], need: Callable[[str], None], tmp_path: Path
) -> None:
    need("6.1-x86_64")
    (tmp_path / "reads.bpf.o").write_bytes(compiled("reads", load_matrix().target("6.1-x86_64")))
    done = subprocess.run(
        [sys.executable, *CLI, "run", "reads.bpf.o", "--kernels=6.1,6.1+lockdown", "--arch=x86_64", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    plain, locked = (each["programs"]["by_address"] for each in json.loads(done.stdout)["targets"])
    assert (plain["loaded"], plain["attached"]) == (True, True)
    assert locked["loaded"] is False
    assert locked["diagnosis"]["kind"] == "lockdown"
    assert "locked down" in locked["diagnosis"]["what"]
    assert "bpf_probe_read_kernel" in locked["diagnosis"]["where"]
