"""`make fidelity`: how far a simulated kernel answers as the real one does, question by question.

The corpus (bench.corpus) is asked of the real kernel and of the simulated one, in their guests. Every difference is printed with its
reason, as far as it is known: what the real kernel was built without, or what is not simulated.
"""

from __future__ import annotations

import argparse
import errno
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.corpus import LAST_PROG_TYPE, Item, corpus, helper_calls
from kmatrix.host import paths
from kmatrix.host.paths import cache_dir
from kmatrix.host.progress import Terminal
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.arch import ARCHES
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.runs import cell
from kmatrix.runs.machine_room import MachineRoom

PAIRS = (("4.14", "4.14-sim"), ("5.4", "5.4-sim"))
Answer = tuple[int, str]
HOMES = (5, 3, 6, 1, 2, 13, 14, 16, 18, 12, 19, 20, 21, 22, 23, 25, 9, 8, 30, 31)
"""Program types in the order in which a helper's own is looked for: tracepoint, classifier, XDP, socket filter…"""


def ask(room: MachineRoom, target: Target, items: Sequence[Item]) -> list[Answer]:
    """The target's answers, in order."""
    console = cache_dir("consoles") / f"fidelity-{target}.log"
    try:
        with room.machine(target, console) as (vm, _):
            answers: list[Answer] = []
            for at in range(0, len(items), 500):
                questions = [item.question for item in items[at : at + 500]]
                answers += [(code, words) for code, words in vm.call("ask", timeout=300, questions=questions)]
            return answers
    finally:
        console.unlink(missing_ok=True)


def own_calls(room: MachineRoom, base: Target) -> list[Item]:
    """Each helper called from the first program type that the base kernel lets call it; from a tracepoint where none may."""
    chosen: dict[int, Item] = {}
    fallback: list[Item] = []
    for kind in HOMES:
        items = helper_calls(kind)
        fallback = fallback or items
        for number, (item, (code, words)) in enumerate(zip(items, ask(room, base, items), strict=True)):
            known = code == 0 or not ("unknown func" in words or "invalid func" in words)
            if known and code != errno.EINVAL:
                chosen.setdefault(number, item)
    return [chosen.get(number, item) for number, item in enumerate(fallback)]


def config_of(room: MachineRoom, target: Target) -> dict[str, str]:
    """The options that the target's kernel was built with."""
    path = room.spec(target).kernel.config
    if path is None:
        return {}
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if line.startswith("CONFIG_") and "=" in line)
    return {name.removeprefix("CONFIG_"): value for name, value in pairs}


BY_CONFIG: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("xskmap", ("XDP_SOCKETS",)),
    ("sockmap", ("BPF_STREAM_PARSER", "NET_SOCK_MSG")),
    ("sockhash", ("BPF_STREAM_PARSER", "NET_SOCK_MSG")),
    ("sk_skb", ("BPF_STREAM_PARSER", "NET_SOCK_MSG")),
    ("sk_msg", ("BPF_STREAM_PARSER", "NET_SOCK_MSG")),
    ("lirc", ("BPF_LIRC_MODE2",)),
    ("lwt_seg6local", ("IPV6_SEG6_BPF",)),
    ("lwt_", ("LWTUNNEL_BPF",)),
    ("53 from sock_ops", ("BPF_STREAM_PARSER", "NET_SOCK_MSG")),
    ("70 from sock_ops", ("BPF_STREAM_PARSER", "NET_SOCK_MSG")),
    ("66 from sched_cls", ("XFRM",)),
    ("cgroup", ("CGROUP_BPF",)),
    ("sock_ops", ("CGROUP_BPF",)),
)
"""What a question's name has in it → the options that it needs, any of them."""


def reason(item: Item, real: dict[str, str], base: dict[str, str]) -> str | None:
    """The option that is on in one kernel and off in the other, and that the question needs."""
    for part, options in BY_CONFIG:
        if part in item.name:
            have, has = ([name for name in options if kernel.get(name) in ("y", "m")] for kernel in (real, base))
            if bool(have) != bool(has):
                return f"the real kernel is built {'with' if have else 'without'} {' or '.join(options)}, the base {'with' if has else 'without'}"
    return None


ELSEWHERE = {
    "helper": "which program types may call a helper is the base's",
    "command": "the base's checks stand in another order",
}
"""Why answers of a class differ, where no option does it: what is not simulated (docs/simulated-kernels.md)."""


