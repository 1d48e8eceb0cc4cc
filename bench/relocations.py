"""libbpf's own CO-RE relocations, as it tells them at its level of debug messages, against those of kmatrix.predict.core.

    python -m bench.relocations LOG KERNEL OBJECT…

LOG is what tests/guest/relocations.py wrote in a guest of KERNEL (such as 6.1-x86_64). It prints what differs, and how many agree.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from kmatrix.objects.btf import TYPE_ID_TARGET, Relocation
from kmatrix.predict import store
from kmatrix.predict.core import Resolved
from kmatrix.predict.judge import Judge
from kmatrix.predict.kernel import Kernel
from kmatrix.predict.subject import Subject

_LINE = re.compile(r"^libbpf: prog '(?P<program>[^']+)': relo #(?P<number>\d+): (?P<what>.*)$", re.MULTILINE)
_PATCHED = re.compile(r"patched insn #\d+ \((?P<kind>[\w/]+)\) (?P<what>off|imm|imm64) -?\d+ -> (?P<value>-?\d+)")


def told(log: str) -> dict[str, dict[tuple[str, int], int | None]]:
    """By object's name, function and number of the relocation: what libbpf wrote; None where it poisoned the instruction."""
    found: dict[str, dict[tuple[str, int], int | None]] = {}
    for part in log.split("\n== ") if not log.startswith("== ") else log[3:].split("\n== "):
        path, _, rest = part.partition("\n")
        here = found.setdefault(path.rpartition("/")[2], {})
        for match in _LINE.finditer(rest):
            key = match["program"], int(match["number"])
            if "substituting insn" in match["what"]:
                here[key] = None
            elif patched := _PATCHED.match(match["what"]):
                here[key] = int(patched["value"])
    return found


def foreseen(path: Path, kernel: Kernel) -> Iterator[tuple[tuple[str, int], Relocation, Resolved, int]]:
    """By function and number of the relocation in its section: what kmatrix foresees, and the instruction's code."""
    subject = Subject(path)
    judge = Judge(subject, kernel.pack)
    numbers: defaultdict[str, int] = defaultdict(int)
    functions = [*subject.code.functions.values()]
    for asked in subject.code.relocations.values():
        number = numbers[asked.section]
        numbers[asked.section] += 1
        home = next((f for f in functions if f.section == asked.section and f.start <= asked.at < f.start + 8 * len(f.insns)), None)
        if home is not None:
            insn = home.insns[(asked.at - home.start) // 8]
            yield (home.name, number), asked, judge.resolved(asked, kernel), insn.code


def compare(log: str, kernel: Kernel, paths: Iterable[Path]) -> tuple[int, list[str]]:
    """How many relocations agree, and a line for each that does not."""
    said, agreeing, differing = told(log), 0, []
    for path in paths:
        mine = {key: (asked, resolved, code) for key, asked, resolved, code in foreseen(path, kernel)}
        for key, value in said.get(path.name, {}).items():
            if key not in mine:
                differing.append(f"{path.name} {key}: no such relocation is known")
                continue
            asked, resolved, code = mine[key]
            poisoned = resolved.badly_sized and code & 0x07 in (0x01, 0x02, 0x03)
            own = None if poisoned else resolved.value
            same = (
                (own is None) == (value is None)
                if asked.kind == TYPE_ID_TARGET
                else own == value or (own is not None and value is not None and (own - value) % (1 << 32) == 0)
            )
            if same and not resolved.error:
                agreeing += 1
            else:
                differing.append(f"{path.name} {key} {asked}: libbpf {value}, kmatrix {resolved}")
    return agreeing, differing


def main() -> None:
    """Compare one log."""
    log, name, *paths = sys.argv[1:]
    agreeing, differing = compare(Path(log).read_text(errors="replace"), store.named(name), map(Path, paths))
    print("\n".join([*differing, f"{name}: {agreeing} relocations agree, {len(differing)} do not"]))
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
