"""[trigger]: what makes the events of a collector happen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from kmatrix.guest.namespaces import NAMESPACES
from kmatrix.host.later import later
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.validation import Strict, Wrong
from kmatrix.manifest.event import Event
from kmatrix.manifest.types import Names

if TYPE_CHECKING:
    from kmatrix.guest import triggers
else:
    triggers = later("kmatrix.guest.triggers")  # what they do is for the guest; of their names ask only those who check a manifest

COMPOSED = "compose"
"""The kind of a trigger that is several, one after the other."""


class Trigger(Strict):
    """What makes the events happen."""

    model_config = ConfigDict(extra="allow")  # the options of the kinds, which their rows declare and `_options_of_the_kind` checks

    kind: str
    """What the guest can do (kmatrix.guest.triggers)."""
    command: Names = ()
    files: Names = ()
    """Files, relative to the manifest, that the guest gets in the trigger's working directory."""
    env: dict[str, str] = {}
    compose: Annotated[tuple[Trigger, ...], Field(strict=False, max_length=16)] = ()
    """Instead of a kind: several triggers, in order. Each is a process that waits for its turn, and the guest's memory is small."""
    namespaces: Names = ()
    """The kinds of namespace of which the process has new ones."""
    cgroup_depth: int = Field(default=1, ge=1, le=16)
    """How many levels below the root its cgroup is."""
    count: int = Field(default=1, ge=1, le=1_000_000)
    """How many times it is done."""
    rate: float | None = Field(default=None, gt=0)
    """How many times a second, at most."""

    @model_validator(mode="before")
    @classmethod
    def _several(cls, said: Any) -> Any:
        """`compose` takes the place of `kind`; a kind alone, as a text, is a trigger without options."""
        if isinstance(said, str):
            return {"kind": said}
        if not isinstance(said, dict) or COMPOSED not in said:
            return said
        if "kind" in said:
            raise Wrong("kind and compose exclude each other", "write the kind into compose, or remove compose")
        if not said[COMPOSED]:
            raise Wrong("compose is empty", 'name the triggers: compose = ["create", "unlink"]')
        return {**said, "kind": COMPOSED}

    @field_validator("namespaces")
    @classmethod
    def _known_namespaces(cls, value: Names) -> Names:
        for name in value:
            if name not in NAMESPACES:
                raise ValueError(f"unknown namespace {name!r}{did_you_mean(name, NAMESPACES)}; known: {', '.join(NAMESPACES)}")
        return value

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value not in triggers.KINDS and value != COMPOSED:
            raise ValueError(f"unknown trigger {value!r}{did_you_mean(value, triggers.KINDS)}; known: {', '.join(triggers.KINDS)}")
        return value

    @model_validator(mode="after")
    def _where_it_can_be_done(self) -> Trigger:
        for part in self.parts:
            if "net" in self.namespaces and part.kind in triggers.KINDS and triggers.KINDS[part.kind].at_home:
                raise Wrong(
                    f'kind = "{part.kind}" is done in the guest\'s own network namespace, and does not go with a new one',
                    'leave "net" out of namespaces',
                )
        return self

    @model_validator(mode="after")
    def _options_of_the_kind(self) -> Trigger:
        if self.kind == COMPOSED:
            self._check_composed()
            return self
        if (self.kind == "command") != bool(self.command):
            raise ValueError('kind = "command" and command = [...] go together')
        said = {name for name in ("command", "env") if getattr(self, name)} | set(self.options)
        for name in sorted(said):
            self._check_option(name)
        if (self.count > 1 or self.rate) and not triggers.KINDS[self.kind].repeats:
            able = ", ".join(kind for kind, row in triggers.KINDS.items() if row.repeats)
            raise Wrong(
                f'kind = "{self.kind}" is done once: count and rate do not go with it', f"remove them, or take one of {able}"
            )
        if self.rate and self.count == 1:
            raise Wrong("rate says how fast, but not how often", "write count = N beside it")
        return self

    def _check_composed(self) -> None:
        """Raise Wrong where a trigger of several says what its parts have to say."""
        if not self.compose:
            raise Wrong('kind = "compose" is composed of nothing', 'write compose = ["create", "unlink"] instead of a kind')
        given = sorted(
            {*self.model_fields_set, *(self.model_extra or {})} - {COMPOSED, "kind", "namespaces", "cgroup_depth", "files"}
        )
        if given:
            raise Wrong(
                f"{given[0]} belongs to one trigger, and this is several",
                f'write it beside the kind that is meant: compose = [{{ kind = "{self.compose[0].kind}", {given[0]} = … }}, …]',
            )
        for part in self.compose:
            if part.kind == COMPOSED:
                raise Wrong("compose stands in compose", "write all kinds into one list")
            for name in ("namespaces", "cgroup_depth", "files"):
                if name in part.model_fields_set:
                    raise Wrong(f"{name} stands in compose", f"write {name} beside compose: it holds for all parts")

    @property
    def options(self) -> dict[str, Any]:
        """The options of this kind that have values of their own, as far as the manifest says them."""
        return dict(self.model_extra or {})

    @property
    def parts(self) -> tuple[Trigger, ...]:
        """The triggers that it is composed of, or it alone."""
        return self.compose or (self,)

    def known(self) -> frozenset[str] | None:
        """The names that `known.NAME` may have after it; None if it may say any."""
        if not self.compose:
            return triggers.known(self.kind)
        names: set[str] = set()
        for prefix, part in zip(triggers.prefixes([part.kind for part in self.compose]), self.compose, strict=True):
            own = part.known()
            if own is None:
                return None
            names |= {f"{prefix}{name}" for name in own}
        return frozenset(names)

    def request(self) -> dict[str, Any]:
        """What the guest is told of it (docs/protocol.md): what is as it is where nothing is said is left out."""
        around = {"namespaces": list(self.namespaces), "cgroup_depth": self.cgroup_depth if self.cgroup_depth > 1 else None}
        often = {"count": self.count if self.count > 1 else None, "rate": self.rate}
        what: dict[str, Any] = {"kind": self.kind, "command": list(self.command), "env": dict(self.env), **self.options}
        if self.compose:
            what = {"compose": [part.request() for part in self.compose]}
        return what | {name: value for name, value in (around | often).items() if value}

    def _check_option(self, name: str) -> None:
        """Raise Wrong where no kind has the option, this one has not, or not with that value."""
        own, kinds = triggers.KINDS[self.kind].options, [kind for kind, row in triggers.KINDS.items() if name in row.options]
        keys = sorted({*type(self).model_fields, *own})
        if not kinds:
            known = {*keys, *(option for row in triggers.KINDS.values() for option in row.options)}
            raise Wrong(f"unknown key {name!r}{did_you_mean(name, known)}", f'keys with kind = "{self.kind}": {", ".join(keys)}')
        if name not in own:
            meant = ", ".join(f'"{kind}"' for kind in kinds)
            raise Wrong(f"{name} goes with kind = {meant}", f'remove {name}; keys with kind = "{self.kind}": {", ".join(keys)}')
        if own[name] and (value := self.options[name]) not in own[name]:
            near = did_you_mean(value, own[name]) if isinstance(value, str) else ""
            raise Wrong(
                f"{name} = {value!r} is not known{near}", "write " + " or ".join(f'{name} = "{each}"' for each in own[name])
            )


def check_known(trigger: Trigger | None, events: Iterable[Event]) -> None:
    """Raise Wrong if an event refers to a `known.NAME` that the trigger does not provide: no VM need run to find that out."""
    names = trigger.known() if trigger is not None else None
    if trigger is None or names is None:
        return
    for event in events:
        for where, value in _values(event):
            name = str(value).removeprefix("known.")
            if str(value).startswith("known.") and name not in names:
                raise Wrong(
                    f"event {event.name!r}: {where}: the trigger {'+'.join(part.kind for part in trigger.parts)!r} provides no known.{name}{did_you_mean(name, names)}",
                    f"write known.NAME, where NAME is one of {', '.join(sorted(names))}",
                )


def _values(event: Event) -> Iterator[tuple[str, object]]:
    """Where an event may refer to what the trigger knows, and what stands there."""
    yield from ((f"match: {name}", value) for name, value in event.match.items())
    for field in event.fields:
        yield from ((f"field {field.name!r}", value) for value in (field.equals, field.contains, *field.one_of))
