"""`python -m bench`: how long cells, boots, saves and restores take on this host; `make bench` runs it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tabulate import tabulate

from bench import cells, vm


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="such as 6.1-arm64 (default: 6.1 on both arches)")
    parser.add_argument("--rounds", type=int, default=11, help="restores of each (default: %(default)s)")
    parser.add_argument("--boots", type=int, default=3, help="cold boots, and boots by vng, of each (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="every target in the cache")
    options = parser.parse_args()
    wanted = set(options.targets) or {"6.1-x86_64", "6.1-arm64"}
    there = vm.available()
    chosen = [target for target in there if options.all or f"{target[0]}-{target[1]}" in wanted]
    missing = wanted - {f"{name}-{arch}" for name, arch, _ in there}
    if missing and not options.all:
        parser.error(f"not in the cache: {', '.join(sorted(missing))} (kmatrix prepare)")
    load = os.getloadavg()[0]
    names = [f"{name}-{arch}" for name, arch, _ in chosen]
    collectors = sorted(manifest.parent.name for manifest in Path("collectors").glob("*/collector.toml"))
    print("a cell, end to end, at one worker\n")
    print(tabulate(cells.measure(names, collectors, rounds=options.rounds), headers=cells.COLUMNS, disable_numparse=True))
    print("\nwhat simulating a kernel adds to a cell\n")
    simulated = cells.measure_simulation(names, "openat", rounds=options.rounds)
    print(tabulate(simulated, headers=cells.SIMULATED_COLUMNS, disable_numparse=True))
    print("\nthe VM alone, and virtme-ng's own boot beside it\n")
    rows = [timing.row() for timing in vm.measure(chosen, rounds=options.rounds, boots=options.boots)]
    print(tabulate(rows, headers=vm.COLUMNS, disable_numparse=True))
    print(f"\nmedians; {os.cpu_count()} CPUs, load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
