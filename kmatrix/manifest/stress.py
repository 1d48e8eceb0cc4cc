"""[stress]: what a collector promises under load, which `pytest --stress` holds it to."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from kmatrix.host.later import later
from kmatrix.host.validation import Strict, Wrong
from kmatrix.manifest.event import Event
from kmatrix.manifest.trigger import Trigger

if TYPE_CHECKING:
    from kmatrix.guest import triggers
else:
    triggers = later("kmatrix.guest.triggers")

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _part(text: str) -> str:
    if not re.fullmatch(r"\d{1,2}(\.\d+)?%", text):
        raise ValueError(f'{text!r} is no part: write a percentage below 100, such as "0.5%"')
    return text


def _size(text: str) -> str:
    if not re.fullmatch(r"\d+[KMG]?", text):
        raise ValueError(f'{text!r} is no size: write bytes, or with K, M or G, such as "64M"')
    return text


class Stress(Strict):
    """How often the trigger is pulled, and what must hold while it is."""

    rate: float = Field(gt=0, le=1_000_000)
    """How many times a second the trigger does it."""
    seconds: float = Field(default=10.0, gt=0, le=600)
    lost: Annotated[str, AfterValidator(_part)] = "0%"
    """The part of each expected event that may be lost at most."""
    memlock: Annotated[str | None, AfterValidator(lambda text: text and _size(text))] = None
    """What the maps of the variant may take together, as the kernel accounts it (`memlock` in /proc/PID/fdinfo)."""
    run_time: float | None = Field(default=None, gt=1)
    """How many times the run time of an empty program a program may take for one run, on average."""

    @property
    def count(self) -> int:
        """How many times the trigger does it in all."""
        return max(2, round(self.rate * self.seconds))

    @property
    def memlock_bytes(self) -> int | None:
        """`memlock` in bytes."""
        if self.memlock is None:
            return None
        return int(self.memlock.rstrip("KMG")) * _UNITS[self.memlock.lstrip("0123456789")]

    def trigger(self, trigger: Trigger) -> Trigger:
        """The same trigger, as often and as fast."""
        return trigger.model_copy(update={"count": self.count, "rate": self.rate})

    def event(self, event: Event) -> Event:
        """The same event, as often as it must come."""
        kept = 1 - float(self.lost.rstrip("%")) / 100
        # Rounded first: 500 * (1 - 0.18) is more than 410 in binary.
        least = math.ceil(round(event.min_count * self.count * kept, 6))
        most = event.max_count * self.count if event.max_count is not None else None
        return event.model_copy(update={"min_count": least, "max_count": most})


def check_stress(stress: Stress | None, trigger: Trigger | None) -> None:
    """Raise Wrong where the trigger cannot be done so often."""
    if stress is None:
        return
    if trigger is None:
        raise Wrong(
            "[stress] says how often the trigger is pulled, but there is no [trigger]", "write a [trigger], or remove [stress]"
        )
    if trigger.compose or not triggers.KINDS[trigger.kind].repeats:
        able = ", ".join(kind for kind, row in triggers.KINDS.items() if row.repeats)
        raise Wrong(f'[stress]: the trigger "{trigger.kind}" is done once', f"take one of {able}")
    if trigger.count > 1:
        raise Wrong(
            "[stress] says how often the trigger does it: count does not go with it", "remove count and rate from [trigger]"
        )
