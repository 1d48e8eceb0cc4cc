"""collector.toml as it is written → Collector. What the parts of a manifest must say of each other is checked here; nothing here reads a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from kmatrix.host.nearest import did_you_mean
from kmatrix.host.validation import Strict, validate
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.event import KNOWN, LINE_TYPES, Event, EventField, layout
from kmatrix.manifest.own_loader import Loader
from kmatrix.manifest.trigger import Trigger, check_known
from kmatrix.manifest.types import check_pattern
from kmatrix.manifest.variant import Expect, Map, Program, Variant, applies

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


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
            if not any(p.required and applies(p.variants, variant.name) for p in self.program):
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
        parts |= {f"field:{event.name}.{f.name}" for event in self.event for f in layout(event, self.event)}
        for expect in self.expect:
            _refer("expect: degraded", expect.degraded, parts)
            _refer("expect: variant", (expect.variant,) if expect.variant else (), variants)
        check_known(self.trigger, self.event)
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
            if self.loader is None and (f.key is not None or f.type in LINE_TYPES):
                raise ValueError(f"{what}: field {f.name!r}: key, int and str are for lines that a [loader] prints; there is none")
            if self.loader is not None and f.type not in LINE_TYPES:
                raise ValueError(
                    f"{what}: field {f.name!r}: in what a [loader] prints, a field is of type int or str, not {f.type}"
                )
        if self.loader is None and event.regex is not None:
            raise ValueError(f"{what}: regex is for lines that a [loader] prints; there is none")
        if self.loader is not None and event.packed:
            raise ValueError(f"{what}: packed is for structs; a [loader] prints lines")
        if event.regex is not None:
            check_pattern(event.regex)
            _refer(f"{what}: regex: group", tuple(re.compile(event.regex).groupindex), {f.name for f in fields})
            _refer(
                f"{what}: field (it is no group of regex)", tuple(f.name for f in fields), set(re.compile(event.regex).groupindex)
            )

    def _check_event(self, event: Event) -> None:
        fields = layout(event, self.event)
        names = _unique(f"event {event.name!r}: field", [f.name for f in fields])
        if not fields:
            raise ValueError(f"event {event.name!r} has no fields: list them in the order of the C struct, or use like")
        _refer(f"event {event.name!r}: match", tuple(event.match), names)
        self._check_lines(event, fields)
        for f in fields:
            if isinstance(f.equals, str) and f.equals.startswith("known.") and not KNOWN.fullmatch(f.equals):
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
        loader=model.loader,
        trigger=model.trigger,
        events=model.event,
        expects=model.expect,
    )
