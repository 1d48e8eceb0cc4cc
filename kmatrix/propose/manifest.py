"""propose() and written(): a collector.toml out of compiled objects, checked by the manifest's own rules before anyone sees it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kmatrix.guest import triggers
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.schema import parse
from kmatrix.manifest.types import Behaviour
from kmatrix.matrix import history
from kmatrix.matrix.arch import ARCHES
from kmatrix.objects import compiled
from kmatrix.objects.derived import derived
from kmatrix.objects.described import described
from kmatrix.objects.needs import OLDEST, feature_of
from kmatrix.propose.document import Document
from kmatrix.propose.events import write_events
from kmatrix.propose.found import Group, check_one_collector
from kmatrix.propose.hooks import fitting
from kmatrix.propose.maps import unsized_maps
from kmatrix.propose.programs import entries, forms
from kmatrix.propose.shape import Shape
from kmatrix.propose.variants import Way, collector_name, ways

_IMPLIED: Mapping[str, tuple[str, ...]] = {
    "ringbuf": ("helper:bpf_ringbuf_", "map:ringbuf"),
    "fentry": ("prog:tracing", "attach:trace_fentry", "attach:trace_fexit"),
    "current_task_btf": ("helper:bpf_get_current_task_btf",),
    "cgroup_id_helper": ("helper:bpf_get_current_cgroup_id",),
}
"""A feature → how the names of those begin that come with it."""


@dataclass(frozen=True)
class Proposal:
    """What the objects say, and what was chosen of it."""

    name: str
    ways: tuple[Way, ...]
    """The variants, best first."""
    trigger: str | None
    """None where no kind is known to reach its programs."""
    triggers: tuple[str, ...]
    """The kinds that reach some of them, the likeliest first."""
    structs: tuple[Shape, ...] = ()
    """Those of its sources."""

    def with_answers(self, name: str, trigger: str | None, behaviours: Mapping[str, Behaviour]) -> Proposal:
        """The proposal as a person wants it; `behaviours` are those of variants by name."""
        chosen = tuple(replace(way, behaviour=behaviours.get(way.name, way.behaviour)) for way in self.ways)
        return replace(self, name=name, trigger=trigger, ways=chosen)


@dataclass(frozen=True)
class Written:
    """A manifest as text, and what its reader has to look at."""

    text: str
    collector: Collector
    guesses: tuple[str, ...]
    missing: tuple[str, ...]


def propose(groups: Sequence[Group], folder: str, structs: Sequence[Shape] = ()) -> Proposal:
    """What the objects say; `folder` is the name of where the manifest will stand. Raises InputError where they are not of one collector."""
    check_one_collector(groups)
    name = collector_name(groups, folder)
    sections = list(dict.fromkeys(section for group in groups for section in group.programs.values()))
    kinds = tuple(fitting(sections))
    return Proposal(name, tuple(ways(groups, name)), kinds[0] if kinds else None, kinds, tuple(structs))


def written(proposal: Proposal, path: Path) -> Written:
    """The manifest that will stand at `path`. Raises InputError where the objects contradict each other."""
    first = parse(tomllib.loads(str(_document(proposal, {}))), path=path)
    common = {way.name: _common(way) for way in proposal.ways}
    needs = {v.name: _told([*v.needs, *(n for n in common[v.name] if n not in v.needs)]) for v in derived(first, ARCHES).variants}
    document = _document(proposal, needs)
    collector = parse(tomllib.loads(str(document)), path=path)
    compiled.check(collector, ARCHES)
    described(collector, ())
    return Written(str(document), collector, tuple(document.guesses), tuple(document.open))


def _common(way: Way) -> list[str]:
    """What all programs of the object need: also those that are forms of one, of which `derived` says nothing."""
    asked = [
        {feature_of(n) for n in found if not n.optional and (history.first(n.name, way.group.arches[0]) or OLDEST) > OLDEST}
        for found in way.group.needs.values()
    ]
    return sorted(set.intersection(*asked)) if asked else []


def _told(needs: Sequence[str]) -> list[str]:
    """The features that a person would name: without those that come with another."""
    implied = tuple(prefix for name in needs for prefix in _IMPLIED.get(name, ()))
    return [name for name in needs if not name.startswith(implied)] if implied else list(needs)


def _document(proposal: Proposal, needs: Mapping[str, Sequence[str]]) -> Document:
    document = Document()
    document.comment(
        f"{proposal.name}: proposed by `kmatrix init` from its compiled objects. GUESS marks what may be wrong, YOURS what only the author"
        " knows. docs/collector-toml.md explains every key."
    )
    document.put("schema", 1)
    document.table("[collector]")
    document.put("name", proposal.name)
    document.verbatim('summary = "what it tells"')
    events = Document()
    sending = write_events(events, proposal.ways, proposal.trigger, proposal.structs)
    for number, way in enumerate(proposal.ways):
        _variant(document, way, needs.get(way.name), first=number == 0, sends=way.name in sending)
    _programs(document, proposal)
    _trigger(document, proposal)
    document.append(events)
    return document


def _variant(document: Document, way: Way, needs: Sequence[str] | None, *, first: bool, sends: bool) -> None:
    document.gap()
    if first:
        document.comment("The ways to run, best first. The first whose needs a kernel has is the one that must run there.")
        document.comment("The needs are read off the objects; `kmatrix needs OBJECT` says where in them.")
    document.table("[[variant]]")
    document.put("name", way.name)
    document.put("behaviour", way.behaviour)
    document.put("object", way.group.object)
    if needs is not None:
        document.put("needs", list(needs))
    if way.group.arches != ARCHES:
        document.put("arches", list(way.group.arches))
    if way.sent:
        transport, buffer = way.sent[0].transport, way.sent[0].buffer
        if sends:
            document.put("transport", transport)
            document.put("buffer", buffer)
        else:
            document.verbatim(f'transport = "{transport}"', f'buffer = "{buffer}"')
    for other in way.other:
        document.missing(f"the programs send to {other} too, and a variant has one buffer")
    if way.group.left_out:
        names = ", ".join(way.group.left_out)
        document.missing(f"not among the programs below, as a loader has to be told to load them (SEC with ?): {names}")
    _contract(document, way)


def _contract(document: Document, way: Way) -> None:
    """What the loader has to choose before it loads the object."""
    choice, unsized = forms(way.group), unsized_maps(way.group.code)
    if not choice and not unsized:
        return
    document.gap()
    if choice:
        document.guess("programs in forms, of which your loader takes the first that the kernel can run (docs/contract.md)")
    if unsized:
        document.guess(f"sizes of {', '.join(unsized)}, which the object leaves to its loader; any will do here (docs/contract.md)")
    document.table("[variant.contract]")
    if choice:
        plain = all(len(form) == 1 for form in choice)
        document.put("one_of", [form[0] for form in choice] if plain else choice)
    for name, sizes in unsized.items():
        document.put(f"maps.{name}", sizes)


def _programs(document: Document, proposal: Proposal) -> None:
    document.gap()
    document.comment("Each must load, attach and run. One that the collector can do without: required = false.")
    found = entries([(way.name, way.group) for way in proposal.ways], proposal.trigger)
    for entry in found:
        document.table("[[program]]")
        document.put("name", entry.name)
        document.put("hook", entry.hook)
        if not entry.attach:
            document.put("attach", False, entry.remark)
        elif entry.arches:
            document.put("arches", list(entry.arches), entry.remark)
        if entry.attach and not entry.fires:
            document.put("fires", False, f"the trigger {proposal.trigger} is not known to reach it")
        if entry.variants:
            document.put("variants", list(entry.variants))
    if not any(entry.attach for entry in found):
        document.gap()
        document.missing(
            "no program is attached by its section alone: bring your own loader ([loader]), or say attach_to in a contract"
        )


def _trigger(document: Document, proposal: Proposal) -> None:
    document.gap()
    if proposal.trigger is None:
        document.missing("what makes the programs run. Without a trigger, the cells show that they load and attach")
        document.verbatim(
            "[trigger]", 'kind = "command"', 'command = ["./go.sh"]  # runs as root in the guest', 'files = ["go.sh"]', "", "other kinds: "
            + ", ".join(kind for kind in triggers.KINDS if kind != "command")
        )  # fmt: skip
        return
    others = [kind for kind in proposal.triggers if kind != proposal.trigger]
    more = f"; {', '.join(others)} would reach some of them too" if others else ""
    document.guess(f"the trigger, by what the programs are attached to{more}")
    document.table("[trigger]")
    document.put("kind", proposal.trigger)
