"""collector.toml → frozen Collector, Variant, Program, Event. All validation of a manifest stands here; nothing here reads a file.

docs/collector-toml.md explains every key.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from kmatrix.guest import limit
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.validation import Strict, validate
from kmatrix.matrix.arch import ARCHES, INFO, Arch
from kmatrix.matrix.features import FEATURES, Version

Behaviour = Literal["full", "partial", "fallback", "refusal"]
BEHAVIOURS: tuple[Behaviour, ...] = ("refusal", "fallback", "partial", "full")
"""From worst to best."""

Transport = Literal["ringbuf", "perf"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FIELD_TYPE = re.compile(r"[us](8|16|32|64)|be(16|32)|char\[[1-9]\d*\]|bytes\[[1-9]\d*\]|ipv4|ipv6")
_LINE_TYPES = ("int", "str")
"""Types of the fields of an event that a loader prints."""
LOAD_TIMEOUT = limit.SECONDS
"""Seconds that the verifier may be at work on one program, where nobody says another time."""
_KNOWN = re.compile(r"known\.[a-z_][a-z0-9_]*")

Arches = Annotated[tuple[Arch, ...], Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Literals = int | str

_TYPE_OF_HOOK: tuple[tuple[str, str], ...] = (
    ("tracepoint/", "tracepoint"), ("tp/", "tracepoint"), ("raw_tracepoint", "raw_tracepoint"), ("raw_tp", "raw_tracepoint"),
    ("kprobe", "kprobe"), ("kretprobe", "kprobe"), ("ksyscall", "kprobe"), ("kretsyscall", "kprobe"), ("uprobe", "kprobe"),
    ("uretprobe", "kprobe"), ("usdt", "kprobe"), ("tp_btf/", "tracing"), ("fentry", "tracing"), ("fexit", "tracing"),
    ("fmod_ret", "tracing"), ("iter", "tracing"), ("lsm", "lsm"), ("perf_event", "perf_event"), ("xdp", "xdp"), ("tc", "sched_cls"),
    ("classifier", "sched_cls"), ("action", "sched_act"), ("socket", "socket_filter"), ("cgroup_skb", "cgroup_skb"),
    ("cgroup/skb", "cgroup_skb"), ("cgroup/sock", "cgroup_sock"), ("cgroup/dev", "cgroup_device"), ("sockops", "sock_ops"),
    ("sk_msg", "sk_msg"), ("sk_skb", "sk_skb"), ("sk_lookup", "sk_lookup"),
)  # fmt: skip
"""What a section's name begins with → the program's type as the kernel says it."""


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
    object: str | dict[Arch, str] | None = None
    """The compiled object, relative to the manifest: a file, a bpf2go stem, a text with {arch}, or a table by arch. None with a
    loader of the collector's own: then the variant is recognised by what is in the kernel."""
    needs: Names = ()
    arches: Arches = ARCHES
    transport: Transport | None = None
    buffer: str | None = None
    """The map that events come out of."""

    _features = field_validator("needs")(_check_features)

    def candidates(self, arch: Arch) -> tuple[str, ...]:
        """The file names that may hold this variant's object for `arch`, in the order they are looked for."""
        if self.object is None:
            return ()
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
    type: str | None = None
    """Its type as the kernel says it, where a loader of the collector's own loads it and the hook does not give it away."""
    tag: str | None = None
    """The kernel's hash of its instructions, where that is what tells it from another."""

    _features = field_validator("needs")(_check_features)

    @property
    def kernel_type(self) -> str | None:
        """The type that the kernel will say it has; None where neither `type` nor the hook says."""
        return self.type or next((kind for prefix, kind in _TYPE_OF_HOOK if self.hook.startswith(prefix)), None)


class Map(Strict):
    """A map that must exist in the kernel while the collector runs."""

    name: str
    type: str
    variants: Names = ()


class Trigger(Strict):
    """What makes the events happen."""

    kind: Literal["open", "exec", "tcp_connect", "dns", "oom", "command"]
    """What the guest can do (kmatrix.guest.trigger)."""
    family: Literal["ipv4", "ipv6"] | None = None
    """Of a tcp_connect: the loopback address that is connected to; IPv4 where not said."""
    command: Names = ()
    files: Names = ()
    """Files, relative to the manifest, that the guest gets in the trigger's working directory."""
    env: dict[str, str] = {}

    @model_validator(mode="after")
    def _command_is_given(self) -> Trigger:
        if (self.kind == "command") != bool(self.command):
            raise ValueError('kind = "command" and command = [...] go together')
        if self.family is not None and self.kind != "tcp_connect":
            raise ValueError('family goes with kind = "tcp_connect"')
        return self


