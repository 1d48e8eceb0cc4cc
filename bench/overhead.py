"""What CO-RE and the compatibility macros cost at run time: `python -m bench.overhead`; `make overhead` runs it.

Each collector's CO-RE variant against its twin (bench.twin), the same source compiled for the layout of that one kernel, both loaded on that
kernel and attached at once. Sizes are the kernel's (bpf_prog_info). Instructions a run are counted by QEMU (-icount: the guest's clock
moves by one nanosecond an instruction, and the kernel's own BPF statistics read it); nanoseconds are TCG's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from tabulate import tabulate

from bench import document, twin
from kmatrix.host import cache, paths
from kmatrix.host.errors import InfraError
from kmatrix.host.progress import Terminal
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.arch import ARCHES
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.objects import compiled
from kmatrix.objects.btf import Btf
from kmatrix.runs import request
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.verdict.expectation import expected
from kmatrix.vm import Machine, VmSpec, launch, virtme
from kmatrix.vm.channel import pack
from kmatrix.vm.errors import KernelDied

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "overhead.md"
BTF_SINCE = (5, 4)
"""The first series whose BTF is a file."""
BTF_FILE = "/sys/kernel/btf/vmlinux"
COUNTING = ("-icount", "shift=0,sleep=off")
"""One instruction, one nanosecond of the guest's time; no waiting for the host's clock to catch up."""
PATIENCE = 900.0
"""Seconds: counting takes its time, on a crowded host above all."""
FINE_CLOCK = ",cntfrq=1000000000"
"""arm64's generic timer at one tick a nanosecond; QEMU's default is 16."""


@dataclass(frozen=True)
class Account:
    """What the kernel says of one loaded program, and what its runs took."""

    instructions: int
    """After the verifier has removed what cannot be reached (`xlated`)."""
    jited: int
    """Bytes of machine code."""
    code: str
    """The instructions themselves, in hex, without the ids of maps."""
    time: float = 0.0
    """Of a run: nanoseconds of the guest's clock, on average over one pull of the trigger; that of the pull that was disturbed least."""

    @classmethod
    def of(cls, *raw: Mapping[str, Any]) -> Account:
        """From the guest's answers: before the first trigger, and after each."""
        spent = [
            (after["ns"] - before["ns"]) / (after["runs"] - before["runs"])
            for before, after in pairwise(raw)
            if after["runs"] > before["runs"]
        ]
        return cls(raw[-1]["xlated"] // 8, raw[-1]["jited"], raw[-1]["code"], min(spent, default=0.0))


@dataclass(frozen=True)
class Pair:
    """A program as CO-RE makes it, and its twin."""

    target: str
    collector: str
    variant: str
    program: str
    core: Account
    twin: Account
    core_ns: float
    """A run under TCG, in nanoseconds; 0 where it was not timed."""
    twin_ns: float
    relocations: int
    """CO-RE relocations in the program's section."""
    same_events: bool
    """Whether the two said the same of each event, byte for byte: else one of them reads the wrong place."""


def ask(vm: Machine, request: Mapping[str, Any]) -> Any:
    """Have the guest do what in_guest.py can; raises RuntimeError in the guest's words where it could not."""
    vm.put("/run/in_guest.py", (HERE / "in_guest.py").read_bytes(), timeout=PATIENCE)
    vm.put("/run/request.json", json.dumps(request).encode(), timeout=PATIENCE)
    done = vm.run(["python3", "/run/in_guest.py", "/run/request.json"], timeout=PATIENCE)
    if done.timed_out:
        raise RuntimeError(f"the guest did not come to an end within {PATIENCE:.0f} s")
    if done.exit != 0:
        raise RuntimeError(
            f"the guest: exit {done.exit}, signal {done.signal}: {done.stderr.decode(errors='replace').strip()[-3000:]}"
        )
    return json.loads(done.stdout)


@contextmanager
def counting(spec: VmSpec, console: Path) -> Iterator[Machine]:
    """A machine whose clock counts instructions. It cannot come from a snapshot: the clock is part of that."""
    with cache.staging(paths.cache_dir("snapshots")) as work:
        plan = virtme.compose(spec, work)
    argv = list(plan.argv)
    if spec.arch == "arm64":
        argv[argv.index("-cpu") + 1] += FINE_CLOCK
    plan = replace(plan, argv=(*argv, *COUNTING))
    memory = os.memfd_create("guest-memory", os.MFD_CLOEXEC)
    try:
        with launch.boot_plan(plan, spec, console, memory, timeout=PATIENCE) as vm:
            yield vm
    finally:
        os.close(memory)


def core_variant(collector: Collector, target: Target, room: MachineRoom) -> dict[str, Any] | None:
    """The variant that is expected to run on the target, as the guest is asked for it; None where it is not one with CO-RE."""
    name = expected(collector, target, room.matrix).variant
    chosen = next((variant for variant in collector.variants if variant.name == name), None)
    if chosen is None or not compiled.load(collector, chosen, target.arch).uses_core:
        return None
    asked: dict[str, Any] = next(each for each in request.request(collector, target)["variants"] if each["name"] == name)
    return asked


def pairs(vm: Machine, timer: Machine | None, collector: Collector, target: Target, room: MachineRoom, *, pulls: int) -> list[Pair]:
    """The collector's CO-RE variant and its twin, by `pulls` of its own trigger: counted on `vm`, timed on `timer` (if any)."""
    variant = core_variant(collector, target, room)
    if variant is None:
        return []
    path = compiled.locate(collector, collector.variant(variant["name"]), target.arch)
    source = path.parent.parent / (re.sub(r"_(x86|arm64)_bpfel\.o$", "", path.name) + ".bpf.c")
    with tempfile.TemporaryDirectory(prefix="kmatrix-twin-") as work:
        other = twin.compile_twin(source.resolve(), target.arch, Btf(vm.get(BTF_FILE, timeout=PATIENCE)), Path(work))
        if compiled.inspect(other).uses_core:
            raise RuntimeError(f"{collector.name}: the twin still has CO-RE relocations")
        objects_ = path.read_bytes(), other.read_bytes()
    asked = request.request(collector, target)
    question = {"op": "run", "variant": variant, "files": asked["files"], "trigger": asked["trigger"], "pulls": pulls}

    def run(machine: Machine, *both: bytes) -> tuple[list[dict[str, Account]], bool]:
        answer = ask(machine, question | {"objects": [pack(data) for data in both]})
        sides = [[moment[side] for moment in answer["accounts"]] for side in (0, 1)]
        found = [{name: Account.of(*(moment[name] for moment in side)) for name in side[0]} for side in sides]
        return found, answer["events"][0] == answer["events"][1]

    (core, plain), same = run(vm, *objects_)
    warm_core: dict[str, Account] = {}
    warm_plain: dict[str, Account] = {}
    if timer is not None:
        # Under TCG the first program of an event pays for translated code that has been thrown out: each is timed in second place.
        (_, warm_plain), _ = run(timer, *objects_)
        (_, warm_core), _ = run(timer, *reversed(objects_))
    info = compiled.inspect(path)
    relocations = _relocations(info.data)
    return [
        Pair(
            str(target), collector.name, variant["name"], name, core[name], plain[name], _time(warm_core, name), _time(warm_plain, name),
            relocations.get(info.programs[name], 0), same,
        )
        for name in core
    ]  # fmt: skip


def _relocations(data: bytes) -> Counter[str]:
    """How many CO-RE relocations each program section of an object has."""
    sections = {section.name: section for section in ELFFile(BytesIO(data)).iter_sections()}
    return Counter(relocation.section for relocation in Btf(sections[".BTF"].data()).relocations(sections[".BTF.ext"].data()))


def _time(accounts: Mapping[str, Account], name: str) -> float:
    return accounts[name].time if name in accounts else 0.0


# -- the compatibility macros -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Macro:
    """A macro of bpf_common, and the same program without it (what one would write where nothing had to be portable)."""

    name: str
    body: str
    without: str
    note: str = ""


_TASK = "struct task_struct *task = (void *)bpf_get_current_task();"
_NOTHING = "return bpf_get_smp_processor_id();"
MACROS = (
    Macro("`INIT_CORE_COMPAT()`", f"INIT_CORE_COMPAT(); {_NOTHING}", _NOTHING),
    Macro(
        "`REQUIRE_CORE_FEATURES(CORE_FEAT_BTF)`", f"INIT_CORE_COMPAT(); REQUIRE_CORE_FEATURES(CORE_FEAT_BTF); {_NOTHING}", _NOTHING
    ),
    Macro(
        "`REQUIRE_CORE_FEATURES(CORE_FEAT_RINGBUF)`",
        f"INIT_CORE_COMPAT(); REQUIRE_CORE_FEATURES(CORE_FEAT_RINGBUF); {_NOTHING}",
        _NOTHING,
        "where there is no ring buffer, the program is its neutral return alone",
    ),
    Macro(
        "`REQUIRE_CORE_FEATURES(CORE_FEAT_BTF \\| CORE_FEAT_TASK_CGROUPS)`",
        f"INIT_CORE_COMPAT(); REQUIRE_CORE_FEATURES(CORE_FEAT_BTF | CORE_FEAT_TASK_CGROUPS); {_NOTHING}",
        _NOTHING,
        "the standard's own example",
    ),
    Macro(
        "`if (g_core_features.has_probe_read_kernel) … else …`",
        "if (g_core_features.has_probe_read_kernel) return bpf_get_smp_processor_id(); return bpf_get_prandom_u32();",
        _NOTHING,
    ),
    Macro(
        "`safe_cgroup_id_extraction(task)`",
        f"{_TASK} return safe_cgroup_id_extraction(task);",
        f"{_TASK} return BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);",
        "against the same four reads for one layout of `kernfs_node` (5.4 has another)",
    ),
    Macro(
        "`safe_cgroup_id_extraction(task)`",
        f"{_TASK} return safe_cgroup_id_extraction(task);",
        "return bpf_get_current_cgroup_id();",
        "against the helper (4.18), where the task is the current one",
    ),
    Macro("`get_arg0(ctx)`", "return get_arg0(ctx);", "return PT_REGS_PARM1(ctx);", "against libbpf's macro without CO-RE"),
    Macro("`get_return_value(ctx)`", "return get_return_value(ctx);", "return PT_REGS_RC(ctx);", "the same"),
    Macro(
        "`PT_REGS_PARM1_CORE(ctx)`",
        "return PT_REGS_PARM1_CORE(ctx);",
        "return PT_REGS_PARM1(ctx);",
        "libbpf's, for comparison: reads through a helper",
    ),
    Macro(
        '`bpf_debug_printk("…", …)`',
        f'bpf_debug_printk("cpu %d", bpf_get_smp_processor_id()); {_NOTHING}',
        _NOTHING,
        "without -DBPF_DEBUG",
    ),
)
_MACRO_HEADERS = """\
#include "../bpf_common/vmlinux_minimal.h"
#include "../bpf_common/helpers.h"
#include "../bpf_common/core_compat.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
_MACRO_PROGRAM = """
SEC("kprobe/vfs_open")
int {name}(struct pt_regs *ctx)
{{
	(void)ctx;
	{body}
}}
"""


@dataclass(frozen=True)
class MacroCost:
    """What a macro leaves in the loaded program."""

    target: str
    macro: Macro
    instructions: int
    """More than without it."""
    jited: int
    """Bytes of machine code more."""


def macro_costs(vm: Machine, target: Target) -> Iterator[MacroCost]:
    """Each macro that the target's kernel takes: a program with it and one without, loaded."""
    programs = [
        _MACRO_PROGRAM.format(name=f"{name}_{number}", body=body)
        for number, macro in enumerate(MACROS)
        for name, body in (("with", macro.body), ("without", macro.without))
    ]
    with tempfile.TemporaryDirectory(prefix="kmatrix-macros-") as work:
        (Path(work) / "bpf_common").symlink_to(paths.data("collectors") / "bpf_common")
        source = Path(work) / "macros" / "macros.bpf.c"
        source.parent.mkdir()
        source.write_text("".join([_MACRO_HEADERS, *programs]), encoding="utf-8")
        data = twin.compile_object(source, Path(work) / "macros.o", target.arch).read_bytes()
    found = {name: Account.of(raw) for name, raw in ask(vm, {"op": "load", "object": pack(data)}).items() if raw}
    for number, macro in enumerate(MACROS):
        more, less = found.get(f"with_{number}"), found.get(f"without_{number}")
        if more and less:
            yield MacroCost(str(target), macro, more.instructions - less.instructions, more.jited - less.jited)


# -- all of it ----------------------------------------------------------------------------------------------------------------

METRICS: Sequence[tuple[str, Callable[[Pair], tuple[float, float]], str]] = (
    ("BPF instructions", lambda pair: (pair.twin.instructions, pair.core.instructions), "d"),
    ("JITed bytes", lambda pair: (pair.twin.jited, pair.core.jited), "d"),
    ("machine instructions a run", lambda pair: (pair.twin.time, pair.core.time), ".0f"),
    ("nanoseconds a run under TCG", lambda pair: (pair.twin_ns, pair.core_ns), ".0f"),
)


def measure(
    room: MachineRoom, targets: Sequence[Target], collectors: Sequence[Collector], *, pulls: int
) -> tuple[list[Pair], list[MacroCost]]:
    """Every program of every collector, and every macro, on each target."""
    measured: list[Pair] = []
    costs: list[MacroCost] = []
    with tempfile.TemporaryDirectory(prefix="kmatrix-overhead-") as folder:
        console = Path(folder) / "console.log"
        for target in targets:
            try:
                with (
                    room.reporter.step(f"measuring on {target}"),
                    counting(room.spec(target), console) as counter,
                    room.machine(target, console) as (timer, _),
                ):
                    here = [pair for each in collectors for pair in pairs(counter, timer, each, target, room, pulls=pulls)]
                    macros = list(macro_costs(counter, target))
            except (InfraError, KernelDied) as error:  # a guest whose time is its instructions may seem hung to itself
                print(f"{target} is left out: {error}", file=sys.stderr)
                continue
            measured += here
            costs += macros
    return measured, costs


def collector_tables(measured: Sequence[Pair]) -> str:
    """A table for each metric: programs down, targets across; the twin's number, and how much more CO-RE's is."""
    targets = list(dict.fromkeys(pair.target for pair in measured))
    tables = []
    for title, of, form in METRICS:
        lines: dict[str, dict[str, str]] = {}
        for pair in measured:
            plain, core = of(pair)
            name = f"{pair.collector} ({pair.variant}), `{pair.program}`"
            lines.setdefault(name, {})[pair.target] = f"{plain:{form}} {core - plain:+{form}}"
        rows = [[name, *(by.get(target, "") for target in targets)] for name, by in lines.items()]
        tables.append(tabulate(rows, headers=[title, *targets], tablefmt="github", disable_numparse=True))
    return "\n\n".join(tables)


def macro_table(costs: Sequence[MacroCost]) -> str:
    """Macros down, targets across: instructions more, and bytes of machine code more."""
    targets = list(dict.fromkeys(cost.target for cost in costs))
    lines: dict[Macro, dict[str, str]] = {macro: {} for macro in MACROS}
    for cost in costs:
        lines[cost.macro][cost.target] = f"{cost.instructions:+d}, {cost.jited:+d} B"
    rows = [[macro.name, macro.note, *(by.get(target, "") for target in targets)] for macro, by in lines.items()]
    return tabulate(rows, headers=["macro", "", *targets], tablefmt="github", disable_numparse=True)


def main() -> None:
    """Measure, print, and write into docs/overhead.md."""
    parser = argparse.ArgumentParser(prog="bench.overhead", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="such as 6.1-arm64 (default: all real ones with BTF that can be had)"
    )
    parser.add_argument("--collector", action="append", metavar="NAME", help="only these (default: all of collectors/)")
    parser.add_argument("--pulls", type=int, default=10, help="of each collector's trigger, per measurement (default: %(default)s)")
    parser.add_argument("--no-write", action="store_true", help="leave docs/overhead.md as it is")
    options = parser.parse_args()
    matrix = load_matrix()
    room = MachineRoom(matrix, accel="tcg", reporter=Terminal())
    if options.targets:
        targets = [matrix.target(name) for name in options.targets]
    else:
        real = [Target(kernel, arch) for kernel in matrix.select(">=0") for arch in ARCHES]
        missing = room.unavailable(real)
        targets = [target for target in real if target.kernel.version >= BTF_SINCE and str(target) not in missing]
    names = options.collector or sorted(path.parent.name for path in paths.data("collectors").glob("*/collector.toml"))
    collectors = [load_collector(paths.data("collectors") / name) for name in names]
    measured, costs = measure(room, targets, collectors, pulls=options.pulls)
    clang = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    releases = ", ".join(f"{target}: {room.spec(target).kernel.release}" for target in targets)
    where = f"{datetime.date.today():%-d %B %Y}; {clang}; {virtme.qemu_version(targets[0].arch)}, TCG; {releases}."
    for name, text in (("conditions", where), ("collectors", collector_tables(measured)), ("macros", macro_table(costs))):
        print(f"\n{text}")
        if not options.no_write:
            document.write(DOCUMENT, name, text, by="make overhead")


if __name__ == "__main__":
    main()
