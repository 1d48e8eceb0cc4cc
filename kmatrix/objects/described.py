"""described(): a collector whose events have the fields that its objects say: a `struct` by its name, the entries of a map.

What an event is must be the same in every variant that has it, on both arches. All that is wrong is an InputError, before a VM starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.manifest.event import Event, EventField, whole
from kmatrix.manifest.variant import Variant, applies
from kmatrix.matrix.arch import Arch
from kmatrix.objects import compiled
from kmatrix.objects.layout import Leaf, Record, struct_record
from kmatrix.objects.maps import READABLE, entry_record, section_record

if TYPE_CHECKING:
    from kmatrix.manifest.collector import Collector
    from kmatrix.manifest.types import Literals

_FIXED = {"be16": 2, "be32": 4, "be64": 8, "ipv4": 4, "ipv6": 16}


@dataclass(frozen=True)
class _Seen:
    """A record in one object."""

    record: Record
    object: str
    """Which one, in words."""


def described(collector: Collector, arches: Iterable[Arch]) -> Collector:
    """The collector with the fields of all its events, each with its type and offset.

    The objects for `arches` must be there; those for the other arch are looked at where they are. What is described already is left as it
    is. Raises InputError.
    """
    wanted = list(arches)
    if collector.loader is not None:
        return collector
    events = []
    loaded: _Loaded = {}
    for event in collector.events:
        full = whole(event, collector.events)
        done = bool(full.fields) and all(f.offset is not None for f in full.fields)
        if (full.struct is not None or full.sink.kind == "map") and not done:
            seen = list(_records(collector, full, wanted, loaded))
            if seen:
                full = _fill(collector, full, seen)
        events.append(full)
    return collector.model_copy(update={"events": tuple(events)})


def _where(collector: Collector, event: Event) -> str:
    return f"{collector.path}: event {event.name!r}"


_Loaded = dict[tuple[str, Arch], compiled.ObjectInfo | None]
"""The objects that were read, by variant and arch."""


def _load(collector: Collector, variant: Variant, arch: Arch, *, must: bool) -> compiled.ObjectInfo | None:
    """The variant's object; None where it is not there and need not be."""
    with nullcontext() if must else suppress(InputError):
        return compiled.load(collector, variant, arch)
    return None


def _records(collector: Collector, event: Event, arches: list[Arch], loaded: _Loaded) -> Iterator[_Seen]:
    """The event's record in each object that it comes out of."""
    for variant in collector.variants:
        if not applies(event.variants, variant.name):
            continue
        for arch in variant.arches:
            if (variant.name, arch) not in loaded:
                loaded[variant.name, arch] = _load(collector, variant, arch, must=arch in arches)
            info = loaded[variant.name, arch]
            if info is not None:
                record = _struct(collector, event, info) if event.struct is not None else _entry(collector, event, info)
                yield _Seen(record, f"{info.path.name} (variant {variant.name!r}, {arch})")


def _struct(collector: Collector, event: Event, info: compiled.ObjectInfo) -> Record:
    name = str(event.struct)
    btf = info.btf
    if btf is None:
        raise InputError(
            f'{info.path} has no BTF that could say what struct = "{name}" is',
            where=_where(collector, event),
            fix="compile it with -g (kernels without BTF do not mind), or list the fields of the event in the place of struct",
        )
    record = struct_record(btf, name)
    if record is None:
        raise InputError(
            f'struct = "{name}" is not in the BTF of {info.path}{did_you_mean(name, btf.structures())}',
            where=_where(collector, event),
            fix="correct the name. Clang writes a struct into BTF where a map's __type(), a global variable or a function's parameter has"
            f" it: a line `const struct {name} *unused_{name} __attribute__((unused));` in the source is enough",
        )
    return record


def _entry(collector: Collector, event: Event, info: compiled.ObjectInfo) -> Record:
    name, where = event.sink.name, _where(collector, event)
    if info.btf is None:
        raise InputError(f"{info.path} has no BTF that could say what is in map {name}", where=where, fix="compile it with -g")
    sections = {section for section, _ in info.symbols.values() if section.startswith((".bss", ".data", ".rodata"))}
    if name.startswith(".") and name in sections:
        places = {symbol: at for symbol, (section, at) in info.symbols.items() if section == name}
        return section_record(info.btf, name, places)
    definition = info.definitions.get(name)
    if definition is None:
        known = {*info.definitions, *sections}
        raise InputError(
            f'from = "map:{name}": the object {info.path} has no such map{did_you_mean(name, known)}',
            where=where,
            fix=f"it has: {', '.join(sorted(known)) or 'none'}; or say which variants of the event have it",
        )
    if definition.type not in READABLE:
        raise InputError(
            f'from = "map:{name}": a map of type {definition.type} has no entries that can be read',
            where=where,
            fix="for a ring or perf buffer, leave `from` out and name it as the variant's buffer",
        )
    return entry_record(info.btf, definition)


