"""What came out of a collector's sinks, in words: of another size than the manifest says, or nothing, or what a test run answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kmatrix.guest.events import Layout, Spec, in_buffer
from kmatrix.manifest.event import Event, whole
from kmatrix.verdict.failure import Facts, Problem, attempt_of

if TYPE_CHECKING:
    from kmatrix.manifest.collector import Collector
    from kmatrix.manifest.sink import TestRun


def of_sink(facts: Facts, event: Event) -> Mapping[str, Any]:
    """What the guest found in the sink that the event comes out of; nothing, where it looked at none."""
    return facts.get("sinks", {}).get(event.source or "buffer") or {}


def wrong_size(collector: Collector, event: Event, count: int, facts: Facts) -> str | None:
    """What to say of records that are this event and have another size than the manifest describes; None where there are none."""
    event = whole(event, collector.events)
    sink = of_sink(facts, event)
    sizes = (sink.get("missized") or {}).get(event.name)
    if not sizes and count < event.min_count:
        # They end before all that is to match, and match as far as they go: nothing else came in the place of the event.
        sizes = (sink.get("cut") or {}).get(event.name) or _of_no_event(collector, event, sink, facts)
    if not sizes:
        return None
    came = {int(size): number for size, number in sizes.items()}
    size, perf = max(came, key=lambda each: came[each]), _by_perf(facts)
    rounded = f" (a perf buffer rounds up: {size - 7} to {size} were sent)" if perf else ""
    return f"{_records(came)} came{rounded}; event {event.name} describes {_described(event)}: {_advice(event, size, perf)}"


def _of_no_event(collector: Collector, event: Event, sink: Mapping[str, Any], facts: Facts) -> Mapping[str, int] | None:
    """The sizes of all records that came, where not one is of a size that any event out of that sink has."""
    if event.sink.kind != "buffer" or collector.loader is not None or not sink.get("sizes"):
        return None
    events = [whole(each, collector.events) for each in collector.events_of(collector.variant(facts["running"] or ""))]
    specs = [_spec(each) for each in events if each.source == event.source]
    transport = "perf" if _by_perf(facts) else "ringbuf"
    sizes: Mapping[str, int] = sink["sizes"]
    return None if any(spec.fits(int(size), transport) for size in sizes for spec in specs) else sizes


def _spec(event: Event) -> Spec:
    sizes = (event.size,) if event.size is not None else ()
    return Spec(event.name, _layout(event), {}, 1, None, sizes, event.min_size)


def _layout(event: Event) -> Layout:
    fields = [{"name": f.name, "type": f.type, "offset": f.offset} for f in event.fields]
    return Layout.of(fields, packed=event.packed)


def _sizes(event: Event) -> list[int]:
    layout = _layout(event)
    return [event.size] if event.size is not None else sorted({layout.size, layout.padded})


def _described(event: Event) -> str:
    if event.min_size is not None:
        return f"at least {event.min_size}"
    return " or ".join(map(str, _sizes(event))) + (f" (struct {event.struct})" if event.struct is not None else "")


def _advice(event: Event, size: int, perf: bool) -> str:
    """What of a record of `size` bytes is cut off, or not described, and what to write."""
    layout, longest = _layout(event), max(_sizes(event))
    if event.min_size is None and size > in_buffer(longest, "perf" if perf else "ringbuf"):
        more = f"{max(1, size - 7 - longest)} to {size - longest}" if perf else str(size - longest)
        if event.struct is not None:
            return f"{more} bytes follow the struct; where what follows varies in length, say min_size = {longest}"
        ends = [(at + _bytes(kind), name) for name, kind, at in layout.fields]
        return (
            f"{more} bytes after {max(ends)[1]} are not described; list their fields, or say size = {size}, or min_size ="
            f" {layout.size} where the length varies"
        )
    cut = [(at, name, kind) for name, kind, at in layout.fields if at + _bytes(kind) > size]
    if not cut:
        return f"say size = {size} where that is right"
    at, name, kind = min(cut)
    off = f"{name} ({kind} at byte {at}) is not in it" if at >= size else f"{name} ({kind} at byte {at}) is cut off"
    varies = "" if event.min_size is not None else f"; where records vary in length, say min_size = {size}"
    return off + varies


def _by_perf(facts: Facts) -> bool:
    """Whether the running variant's buffer is a perf buffer, by the type that the kernel gives its map."""
    attempt = attempt_of(facts, facts["running"])
    return attempt is not None and any(found["type"] == "perf_event_array" for found in attempt["maps"].values())


def _bytes(kind: str) -> int:
    return Layout.of([{"name": "", "type": kind, "offset": 0}]).size


