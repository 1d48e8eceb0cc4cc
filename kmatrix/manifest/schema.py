"""collector.toml as it is written → Collector. What the parts of a manifest must say of each other is checked here; nothing here reads a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from kmatrix.guest import limit
from kmatrix.host import version as versions
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.validation import Strict, validate
from kmatrix.manifest.budget import Budget, check_budget
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.contract import ProgramTerms
from kmatrix.manifest.event import Event, layout, whole
from kmatrix.manifest.event_rules import check_event
from kmatrix.manifest.event_rules import refer as _refer
from kmatrix.manifest.event_rules import unique as _unique
from kmatrix.manifest.guest_test import TestCommand
from kmatrix.manifest.libraries import LIBRARIES, Library
from kmatrix.manifest.own_loader import Loader
from kmatrix.manifest.sink import TestRun
from kmatrix.manifest.stress import Stress, check_stress
from kmatrix.manifest.trigger import Trigger, check_known
from kmatrix.manifest.variant import Expect, Map, Program, Variant, applies
from kmatrix.matrix.definitions import DefinitionModel, define
from kmatrix.matrix.parameters import Definitions

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class _Head(Strict):
    name: str
    summary: str = ""
    min_kernel: str | None = None
    timeout: Annotated[float, Field(gt=0, le=600)] = 5.0
    load_timeout: Annotated[float, Field(gt=0, le=600)] = limit.SECONDS
    loader: str | None = None
    """The library that loads the objects."""

    @field_validator("loader")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in LIBRARIES:
            raise ValueError(f"unknown loader {value!r}{did_you_mean(value, LIBRARIES)}; one of: {', '.join(LIBRARIES)}")
        return value


def _is_a_table(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(
            f"[loader] is a table: a loader of your own. What loads the objects stands under [collector]: loader = {value!r}"
        )
    return value


class _FileModel(Strict):
    schema_version: Annotated[Literal[1], Field(alias="schema")]
    collector: _Head
    test: TestCommand | None = None
    variant: Annotated[tuple[Variant, ...], Field(strict=False, min_length=1)] = ()
    program: Annotated[tuple[Program, ...], Field(strict=False, min_length=1)] = ()
    map: Annotated[tuple[Map, ...], Field(strict=False)] = ()
    loader: Annotated[Loader | None, BeforeValidator(_is_a_table)] = None
    trigger: Trigger | None = None
    event: Annotated[tuple[Event, ...], Field(strict=False)] = ()
    test_run: Annotated[tuple[TestRun, ...], Field(strict=False)] = ()
    stress: Stress | None = None
    budget: Budget | None = None
    expect: Annotated[tuple[Expect, ...], Field(strict=False)] = ()
    features: dict[str, DefinitionModel] = {}
    """The collector's own names for features, over those of kernels.toml."""

    @model_validator(mode="after")
    def _hangs_together(self) -> _FileModel:
        for key, missing in (("variant", not self.variant), ("program", not self.program)):
            if missing and (self.test is None or self.variant or self.program):
                raise ValueError(f"there is no [[{key}]]: write one (a manifest that has a [test] alone needs none)")
        if self.loader is not None and self.collector.loader is not None:
            raise ValueError(
                f"collector.loader = {self.collector.loader!r} says what loads the objects, and [loader] brings a program that loads by "
                "itself: keep one of the two"
            )
        if not _NAME.fullmatch(self.collector.name):
            raise ValueError(f"collector.name {self.collector.name!r}: use letters, digits, '.', '_' and '-'")
        if self.collector.min_kernel is not None and not re.fullmatch(r"\d+\.\d+", self.collector.min_kernel):
            raise ValueError(f'collector.min_kernel {self.collector.min_kernel!r}: write major.minor, such as "4.14"')
        variants = _unique("variant", [variant.name for variant in self.variant])
        _unique("program", [f"{program.name} ({', '.join(program.variants) or 'all variants'})" for program in self.program])
        for kind, entries in (("program", self.program), ("map", self.map)):
            for entry in entries:
                _refer(f"{kind} {entry.name!r}: variants", entry.variants, variants)
                if not _IDENTIFIER.fullmatch(entry.name.removeprefix(".") if kind == "map" else entry.name):
                    raise ValueError(f"{kind} name {entry.name!r} is not a C identifier")
        for variant in self.variant:
            self._check_variant(variant)
            if not any(p.required and applies(p.variants, variant.name) for p in self.program):
                raise ValueError(f"variant {variant.name!r} has no required program: nothing could be asserted of it")
        events = _unique("event", [event.name for event in self.events])
        for event in self.events:
            _refer(f"event {event.name!r}: like", (event.like,) if event.like else (), events)
            _refer(f"event {event.name!r}: variants", event.variants, variants)
            check_event(whole(event, self.events), own_loader=self.loader is not None, programs={p.name for p in self.program})
        _unique("test_run", [run.label for run in self.test_run])
        for run in self.test_run:
            _refer(f"test_run {run.label!r}: program", (run.program,), {p.name for p in self.program})
        self._check_sinks()
        for event in self.events:
            if event.max_count is not None and event.max_count < event.min_count:
                raise ValueError(f"event {event.name!r}: max_count {event.max_count} is below min_count {event.min_count}")
        parts = {f"program:{p.name}" for p in self.program}
        parts |= {f"field:{event.name}.{f.name}" for event in self.events for f in layout(event, self.events)}
        for expect in self.expect:
            _refer("expect: degraded", expect.degraded, parts)
            _refer("expect: variant", (expect.variant,) if expect.variant else (), variants)
        check_known(self.trigger, self.event)
        check_stress(self.stress, self.trigger)
        library = cast(Library, self.collector.loader or "libbpf")
        check_budget(self.budget, {p.name for p in self.program}, own_loader=self.loader is not None, library=library)
        return self

    @property
    def events(self) -> tuple[Event, ...]:
        """Those of [[event]], and one for each entry that a [[map]] must hold."""
        return self.event + tuple(event for each in self.map for event in each.events())

    def _check_sinks(self) -> None:
        """Something makes the events happen, and there is a place that they come out of."""
        from_buffer = [event for event in self.events if whole(event, self.events).sink.kind == "buffer"]
        # An iterator prints what is there anyway, and a test run is what makes its events happen.
        waits = [event for event in self.events if whole(event, self.events).sink.kind != "iter"]
        if waits and self.trigger is None and not self.test_run:
            raise ValueError("there are events but no [trigger]: say what makes them happen")
        for event in self.events if self.trigger is None else ():
            for name in whole(event, self.events).known():
                raise ValueError(f"event {event.name!r}: known.{name} is what a [trigger] knows; there is none")
        if from_buffer and self.loader is None and not any(variant.transport for variant in self.variant):
            raise ValueError("there are events but no variant has a transport and buffer")
        if not from_buffer and self.loader is None and any(variant.transport for variant in self.variant):
            that = "" if not self.events else " that comes out of its buffer"
            raise ValueError(
                f"a variant has a transport, but there is no [[event]]{that}: say what must come out of it, or leave transport out"
            )

    def _check_variant(self, variant: Variant) -> None:
        """An object and its buffer without a [loader]; with one, neither an object nor need of a buffer's name."""
        what = f"variant {variant.name!r}"
        self._check_contract(variant)
        if variant.drops is not None and variant.transport is None:
            raise ValueError(f"{what}: drops counts what a buffer had no room for: name its transport and buffer")
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

    def _check_contract(self, variant: Variant) -> None:
        """A contract is for kmatrix' own loader, and decides on programs that the manifest has."""
        contract, what = variant.contract, f"variant {variant.name!r}: contract"
        if contract is None:
            return
        if self.loader is not None:
            raise ValueError(f"{what}: with a [loader] it is that which sets such things; remove the contract")
        programs = {p.name: p for p in self.program if applies(p.variants, variant.name)}
        _refer(f"{what}: one_of", tuple(sorted(contract.in_groups)), set(programs))
        for name, terms in contract.programs.items():
            if terms.autoload is False and name in programs and programs[name].required:
                raise ValueError(f"{what}: program {name!r} is required, and autoload = false keeps it from being loaded")
            if terms.autoattach is False and name in programs and programs[name].attach:
                raise ValueError(f"{what}: program {name!r} has autoattach = false; say attach = false in its [[program]] too")
        for of_map, in_slots in contract.maps.items():
            for name in in_slots.programs.values():
                attaches = contract.programs.get(name, ProgramTerms()).autoattach
                if name in programs and programs[name].attach and not attaches:
                    raise ValueError(
                        f"{what}: program {name!r} is called through {of_map} and not attached; say attach = false in its [[program]]"
                    )

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


class _OwnNames(Strict):
    """What is read of a manifest before the rest: the rest may use the names."""

    model_config = ConfigDict(extra="ignore")
    features: dict[str, DefinitionModel] = {}


def parse(data: object, *, path: Path, defined: Definitions | None = None) -> Collector:
    """The collector of a parsed collector.toml; raises InputError naming the file, the key and the fix.

    `defined` are the names for features that kernels.toml has ([features.NAME]).
    """
    own = define(validate(_OwnNames, data, where=str(path)).features, defined or {}, str(path))
    model = validate(_FileModel, data, where=str(path), context={"defined": own})
    floor = model.collector.min_kernel
    return Collector(
        name=model.collector.name,
        path=path,
        summary=model.collector.summary,
        min_kernel=versions.parse(floor) if floor else None,
        timeout=model.collector.timeout,
        load_timeout=model.collector.load_timeout,
        variants=model.variant,
        programs=model.program,
        maps=model.map,
        loader=model.loader,
        library=cast(Library, model.collector.loader or "libbpf"),
        trigger=model.trigger,
        events=model.events,
        test_runs=model.test_run,
        stress=model.stress,
        budget=model.budget,
        expects=model.expect,
        test=model.test,
        defined=own,
    )
