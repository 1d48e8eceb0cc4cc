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
        "FLOOD", "tracepoint/syscalls/sys_enter_openat", 'kind = "open"', 'match = { tgid = "known.tgid" }\n{size}', "", "",
        'drops = "dropped"',
    ),
}  # fmt: skip


STRESS = """
[stress]
rate = 200
seconds = 0.3
lost = "1%"
memlock = "{memlock}"
run_time = 100000
"""


def test_what_is_watched_is_right_or_known_to_be_wrong(tmp_path: Path, run_in: Shell, need: Callable[[str], None]) -> None:
    """And under stress: what the buffer has no room for, and what takes more memory than promised."""
    need("6.1-x86_64")
    for subject, (define, hook, trigger, event, number, text, variant) in WATCHED.items():
        for name, defines in ((subject, [define]), (f"{subject}-broken", [define, "BREAK"])):
            said = MANIFEST.format(
                name=name,
                hook=hook.replace("rename", "renameat2") if name == "names-broken" else hook,
                trigger=trigger,
                event=event.replace("{size}", "size = 2672" if "BREAK" in defines else "size = 272"),
                number=number,
                text=text,
                variant=variant,
            )
            _write(tmp_path / name, said + (STRESS.format(memlock="1M") if subject == "flood" else ""), name, defines)
            if name == "flood":
                dear = said.replace('name = "flood"', 'name = "dear"') + STRESS.format(memlock="60K")
                _write(tmp_path / "dear", dear, name, defines)
    done = run_in("pytest", "--kernels=6.1", "--arch=x86_64", "--stress")
    records = {record.collector: record for record in cell_records.read_all(tmp_path / ".kmatrix")}
    assert {name: record.failure for name, record in records.items()} == {
        "signals": None,
        "signals-broken": "wrong-data",
        "names": None,
        "names-broken": "silent",
        "blocks": None,
        "blocks-broken": "wrong-data",
        "flood": None,
        "flood+stress": None,
        "flood-broken": None,
        "flood-broken+stress": "lost",
        "dear": None,
        "dear+stress": "costly",
    }, done.stdout
    sound, broken_, dear_ = (records[f"{name}+stress"] for name in ("flood", "flood-broken", "dear"))
    assert sound.facts is not None
    assert sound.facts["dropped"] == 0
    (nanoseconds, runs), (empty, times) = sound.facts["costs"]["run_time"]["watch"], sound.facts["costs"]["empty"]  # type: ignore[misc]
    assert runs >= 120
    assert times == 1000
    assert nanoseconds / runs > empty / times > 0
    assert "of 60 seen events arrived after the trigger; " in broken_.reason
    assert "dropped" in broken_.reason
    assert 'more than 61440 (memlock = "60K"); the largest is events' in dear_.reason
    assert dear_.reproduce.endswith("--stress")


def _write(home: Path, manifest: str, name: str, defines: list[str]) -> None:
    home.mkdir()
    (home / "collector.toml").write_text(manifest)
    broken.compile_object(home / f"{name}_x86_bpfel.o", "x86", *defines, source=Path(__file__).with_name("watch.bpf.c"))
