"""Triggers on what a process may do: its user, and its capabilities."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping

from .. import bpf
from .deed import Deed, checked, kind
from .kind import UID, Kind, Spec

_CAPABILITY_VERSION_3 = 0x20080522
KEPT = 1 << 10 | 1 << 6 | 1 << 7
"""CAP_NET_BIND_SERVICE, CAP_SETGID and CAP_SETUID (include/uapi/linux/capability.h)."""
_EFFECTIVE = 1 << 10


def _setuid(_spec: Spec) -> Deed:
    """Become another user for good."""
    return Deed({"new_uid": UID, "old_uid": 0}, lambda: os.setuid(UID))


def _capset(_spec: Spec) -> Deed:
    """Give up all capabilities but some."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(struct.pack("=6I", _EFFECTIVE, KEPT, 0, 0, 0, 0))

    def do() -> None:
        checked(bpf.libc.capset(header, data), "capset")

    return Deed({"effective": _EFFECTIVE, "permitted": KEPT, "inheritable": 0}, do)


KINDS: Mapping[str, Kind] = {
    "setuid": kind(
        "setuid",
        _setuid,
        {"new_uid": "the user that it becomes: 4201", "old_uid": "the user that it was: 0, which is also `uid`"},
        root=True,
        repeats=False,
    ),
    "capset": kind(
        "capset",
        _capset,
        {
            "effective": "the capabilities that hold, as bits: CAP_NET_BIND_SERVICE",
            "permitted": "those that it may still take: that, CAP_SETGID and CAP_SETUID",
            "inheritable": "0: none",
        },
        root=True,
    ),
}
