"""The source lines of an object's instructions: the line_info of .BTF.ext (Documentation/bpf/btf.rst)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kmatrix.objects.btf import Btf


@dataclass(frozen=True)
class Line:
    """A line of the C source."""

    section: str
    at: int
    """The first instruction that was compiled from it: bytes from the start of the section."""
    file: str
    number: int
    text: str

    @property
    def insn(self) -> int:
        """The same, counted in instructions."""
        return self.at // 8

    def __str__(self) -> str:
        name = self.file.rpartition("/")[2]
        return f"{self.text} @ {name}:{self.number}" if self.text else f"{name}:{self.number}"


def lines(btf: Btf, ext: bytes) -> dict[str, list[Line]]:
    """The lines of each section, in the order of its instructions; none where the object has none. Raises ValueError where they are cut short."""
    if len(ext) < 24:
        return {}
    header, (offset, size) = struct.unpack_from("<I", ext, 4)[0], struct.unpack_from("<II", ext, 16)
    found: dict[str, list[Line]] = {}
    try:
        at, end = header + offset + 4, header + offset + size
        record = struct.unpack_from("<I", ext, header + offset)[0] if size else 0
        while size and at < end:
            section, count = struct.unpack_from("<II", ext, at)
            at += 8
            name = btf.text(section)
            here = found.setdefault(name, [])
            for _ in range(count):
                insn, file, text, place = struct.unpack_from("<IIII", ext, at)
                if number := place >> 10:  # 0: the compiler made the instruction up
                    here.append(Line(name, insn, btf.text(file), number, btf.text(text).strip()))
                at += record
    except (struct.error, ValueError) as error:
        raise ValueError(f".BTF.ext is cut short ({error})") from None
    for each in found.values():
        each.sort(key=lambda line: line.at)
    return found
