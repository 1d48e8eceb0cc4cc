"""Collectors of what the triggers do: the sound ones are green, and those that are broken by hand fail in the class of what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conftest import Shell
from kmatrix.runs import cell_records
from tests.cells import broken

MANIFEST = """
schema = 1
[collector]
name = "{name}"
timeout = 3.0
[[variant]]
name = "ring"
behaviour = "full"
object = "{name}"
needs = ["ringbuf"]
transport = "ringbuf"
buffer = "events"
{variant}
[[program]]
name = "watch"
hook = "{hook}"
[trigger]
{trigger}
[[event]]
name = "seen"
{event}
[[event.field]]
name = "tgid"
type = "u32"
[[event.field]]
name = "what"
type = "u32"
[[event.field]]
name = "number"
type = "u64"
{number}
[[event.field]]
name = "text"
type = "char[256]"
{text}
"""

WATCHED = {
    "signals": (
        "SIGNALS", "tracepoint/signal/signal_generate", 'kind = "signal"',
        'match = { what = "known.signal", tgid = "known.pid" }', 'equals = "known.victim"', "", "",
    ),
    "names": (
        "NAMES", "tracepoint/syscalls/sys_enter_rename", 'compose = ["open", { kind = "rename", name = "short" }]',
        'match = { tgid = "known.rename_pid" }', "", 'equals = "known.rename_new_path"', "",
    ),
    "blocks": (
        "BLOCKS", "tracepoint/block/block_rq_issue", 'kind = "block_io"\nop = "write"', 'match = { what = "known.dev" }',
        'equals = "known.sector"', "", "",
    ),
    "flood": (
        "FLOOD", "tracepoint/syscalls/sys_enter_openat", 'kind = "open"\ncount = 60\nrate = 200', "", "", "", 'drops = "dropped"',
    ),
}  # fmt: skip


def test_what_is_watched_is_right_or_known_to_be_wrong(tmp_path: Path, run_in: Shell, need: Callable[[str], None]) -> None:
    need("6.1-x86_64")
    for subject, (define, hook, trigger, event, number, text, variant) in WATCHED.items():
        for name, defines in ((subject, [define]), (f"{subject}-broken", [define, "BREAK"])):
            home = tmp_path / name
            home.mkdir()
            event_here = (
                event
                or f'match = {{ tgid = "known.tgid" }}\nmin_count = 120\n{"size = 2672" if name.endswith("broken") else "size = 272"}'
            )
            where = hook.replace("rename", "renameat2") if name == "names-broken" else hook
            said = MANIFEST.format(
                name=name, hook=where, trigger=trigger, event=event_here, number=number, text=text, variant=variant
            )
            (home / "collector.toml").write_text(said)
            broken.compile_object(home / f"{name}_x86_bpfel.o", "x86", *defines, source=Path(__file__).with_name("watch.bpf.c"))
    done = run_in("pytest", "--kernels=6.1", "--arch=x86_64")
    records = {record.collector: record for record in cell_records.read_all(tmp_path / ".kmatrix")}
    assert {name: record.failure for name, record in records.items()} == {
        "signals": None,
        "signals-broken": "wrong-data",
        "names": None,
        "names-broken": "silent",
        "blocks": None,
        "blocks-broken": "wrong-data",
        "flood": None,
        "flood-broken": "lost",
    }, done.stdout
    assert records["flood"].facts is not None
    assert records["flood"].facts["dropped"] == 0
    assert "of 120 seen events arrived after the trigger; " in records["flood-broken"].reason
    assert "dropped" in records["flood-broken"].reason