def collectors(room: MachineRoom, real: Target, simulated: Target, folder: Path) -> list[dict[str, Any]]:
    """Each reference collector on both: what was observed, and how each variant ended (its stage and errno)."""
    rows = []
    for path in sorted(paths.data("collectors").glob("*/collector.toml")):
        collector = load_collector(path)
        two = [cell.run(collector, target, room, folder) for target in (real, simulated)]
        ends = [
            [(attempt["variant"], attempt["stage"], (attempt["error"] or {}).get("errno")) for attempt in record.facts["attempts"]]
            if record.facts
            else None
            for record in two
        ]
        same = two[0].observed == two[1].observed and ends[0] == ends[1]
        rows.append(
            {"collector": collector.name, "real": two[0].observed, "simulated": two[1].observed, "ends": ends, "same": same}
        )
    return rows


def _said(answer: Answer) -> str:
    code, words = answer
    return "works" if code == 0 else errno.errorcode.get(code, str(code)) + (f" ({words})" if words else "")


def compare(room: MachineRoom, real: Target, simulated: Target, every_type: bool, folder: Path) -> dict[str, Any]:
    """Both kernels' answers, compared."""
    assert simulated.simulated is not None
    base = Target(simulated.simulated.base, simulated.arch)
    items = [*corpus(), *own_calls(room, base)]
    if every_type:
        items = [item for kind in range(1, LAST_PROG_TYPE + 1) for item in helper_calls(kind)]
    there, here = ask(room, real, items), ask(room, simulated, items)
    options = config_of(room, real), config_of(room, base)
    asked, agreed = (
        Counter(i.kind for i in items),
        Counter(i.kind for i, a, b in zip(items, there, here, strict=True) if a[0] == b[0]),
    )
    differences = [
        {"kind": item.kind, "what": item.name, "real": _said(a), "simulated": _said(b), "reason": reason(item, *options)}
        for item, a, b in zip(items, there, here, strict=True)
        if a[0] != b[0]
    ]
    explained = Counter(d["kind"] for d in differences if d["reason"])
    return {
        "real": str(real), "simulated": str(simulated), "asked": dict(asked), "agreed": dict(agreed), "by_config": dict(explained),
        "differences": differences, "collectors": [] if every_type else collectors(room, real, simulated, folder),
    }  # fmt: skip


def show(found: Sequence[dict[str, Any]]) -> bool:
    """Print the results; whether each pair agrees in 98 of 100 answers."""
    kinds = list(dict.fromkeys(kind for result in found for kind in result["asked"]))
    rows = []
    good = True
    for kind in (*kinds, None):
        row = [kind or "all"]
        for result in found:
            asked, agreed, config_only = (
                sum(result[part].values()) if kind is None else result[part].get(kind, 0)
                for part in ("asked", "agreed", "by_config")
            )
            could = asked - config_only
            share = agreed / could if could else 1.0
            row.append(f"{agreed}/{could}" + (f" {share:.1%}" if kind is None else ""))
            good &= kind is not None or share >= 0.98
        rows.append(row)
    heads = ["question", *(result["simulated"].replace("-", "\n", 1) for result in found)]
    print(tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True))
    for result in found:
        print(
            f"\n{result['simulated']} and {result['real']}: {sum(result['by_config'].values())} not comparable (configuration), else:"
        )
        for d in result["differences"]:
            why = d["reason"] or ELSEWHERE.get(d["kind"], "unexplained")
            print(f"  {d['kind']}: {d['what']}: real {d['real']}; simulated {d['simulated']} [{why}]")
        for row in result["collectors"]:
            mark = "as on the real one" if row["same"] else f"differs: {row['ends'][0]} and {row['ends'][1]}"
            print(f"  collector {row['collector']}: {row['real']}, {row['simulated']}: {mark}")
            good &= row["real"] == row["simulated"]
    return good


def main() -> None:
    """Ask, compare, print; exit status 1 below 98 %."""
    parser = argparse.ArgumentParser(prog="bench.fidelity", description=__doc__)
    parser.add_argument("--arch", choices=ARCHES, action="append")
    parser.add_argument("--kernel", choices=[real for real, _ in PAIRS], action="append")
    parser.add_argument("--every-type", action="store_true", help="every helper from every program type instead of the corpus")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    matrix = load_matrix()
    room = MachineRoom(matrix, reporter=Terminal())
    found = []
    for real, simulated in PAIRS:
        for arch in ARCHES:
            if (options.kernel and real not in options.kernel) or (options.arch and arch not in options.arch):
                continue
            target = Target(matrix.kernel(real), arch)
            if missing := room.unavailable([target]):
                print(f"{target} is left out: {missing[str(target)]}", file=sys.stderr)
                continue
            with tempfile.TemporaryDirectory() as folder:
                other = Target(matrix.kernel(simulated), arch)
                found.append(compare(room, target, other, options.every_type, Path(folder)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    raise SystemExit(0 if show(found) and found else 1)


if __name__ == "__main__":
    main()