def _fill(collector: Collector, event: Event, seen: list[_Seen]) -> Event:
    """The event with all the fields of its record; those of the manifest add their checks."""
    first = seen[0]
    own = {f.name: f for f in event.fields}
    asked = list(dict.fromkeys((*event.match, *own)))
    leaves = {leaf.path: leaf for leaf in first.record.leaves()}
    for path in asked:
        leaves[path] = _find(collector, event, first, path)
    for other in seen[1:]:
        _compare(collector, event, first, other, asked)
    match = {name: _number(collector, event, leaves[name], value) for name, value in event.match.items()}
    fields = [_field(collector, event, leaf, own.get(path)) for path, leaf in leaves.items()]
    size = first.record.size if event.struct is not None and event.min_size is None else None
    min_size = 1 if event.sink.kind == "map" else event.min_size  # the size of an entry is the kernel's business
    return event.model_copy(update={"match": match, "fields": tuple(fields), "size": size, "min_size": min_size})


def _find(collector: Collector, event: Event, seen: _Seen, path: str) -> Leaf:
    leaf = seen.record.find(path)
    if leaf is None:
        known = [each.path for each in seen.record.leaves()]
        what = f"struct {event.struct}" if event.struct is not None else f"an entry of map {event.sink.name}"
        raise InputError(
            f"field {path!r} is not in {what}{did_you_mean(path, known)}",
            where=_where(collector, event),
            fix=f"{seen.object} says: {', '.join(known[:30])}{' …' if len(known) > 30 else ''}",
        )
    return leaf


def _compare(collector: Collector, event: Event, first: _Seen, other: _Seen, asked: list[str]) -> None:
    """Raise InputError where the record is not the same in two objects."""
    ours, theirs = ({leaf.path: leaf for leaf in each.record.leaves()} for each in (first, other))
    for path in asked:
        for leaves, seen in ((ours, first), (theirs, other)):
            if path not in leaves and (leaf := seen.record.find(path)) is not None:
                leaves[path] = leaf
    for path in dict.fromkeys((*ours, *theirs)):
        one, two = ours.get(path), theirs.get(path)
        if one is None or two is None or (one.type, one.offset) != (two.type, two.offset):
            _differ(collector, event, path, (one.place if one else "not there", first), (two.place if two else "not there", other))
    if first.record.size != other.record.size:
        sizes = [(f"{each.record.size} bytes", each) for each in (first, other)]
        _differ(collector, event, "the whole of it", sizes[0], sizes[1])


def _differ(collector: Collector, event: Event, path: str, one: tuple[str, _Seen], two: tuple[str, _Seen]) -> None:
    what = f"struct {event.struct}" if event.struct is not None else f"an entry of map {event.sink.name}"
    raise InputError(
        f"{what} is not the same in all objects: {path} is {one[0]} in {one[1].object}, and {two[0]} in {two[1].object}",
        where=_where(collector, event),
        fix="compile all of them from the same header; or make an event for each, with its `variants`",
    )


def _field(collector: Collector, event: Event, leaf: Leaf, own: EventField | None) -> EventField:
    """A field of the record, with the manifest's checks; where the manifest says a type, with that one."""
    place: dict[str, object] = {"name": leaf.path, "type": leaf.type, "offset": leaf.offset}
    if own is None:
        # The object's own words for a bit field are no type that a manifest could give: there is nothing to check.
        return EventField.model_construct(None, **place)
    if own.type is not None:
        place["type"] = own.type
        size = _size_of(own.type)
        if size != leaf.size and not (size == 0 and leaf.type.endswith("[]")):
            raise InputError(
                f'field {leaf.path!r}: type = "{own.type}" has {size} bytes, and in the object it is {leaf.type}, {leaf.size} bytes',
                where=_where(collector, event),
                fix="leave type out, or write one of that size",
            )
    update = dict(place)
    for name in ("equals", "absent"):
        value = getattr(own, name)
        if isinstance(value, str):
            update[name] = _number(collector, event, leaf, value)
    update["one_of"] = tuple(_number(collector, event, leaf, choice) for choice in own.one_of)
    return own.model_copy(update=update)


def _size_of(kind: str) -> int:
    if kind in _FIXED:
        return _FIXED[kind]
    if "[" in kind:
        return int(kind[kind.index("[") + 1 : -1] or 0)
    return int(kind[1:]) // 8


def _number(collector: Collector, event: Event, leaf: Leaf, value: Literals) -> Literals:
    """What a check is compared with: of an enum, an enumerator's name is its number."""
    if not leaf.names or not isinstance(value, str) or value.startswith("known."):
        return value
    if value not in leaf.names:
        raise InputError(
            f"field {leaf.path!r}: its enum has no {value}{did_you_mean(value, leaf.names)}",
            where=_where(collector, event),
            fix=f"it has: {', '.join(leaf.names)}",
        )
    return leaf.names[value]
