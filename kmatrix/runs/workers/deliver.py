"""Brings parcels to a worker: what it lacks of them, from where an earlier transfer was cut, packed where that makes it smaller."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from kmatrix.host.errors import InfraError
from kmatrix.host.progress import Reporter
from kmatrix.runs.workers.link import Link
from kmatrix.runs.workers.parcel import Parcel

_PIECE = 1 << 20
_FAST = 1
"""zlib's level: above it, a worker nearby waits for the packing."""


class Delivery:
    """What was brought to one worker so far."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.sent = 0
        """Bytes of content that went over the connection, packed as they went."""
        self.brought: list[str] = []
        """What of the parcels was not there yet."""

    def lacks(self, parcels: Sequence[Parcel]) -> set[str]:
        """The ids of those of the parcels that are not at the worker yet."""
        asked = [{"kind": each.kind, "id": each.id, "meta": dict(each.meta)} for each in parcels]
        here = self.link.ask("has", parcels=asked)["has"]
        return {parcel.id for parcel, there in zip(parcels, here, strict=True) if not there}

    def bring(self, parcel: Parcel, reporter: Reporter) -> str:
        """Have the parcel at the worker; returns its folder there. Raises what the worker raises, and Lost where the connection ends."""
        files = [file for file in parcel.files if len(file) > 2]
        listed = [list(file) for file in parcel.files]
        wanted = self.link.ask("want", kind=parcel.kind, id=parcel.id, files=listed, meta=dict(parcel.meta))
        if wanted["there"]:
            return str(wanted["place"])
        total, done = sum(files[number][1] - at for number, at in wanted["pieces"]), 0
        with reporter.step(f"{self.link.address}: {parcel}") as step:
            for number, at in wanted["pieces"]:
                for size in self._send(parcel, files[number], number, at):
                    done += size
                    step.advance(done, total)
                    if self.link.has_answer():
                        self.link.answer()  # it gave up, and says why
                        raise InfraError("the worker answered out of turn", where=str(self.link.address), fix="run it again")
            place = str(self.link.ask("finish")["place"])
        self.brought.append(str(parcel))
        return place

    def _send(self, parcel: Parcel, file: Sequence[Any], number: int, at: int) -> Iterator[int]:
        with (parcel.root / file[0]).open("rb") as stream:
            stream.seek(at)
            while at < file[1]:
                data = stream.read(min(_PIECE, file[1] - at))
                if not data:
                    fix = "run it again, without something that changes the project's files meanwhile"
                    raise InfraError("became shorter while it was sent", where=str(parcel.root / file[0]), fix=fix)
                packed = zlib.compress(data, _FAST)
                smaller = len(packed) < len(data) * 0.9
                sent = packed if smaller else data
                line = {"op": "data", "file": number, "at": at, "n": len(sent), "z": smaller}
                self.link.say(line, sent)
                self.sent += len(sent)
                at += len(data)
                yield len(data)
