"""Raw questions to bpf(2), one request each: what would this kernel say? For measuring how faithful a simulated one is."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from . import bpf, verifier_log

Question = Mapping[str, Any]
LOG_SIZE = 1 << 16


def ask(questions: Sequence[Question]) -> list[list[Any]]:
    """For each question [errno (0: it works), the verifier's last word].

    A question has `command` and one of: `attr` (hex), passed as it is; `program` ({"type", "insns" (hex), "expected", "flags", "name",
    "version": bool, "license", "tail" (hex, after the attributes up to expected_attach_type), "array": bool}), of which an `array` has the
    map's fd put into its first instruction; `btf` (hex of a BTF object); `path`, which is looked for; `map` (hex, with `inner`: true for
    the fd of an array as its inner map).
    """
    array = bpf.map_create(2, 4, 32, 1)
    try:
        return [_one(question, array) for question in questions]
    finally:
        os.close(array)


def _one(question: Question, array: int) -> list[Any]:
    words: list[str] = []
    try:
        fd = _do(question, array, words)
    except OSError as error:
        return [error.errno, words[0] if words else ""]
    if fd is not None:
        os.close(fd)
    return [0, ""]


def _do(question: Question, array: int, words: list[str]) -> int | None:
    if "path" in question:
        os.stat(question["path"])
        return None
    command = int(question["command"])
    if "program" in question:
        return _load(question["program"], array, words)
    if "btf" in question:
        data = bytes.fromhex(question["btf"])
        buffer = ctypes.create_string_buffer(data, len(data))
        return bpf.bpf(command, struct.pack("=QQIII", ctypes.addressof(buffer), 0, len(data), 0, 0))
    attr = bytes.fromhex(question["attr"])
    if question.get("inner"):
        attr = attr[:20] + struct.pack("=I", array) + attr[24:]
    result = bpf.bpf(command, attr)
    return result if question.get("fd") else None


def _load(program: Mapping[str, Any], array: int, words: list[str]) -> int:
    code = bytes.fromhex(program["insns"]) * int(program.get("times", 1)) + bytes.fromhex(program.get("end", ""))
    if program.get("array"):
        code = code[:4] + struct.pack("=i", array) + code[8:]
    insns = ctypes.create_string_buffer(code, len(code))
    license_ = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(LOG_SIZE)
    attr = struct.pack(
        "=IIQQIIQII16sII",
        int(program["type"]), len(code) // 8, ctypes.addressof(insns), ctypes.addressof(license_),
        1, LOG_SIZE, ctypes.addressof(log), _version() if program.get("version", True) else 0,
        int(program.get("flags", 0)), str(program.get("name", "")).encode(), 0, int(program.get("expected", 0)),
    ) + bytes.fromhex(program.get("tail", ""))  # fmt: skip
    try:
        return bpf.bpf(bpf.PROG_LOAD, attr.rstrip(b"\0").ljust(48, b"\0"))
    except OSError:
        lines = verifier_log.lines(log.value.decode("utf-8", "replace"))
        words.append(lines[-1][:120] if lines else "")
        raise


def _version() -> int:
    """LINUX_VERSION_CODE, as loaders read it from uname."""
    found = re.match(r"(\d+)\.(\d+)\.?(\d+)?", os.uname().release)
    major, minor, patch = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    return major << 16 | minor << 8 | min(patch, 255)
