"""A worker's side of kmatrix.runs.workers.link: answers lines of JSON on standard input, until that ends.

It says what this machine has, takes in what a run needs (kernels, guest images, the project), and says whose snapshots are here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any

from kmatrix.host.errors import InfraError, KmatrixError
from kmatrix.host.paths import cache_dir, cache_error
from kmatrix.runs.workers.describe import describe
from kmatrix.runs.workers.take import Taking


class _There:
    def __init__(self, source: IO[bytes], say: Callable[[Mapping[str, Any]], None]) -> None:
        self._source, self._say = source, say
        self._taking: Taking | None = None
        self._held = ExitStack()
        self._failed = False
        """Whether the parcel on its way was given up: what still comes of it is thrown away."""

    def serve(self) -> None:
        """Answer until the other side closes."""
        with self._held:
            for line in iter(self._source.readline, b""):
                asked = json.loads(line)
                if asked["op"] == "data":
                    size = asked.pop("n")
                    asked["data"] = self._source.read(size)
                    if len(asked["data"]) < size:
                        return  # cut: what came before is kept, and gone on with the next time
                try:
                    answer = getattr(self, f"_{asked.pop('op')}")(**asked)
                except (KmatrixError, OSError) as error:
                    self._give_up()
                    answer = {"error": _said(error)}
                if answer is not None:
                    self._say(answer)

    def _give_up(self) -> None:
        self._failed = True
        self._held.close()
        if self._taking is not None:
            self._taking.forget()

    def _describe(self) -> Mapping[str, Any]:
        return describe()

    def _has(self, parcels: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return {"has": [Taking(files=(), **parcel).place is not None for parcel in parcels]}

    def _want(self, **parcel: Any) -> Mapping[str, Any]:
        self._held.close()
        self._taking, self._failed = Taking(**parcel), False
        wanted = self._held.enter_context(self._taking.wanted())
        if wanted["there"]:
            self._held.close()
        return wanted

    def _data(self, **piece: Any) -> None:
        if self._taking is not None and not self._failed:
            self._taking.add(**piece)

    def _finish(self) -> Mapping[str, Any] | None:
        if self._taking is None or self._failed:
            return None
        place = self._taking.finish()
        self._held.close()
        return {"place": place}

    def _ready(self, **asked: Any) -> Mapping[str, Any]:
        from kmatrix.runs.workers.ready import ready  # here, and not above: it takes the whole machine room

        return {"ready": ready(**asked)}


def _said(error: Exception) -> dict[str, Any]:
    if isinstance(error, OSError):
        cache = cache_dir("kernels").parent
        error = cache_error(error, cache) or InfraError(str(error), where=str(cache), fix="see what is wrong there")
    assert isinstance(error, KmatrixError)
    return {"message": error.message, "where": error.where, "fix": error.fix, "kind": type(error).__name__}


def serve() -> None:
    """Answer on standard output what standard input asks. What else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def say(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()

    _There(sys.stdin.buffer, say).serve()
