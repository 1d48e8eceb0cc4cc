"""An action that a thread does which is confined in some way, while the one that wants it waits, and does what cannot be done in there."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")
Outcome = tuple[Any, BaseException | None]
"""What an action returned, and what it raised."""


class Errand(Generic[T]):
    """One action; `work` is for the thread that does it, `wait` for the one that wants it."""

    def __init__(self, action: Callable[[], T]) -> None:
        self._action = action
        self._asked: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Outcome]] | None] = queue.SimpleQueue()
        self._outcome: Outcome = (None, None)

    def work(self) -> None:
        """Do it."""
        self._outcome = _done(self._action)
        self._asked.put(None)

    def wait(self) -> T:
        """What the action returns (or raises); until then, what it asks for is done here."""
        while (asked := self._asked.get()) is not None:
            action, answer = asked
            answer.put(_done(action))
        result: T = _taken(self._outcome)
        return result

    def ask(self, action: Callable[[], U]) -> U:
        """What `action` returns (or raises) in the thread that waits, asked for in the one that works."""
        answer: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._asked.put((action, answer))
        result: U = _taken(answer.get())
        return result


def _done(action: Callable[[], Any]) -> Outcome:
    try:
        return action(), None
    except BaseException as error:
        return None, error


def _taken(outcome: Outcome) -> Any:
    result, error = outcome
    if error is not None:
        raise error
    return result
