"""[trigger]: what makes the events of a collector happen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import field_validator, model_validator

from kmatrix.guest import triggers
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.validation import Strict
from kmatrix.manifest.event import Event
from kmatrix.manifest.types import Names


class Trigger(Strict):
    """What makes the events happen."""

    kind: str
    """What the guest can do (kmatrix.guest.triggers)."""
    family: Literal["ipv4", "ipv6"] | None = None
    """Of a tcp_connect: the loopback address that is connected to; IPv4 where not said."""
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
        for kind, row in triggers.KINDS.items():
            for option in row.options:
                if getattr(self, option) and option not in triggers.KINDS[self.kind].options:
                    raise ValueError(f'{option} goes with kind = "{kind}"')
        return self


def check_known(trigger: Trigger | None, events: Iterable[Event]) -> None:
    """Raise ValueError if an event refers to a `known.NAME` that the trigger does not provide: no VM need run to find that out."""
    names = triggers.known(trigger.kind) if trigger is not None else None
    if trigger is None or names is None:
        return
    for event in events:
        for where, value in _values(event):
            name = str(value).removeprefix("known.")
            if str(value).startswith("known.") and name not in names:
                raise ValueError(
                    f"event {event.name!r}: {where}: the trigger {trigger.kind!r} provides no known.{name}"
                    f"{did_you_mean(name, names)}; it provides {', '.join(sorted(names))}"
                )


def _values(event: Event) -> Iterator[tuple[str, object]]:
    """Where an event may refer to what the trigger knows, and what stands there."""
    yield from ((f"match: {name}", value) for name, value in event.match.items())
    for field in event.fields:
        yield from ((f"field {field.name!r}", value) for value in (field.equals, field.contains, *field.one_of))
