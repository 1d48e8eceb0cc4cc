"""A page to publish: which collector works how on which kernel and arch, in Markdown, for the users of the collectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kmatrix.manifest.types import BEHAVIOURS
from kmatrix.matrix.arch import ARCHES
from kmatrix.report import markdown, table
from kmatrix.report.names import machine, marked, shorten, target_key
from kmatrix.runs.cell_records import Record

_WORDS = {
    "full": "everything works",
    "partial": "the main signal is there; what the kernel lacks is listed below",
    "fallback": "it runs in its form for kernels without BTF or CO-RE, and its events arrive",
    "refusal": "it does not run on this kernel, says what the kernel lacks, and leaves nothing behind",
    "fails": "it does not do what it should there; this is a known defect",
    "not known": "it could not be tried",
}


def render(records: Iterable[Record]) -> str:
    """The page. It names no host, no path and no command of the machine that the cells ran on."""
    return "\n".join(_lines(table.ordered(records))) + "\n"


def _lines(records: Sequence[Record]) -> Iterator[str]:
    yield "# Kernel support"
    yield ""
    versions = ", ".join(sorted({record.versions["kmatrix"] for record in records if record.versions.get("kmatrix")}))
    days = sorted({record.started[:10] for record in records if record.started})
    when = f", {'from ' if len(days) > 1 else 'on '}{' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    with_ = f", with kmatrix {versions}" if versions else ""
    yield f"Which collector works how on which Linux kernel. Each entry was seen on a booted kernel{when}{with_}."
    for arch in ARCHES:
        yield from _of_arch(arch, [record for record in records if record.arch == arch])
    yield from ("", "| word | what it means |", "|---|---|")
    shown = {_word(record) for record in records}
    yield from (f"| {word} | {meaning} |" for word, meaning in _WORDS.items() if word in shown)
    yield from _limits(records)
    yield from _kernels(records)


def _of_arch(arch: str, records: Sequence[Record]) -> Iterator[str]:
    if not records:
        return
    simulated = {record.kernel for record in records if record.simulated}
    kernels = sorted({record.kernel for record in records}, key=lambda kernel: target_key(f"{kernel}-{arch}"))
    words = {(record.collector, record.kernel): _word(record) for record in records}
    rows = [[name, *(words.get((name, kernel), "") for kernel in kernels)] for name in dict.fromkeys(r.collector for r in records)]
    yield from ("", f"## {arch}", "")
    real = {record.kernel for record in records if record.machine}
    heads = [marked(kernel, simulated=kernel in simulated, real=kernel in real) for kernel in kernels]
    yield from markdown.table_of(["collector", *heads], rows)


def _word(record: Record) -> str:
    """What a user of the collector has there: the behaviour shown, also where another was promised."""
    if record.failure == "infra":
        return "not known"
    runs = record.ok or record.failure in ("worse", "better", "table")
    return str(record.observed) if runs and record.observed in BEHAVIOURS else "fails"


def _limits(records: Sequence[Record]) -> Iterator[str]:
    """What does not work as well as it might, and why, cells that are alike together."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        if (word := _word(record)) not in ("full", "not known"):
            groups.setdefault((record.collector, word, record.reason.partition("\n")[0]), []).append(record.target)
    if groups:
        yield from ("", "## Limits", "")
        rows = [[name, word, shorten(targets), reason] for (name, word, reason), targets in groups.items()]
        yield from markdown.table_of(["collector", "works", "kernels", "why"], rows)


def _kernels(records: Sequence[Record]) -> Iterator[str]:
    """The releases that the names mean."""
    releases: dict[str, list[str]] = {}
    for record in records:
        name, release = record.kernel, record.versions.get("release", "")
        if record.simulated:
            name, release = f"~{record.kernel}", f"simulated: {record.simulated['base']}, {_hidden(record)}"
        if record.machine:
            name, release = (
                f"@{record.kernel}",
                f"a real machine: {machine(record.machine, address=False)}",
            )  # the page is for everybody
        if release and release not in releases.setdefault(name, []):
            releases[name].append(release)
    if releases:
        names = sorted(releases, key=lambda name: target_key(f"{name.lstrip('~@')}-{ARCHES[0]}"))
        yield from ("", "## Kernels", "")
        yield from markdown.table_of(["kernel", "release"], [[name, ", ".join(releases[name])] for name in names])


def _hidden(record: Record) -> str:
    account = record.simulated or {}
    return (
        f"with what it got after {account['as_of']} hidden" if account["as_of"] else f"with {', '.join(account['hidden'])} hidden"
    )
