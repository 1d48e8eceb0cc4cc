"""`kmatrix …` as a person and a script use it, on real guests."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import termios
import time
from pathlib import Path

import pytest

from conftest import KMATRIX, Shell
from tests.cells import broken

pytestmark = pytest.mark.usefixtures("both_of_6_1")


@pytest.fixture
def kmatrix(tmp_path: Path):  # type: ignore[no-untyped-def]
    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*KMATRIX, *arguments], cwd=tmp_path, input=stdin, capture_output=True, timeout=600, check=False)

    return run


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_exec_passes_streams_and_status_through(kmatrix, arch: str) -> None:  # type: ignore[no-untyped-def]
    done = kmatrix("exec", f"6.1-{arch}", "--", "sh", "-c", "cat; uname -m >&2; exit 7", stdin=b"a\0\xff")
    assert done.stdout == b"a\0\xff"
    assert done.stderr.strip().splitlines()[-1] == {"x86_64": b"x86_64", "arm64": b"aarch64"}[arch]
    assert done.returncode == 7


def test_exec_says_how_it_ended(kmatrix) -> None:  # type: ignore[no-untyped-def]
    assert kmatrix("exec", "6.1-x86_64", "--", "sh", "-c", "kill -9 $$").returncode == 137
    late = kmatrix("exec", "6.1-x86_64", "--timeout", "1", "--", "sleep", "60")
    assert late.returncode == 124
    assert b"longer than 1 s" in late.stderr


def test_shell_over_ssh_runs_a_script_and_passes_its_status(kmatrix, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    broken.write(tmp_path, "sound")
    done = kmatrix(
        "shell", "6.1", "--arch", "x86_64", "--collector", "sound", stdin=b"pwd; ls; bpftool version | head -1; exit 5\n"
    )
    lines = done.stdout.decode().split()
    assert lines[0] == "/root/sound"
    assert {"ring_x86_bpfel.o", "perf_x86_bpfel.o", "collector.toml", "bpftool"} <= set(lines)
    assert done.returncode == 5


@pytest.mark.parametrize("how", [[], ["--console"]])
def test_a_shell_on_a_terminal_has_its_size_and_takes_ctrl_c(how: list[str], tmp_path: Path) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (33, 111))
    environment = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")}
    process = subprocess.Popen(
        [*KMATRIX, "shell", "6.1-x86_64", *how], cwd=tmp_path, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    try:
        _expect(master, r"kmatrix.*# ")
        os.write(master, b"stty size; sh -c 'echo started; exec sleep 300'\r")  # who says so has the terminal
        said = _expect(master, r"\nstarted")
        assert "33 111" in said
        os.write(master, b"\x03")
        _expect(master, r"# ")
        os.write(master, b"exit 9\r")
        assert process.wait(60) == 9
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _expect(master: int, pattern: str, seconds: float = 120) -> str:
    """What the terminal shows until `pattern` is on it."""
    said, end = "", time.monotonic() + seconds
    while not re.search(pattern, said):
        ready, _, _ = select.select([master], [], [], max(0, end - time.monotonic()))
        assert ready, f"{pattern!r} did not come; the terminal shows: {said!r}"
        said += os.read(master, 4096).decode(errors="replace")
    return said


def test_a_kernel_alone_means_the_hosts_arch(kmatrix) -> None:  # type: ignore[no-untyped-def]
    assert kmatrix("exec", "6.1", "--", "uname", "-m").stdout.decode().strip() == os.uname().machine
    done = kmatrix("features", "6.1", "--arch", "arm64", "--json")
    assert json.loads(done.stdout)["mismatches"] == []


def test_errors_are_json_too_where_json_was_asked_for(kmatrix) -> None:  # type: ignore[no-untyped-def]
    done = kmatrix("run", "nowhere.o", "--json")
    assert json.loads(done.stdout) == {
        "error": {"message": "No such file or directory", "where": "nowhere.o", "fix": "compile it, or correct the path"}
    }
    assert done.returncode == 2
    assert b"kmatrix: nowhere.o: No such file" in done.stderr
    assert json.loads(kmatrix("frobnicate", "--json").stdout)["error"]["message"].startswith("there is no verb 'frobnicate'")
    assert kmatrix("run", "nowhere.o").stdout == b""
    assert b"{" not in kmatrix("exec", "6.2-arm64", "--", "x", "--json").stdout


@pytest.mark.parametrize(
    ("arguments", "says", "status"),
    [
        (["exec", "6.2-arm64", "--", "true"], "unknown kernel '6.2'; did you mean", 2),
        (["shell", "6.1", "--arch", "mips"], "unknown arch 'mips'", 2),
        (["shell", "6.1-arm64", "--collector", "nothing"], "no collector 'nothing'", 2),
        (["run", "nowhere.o"], "nowhere.o: No such file", 2),
        (["run", "/bin/true"], "not a BPF object", 2),
        (["run", "--kernels=5.5", "nowhere.o"], "nowhere.o", 2),
        (["features", "6.1-x87"], "unknown arch 'x87'", 2),
        (["frobnicate"], "there is no verb 'frobnicate'", 2),
        (["kernel"], "there is no verb 'kernel'; did you mean kernels?", 2),
    ],
)
def test_wrong_input_is_one_error_and_status_2(kmatrix, arguments: list[str], says: str, status: int) -> None:  # type: ignore[no-untyped-def]
    done = kmatrix(*arguments)
    assert says in done.stderr.decode()
    assert done.returncode == status
    assert b"Traceback" not in done.stderr


def test_run_needs_no_manifest(kmatrix, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    broken.compile_object(tmp_path / "good.bpf.o", "x86", "USE_RINGBUF")
    done = kmatrix("run", "good.bpf.o", "--kernels=6.1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().count("attached") == 2

    broken.compile_object(tmp_path / "bad.bpf.o", "arm64", "USE_RINGBUF", "BREAK_LOAD_ON_ARM64")
    done = kmatrix("run", "bad.bpf.o", "--kernels=6.1")
    said = done.stdout.decode()
    assert done.returncode == 1
    assert "✗ load" in said
    assert "enter on 6.1-x86_64, 6.1-arm64" in said
    assert "invalid mem access 'scalar'" in said

    many = kmatrix("run", "good.bpf.o", "bad.bpf.o", "--kernels=6.1")
    shown = many.stdout.decode()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if ".bpf.o " in line and "│" in line]
    assert many.returncode == 1
    assert rows == [["good.bpf.o", "1/1", "1/1"], ["bad.bpf.o", "✗ 0/1", "✗ 0/1"]]
    assert re.search(r"^a number is used as a pointer.*\n    bad\.bpf\.o: enter on 6\.1-x86_64, 6\.1-arm64\n", shown, re.M)

    as_json = json.loads(kmatrix("run", "bad.bpf.o", "--kernels=6.1", "--arch=arm64", "--json").stdout)
    assert as_json["targets"][0]["target"] == "6.1-arm64"
    assert as_json["targets"][0]["programs"]["enter"]["loaded"] is False


def test_run_on_one_arch_only_for_an_object_of_that_arch(kmatrix, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    broken.compile_object(tmp_path / "tiny_arm64_bpfel.o", "arm64")
    said = kmatrix("run", "tiny_arm64_bpfel.o", "--kernels=6.1").stdout.decode()
    assert "arm64" in said
    why = "it was compiled for arm64 (its name says so); compile it with -D__TARGET_ARCH_x86 for x86_64"
    assert f"tiny_arm64_bpfel.o: not tried on x86_64: {why}" in said
    assert "6.1-x86_64" not in said
    assert json.loads(kmatrix("run", "tiny_arm64_bpfel.o", "--kernels=6.1", "--json").stdout)["left_out"] == {"x86_64": why}


@pytest.mark.parametrize("target", ["6.1-x86_64", "6.1-arm64"])
def test_declared_and_probed_features_agree_on_what_ships(kmatrix, target: str) -> None:  # type: ignore[no-untyped-def]
    done = kmatrix("features", target, "--json")
    assert json.loads(done.stdout)["mismatches"] == []
    assert done.returncode == 0


def test_doctor_says_what_is_missing_and_how_to_mend_it(kmatrix, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert kmatrix("doctor").returncode == 0
    # A PATH with everything but one emulator.
    for folder in ("/usr/bin", "/usr/sbin"):
        for tool in ("qemu-system-x86_64", "setpriv", "mmdebstrap", "mke2fs", "gpgv", "depmod", "newuidmap", "unshare"):
            if (found := shutil.which(tool, path=folder)) is not None and not (tmp_path / tool).exists():
                (tmp_path / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = kmatrix("doctor")
    assert "apt-get install --no-install-recommends qemu-system-arm" in " ".join(done.stdout.decode().split())
    # Nor the host's own, by which it is known whether KVM works: the table is shown all the same.
    (tmp_path / "qemu-system-x86_64").unlink()
    said = " ".join(kmatrix("doctor").stdout.decode().split())
    assert "apt-get install --no-install-recommends qemu-system-x86" in said
    assert "acceleration" in said


def test_without_qemu_a_cell_is_an_error_that_says_what_to_install(run_in: Shell, tmp_path: Path) -> None:
    broken.write(tmp_path, "sound")
    (tmp_path / "bin").mkdir()
    done = run_in("pytest", "--kernels=6.1", "--arch=arm64", env={"PATH": str(tmp_path / "bin")})
    assert "qemu-system-aarch64 is not installed" in done.stdout
    assert "apt-get install qemu-system-arm" in done.stdout
    assert "1 error" in done.stdout.splitlines()[-1]
