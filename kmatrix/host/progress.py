"""Progress of long work, on standard error: a moving bar on a terminal, one line per step elsewhere (CI logs)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


WAITING = "waiting "
"""What the label of a step begins with that only waits: the same wait again is not a line again."""


class Step(Protocol):
    """One piece of long work under way."""

    def advance(self, done: int, total: int | None = None) -> None:
        """`done` of `total` units (bytes, files) are through; `total` None while it is not known."""


class Reporter(Protocol):
    """What long work is given to say how far it is."""

    def step(self, label: str) -> AbstractContextManager[Step]:
        """A context manager around one step; yields a `Step`."""


class _Silent:
    def advance(self, done: int, total: int | None = None) -> None:
        """Nothing is shown."""


class Quiet:
    """Says nothing (tests, xdist workers)."""

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:  # noqa: ARG002 - the protocol's argument
        """A step nobody watches."""
        yield _Silent()


class Stopped(BaseException):
    """Ends a thread whose work is no longer wanted; as a KeyboardInterrupt would, it passes every `except Exception`."""


class Stoppable:
    """A reporter whose steps raise Stopped at their next progress once `stop` is set: Ctrl-C reaches the main thread alone."""

    def __init__(self, reporter: Reporter, stop: threading.Event) -> None:
        self._reporter = reporter
        self._stop = stop

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        """A step of the reporter that it wraps."""
        with self._reporter.step(label) as step:
            yield _StoppableStep(step, self._stop)


class _StoppableStep:
    def __init__(self, step: Step, stop: threading.Event) -> None:
        self._step = step
        self._stop = stop

    def advance(self, done: int, total: int | None = None) -> None:
        if self._stop.is_set():
            raise Stopped
        self._step.advance(done, total)


class _Bar:
    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=None)

    def advance(self, done: int, total: int | None = None) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def end(self) -> None:
        self._progress.remove_task(self._task)


class Terminal:
    """Draws on standard error with rich; where that is no terminal, prints one line when a step ends. Any thread may report."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: Progress | None = None
        self._steps = 0
        self._waits: set[str] = set()

    @cached_property
    def _console(self) -> Console:
        from rich.console import Console  # here, and not above: a run whose kernels and snapshots are there has nothing to show

        return Console(stderr=True)

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        """Show `label` with a bar until the block ends, then one line with the seconds it took."""
        start = time.monotonic()
        if self._console.is_terminal:
            bar = _Bar(self._begin(), label)
            try:
                yield bar
            finally:
                bar.end()
                self._end()
        else:
            yield _Silent()
        if not self._said_before(label):
            self._console.print(f"{label}: {time.monotonic() - start:.1f} s", highlight=False, soft_wrap=True)

    def _said_before(self, label: str) -> bool:
        """Whether a line of this wait was printed already."""
        with self._lock:
            known = label in self._waits
            if label.startswith(WAITING):
                self._waits.add(label)
        return known

    def _begin(self) -> Progress:
        """The one live display, which steps of all threads share; drawn while there is a step."""
        with self._lock:
            if self._live is None:
                from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

                columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
                self._live = Progress(*columns, console=self._console, transient=True)
                self._live.start()
            self._steps += 1
            return self._live

    def _end(self) -> None:
        with self._lock:
            self._steps -= 1
            if self._steps == 0 and self._live is not None:
                self._live.stop()
                self._live = None
