"""A test's reports, held back until all of them are there: a worker that is lost in the middle leaves none of them, and another runs the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Event = tuple[str, dict[str, Any]]

_OF_A_TEST = ("logstart", "testreport", "logfinish")
_WHOLE = ("runtest_protocol_complete", "workerfinished", "internal_error")
"""Events before which a test's reports are all there."""


class Held:
    """Stands between a worker's events and pytest-xdist's queue. Called in the thread that receives from that worker."""

    def __init__(self, put: Callable[[Event], None], down: Callable[[Event], Event]) -> None:
        """`down` says what becomes of the event that the worker is down."""
        self._put, self._down = put, down
        self._events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """The worker's next event."""
        name, _ = event
        if name in _OF_A_TEST:
            self._events.append(event)
            return
        if name == "errordown":
            self._events.clear()
            event = self._down(event)
        if name in _WHOLE:
            held, self._events = self._events, []
            for each in held:
                self._put(each)
        self._put(event)
