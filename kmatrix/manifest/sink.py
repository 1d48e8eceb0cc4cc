"""Where events come from beside a buffer: `from` of [[event]], `contains` of [[map]], and [[test_run]]."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import Field, field_validator, model_validator

from kmatrix.host.validation import Strict
from kmatrix.manifest.packet import Packet
from kmatrix.manifest.types import Literals

SinkKind = Literal["buffer", "map", "iter", "trace_pipe"]
TEXT_SINKS: tuple[SinkKind, ...] = ("iter", "trace_pipe")
"""The sinks whose records are lines."""
LINE_FIELDS: dict[str, dict[str, str]] = {"iter": {"line": "str"}, "trace_pipe": {"line": "str", "pid": "int", "comm": "str"}}
"""The fields that a line has without a regex, and their types."""


class Sink(NamedTuple):
    """Where an event comes from."""

    kind: SinkKind
    name: str = ""
    """Of a map or an iterator: the map's, the program's."""


def sink_of(text: str | None) -> Sink:
    """What `from` says; raises ValueError for what it cannot be."""
    if text is None:
        return Sink("buffer")
    kind, _, name = text.partition(":")
    if text == "trace_pipe":
        return Sink("trace_pipe")
    if kind == "map" and name:
        return Sink("map", name)
    if kind == "iter" and name:
        return Sink("iter", name)
    raise ValueError(
        f'from = "{text}": write "map:NAME" for the contents of a map, "iter:PROGRAM" for the text of an iterator, or "trace_pipe"'
        " for the lines of bpf_printk; leave it out for the variant's buffer"
    )


def dotted(value: object, before: str = "") -> object:
    """A table of tables as one with dotted names: TOML reads `{ id.pid = 1 }` as `{ id = { pid = 1 } }`, and both are a member of a member."""
    if not isinstance(value, dict):
        return value
    flat: dict[str, object] = {}
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            flat |= cast("dict[str, object]", dotted(inner, f"{before}{name}."))
        else:
            flat[f"{before}{name}"] = inner
    return flat


def dotted_members(value: object) -> object:
    """The same for a validator, which takes one argument."""
    return dotted(value)


Scalar = int | str
Contents = Annotated[Scalar | dict[str, Any], Field(union_mode="left_to_right")]


class Entry(Strict):
    """One entry that a map must hold: a value each, or a table of members (dotted names) and what they must be."""

    key: Contents
    value: Contents | None = None

    _members = field_validator("key", "value", mode="before")(dotted_members)

    @field_validator("key", "value")
    @classmethod
    def _plain(cls, found: object) -> object:
        for member, value in found.items() if isinstance(found, dict) else ():
            if isinstance(value, bool) or not isinstance(value, int | str):
                raise ValueError(f'{member}: write a number, a text or "known.NAME"')
        return found

    def checks(self, part: Literal["key", "value"]) -> Iterator[tuple[str, Literals]]:
        """(field, what it must be) of the key or the value."""
        said = self.key if part == "key" else self.value
        if isinstance(said, dict):
            yield from ((f"{part}.{member}", value) for member, value in said.items())
        elif said is not None:
            yield part, said


class TestRun(Strict):
    """A program that is run once on a packet or a context that the manifest gives (BPF_PROG_TEST_RUN)."""

    __test__ = False  # not a test class, whatever its name says to pytest

    name: str | None = None
    """What the verdict calls it; the program's name where not said."""
    program: str
    data: str | None = None
    """The packet, in hexadecimal digits; spaces and colons do not count."""
    packet: Packet | None = None
    """The packet, described."""
    ctx: str | None = None
    """The context, in hexadecimal digits."""
    repeat: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    returns: int | None = None
    """What the program must return."""
    data_out: str | None = None
    """The packet as it must be afterwards."""
    ctx_out: str | None = None
    """The context as it must be afterwards."""

    @field_validator("data", "ctx", "data_out", "ctx_out")
    @classmethod
    def _hex(cls, text: str | None) -> str | None:
        if text is None:
            return None
        digits = re.sub(r"[\s:]", "", text)
        if not re.fullmatch(r"([0-9a-fA-F]{2})*", digits):
            raise ValueError(f"{text[:40]!r} is not bytes in hexadecimal digits, such as 45 00 00 1c")
        return digits.lower()

    @model_validator(mode="after")
    def _says_something(self) -> TestRun:
        if self.data is not None and self.packet is not None:
            raise ValueError("data and packet are two ways to say the same: give one")
        if self.returns is None and self.data_out is None and self.ctx_out is None:
            raise ValueError("it asserts nothing: say what the program returns, or data_out or ctx_out")
        if self.data_out is not None and self.input is None:
            raise ValueError("data_out is of the packet that goes in: give data or packet")
        return self

    @property
    def label(self) -> str:
        """Its name."""
        return self.name or self.program

    @property
    def input(self) -> str | None:
        """The packet in hexadecimal digits; None where there is none."""
        return self.packet.bytes().hex() if self.packet is not None else self.data
