"""write_events(): the [[event]] entries: for each kind of record that programs send and the trigger makes them send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kmatrix.propose.document import Document
from kmatrix.propose.equations import Check, Equations, equations
from kmatrix.propose.hooks import reached_of
from kmatrix.propose.sends import Sent
from kmatrix.propose.shape import Shape, shape, writable
from kmatrix.propose.variants import Way


def write_events(document: Document, ways: Sequence[Way], trigger: str | None, structs: Sequence[Shape]) -> set[str]:
    """Write the events; the names of the variants that have one."""
    sending: set[str] = set()
    sections = [section for way in ways for section in way.group.programs.values()]
    reached = reached_of(trigger, sections) if trigger is not None else frozenset()
    kinds: dict[int | None, list[tuple[Way, Sent]]] = {}
    for way in ways:
        for sent in way.sent:
            kinds.setdefault(sent.size, []).append((way, sent))
    for size, of in kinds.items():
        senders = {way.group.code.info.programs[name] for way, sent in of for name in sent.programs}
        names = ", ".join(dict.fromkeys(name for _, sent in of for name in sent.programs))
        what = f"records of {size} bytes" if size is not None else "records of varying size"
        document.gap()
        if trigger is None or senders.isdisjoint(reached):
            document.missing(
                f"{names} {'send' if ',' in names else 'sends'} {what}: with a trigger that makes it do so, an [[event]]"
            )
            continue
        variants = list(dict.fromkeys(way.name for way, _ in of))
        name = trigger if not sending else f"{trigger}-{size or 'varying'}"
        _event(document, name, of, trigger, [] if len(variants) == len(ways) else variants, structs, senders)
        sending |= set(variants)
    return sending


def _event(
    document: Document,
    name: str,
    of: Sequence[tuple[Way, Sent]],
    trigger: str,
    variants: list[str],
    structs: Sequence[Shape],
    senders: set[str],
) -> None:
    sent = replace(of[0][1], type=next((each.type for _, each in of if each.type is not None), None))
    codes = [code for way, _ in of for code in way.group.codes.values()]
    found = shape(sent, codes, structs)
    if found is None:
        _unknown(document, name, sent, variants)
        return
    said = equations(trigger, found.leaves, senders)
    if found.guessed:
        document.guess(f"what is sent is struct {found.name}: {found.why}")
    if not found.in_objects:
        unused = f"const struct {found.name} *unused_{found.name} __attribute__((unused));"
        document.comment(
            f"The objects do not have the struct, so its fields are listed. With `{unused}` in the sources they have it, and then"
            f' struct = "{found.name}" says types and places.'
        )
    document.comment(
        "What a field must be is taken from its name. One that a lesser variant leaves empty: degradable = true, needs = [...]"
    )
    document.table("[[event]]")
    document.put("name", name)
    if found.in_objects:
        document.put("struct", found.name)
    if said.match:
        document.put("match", said.match)
    if variants:
        document.put("variants", variants)
    if sent.size is None:
        last = found.leaves[-1]
        document.put("min_size", last.offset if "[" in last.type else found.size, "what follows varies in length")
    if found.in_objects:
        _checked_fields(document, found, said)
    else:
        _all_fields(document, found, said)


def _checked_fields(document: Document, found: Shape, said: Equations) -> None:
    """The fields of which something is said: the others are in the objects."""
    types = {leaf.path: leaf.type for leaf in found.leaves}
    checks = dict(said.checks)
    if not any(check.keys for check in checks.values()):
        checks[found.leaves[0].path] = _anything()
    for path, check in checks.items():
        if check.keys:
            document.table("[[event.field]]")
            document.put("name", path, f"{types[path]}{check.remark and '; ' + check.remark}")
            _put(document, check)
        else:
            document.gap()
            document.comment(f"{path} ({types[path]}): {check.remark}")
    others = [f"{path} ({kind})" for path, kind in types.items() if path not in checks]
    if others:
        document.gap()
        document.missing(f"what these must be: {', '.join(others[:40])}{' …' if len(others) > 40 else ''}")


def _all_fields(document: Document, found: Shape, said: Equations) -> None:
    """Every field, as no object says them."""
    leaves = [leaf for leaf in found.leaves if writable(leaf.type)]
    laid = replace(found, leaves=tuple(leaves))
    checks = dict(said.checks)
    if not any(check.keys for check in checks.values()):
        checks[leaves[0].path] = _anything()
    if laid.packed:
        document.put("packed", True)
    if laid.needs_offsets:
        document.put("size", found.size)
    for leaf in leaves:
        check = checks.get(leaf.path, Check())
        document.table("[[event.field]]")
        document.put("name", leaf.path)
        document.put("type", check.keys.get("type", leaf.type), check.remark)
        if laid.needs_offsets:
            document.put("offset", leaf.offset)
        _put(document, replace(check, keys={key: given for key, given in check.keys.items() if key != "type"}))
    silent = [leaf.path for leaf in leaves if leaf.path not in checks]
    if silent:
        document.gap()
        document.missing(f"what these must be: {', '.join(silent)}")


def _put(document: Document, check: Check) -> None:
    for key, given in check.keys.items():
        document.put(key, given)


def _anything() -> Check:
    return Check({"nonzero": True}, "which events are meant, no name of a field says: this holds for any")


def _unknown(document: Document, name: str, sent: Sent, variants: list[str]) -> None:
    """A record of which only the size is known: that one came can be shown."""
    document.missing(
        f"the fields of event {name}. The objects do not have its struct, so that a record comes is all that is asked: put `const struct NAME"
        " *unused_NAME __attribute__((unused));` into the source, compile, and run `kmatrix init` again; or give the folder with the sources"
    )
    document.table("[[event]]")
    document.put("name", name)
    if variants:
        document.put("variants", variants)
    if sent.size is None:
        document.put("min_size", 1)
    document.table("[[event.field]]")
    document.put("name", "record")
    document.put("type", f"bytes[{sent.size or ''}]")
    document.put("nonzero", True)
