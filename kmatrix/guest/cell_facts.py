"""The facts of one cell, as types: the guest fills them in, the host judges them. docs/record.md says what each means.

They travel as JSON and are kept in records. A key that older records lack is `NotRequired`.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Failure(TypedDict):
    """Why something did not work: the kernel's error and the words that were said."""

    errno: int | None
    text: str


class ProgramReport(TypedDict):
    """What became of one program."""

    id: int | None
    tag: str | None
    type: str | None
    section: str
    loaded: bool
    attached: bool | None
    """None if nothing says where to attach it."""
    via: str | None
    runs: int | None
    error: str | None
    log: str
    """The verifier's."""
    errno: NotRequired[int | None]
    insns: NotRequired[int]
    wants: NotRequired[dict[str, Any]]
    btf: NotRequired[dict[str, Any]]
    off: NotRequired[str]
    """Why the collector's contract does not have it loaded here."""
    target: NotRequired[str]
    """Where it was attached, if its section left a choice."""


class MapReport(TypedDict):
    """What became of one map."""

    id: int | None
    type: str
    max_entries: NotRequired[int]
    error: NotRequired[str | None]
    errno: NotRequired[int | None]


class AttemptReport(TypedDict):
    """One try of one variant."""

    variant: str
    stage: str | None
    """Where it failed: open, load or attach; None if it did not."""
    error: Failure | None
    programs: dict[str, ProgramReport]
    maps: dict[str, MapReport]
    log: list[str]
    """What libbpf said, or the end of what the collector's own loader wrote to its standard error."""
    one_of: NotRequired[list[dict[str, Any]]]
    """The contract's choices: of each group, what ran and why the others did not."""


class Entry(TypedDict):
    """A program, map or link in the kernel. A link has no name."""

    id: int
    type: str
    name: NotRequired[str]
    tag: NotRequired[str]
    prog_id: NotRequired[int]


class Inventory(TypedDict):
    """What is in the kernel at one moment, by its own account."""

    programs: list[Entry]
    maps: list[Entry]
    links: list[Entry]
    pins: list[str]
    kprobe_events: list[str]


class Moments(TypedDict):
    """The inventories before, during and after a collector's time."""

    before: Inventory
    during: Inventory
    after: Inventory


class Again(TypedDict):
    """How the trigger ended once nothing was loaded any more."""

    ok: bool
    error: str | None


class TriggerReport(TypedDict):
    """How the trigger ended."""

    ok: bool
    exit: int | None
    error: str | None
    stdout: NotRequired[str]
    stderr: NotRequired[str]
    after_refusal: NotRequired[bool]
    after: NotRequired[Again]


class LoaderReport(TypedDict):
    """What became of the collector's own loader."""

    command: list[str]
    ready: float | None
    exit: int | None
    signal: str | None
    """Its name, such as SIGSEGV."""
    killed: bool
    died: str | None
    failure: str | None
    cannot_start: str | None
    left: list[str]
    processes: list[dict[str, Any]]
    stdout: str
    stderr: str


class Event(TypedDict):
    """An event that matched."""

    event: str
    fields: dict[str, Any]
    raw: NotRequired[str]
    transport: NotRequired[str]


class Taint(TypedDict):
    """The kernel's taint flags."""

    before: int
    after: int


class SinkReport(TypedDict):
    """What came out of one sink. Sizes are in bytes, as text; each with how many records had it."""

    records: int
    unmatched: int
    sizes: dict[str, int]
    missized: dict[str, dict[str, int]]
    """By event: records that are it and have another size."""
    cut: dict[str, dict[str, int]]
    """By event: records that end before all that is to match."""
    error: str | None


class RunReport(TypedDict):
    """What a test run of a program answered; bytes are in hex."""

    retval: int | None
    data_out: str | None
    ctx_out: str | None
    error: str | None


class Costs(TypedDict):
    """What the variant that runs takes. None is what the kernel does not tell."""

    memlock: dict[str, int | None]
    """Of each map, in bytes."""
    run_time: dict[str, list[int] | None]
    """Of each program, its nanoseconds and its runs."""
    empty: list[int] | None
    """The same of a program that does nothing."""


class EffortReport(TypedDict):
    """What the verifier says of its work for one program."""

    error: str | None
    """Why that could not be asked."""
    log: NotRequired[list[str]]
    """The last lines of its log, which have its counts."""
    verified: NotRequired[int]
    """The instructions that it looked at; 0 where the kernel does not keep that (before 5.16)."""
    jited: NotRequired[int]
    """Bytes of machine code."""
    xlated: NotRequired[int]
    """Bytes of BPF as the kernel runs it."""


class CellFacts(TypedDict):
    """Everything that the guest reports of a cell."""

    release: str
    attempts: list[AttemptReport]
    running: str | None
    refusal: str | None
    kernel: Moments
    known: dict[str, Any]
    trigger: TriggerReport | None
    events: list[Event]
    counts: dict[str, int]
    unmatched: int
    unmatched_samples: list[Any]
    lost: int
    effort: NotRequired[dict[str, EffortReport]]
    """With a budget: of each program that was loaded, what the verifier did for it."""
    dropped: NotRequired[int | None]
    """What the programs count as dropped; None where that map could not be read."""
    costs: NotRequired[Costs]
    """Under stress."""
    sinks: NotRequired[dict[str, SinkReport]]
    test_runs: NotRequired[dict[str, RunReport]]
    taint: NotRequired[Taint]
    timings: dict[str, float]
    loader: NotRequired[LoaderReport]
