"""`make predict-score`: what `kmatrix predict` foresees, against what booted kernels did.

    python -m bench.predict_score [--records FILE…] [--kernels EXPR] [--arch ARCH] [DIR|OBJECT…]

Objects are those of the collectors and of the directories given; each is tried by `kmatrix run` on each target, and predicted from the shipped profile
of the same name. `--records` takes what `kmatrix run --json` wrote before in place of trying. It ends with status 1 where something is
foreseen to work that did not for want of a relocation, helper, map or hook, or where fewer than 99 of 100 programs agree, verifier rejections aside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmatrix.predict import store
from kmatrix.predict.judge import GOOD, Judge, Prediction
from kmatrix.predict.subject import Subject
from kmatrix.runs.object_run import state

JUDGEMENT = frozenset(
    [
        "stack",
        "null",
        "pointer",
        "bounds",
        "packet",
        "read-only",
        "context",
        "unwritten",
        "alignment",
        "argument",
        "return-value",
        "reference",
        "lock",
        "kptr",
        "dynptr",
        "sleepable",
        "licence",
        "dead-code",
        "loop",
        "verifier-size",
        "verifier-timeout",
        "verifier-stack",
        "jit",
        "global-function",
        "unclassified",
        "object-btf",
        "helper-place",
        "kfunc-type",
        "refused",
    ]
)
"""Classes of what the verifier, the JIT or a hook's own rules think of a program, which no profile tells."""
MISSING = frozenset(
    [
        "helper",
        "helper-type",
        "map-type",
        "map-flag",
        "map-size",
        "btf",
        "btf-type",
        "btf-field",
        "btf-enum",
        "btf-function",
        "symbol",
        "tracepoint",
        "kfunc",
        "program-type",
        "attach-type",
    ]
)
"""Classes in which a false green would be a defect."""
HOST = frozenset({"file", "busy", "memlock", "memory"})
"""Classes of what the guest has beside its kernel."""


@dataclass(frozen=True)
class Cell:
    """A program on a target, foreseen and seen."""

    object: str
    target: str
    program: str
    section: str
    predicted: Prediction
    state: str
    kind: str
    what: str

    @property
    def judged(self) -> bool:
        """Whether it counts: what only the verifier or the guest's files decide does not."""
        return (
            self.kind not in JUDGEMENT
            and self.kind not in HOST
            and not (self.predicted.unknown and self.predicted.state == "loaded")
        )

    @property
    def agrees(self) -> bool:
        """Whether it came as far as was foreseen."""
        return self.predicted.state == self.state

    @property
    def false_green(self) -> bool:
        """Whether it was foreseen to work, and something is missing."""
        return self.predicted.state in GOOD and self.state not in GOOD and self.kind in MISSING

    @property
    def false_red(self) -> bool:
        """Whether it was foreseen to fail, and works."""
        return self.predicted.state not in GOOD and self.state in GOOD


def cells(records: Iterable[dict[str, Any]]) -> Iterator[Cell]:
    """Each program of each record, with what is foreseen of it."""
    kernels = {kernel.name: kernel for kernel in store.kernels()}
    for record in records:
        subject = Subject(Path(record["object"]))
        judges: dict[int, Judge] = {}
        for tried in record["targets"]:
            kernel = kernels.get(tried["target"])
            if kernel is None or tried["infra"] or not tried["programs"]:
                continue
            judge = judges.setdefault(id(kernel.pack), Judge(subject, kernel.pack))
            foreseen = {each.program: each for each in judge.predict(kernel)}
            for name, seen in tried["programs"].items():
                cause = seen.get("diagnosis") or {}
                failed = bool(seen.get("error"))
                kind = cause.get("kind") or ("unclassified" if failed else "")
                what = cause.get("headline") or seen.get("error") or ""
                yield Cell(record["object"], tried["target"], name, seen["section"], foreseen[name], state(seen), kind, what)


def table(found: Iterable[Cell]) -> str:
    """The confusion table by class: foreseen in rows, seen in columns of the line."""
    count: Counter[tuple[str, str]] = Counter()
    for cell in found:
        count[
            _class(cell.predicted.state, cell.predicted.cause.kind if cell.predicted.cause else ""), _class(cell.state, cell.kind)
        ] += 1
    rows = [f"{'foreseen':32} {'seen':32} programs"]
    rows += [
        f"{predicted:32} {seen:32} {number:6}{'' if predicted == seen else '  ≠'}"
        for (predicted, seen), number in sorted(count.items())
    ]
    return "\n".join(rows)


def _class(how: str, kind: str) -> str:
    return f"{how}: {kind}" if kind and kind != how else how


def tried(paths: Iterable[Path], kernels: str, arch: str) -> list[dict[str, Any]]:
    """The objects on the targets, by `kmatrix run`."""
    command = [sys.executable, "-m", "kmatrix", "run", *map(str, paths), f"--kernels={kernels}", f"--arch={arch}", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"kmatrix run ended with status {done.returncode}")
    return _records(done.stdout)


def _records(text: str) -> list[dict[str, Any]]:
    found = json.loads(text)
    return found if isinstance(found, list) else [found]


def main() -> None:
    """Print the table, the differences and the score."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, default=[])
    parser.add_argument("--records", nargs="*", type=Path, default=[])
    parser.add_argument("--kernels", default="4.14,5.4,5.10,5.15,6.1,6.12,6.18")
    parser.add_argument("--arch", default="all")
    given = parser.parse_args()
    records = [record for path in given.records for record in _records(path.read_text())]
    if not given.records or given.paths:
        paths = [
            each
            for path in given.paths or [Path("collectors")]
            for each in (sorted(path.rglob("*.o")) if path.is_dir() else [path])
        ]
        records += tried(paths, given.kernels, given.arch)
    found = list(cells(records))
    judged = [cell for cell in found if cell.judged]
    agreeing = sum(cell.agrees for cell in judged)
    print(table(found))
    for cell in judged:
        if not cell.agrees:
            cause = cell.predicted.cause
            print(f"≠ {Path(cell.object).name} {cell.target} {cell.program} ({cell.section}): foreseen {cell.predicted.state}{f' ({cause.kind}: {cause.headline()})' if cause else ''}, seen {cell.state} ({cell.kind}: {cell.what})")  # fmt: skip
    same_class = sum(
        not cell.kind or (cell.predicted.cause is not None and cell.predicted.cause.kind == cell.kind)
        for cell in judged
        if cell.agrees
    )
    green, red = [cell for cell in found if cell.false_green], [cell for cell in judged if cell.false_red]
    share = 100 * agreeing / max(1, len(judged))
    print(
        f"\n{len(found)} programs, {len(judged)} of which a profile can tell: {agreeing} as foreseen ({share:.2f} %), {same_class} of them of the same class"
    )
    print(f"false greens for want of something: {len(green)}; false reds: {len(red)}")
    sys.exit(1 if green or share < 99 else 0)


if __name__ == "__main__":
    main()
