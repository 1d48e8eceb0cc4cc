"""`kmatrix exec` as a person, `go test -exec` and other test runners use it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from conftest import KMATRIX, need_programs
from kmatrix.cli.execute import execute
from kmatrix.matrix.arch import ARCHES, INFO, Arch, host_arch
from tests.vm.test_process import gone

pytestmark = pytest.mark.usefixtures("both_of_6_1")

CLI = (*KMATRIX, "exec")
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char line[64] = "", folder[512];
    FILE *file = fopen("beside.txt", "r");
    if (file) fgets(line, sizeof line, file);
    printf("%s in %s read %s", argv[0], getcwd(folder, sizeof folder), line);
    fflush(stdout);
    if (argc > 2) *(volatile int *)0 = 1;
    return atoi(argv[1]);
}
"""


@pytest.fixture
def kmatrix(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    def run(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
        environment = os.environ | (env or {})
        return subprocess.run(
            [*CLI, *arguments], cwd=tmp_path, input=stdin, env=environment, capture_output=True, timeout=600, check=False
        )

    return run


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., str]:
    def build(arch: Arch, *flags: str) -> str:
        compiler = "gcc" if arch == host_arch() else f"{INFO[arch].machine}-linux-gnu-gcc"
        need_programs(compiler)
        subprocess.run([compiler, "-x", "c", "-", "-o", tmp_path / "prog", *flags], input=PROGRAM, text=True, check=True)
        return "./prog"

    return build


Kmatrix = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.mark.parametrize("arch", ARCHES)
def test_a_program_of_the_host_runs_with_its_files(
    kmatrix: Kmatrix, compiled: Callable[..., str], arch: Arch, tmp_path: Path
) -> None:
    (tmp_path / "beside.txt").write_text("the file\n")
    done = kmatrix("--file", "beside.txt", f"6.1-{arch}", compiled(arch), "3")
    assert done.stdout.decode() == f"./prog in {tmp_path} read the file\n"
    assert done.returncode == 3


def test_a_crash_leaves_its_core_dump(kmatrix: Kmatrix, compiled: Callable[..., str], tmp_path: Path) -> None:
    done = kmatrix("--cores", "cores", "6.1-x86_64", "--", compiled("x86_64", "-static"), "0", "crash")
    assert done.returncode == 139
    (core,) = (tmp_path / "cores").iterdir()
    assert f"core dump: cores/{core.name}".encode() in done.stderr
    with core.open("rb") as file:
        assert ELFFile(file)["e_type"] == "ET_CORE"


def test_a_panic_is_told_with_the_console(kmatrix: Kmatrix) -> None:
    done = kmatrix("6.1-arm64", "sh", "-c", "echo before; echo c > /proc/sysrq-trigger; sleep 30")
    assert done.returncode == 125
    assert done.stdout == b"before\n"
    assert b"the kernel died (class kernel): Kernel panic - not syncing: sysrq triggered crash" in done.stderr
    assert b"Call trace:" in done.stderr


@pytest.mark.parametrize(("number", "script", "status"), [(signal.SIGINT, "trap 'exit 9' INT", 9), (signal.SIGTERM, ":", 143)])
def test_a_signal_to_kmatrix_is_one_to_the_program(number: int, script: str, status: int, tmp_path: Path) -> None:
    argv = [*CLI, "6.1-x86_64", "sh", "-c", f"{script}; echo up; while :; do sleep 0.1; done"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert children, "QEMU"
        process.send_signal(number)
        assert process.wait(60) == status
    assert all(gone(pid) for pid in children)


def test_what_is_wrong_with_a_command_is_one_error(kmatrix: Kmatrix, compiled: Callable[..., str]) -> None:
    prog = compiled("arm64")
    done = kmatrix("6.1-x86_64", prog)
    assert done.returncode == 2
    assert b"prog: it is a program for AArch64: a guest of x86_64 cannot run it\n  fix: build it for x86_64" in done.stderr
    missing = kmatrix("6.1-x86_64", "--", "nosuch", "--help")
    assert missing.returncode == 127
    assert b"kmatrix: nosuch: the guest has no such command" in missing.stderr
    assert b"Traceback" not in missing.stderr


def test_a_full_disk_and_full_memory_are_told(kmatrix: Kmatrix) -> None:
    full = kmatrix("6.1-x86_64", "--", "sh", "-c", "cat /dev/zero > /tmp/x")
    assert full.returncode == 1
    assert b"/tmp in the guest was full (half of its memory); --memory gives it more" in full.stderr
    killed = kmatrix(
        "6.1-x86_64", "--", "python3", "-c", "x = [b'x' * (i + (1 << 20)) for i in range(1000)]"
    )  # 1 GiB at once is refused
    assert killed.returncode == 137
    assert b"the guest's memory was full, and its kernel killed python3" in killed.stderr


def test_the_machine_is_as_asked_for(kmatrix: Kmatrix, tmp_path: Path) -> None:
    (tmp_path / "beside.txt").write_text("given\n")
    script = (
        "nproc; grep -o kmatrix.test=1 /proc/cmdline; cat /proc/sys/kernel/pid_max; echo $WORD; cat /usr/bin/given; ip -br link show kmatrix0;"
        "ip -n kmatrix -br addr show kmatrix1; findmnt 2>/dev/null; mount | grep -E ' (bpf|tracefs|debugfs|cgroup2) ' | wc -l; df -m /tmp;"
        "cat /proc/sys/kernel/bpf_stats_enabled; echo '<0>words of the kernel' > /dev/kmsg; echo x > $GOCOVERDIR/out; touch prof/1.raw prof/other; modprobe dummy"
    )
    options = [
        "--cpus",
        "2",
        "--memory",
        "320",
        "--cmdline",
        "kmatrix.test=1",
        "--sysctl",
        "kernel.pid_max=5000",
        "--env",
        "WORD=said",
    ]
    more = ["--file", "beside.txt:/usr/bin/given", "--console"]
    done = kmatrix(*options, *more, "6.1-x86_64", "sh", "-c", script, env={"GOCOVERDIR": "cov", "LLVM_PROFILE_FILE": "prof/%p.raw"})
    lines = done.stdout.decode().splitlines()
    assert lines[:5] == ["2", "kmatrix.test=1", "5000", "said", "given"]
    assert lines[5].startswith("kmatrix0@")
    assert "192.0.2.2/24" in lines[6]
    assert int(lines[7]) >= 4
    assert 120 < int(lines[9].split()[1]) < 161, "half of the memory"
    assert lines[10] == "0", "kmatrix counts runs for its own cells alone"
    assert b"words of the kernel" in done.stderr
    assert done.returncode == 0
    assert (tmp_path / "cov" / "out").read_text() == "x\n"
    assert [path.name for path in (tmp_path / "prof").iterdir()] == ["1.raw"]


def test_it_waits_for_gdb(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [*CLI, "6.1-x86_64", "--gdb", str(port), "echo", "went on"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while f"target remote 127.0.0.1:{port}".encode() not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(1)
        with socket.create_connection(("127.0.0.1", port)) as gdb:
            gdb.sendall(b"+$c#63")  # gdb's remote protocol: continue
            assert process.stdout.read() == b"went on\n"
        assert process.wait(60) == 0


GO_TEST = """package demo

import (
	"os"
	"testing"
)

func TestData(t *testing.T) {
	data, err := os.ReadFile("testdata/word")
	if err != nil || string(data) != "here" || Double(2) != 4 {
		t.Fatal(err, data)
	}
	if name, _ := os.Hostname(); name != "kmatrix" {
		t.Fatal("this is no guest: ", name)
	}
}

func TestRed(t *testing.T) {
	if os.Getenv("RED") != "" {
		t.Fatal("asked for")
	}
}
"""


def test_go_test_runs_its_tests_in_the_guest(tmp_path: Path) -> None:
    need_programs("go", apt="golang-go")
    (tmp_path / "go.mod").write_text("module example.com/demo\n\ngo 1.19\n")
    (tmp_path / "demo.go").write_text("package demo\n\nfunc Double(n int) int { return 2 * n }\n")
    (tmp_path / "demo_test.go").write_text(GO_TEST)
    (tmp_path / "testdata").mkdir()
    (tmp_path / "testdata" / "word").write_text("here")

    def go_test(options: str, *flags: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "launch"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from kmatrix.cli import main; main()" exec {options} "$@"\n')
        script.chmod(0o755)
        env = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "RED": "1"}
        argv = ["go", "test", "-exec", str(script), *flags, "./..."]
        return subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False)

    green = go_test("6.1", "-v", "-coverprofile=c.out")
    assert green.returncode == 0, green.stdout + green.stderr
    assert "--- PASS: TestData" in green.stdout
    assert "coverage: 100.0% of statements" in green.stdout
    assert "demo.go:3" in (tmp_path / "c.out").read_text()
    red = go_test("--env RED 6.1")
    assert red.returncode == 1
    assert "--- FAIL: TestRed" in red.stdout


def test_cargo_and_ctest_run_their_tests_in_the_guest(tmp_path: Path) -> None:
    need_programs("cargo", "cmake", "gcc")
    launch = tmp_path / "launch"
    launch.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from kmatrix.cli import main; main()" exec 6.1-x86_64 "$@"\n')
    launch.chmod(0o755)
    (tmp_path / "src").mkdir()
    (tmp_path / "Cargo.toml").write_text('[package]\nname = "demo"\nversion = "0.1.0"\nedition = "2021"\n')
    (tmp_path / "src" / "lib.rs").write_text(
        '#[test] fn guest() { assert_eq!(std::fs::read_to_string("/etc/hostname").unwrap().trim(), "kmatrix"); }\n#[test] fn red() { panic!("asked for"); }\n'
    )
    env = os.environ | {"CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER": str(launch)}
    argv = ["cargo", "test", "--offline", "--lib", "--target", "x86_64-unknown-linux-gnu"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert "test guest ... ok" in done.stdout, done.stderr
    assert "test red ... FAILED" in done.stdout
    (tmp_path / "prog.c").write_text(PROGRAM)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(demo C)\nenable_testing()\nadd_executable(prog prog.c)\n"
        f"set_property(TARGET prog PROPERTY CROSSCOMPILING_EMULATOR {launch})\n"
        "add_test(NAME green COMMAND prog 0)\nadd_test(NAME red COMMAND prog 1)\n"
    )
    for step in (["cmake", "-S", ".", "-B", "build"], ["cmake", "--build", "build"]):
        subprocess.run(step, cwd=tmp_path, capture_output=True, check=True)
    done = subprocess.run(["ctest"], cwd=tmp_path / "build", capture_output=True, text=True, timeout=600, check=False)
    assert "Test #1: green ............................   Passed" in done.stdout
    assert "Test #2: red ..............................***Failed" in done.stdout


@pytest.mark.parametrize(
    ("words", "timeout", "argv"),
    [
        (["6.1", "--timeout", "3", "--", "./p", "--timeout", "4"], 3.0, ("./p", "--timeout", "4")),
        (["--timeout=3", "6.1", "./p", "--timeout", "4", "--", "x"], 3.0, ("./p", "--timeout", "4", "--", "x")),
        (["6.1", "--console", "--timeout", "3", "p", "-v"], 3.0, ("p", "-v")),
        (["6.1", "./p", "-h"], 600.0, ("./p", "-h")),
    ],
)
def test_what_follows_the_command_is_the_commands(words: Sequence[str], timeout: float, argv: tuple[str, ...]) -> None:
    context = execute.make_context("exec", list(words))
    assert (context.params["target"], context.params["timeout"], context.params["argv"]) == ("6.1", timeout, argv)
