"""collector.toml → frozen Collector, Variant, Program, Event. All validation of a manifest stands here; nothing here reads a file.

docs/collector-toml.md explains every key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from kmatrix.arch import ARCHES, INFO, Arch
from kmatrix.features import FEATURES, Version
from kmatrix.nearest import did_you_mean
from kmatrix.validation import Strict, validate

Behaviour = Literal["full", "partial", "fallback", "refusal"]
BEHAVIOURS: tuple[Behaviour, ...] = ("refusal", "fallback", "partial", "full")
"""From worst to best."""

Transport = Literal["ringbuf", "perf"]
TRIGGERS = ("open", "exec", "tcp_connect", "dns", "oom", "command")
"""What the guest can do to make a collector's events happen (kmatrix.guest.trigger)."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FIELD_TYPE = re.compile(r"[us](8|16|32|64)|be(16|32)|char\[[1-9]\d*\]|bytes\[[1-9]\d*\]|ipv4|ipv6")
_KNOWN = re.compile(r"known\.[a-z_][a-z0-9_]*")

Arches = Annotated[tuple[Arch, ...], Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Literals = int | str


def _check_features(needs: tuple[str, ...]) -> tuple[str, ...]:
    for name in needs:
        if name not in FEATURES:
            raise ValueError(f"unknown feature {name!r}{did_you_mean(name, FEATURES)}; `kmatrix features` lists them")
    return needs


class Variant(Strict):
    """One way the collector can run."""

    name: str
    behaviour: Literal["full", "partial", "fallback"]
    """What this variant is when it runs with nothing missing."""
    object: str | dict[Arch, str]
    """The compiled object, relative to the manifest: a file, a bpf2go stem, a text with {arch}, or a table by arch."""
    needs: Names = ()
    arches: Arches = ARCHES
    transport: Transport | None = None
    buffer: str | None = None
    """The map that events come out of."""

    _features = field_validator("needs")(_check_features)

    @model_validator(mode="after")
    def _buffer_has_transport(self) -> Variant:
        if (self.transport is None) != (self.buffer is None):
            raise ValueError("transport and buffer go together: name both, or neither")
        return self

    def candidates(self, arch: Arch) -> tuple[str, ...]:
        """The file names that may hold this variant's object for `arch`, in the order they are looked for."""
        if not isinstance(self.object, str):
            return (self.object[arch],) if arch in self.object else ()
        text = self.object.replace("{arch}", arch)
        bpf = INFO[arch].bpf2go
        # bpf2go wrote name_bpfel_x86.o until v0.12 and name_x86_bpfel.o since.
        return (text, f"{text}_{bpf}_bpfel.o", f"{text}_bpfel_{bpf}.o", f"{text}_bpfel.o", f"{text}.bpf.o", f"{text}.o")


class Program(Strict):
    """One BPF program of the collector."""

    name: str
    hook: str
    """Where it attaches, as in SEC(): `tracepoint/syscalls/sys_enter_openat`."""
    required: bool = True
    attach: bool = True
    """False for a program that is only loaded: tail-called, or attached by the agent in a way of its own."""
    fires: bool = True
    """False for a program that the trigger does not reach. One that it should reach and that never runs is `silent`."""
    arches: Arches = ARCHES
    needs: Names = ()
    variants: Names = ()
    """The variants that have it; none named means all."""

    _features = field_validator("needs")(_check_features)


class Map(Strict):
    """A map that must exist in the kernel while the collector runs."""

    name: str
    type: str
    variants: Names = ()


class Trigger(Strict):
    """What makes the events happen."""

    kind: Literal["open", "exec", "tcp_connect", "dns", "oom", "command"]
    command: Names = ()
    files: Names = ()
    """Files, relative to the manifest, that the guest gets in the trigger's working directory."""
    env: dict[str, str] = {}

    @model_validator(mode="after")
    def _command_is_given(self) -> Trigger:
        if (self.kind == "command") != bool(self.command):
            raise ValueError('kind = "command" and command = [...] go together')
        return self


class EventField(Strict):
    """One field of an event, and what must be true of it."""

    name: str
    type: str
    equals: Literals | None = None
    nonzero: bool = False
    min: int | None = None
    max: int | None = None
    one_of: Annotated[tuple[Literals, ...], Field(strict=False)] = ()
    contains: str | None = None
    degradable: bool = False
    needs: Names = ()
    """The features without which a degradable field is absent."""
    absent: Literals = 0
    """The value that says "absent"."""

    _features = field_validator("needs")(_check_features)

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        if not _FIELD_TYPE.fullmatch(value):
            raise ValueError(f"unknown type {value!r}; known: u8…u64, s8…s64, be16, be32, char[N], bytes[N], ipv4, ipv6")
        return value

    @model_validator(mode="after")
    def _needs_degradable(self) -> EventField:
        if self.needs and not self.degradable:
            raise ValueError("a field with needs must be degradable = true (it is absent where they are not met)")
        return self

    @property
    def checked(self) -> bool:
        """Whether anything is asserted of the value."""
        return (
            self.equals is not None
            or self.nonzero
            or self.min is not None
            or self.max is not None
            or bool(self.one_of)
            or self.contains is not None
        )


class Event(Strict):
    """One kind of event that the trigger must make appear."""

    name: str
    match: dict[str, Literals] = {}
    """Which events out of the buffer are meant: fields and the values that they have."""
    min_count: Annotated[int, Field(ge=1)] = 1
    max_count: Annotated[int, Field(ge=1)] | None = None
    like: str | None = None
    """Another event whose layout (its fields) this one shares."""
    packed: bool = False
    fields: Annotated[tuple[EventField, ...], Field(strict=False, alias="field")] = ()


class Expect(Strict):
    """An exception to what the variants' needs say, with its reason."""

    kernels: str
    arch: str = "all"
    behaviour: Behaviour
    variant: str | None = None
    degraded: Names = ()
    """The degradations expected with it: `program:NAME`, `field:EVENT.NAME`."""
    reason: Annotated[str, Field(min_length=1)]


class _Head(Strict):
    name: str
    summary: str = ""
    min_kernel: str | None = None
    timeout: Annotated[float, Field(gt=0, le=600)] = 5.0


class _FileModel(Strict):
    schema_version: Annotated[Literal[1], Field(alias="schema")]
    collector: _Head
    variant: Annotated[tuple[Variant, ...], Field(strict=False, min_length=1)]
    program: Annotated[tuple[Program, ...], Field(strict=False, min_length=1)]
    map: Annotated[tuple[Map, ...], Field(strict=False)] = ()
    trigger: Trigger | None = None
    event: Annotated[tuple[Event, ...], Field(strict=False)] = ()
    expect: Annotated[tuple[Expect, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _hangs_together(self) -> _FileModel:
        if not _NAME.fullmatch(self.collector.name):
            raise ValueError(f"collector.name {self.collector.name!r}: use letters, digits, '.', '_' and '-'")
        if self.collector.min_kernel is not None and not re.fullmatch(r"\d+\.\d+", self.collector.min_kernel):
            raise ValueError(f'collector.min_kernel {self.collector.min_kernel!r}: write major.minor, such as "4.14"')
        variants = _unique("variant", [variant.name for variant in self.variant])
        _unique("program", [f"{program.name} ({', '.join(program.variants) or 'all variants'})" for program in self.program])
        for kind, entries in (("program", self.program), ("map", self.map)):
            for entry in entries:
                _refer(f"{kind} {entry.name!r}: variants", entry.variants, variants)
                if not _IDENTIFIER.fullmatch(entry.name):
                    raise ValueError(f"{kind} name {entry.name!r} is not a C identifier")
        for variant in self.variant:
            if not any(p.required and _applies(p.variants, variant.name) for p in self.program):
                raise ValueError(f"variant {variant.name!r} has no required program: nothing could be asserted of it")
        events = _unique("event", [event.name for event in self.event])
        for event in self.event:
            _refer(f"event {event.name!r}: like", (event.like,) if event.like else (), events)
            self._check_event(event)
        if self.event and self.trigger is None:
            raise ValueError("there are events but no [trigger]: say what makes them happen")
        if self.event and not any(variant.transport for variant in self.variant):
            raise ValueError("there are events but no variant has a transport and buffer")
        for event in self.event:
            if event.max_count is not None and event.max_count < event.min_count:
                raise ValueError(f"event {event.name!r}: max_count {event.max_count} is below min_count {event.min_count}")
        parts = {f"program:{p.name}" for p in self.program}
        parts |= {f"field:{event.name}.{f.name}" for event in self.event for f in _layout(event, self.event)}
        for expect in self.expect:
            _refer("expect: degraded", expect.degraded, parts)
            _refer("expect: variant", (expect.variant,) if expect.variant else (), variants)
        return self

    def _check_event(self, event: Event) -> None:
        fields = _layout(event, self.event)
        names = _unique(f"event {event.name!r}: field", [f.name for f in fields])
        if not fields:
            raise ValueError(f"event {event.name!r} has no fields: list them in the order of the C struct, or use like")
        _refer(f"event {event.name!r}: match", tuple(event.match), names)
        for f in fields:
            if isinstance(f.equals, str) and f.equals.startswith("known.") and not _KNOWN.fullmatch(f.equals):
                raise ValueError(f"event {event.name!r}: field {f.name!r}: {f.equals!r} is not known.NAME")


def _unique(kind: str, names: list[str]) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{kind} {name!r} is there twice")
        seen.add(name)
    return seen


def _refer(what: str, names: tuple[str, ...], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what} names {name!r}, which is not there{did_you_mean(name, known)}")


def _applies(variants: tuple[str, ...], name: str) -> bool:
    return not variants or name in variants


def _layout(event: Event, events: tuple[Event, ...]) -> tuple[EventField, ...]:
    """The event's fields; where it is `like` another, that one's with its own in their places (checks differ, layout does not)."""
    if event.like is None:
        return event.fields
    base = next((_layout(other, ()) for other in events if other.name == event.like and other.like is None), ())
    own = {f.name: f for f in event.fields}
    merged = tuple(own.pop(f.name, f) for f in base)
    return merged + tuple(own.values())


class Collector(Strict):
    """What a collector.toml says: one collector's objects, variants, programs, trigger, events."""

    name: str
    path: Path
    """The manifest."""
    summary: str
    min_kernel: Version | None
    timeout: float
    """Seconds to wait for the events after the trigger."""
    variants: tuple[Variant, ...]
    programs: tuple[Program, ...]
    maps: tuple[Map, ...]
    trigger: Trigger | None
    events: tuple[Event, ...]
    expects: tuple[Expect, ...]

    def programs_of(self, variant: Variant, arch: Arch) -> tuple[Program, ...]:
        """The programs that `variant` has on `arch`."""
        return tuple(p for p in self.programs if _applies(p.variants, variant.name) and arch in p.arches)

    def maps_of(self, variant: Variant) -> tuple[Map, ...]:
        """The maps that must exist while `variant` runs."""
        return tuple(m for m in self.maps if _applies(m.variants, variant.name))

    def layout(self, event: Event) -> tuple[EventField, ...]:
        """The fields of `event` in the order of the C struct, with what is asserted of each."""
        return _layout(event, self.events)

    def known_names(self) -> frozenset[str]:
        """What the events ask of the trigger: every NAME of a `known.NAME`."""
        asked: list[object] = [value for event in self.events for value in event.match.values()]
        for event in self.events:
            asked += [value for f in self.layout(event) for value in (f.equals, f.contains, *f.one_of)]
        return frozenset(value.removeprefix("known.") for value in asked if isinstance(value, str) and value.startswith("known."))

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        return next(variant for variant in self.variants if variant.name == name)

    def relevant_features(self, arch: Arch) -> frozenset[str]:
        """The features that decide anything for this collector on `arch`."""
        needs = [variant.needs for variant in self.variants if arch in variant.arches]
        needs += [program.needs for program in self.programs if arch in program.arches]
        needs += [f.needs for event in self.events for f in self.layout(event)]
        return frozenset(name for names in needs for name in names)


def parse(data: object, *, path: Path) -> Collector:
    """The collector of a parsed collector.toml; raises InputError naming the file, the key and the fix."""
    model = validate(_FileModel, data, where=str(path))
    floor = model.collector.min_kernel
    major, minor = map(int, floor.split(".")) if floor else (0, 0)
    return Collector(
        name=model.collector.name,
        path=path,
        summary=model.collector.summary,
        min_kernel=(major, minor) if floor else None,
        timeout=model.collector.timeout,
        variants=model.variant,
        programs=model.program,
        maps=model.map,
        trigger=model.trigger,
        events=model.event,
        expects=model.expect,
    )
