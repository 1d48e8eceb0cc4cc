"""Triggers for uprobes and USDT: a program of which a function is called that collectors can attach to.

The program has no more than that: where its function and its USDT place are stands in its symbol table and its notes, as compilers and
<sys/sdt.h> write them.
"""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Mapping
from typing import NamedTuple

from ..child import Known
from ..namespaces import own_pid
from .deed import Deed, kind
from .kind import WORK, Kind, Spec, become_someone, place

NAME, FUNCTION, PROVIDER, PROBE = "kmatrix-victim", "kmatrix_victim", "kmatrix", "victim"
PATH = f"{WORK}/{NAME}"
NUMBER, WIDE, TEXT = 42, 0x6B6D617472697801, "kmatrix victim"
_BASE = 0x400000


class _Code(NamedTuple):
    """Machine code that reads a byte from standard input, calls the function, writes the byte to standard output, and starts again."""

    machine: int
    """e_machine."""
    code: bytes
    function: int
    """Where the function begins: two instructions that do nothing, then what returns its first argument and one."""
    probe: int
    """Where the USDT place is: the second of those."""
    text: int
    """Where the text is that is passed."""
    arguments: str
    """Where the three arguments are, as in the notes of <sys/sdt.h>."""


# _start: sp -= 32; read(0, sp + 16, 1), exit(0) where it is not 1; kmatrix_victim(42, 0x6b6d617472697801, text); write(1, sp + 16, 1); and again.
# What lies below sp is the kernel's where a uretprobe is: from 6.11 on, its trampoline pushes registers there (uretprobe(2)); seen on 6.12.
_CODES = {
    "x86_64": _Code(
        62,
        bytes.fromhex(
            "4883ec2031c031ff488d742410ba010000000f0585c07e33bf2a00000048be0178697274616d6b488d1542000000e82d000000b801000000bf01000000488d74"
            "2410ba010000000f05ebb9b83c00000031ff0f05662e0f1f840000000000669090908d4701c3662e0f1f8400000000006b6d61747269782076696374696d00"
        ),
        0x60,
        0x61,
        0x70,
        "-4@%edi 8@%rsi 8@%rdx",
    ),
    "aarch64": _Code(
        183,
        bytes.fromhex(
            "ff8300d1e80780d2000080d2e1430091220080d2010000d41f0000f1cd0100544005805221008fd2214daef2812eccf2a16dedf2e20100100a000094080880d2"
            "200080d2e1430091220080d2010000d4edffff17a80b80d2000080d2010000d41f2003d51f2003d500040011c0035fd66b6d61747269782076696374696d00"
        ),
        0x60,
        0x64,
        0x70,
        "-4@x0 8@x1 8@x2",
    ),
}


def victim() -> bytes:
    """The program, as a whole ELF file with a symbol table and the note of a USDT place."""
    code = _CODES[platform.machine()]
    start = 64 + 56 + 8  # the headers, and what aligns the code
    address = _BASE + start
    described = struct.pack("<QQQ", address + code.probe, 0, 0) + f"{PROVIDER}\0{PROBE}\0{code.arguments}\0".encode()
    note = struct.pack("<III", 8, len(described), 3) + b"stapsdt\0" + described.ljust(-(-len(described) // 4) * 4, b"\0")
    size = code.text - code.function
    symbols = bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 1, address + code.function, size)  # global, a function, of section 1
    strings = b"\0" + FUNCTION.encode() + b"\0"
    names = b"\0.text\0.note.stapsdt\0.symtab\0.strtab\0.shstrtab\0"
    image, sections = bytearray(start), [struct.pack("<IIQQQQIIQQ", *[0] * 10)]
    for title, sort, flags, content, link, info, entry in (
        (".text", 1, 6, code.code, 0, 0, 0),
        (".note.stapsdt", 7, 0, note, 0, 0, 0),
        (".symtab", 2, 0, symbols, 4, 1, 24),
        (".strtab", 3, 0, strings, 0, 0, 0),
        (".shstrtab", 3, 0, names, 0, 0, 0),
    ):
        image += bytes(-len(image) % 16)
        at, name = len(image), names.index(title.encode() + b"\0")
        sections.append(
            struct.pack("<IIQQQQIIQQ", name, sort, flags, _BASE + at if flags else 0, at, len(content), link, info, 4, entry)
        )
        image += content
    image += bytes(-len(image) % 16)
    header = struct.pack(
        "<HHIQQQIHHHHHH", 2, code.machine, 1, address, 64, len(image), 0, 64, 56, 1, 64, len(sections), len(sections) - 1
    )
    loaded = start + len(code.code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, loaded, loaded, 0x10000)  # aligned to the largest page there is
    image[: 64 + 56] = b"\x7fELF\2\1\1".ljust(16, b"\0") + header + segment
    return bytes(image + b"".join(sections))


def _placed(_spec: Spec) -> None:
    if not os.path.exists(PATH):
        place(NAME, victim())


def _call(_spec: Spec) -> Deed:
    """Have the program call its function."""
    told, tell = os.pipe()
    given, give = os.pipe()
    came, come = os.pipe()
    parent = own_pid()
    inner = os.fork()
    if inner == 0:
        try:
            become_someone()
            os.write(tell, b"%d" % own_pid())
            os.dup2(given, 0)
            os.dup2(come, 1)
            os.execve(PATH, [NAME], {})
        finally:
            os._exit(126)
    for fd in (tell, given, come):
        os.close(fd)
    pid = int(os.read(told, 16))
    if os.read(told, 1):  # its end is closed by the exec
        raise ChildProcessError(f"{PATH} was not executed")

    def do() -> None:
        os.write(give, b"\n")
        if os.read(came, 1) != b"\n":
            raise ChildProcessError(f"{PATH} ended in the middle")

    address = _BASE + 128 + _CODES[platform.machine()].text
    called: Known = {"number": NUMBER, "wide": WIDE, "text": TEXT, "text_address": address, "ret": NUMBER + 1}
    who = {"pid": pid, "tgid": pid, "comm": NAME, "ppid": parent, "ns_pid": inner}
    return Deed({**who, "path": PATH, **called}, do)


def _uprobe(spec: Spec) -> Deed:
    deed = _call(spec)
    return deed._replace(known={**deed.known, "function": FUNCTION})


def _usdt(spec: Spec) -> Deed:
    deed = _call(spec)
    return deed._replace(known={**deed.known, "provider": PROVIDER, "probe": PROBE})


_PASSED = {
    "path": f"the program: {PATH}",
    "number": "the first argument, an int: 42",
    "wide": "the second, a long: 0x6b6d617472697801",
    "text": "what the third, a pointer, points to",
    "text_address": "that pointer",
    "ret": "what the function returns: 43",
}

KINDS: Mapping[str, Kind] = {
    "uprobe": kind("uprobe", _uprobe, {**_PASSED, "function": "its name"}, before=_placed),
    "usdt": kind("usdt", _usdt, {**_PASSED, "provider": "the USDT place's provider", "probe": "its name"}, before=_placed),
}