class Ready(Strict):
    """How a loader shows that it is ready: by a line that it prints, or by a file."""

    line: str | None = None
    """A regular expression, looked for in each line of its output."""
    file: str | None = None
    """A path in the guest; relative to the loader's folder."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Ready:
        if (self.line is None) == (self.file is None):
            raise ValueError('write { line = "a regular expression" } or { file = "a path" }')
        if self.line is not None:
            _check_pattern(self.line)
        return self


class Loader(Strict):
    """The collector's own agent: it loads, attaches and reads by itself, and what it did is read off the kernel."""

    command: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """Run as root in the folder that its files are put into."""
    files: dict[str, str | dict[Arch, str]] = {}
    """Name in the guest → file relative to the manifest (`{arch}`, `{goarch}` and a table by arch are understood), or `deb:PACKAGE/PATH`."""
    env: dict[str, str] = {}
    ready: Literal["attached", "exit"] | Ready = "attached"
    ready_timeout: Annotated[float, Field(gt=0, le=600)] = 15.0
    """Seconds until it must be ready, or have refused."""
    stop: str | tuple[str, ...] = "SIGTERM"
    """A signal's name, or a command."""
    stop_timeout: Annotated[float, Field(gt=0, le=600)] = 5.0
    events: Literal["stdout", "stderr"] = "stdout"
    """Where it prints its events."""
    refusal_exits: Annotated[tuple[Annotated[int, Field(ge=1, le=255)], ...], Field(strict=False)] = ()
    """The exit statuses that are a refusal; none named means all but 0."""
    names: dict[str, str] = {}
    """Feature → a regular expression: how the loader's message names what is missing, where not by kmatrix' word."""

    @field_validator("files", mode="before")
    @classmethod
    def _a_list_is_names(cls, value: object) -> object:
        return {name: name for name in value} if isinstance(value, list) and all(isinstance(n, str) for n in value) else value

    @field_validator("files")
    @classmethod
    def _inside_its_folder(cls, value: dict[str, str | dict[Arch, str]]) -> dict[str, str | dict[Arch, str]]:
        for name, source in value.items():
            if not name or name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"{name!r}: a file's name in the guest is relative to the loader's folder and stays in it")
            for text in (source,) if isinstance(source, str) else source.values():
                if text.startswith("deb:") and not _DEB.fullmatch(text):
                    raise ValueError(f"{text!r}: write deb:PACKAGE/path/in/it, such as deb:libbpf-tools/usr/sbin/opensnoop")
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _a_list_is_a_command(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("stop")
    @classmethod
    def _known_signal(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value:
            raise ValueError("the stop command is empty")
        if isinstance(value, str) and value not in signal.Signals.__members__:
            raise ValueError(f"unknown signal {value!r}{did_you_mean(value, signal.Signals.__members__)}; or a command as a list")
        return value

    @field_validator("names")
    @classmethod
    def _names_of_features(cls, value: dict[str, str]) -> dict[str, str]:
        _check_features(tuple(value))
        for pattern in value.values():
            _check_pattern(pattern)
        return value


_DEB = re.compile(r"deb:[a-z0-9][a-z0-9+.-]+/[^/].*")


def _check_pattern(text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None


class EventField(Strict):
    """One field of an event, and what must be true of it."""

    name: str
    type: str
    key: str | None = None
    """Where it is in the JSON object that a loader prints, dotted (`process.pid`); its name where not said."""
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
        if not _FIELD_TYPE.fullmatch(value) and value not in _LINE_TYPES:
            raise ValueError(
                f"unknown type {value!r}; known: u8…u64, s8…s64, be16, be32, char[N], bytes[N], ipv4, ipv6 (and int, str of a [loader])"
            )
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
    regex: str | None = None
    """The line that a loader prints for it, with a group for each field: `(?P<pid>[0-9]+)`. Without one, the line is a JSON object."""
    fields: Annotated[tuple[EventField, ...], Field(strict=False, alias="field")] = ()


class Expect(Strict):
    """An exception to what the variants' needs say, with its reason."""

    kernels: str
    arch: str = "all"
    behaviour: Behaviour
    variant: str | None = None
    degraded: Names = ()
    """The degradations expected with it: `program:NAME`, `field:EVENT.NAME`."""
    message: str | None = None
    """Of a refusal: a regular expression that its message must hold."""
    reason: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _a_refusal_says_why(self) -> Expect:
        if (self.behaviour == "refusal") != (self.message is not None):
            raise ValueError('behaviour = "refusal" and message = "regex" go together: what must a refusal there say?')
        if self.message is not None:
            _check_pattern(self.message)
        return self


class _Head(Strict):
    name: str
    summary: str = ""
    min_kernel: str | None = None
    timeout: Annotated[float, Field(gt=0, le=600)] = 5.0
    load_timeout: Annotated[float, Field(gt=0, le=600)] = LOAD_TIMEOUT


class _FileModel(Strict):
    schema_version: Annotated[Literal[1], Field(alias="schema")]
    collector: _Head
    variant: Annotated[tuple[Variant, ...], Field(strict=False, min_length=1)]
    program: Annotated[tuple[Program, ...], Field(strict=False, min_length=1)]
    map: Annotated[tuple[Map, ...], Field(strict=False)] = ()
    loader: Loader | None = None
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
            self._check_variant(variant)
            if not any(p.required and _applies(p.variants, variant.name) for p in self.program):
                raise ValueError(f"variant {variant.name!r} has no required program: nothing could be asserted of it")
        events = _unique("event", [event.name for event in self.event])
        for event in self.event:
            _refer(f"event {event.name!r}: like", (event.like,) if event.like else (), events)
            self._check_event(event)
        if self.event and self.trigger is None:
            raise ValueError("there are events but no [trigger]: say what makes them happen")
        if self.event and self.loader is None and not any(variant.transport for variant in self.variant):
            raise ValueError("there are events but no variant has a transport and buffer")
        if not self.event and self.loader is None and any(variant.transport for variant in self.variant):
            raise ValueError(
                "a variant has a transport, but there is no [[event]]: say what must come out of it, or leave transport out"
            )
        for event in self.event:
            if event.max_count is not None and event.max_count < event.min_count:
                raise ValueError(f"event {event.name!r}: max_count {event.max_count} is below min_count {event.min_count}")
        parts = {f"program:{p.name}" for p in self.program}
        parts |= {f"field:{event.name}.{f.name}" for event in self.event for f in _layout(event, self.event)}
        for expect in self.expect:
            _refer("expect: degraded", expect.degraded, parts)
            _refer("expect: variant", (expect.variant,) if expect.variant else (), variants)
        return self

    def _check_variant(self, variant: Variant) -> None:
        """An object and its buffer without a [loader]; with one, neither an object nor need of a buffer's name."""
        what = f"variant {variant.name!r}"
        if self.loader is None:
            if variant.object is None:
                raise ValueError(f"{what} has no object: name one, or bring a [loader]")
            if (variant.transport is None) != (variant.buffer is None):
                raise ValueError(f"{what}: transport and buffer go together: name both, or neither")
            return
        if variant.object is not None:
            raise ValueError(
                f"{what} has an object, but with a [loader] it is that which loads: say by programs and transport what runs"
            )
        if variant.buffer is not None and variant.transport is None:
            raise ValueError(f"{what}: buffer without transport")

    @model_validator(mode="after")
    def _loader_or_objects(self) -> _FileModel:
        for program in self.program:
            if self.loader is None and (program.type or program.tag):
                raise ValueError(
                    f"program {program.name!r}: type and tag are how a [loader]'s programs are recognised; there is none"
                )
            if self.loader is not None and program.kernel_type is None:
                raise ValueError(f'program {program.name!r}: its hook {program.hook!r} does not say its type: add type = "…"')
        return self

    def _check_lines(self, event: Event, fields: tuple[EventField, ...]) -> None:
        """An event is a struct out of a buffer, or, with a [loader], a line."""
        what = f"event {event.name!r}"
        for f in fields:
            if self.loader is None and (f.key is not None or f.type in _LINE_TYPES):
                raise ValueError(f"{what}: field {f.name!r}: key, int and str are for lines that a [loader] prints; there is none")
            if self.loader is not None and f.type not in _LINE_TYPES:
                raise ValueError(
                    f"{what}: field {f.name!r}: in what a [loader] prints, a field is of type int or str, not {f.type}"
                )
        if self.loader is None and event.regex is not None:
            raise ValueError(f"{what}: regex is for lines that a [loader] prints; there is none")
        if self.loader is not None and event.packed:
            raise ValueError(f"{what}: packed is for structs; a [loader] prints lines")
        if event.regex is not None:
            _check_pattern(event.regex)
            _refer(f"{what}: regex: group", tuple(re.compile(event.regex).groupindex), {f.name for f in fields})
            _refer(
                f"{what}: field (it is no group of regex)", tuple(f.name for f in fields), set(re.compile(event.regex).groupindex)
            )

    def _check_event(self, event: Event) -> None:
        fields = _layout(event, self.event)
        names = _unique(f"event {event.name!r}: field", [f.name for f in fields])
        if not fields:
            raise ValueError(f"event {event.name!r} has no fields: list them in the order of the C struct, or use like")
        _refer(f"event {event.name!r}: match", tuple(event.match), names)
        self._check_lines(event, fields)
        for f in fields:
            if isinstance(f.equals, str) and f.equals.startswith("known.") and not _KNOWN.fullmatch(f.equals):
                raise ValueError(f"event {event.name!r}: field {f.name!r}: {f.equals!r} is not known.NAME")
        if not event.match and not any(f.checked for f in fields):
            raise ValueError(f"event {event.name!r} asserts nothing: any event would do; add match, or check a field")


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
    load_timeout: float
    """Seconds that the verifier may be at work on one program."""
    variants: tuple[Variant, ...]
    programs: tuple[Program, ...]
    maps: tuple[Map, ...]
    loader: Loader | None
    """The collector's own; None where kmatrix loads its objects."""
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
        load_timeout=model.collector.load_timeout,
        variants=model.variant,
        programs=model.program,
        maps=model.map,
        loader=model.loader,
        trigger=model.trigger,
        events=model.event,
        expects=model.expect,
    )
