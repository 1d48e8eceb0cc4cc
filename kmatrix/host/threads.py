"""Waiting in the main thread for the work of others, so that Ctrl-C is seen."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")
_SECONDS = 0.5
"""How long one wait lasts: an interrupt is seen at the latest after this time."""


def results(futures: Sequence[Future[Result]]) -> list[Result]:
    """The results of `futures`, in their order. Raises what the first of them that failed raised, when all have ended; after an
    interrupt, those that have not begun do not begin.

    `Future.result()` without a time limit is not enough. Python runs a signal's handler between two steps of the main thread. A signal that
    comes after the last such step and before the system call that waits interrupts nothing, and is only seen when the wait is over.
    """
    try:
        for future in futures:
            while not future.done():
                wait([future], _SECONDS)
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise
