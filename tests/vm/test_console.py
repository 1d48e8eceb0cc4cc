"""Kernel trouble is found in consoles of real kernels, 4.14 to 6.1, x86_64 and arm64, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmatrix.vm.console import EXCERPT_LINES, ConsoleLog, Splat, boot_warnings, splats, tail, worst

CONSOLES = Path(__file__).parent / "consoles"

# What a module did on purpose in a booted guest, and what has to be found: kinds in order, and a word of the first one's title.
EXPECTED = {
    "4.14-x86_64-bug": (["bug"], "Kernel BUG at"),
    "4.14-x86_64-null": (["oops"], "unable to handle kernel NULL pointer"),
    "4.14-x86_64-wild": (["oops"], "general protection fault"),
    "4.14-x86_64-warn": (["warning"], "WARNING: CPU: 0"),
    "4.14-x86_64-stack": (["oops"], "double fault"),
    "4.14-x86_64-panic": (["panic"], "on purpose"),
    "4.14-arm64-bug": (["oops"], "Internal error"),
    "4.14-arm64-null": (["oops"], "Unable to handle kernel NULL pointer"),
    "4.14-arm64-warn": (["warning"], "WARNING: CPU: 0"),
    "5.4-x86_64-null": (["oops"], "BUG: kernel NULL pointer dereference"),
    "5.4-x86_64-warn": (["warning"], "WARNING: CPU: 0"),
    "5.4-arm64-bug": (["bug", "warning"], "Kernel BUG at"),
    "5.4-arm64-null": (["oops"], "Unable to handle kernel NULL pointer"),
    "5.4-arm64-panic": (["panic"], "on purpose"),
    "5.4-arm64-warn": (["warning"], "WARNING: CPU: 0"),
    "6.1-x86_64-atomic": (["bug", "warning"], "scheduling while atomic"),
    "6.1-x86_64-hung": (["hung-task", "hung-task"], "task hung:120 blocked"),
    "6.1-x86_64-list": (["bug"], "kernel BUG at lib/list_debug.c"),
    "6.1-x86_64-lockup": (["lockup"], "soft lockup - CPU#0 stuck"),
    "6.1-x86_64-null": (["oops"], "BUG: kernel NULL pointer dereference"),
    "6.1-x86_64-panic": (["panic"], "on purpose"),
    "6.1-x86_64-stack": (["oops", "panic"], "stack guard page was hit"),
    "6.1-x86_64-stall": (["rcu-stall", "hung-task"], "detected stalls on CPUs"),
    "6.1-x86_64-warnmsg": (["warning"], "WARNING: CPU: 0"),
    "6.1-x86_64-wild": (["oops"], "general protection fault, probably for non-canonical"),
}


def found(name: str) -> tuple[Splat, ...]:
    return splats((CONSOLES / f"{name}.log").read_text(encoding="utf-8"))


def test_every_console_has_an_expectation() -> None:
    assert {path.stem for path in CONSOLES.glob("*.log")} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_real_splats(name: str) -> None:
    kinds, word = EXPECTED[name]
    result = found(name)
    assert [splat.kind for splat in result] == kinds
    assert word in result[0].title
    lines = (CONSOLES / f"{name}.log").read_text(encoding="utf-8").splitlines()
    for splat in result:
        assert lines[splat.line - 1].endswith(splat.title)
        assert splat.time is not None
        assert f"{splat.time:.6f}]" in lines[splat.line - 1]
        assert 1 <= len(splat.excerpt) <= EXCERPT_LINES + 4


def test_the_excerpt_is_the_whole_splat() -> None:
    (warning,) = found("6.1-x86_64-warnmsg")
    assert "[ cut here ]" in warning.excerpt[0]
    assert "the answer is 42" in warning.excerpt[1]
    assert "---[ end trace" in warning.excerpt[-1]
    assert any("splat_init" in line for line in warning.excerpt)


def test_splats_do_not_run_into_each_other() -> None:
    first, second = found("6.1-x86_64-hung")
    assert "more than 3 seconds" in first.text
    assert "more than 6 seconds" not in first.text
    assert "more than 6 seconds" in second.text


def test_the_cause_is_named_before_its_consequence() -> None:
    splat = worst(found("6.1-x86_64-stack"))
    assert splat is not None
    assert splat.kind == "oops"


def test_a_grave_splat_is_named_before_a_warning() -> None:
    text = "[    1.000000] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n[    9.000000] Kernel panic - not syncing: x\n"
    splat = worst(splats(text))
    assert splat is not None
    assert splat.kind == "panic"


@pytest.mark.parametrize(
    "line",
    [
        "[    0.753272] pci-host-generic 4010000000.pcie: Memory resource size exceeds max for 32 bits",
        "[   22.162850] CE: hpet increased min_delta_ns to 5000 nsec",
        "[   19.860228] reboot: Power down",
        "[    1.200000] splat: loading out-of-tree module taints kernel.",
        "[    1.200000] unable to debug: BUGS=0",
        "[    2.000000] ** trace_printk() being used. Allocating extra memory.  **",
    ],
)
def test_ordinary_kernel_lines_are_none(line: str) -> None:
    assert splats(line) == ()


@pytest.mark.parametrize(
    "line",
    [
        "Kernel panic - not syncing: said a program on the console",
        "WARNING: CPU: 0 PID: 119 at x.c:1 f+0x1/0x2",
        "kmatrix-init: the agent was killed by signal 9",
    ],
)
def test_a_program_cannot_say_it(line: str) -> None:
    assert splats(line) == ()


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("[    1.000000][  T112] BUG: KASAN: slab-out-of-bounds in f+0x1/0x2", "bug"),
        ("[    1.000000] Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP", "oops"),
        ("[    1.000000] NMI watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [x:1]", "lockup"),
        ("[    1.000000] INFO: rcu_sched self-detected stall on CPU", "rcu-stall"),
        ("[    1.000000] INFO: rcu_sched detected stalls on CPUs/tasks:", "rcu-stall"),
        ("[    1.000000] rcu: rcu_preempt kthread starved for 5250 jiffies!", "rcu-stall"),
        ("[    1.000000] WARNING: possible circular locking dependency detected", "warning"),
        ("[    1.000000] WARNING: kernel/bpf/core.c:12 at f+0x1/0x2, CPU#0: insmod/119", "warning"),
        ("[    1.000000] Internal error: Oops: 0000000096000004 [#1] SMP", "oops"),
        ("half a line of a program[    1.000000] Kernel panic - not syncing: Attempted to kill init!", "panic"),
    ],
)
def test_other_wordings(line: str, kind: str) -> None:
    assert [splat.kind for splat in splats(line)] == [kind]


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    for splat in splats(text):
        assert splat.excerpt


@given(
    st.lists(
        st.sampled_from(["[    1.000000] BUG: x", "[    1.000000] ok", "x", "[    3.000000] ------------[ cut here ]------------"])
    )
)
def test_excerpts_are_in_order_and_apart(lines: list[str]) -> None:
    result = splats("\n".join(lines))
    assert [splat.line for splat in result] == sorted({splat.line for splat in result})
    assert sum(len(splat.excerpt) for splat in result) <= len(lines)


def test_tail_is_the_last_lines_that_say_something() -> None:
    assert tail("a\n\nb  \n\n\nc\n", 2) == "b\nc"


def test_the_log_is_read_as_it_grows(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "new" / "console.log")
    assert not log.read()
    with log.path.open("ab", buffering=0) as writer:
        writer.write("one\r\ntwo é".encode()[:-1])
        assert log.read()
        assert log.text == "one\ntwo "
        writer.write("é".encode()[1:] + b"\xff\n")
        assert log.read()
    assert not log.read()
    assert log.text == "one\ntwo é\ufffd\n"
    log.close()
    assert not log.read()


def test_growth_wakes_a_poll(tmp_path: Path) -> None:
    import select

    log = ConsoleLog(tmp_path / "console.log")
    assert log.fileno() is not None
    poll = select.poll()
    poll.register(log.fileno() or -1, select.POLLIN)
    assert not poll.poll(0)
    log.path.write_bytes(b"x")
    assert poll.poll(0)
    log.read()
    assert not poll.poll(0)
    log.close()


def test_of_a_boot_what_matters_to_bpf_is_a_warning() -> None:
    """Lines of 7.3 and 5.10 under lockdown; of the machine's own clocks and buses nothing is said."""
    text = (
        "[    0.102341] tsc: Unable to calibrate against PIT\n"
        "[    0.401772] NOTICE: Automounting of tracing to debugfs is deprecated and will be removed in 2030\n"
        "[    0.411772] Tracing disabled due to lockdown\n"
        "[    0.411790] Tracing disabled due to lockdown\n"
        "a program says bpf\n"
    )
    assert boot_warnings(text) == (
        "NOTICE: Automounting of tracing to debugfs is deprecated and will be removed in 2030",
        "Tracing disabled due to lockdown",
    )


def test_trouble_of_a_boot_is_one_warning_a_splat() -> None:
    for path in (Path(__file__).parent / "consoles").iterdir():
        text = path.read_text()
        assert len([each for each in boot_warnings(text) if each.partition(":")[0] in {s.kind for s in splats(text)}]) <= len(
            splats(text)
        )
        assert boot_warnings(text)[: 1 if splats(text) else 0] == tuple(f"{s.kind}: {s.title}" for s in splats(text)[:1])
