"""[trigger]: what makes the events of a collector happen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ConfigDict, field_validator, model_validator

from kmatrix.guest import triggers
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.validation import Strict, Wrong
from kmatrix.manifest.event import Event
from kmatrix.manifest.types import Names


class Trigger(Strict):
    """What makes the events happen."""

    model_config = ConfigDict(extra="allow")  # the options of the kinds, which their rows declare and `_options_of_the_kind` checks

    kind: str
    """What the guest can do (kmatrix.guest.triggers)."""
    command: Names = ()
    files: Names = ()
    """Files, relative to the manifest, that the guest gets in the trigger's working directory."""
    env: dict[str, str] = {}

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value not in triggers.KINDS:
            raise ValueError(f"unknown trigger {value!r}{did_you_mean(value, triggers.KINDS)}; known: {', '.join(triggers.KINDS)}")
        return value

    @model_validator(mode="after")
    def _options_of_the_kind(self) -> Trigger:
        if (self.kind == "command") != bool(self.command):
            raise ValueError('kind = "command" and command = [...] go together')
        said = {name for name in ("command", "env") if getattr(self, name)} | set(self.options)
        for name in sorted(said):
            self._check_option(name)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The options of this kind that have values of their own, as far as the manifest says them."""
        return dict(self.model_extra or {})

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
    names = triggers.known(trigger.kind) if trigger is not None else None
    if trigger is None or names is None:
        return
    for event in events:
        for where, value in _values(event):
            name = str(value).removeprefix("known.")
            if str(value).startswith("known.") and name not in names:
                raise Wrong(
                    f"event {event.name!r}: {where}: the trigger {trigger.kind!r} provides no known.{name}{did_you_mean(name, names)}",
                    f"write known.NAME, where NAME is one of {', '.join(sorted(names))}",
                )


def _values(event: Event) -> Iterator[tuple[str, object]]:
    """Where an event may refer to what the trigger knows, and what stands there."""
    yield from ((f"match: {name}", value) for name, value in event.match.items())
    for field in event.fields:
        yield from ((f"field {field.name!r}", value) for value in (field.equals, field.contains, *field.one_of))
