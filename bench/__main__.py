"""`python -m bench`: how long cells, boots, saves and restores take on this host, beside virtme-ng, and how a run grows.

`make bench` runs it. It prints each table, and with --write puts it into docs/performance.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from bench import beside_vng, cells, document, memory, scale, vm
from kmatrix.matrix.arch import host_arch
from kmatrix.vm import virtme

PAGE = Path("docs/performance.md")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="such as 6.1-arm64 (default: 6.1 on both arches)")
    parser.add_argument("--rounds", type=int, default=20, help="cells and restores of each (default: %(default)s)")
    parser.add_argument("--boots", type=int, default=3, help="cold boots, and boots by vng, of each (default: %(default)s)")
    parser.add_argument("--sizes", default="12,108", help="cells of the runs that are measured (default: %(default)s)")
    parser.add_argument("--workers", default="1,2,4", help="workers of the runs that are measured (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=tuple(_PARTS), metavar="PART", help=f"one of {', '.join(_PARTS)}")
    parser.add_argument("--all", action="store_true", help="every target in the cache")
    parser.add_argument("--write", action="store_true", help=f"put the tables of cells, vng, scale and memory into {PAGE}")
    options = parser.parse_args()
    wanted = set(options.targets) or {"6.1-x86_64", "6.1-arm64"}
    there = vm.available()
    options.chosen = [target for target in there if options.all or f"{target[0]}-{target[1]}" in wanted]
    missing = wanted - {f"{name}-{arch}" for name, arch, _ in there}
    if missing and not options.all:
        parser.error(f"not in the cache: {', '.join(sorted(missing))} (kmatrix prepare)")
    options.names = [f"{name}-{arch}" for name, arch, _ in options.chosen]
    for part in options.only or _PARTS:
        title, heads, measured = _PARTS[part]
        before = os.getloadavg()[0]
        rows = list(measured(options))
        table = tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True)
        where = _where(before)
        print(f"\n{title}\n\n{table}\n\n{where}", flush=True)
        if options.write and part in _WRITTEN:
            document.write(PAGE, part, f"{table}\n\n{where}", by="make bench")


def _where(load: float) -> str:
    """The host as it is, and how busy it was when the measuring began."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory_gib = os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    arch = host_arch()
    qemu = virtme.qemu_version(arch) if arch is not None else "?"
    today = datetime.date.today()
    return f"{today:%-d %B %Y}; {model}, {os.cpu_count()} CPUs, {memory_gib} GiB; load {load:.1f} before; {qemu}."


def _cells(options: argparse.Namespace) -> Iterable[Sequence[str]]:
    collectors = sorted(manifest.parent.name for manifest in Path("collectors").glob("*/collector.toml"))
    return cells.measure(options.names, collectors, rounds=options.rounds)


def _scale(options: argparse.Namespace) -> Iterable[Sequence[str]]:
    sizes, workers = ([int(number) for number in text.split(",")] for text in (options.sizes, options.workers))
    return [run.row() for run in scale.measure(options.names, sizes, workers)]


_Part = tuple[str, Sequence[str], Callable[[argparse.Namespace], Iterable[Sequence[str]]]]
_PARTS: dict[str, _Part] = {
    "cells": ("a cell, end to end, at one worker", cells.COLUMNS, _cells),
    "vng": (
        "the same object by virtme-ng and bpftool",
        beside_vng.COLUMNS,
        lambda o: beside_vng.measure("6.1", rounds=o.rounds, boots=o.boots),
    ),
    "scale": ("whole runs of pytest", scale.COLUMNS, _scale),
    "memory": ("the memory of VMs", memory.COLUMNS, lambda o: memory.measure(o.names)),
    "simulation": (
        "what simulating a kernel adds to a cell",
        cells.SIMULATED_COLUMNS,
        lambda o: cells.measure_simulation(o.names, "openat", rounds=o.rounds),
    ),
    "vm": (
        "the VM alone, and virtme-ng's own boot beside it",
        vm.COLUMNS,
        lambda o: [timing.row() for timing in vm.measure(o.chosen, rounds=o.rounds, boots=o.boots)],
    ),
}
"""What is measured: title, heads, and what measures it."""
_WRITTEN = ("cells", "vng", "scale", "memory")
"""The parts that have their place in the page."""


if __name__ == "__main__":
    main()