def _records(sizes: Mapping[int, int]) -> str:
    """`3 records of 24 bytes`, `3 records of 24 and 2 of 32 bytes`."""
    total = sum(sizes.values())
    if len(sizes) == 1:
        return f"{total} record{'' if total == 1 else 's'} of {next(iter(sizes))} bytes"
    shown = sorted(sizes, key=lambda each: -sizes[each])[:4]
    listed = ", ".join(f"{sizes[size]} of {size}" for size in shown)
    rest = total - sum(sizes[size] for size in shown)
    return f"{total} records ({listed}{f', {rest} of other sizes' if rest else ''} bytes)"


def what_came(event: Event, match: str, facts: Facts) -> str | None:
    """What came out of the sink where the event did not, in words; None where there is nothing to say of it."""
    sink = of_sink(facts, event)
    if sink.get("error"):
        return f"{_place(event)}: {sink['error']}"
    other = int(sink.get("unmatched") or 0)
    if not other:
        if event.sink.kind == "buffer":
            return None if sink.get("records") or facts.get("lost") else _ran_for_nothing(facts)
        return f"{_place(event)} is empty" if event.sink.kind in ("map", "iter") and sink else None
    sizes = {int(size): number for size, number in (sink.get("sizes") or {}).items()}
    if event.sink.kind == "buffer" and sizes:
        return f"{_records(sizes)} came, none with {match}" if match else f"{_records(sizes)} came"
    one, many = _WHAT_CAME.get(event.sink.kind, ("other line came", "other lines came"))
    came = f"{other} {one if other == 1 else many}"
    return f"{came}, none with {match}" if match else came


def _ran_for_nothing(facts: Facts) -> str | None:
    """Which programs ran, of which nothing came; None where the kernel does not count runs (before 5.1), or none ran."""
    running = attempt_of(facts, facts["running"])
    runs = {name: report.get("runs") or 0 for name, report in (running["programs"] if running else {}).items()}
    ran = [f"{name} {count}" for name, count in sorted(runs.items(), key=lambda each: -each[1]) if count]
    if not ran:
        return None
    shown = ", ".join(ran[:_RAN_SHOWN]) + (f" and {len(ran) - _RAN_SHOWN} more" if len(ran) > _RAN_SHOWN else "")
    return f"nothing came out of the buffer, though programs ran (times: {shown})"


_RAN_SHOWN = 4
"""Programs that are named of those that ran."""
_WHAT_CAME = {"map": ("entry is in the map", "entries are in the map"), "iter": ("line was read", "lines were read")}


def _place(event: Event) -> str:
    kind, name = event.sink
    return {"map": f"map {name}", "iter": f"what iterator {name} prints"}.get(kind, kind)


def judge_test_runs(collector: Collector, facts: Facts) -> list[Problem]:
    """Test runs that the kernel did not do, or whose answer is another than the manifest says."""
    return [problem for run in collector.test_runs for problem in _judge_run(run, facts)]


def _judge_run(run: TestRun, facts: Facts) -> Iterable[Problem]:
    answer = facts.get("test_runs", {}).get(run.label)
    if answer is None:  # its program is not loaded, which is judged elsewhere
        return
    what = f"test_run {run.label}"
    if answer["error"] is not None:
        yield Problem("silent", f"{what}: the kernel did not run program {run.program} on this input: {answer['error']}")
        return
    value = answer["retval"]
    if run.returns is not None and value != run.returns & 0xFFFFFFFF:
        value = value - (1 << 32) if value is not None and run.returns < 0 and value >> 31 else value
        yield Problem("wrong-data", f"{what}: program {run.program} returned {value}, should be {run.returns}")
    for name, found in (("data_out", answer["data_out"]), ("ctx_out", answer["ctx_out"])):
        wanted = getattr(run, name)
        if wanted is not None and found != wanted:
            yield Problem("wrong-data", f"{what}: {name} {_difference(found, wanted)}")


def _difference(found: str | None, wanted: str) -> str:
    if found is None:
        return "was not answered"
    if len(found) != len(wanted):
        return f"has {len(found) // 2} bytes, should have {len(wanted) // 2}: it is {found}"
    at = next(index for index in range(0, len(found), 2) if found[index : index + 2] != wanted[index : index + 2])
    return f"is {found[at : at + 2]} at byte {at // 2}, should be {wanted[at : at + 2]}"


def shown_match(event: Event, values: Mapping[str, Any], contains: Any) -> str:
    """What is asked of a record, in words; `values` are those of its match with what is known in them."""
    asked = [f"{name} = {value!r}" for name, value in values.items()]
    return ", ".join([*asked, f"{contains!r} in it"] if event.contains is not None else asked)
