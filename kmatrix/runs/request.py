"""What the guest is asked for a cell: the collector for an arch, with its objects and files inside (docs/protocol.md)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from kmatrix.host.errors import InputError
from kmatrix.manifest.event import Event, whole
from kmatrix.manifest.event_rules import text_type
from kmatrix.manifest.sink import TEXT_SINKS
from kmatrix.objects import compiled, contract
from kmatrix.objects.described import described
from kmatrix.vm.channel import pack

if TYPE_CHECKING:
    from kmatrix.manifest.collector import Collector
    from kmatrix.manifest.variant import Variant
    from kmatrix.matrix.kernel import Target

LOADER_FOLDER = "/tmp/kmatrix/loader"
"""Where a collector's own loader runs in the guest, its files beside it."""


def request(collector: Collector, target: Target) -> dict[str, Any]:
    """What the guest is asked: the collector for this arch, its objects and files inside (docs/protocol.md)."""
    arch = target.arch
    collector = described(collector, [arch])
    variants, wanted = [], {}
    for variant in collector.variants:
        if arch not in variant.arches:
            continue
        info = compiled.load(collector, variant, arch) if collector.loader is None else None
        if info is not None:
            wanted[digest := hashlib.sha256(info.data).hexdigest()] = pack(info.data)
        programs = [
            {"name": p.name, "hook": p.hook, "required": p.required, "attach": p.attach}
            | ({"type": p.kernel_type, "tag": p.tag} if collector.loader is not None else {})
            for p in collector.programs_of(variant, arch)
        ]
        maps = [{"name": m.name, "type": m.type} for m in collector.maps_of(variant)]
        variants.append(
            {
                "name": variant.name,
                "object": digest if info is not None else None,
                "needs": list(variant.needs),
                "transport": variant.transport,
                "buffer": variant.buffer,
                "drops": variant.drops,
                "programs": programs,
                "maps": maps,
            }
            | (_contract(collector, variant, info) if info is not None and variant.contract is not None else {})
        )
    trigger = collector.trigger
    return {
        "collector": collector.name,
        "min_kernel": list(collector.min_kernel) if collector.min_kernel else None,
        "variants": variants,
        "objects": wanted,
        "loader": _loader(collector),
        "library": collector.library if collector.loader is None else None,
        "trigger": trigger.request() if trigger is not None else None,
        "files": {name: pack(_read(collector, name)) for name in (trigger.files if trigger else ())},
        "events": [_event(collector, event) for event in collector.events],
        "test_runs": [
            {"name": run.label, "program": run.program, "data": run.input, "ctx": run.ctx, "repeat": run.repeat}
            for run in collector.test_runs
        ],
        "stress": collector.stressed,
        "measured": collector.measured,
        "timeout": collector.timeout,
        "load_timeout": collector.load_timeout,
    }


def _contract(collector: Collector, variant: Variant, info: compiled.ObjectInfo) -> dict[str, Any]:
    """What the loader sets of the variant's object, resolved against it. Raises InputError."""
    assert variant.contract is not None, "the variant has one"
    where = f"{collector.path}: variant {variant.name!r}: contract"
    return {"contract": contract.resolve(variant.contract, info, where=where, folder=collector.path.parent)}


def _event(collector: Collector, event: Event) -> dict[str, Any]:
    """An expected event as the guest is told of it."""
    full = whole(event, collector.events)
    asked: dict[str, Any] = {
        "name": event.name,
        "from": full.source,
        "variants": list(event.variants),
        "match": dict(event.match),
        "contains": event.contains,
        "min_count": event.min_count,
        "max_count": event.max_count,
        "packed": full.packed,
        "sizes": [full.size] if full.size is not None else [],
        "min_size": full.min_size,
    }
    if full.sink.kind in TEXT_SINKS:
        fields = [{"name": f.name, "type": text_type(full, f)} for f in full.fields]
        return asked | {"fields": fields, "lines": {"regex": full.regex, "source": full.sink.kind}}
    if collector.loader is not None:
        fields = [{"name": f.name, "type": str(f.type)} | ({"key": f.key} if f.key else {}) for f in full.fields]
        return asked | {"fields": fields, "lines": {"regex": full.regex}}
    places = [({"offset": f.offset} if f.offset is not None else {}) for f in full.fields]
    return asked | {"fields": [{"name": f.name, "type": f.type} | place for f, place in zip(full.fields, places, strict=True)]}


def _loader(collector: Collector) -> dict[str, Any] | None:
    """The collector's own loader as the guest is told of it; its files are put there before."""
    own = collector.loader
    if own is None:
        return None
    ready = {"when": own.ready} if isinstance(own.ready, str) else own.ready.model_dump(exclude_none=True)
    return {
        "command": list(own.command),
        "folder": LOADER_FOLDER,
        "env": dict(own.env),
        "ready": ready,
        "ready_timeout": own.ready_timeout,
        "stop": own.stop if isinstance(own.stop, str) else list(own.stop),
        "stop_timeout": own.stop_timeout,
        "events": own.events,
        "lines": bool(collector.events),
        "refusal_exits": list(own.refusal_exits),
    }


def _read(collector: Collector, name: str) -> bytes:
    path = collector.path.parent / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{name}: {error.strerror}", where=f"{collector.path}: trigger.files", fix="name files relative to the manifest"
        ) from None
