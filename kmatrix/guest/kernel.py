"""The kernel that is running."""

from __future__ import annotations

import os
import re

EXTERNAL_BTF = "/run/kmatrix/external.btf"
"""Where the host puts BTF from a file (the circumstance btf=FILE)."""


def release() -> str:
    """Its release, as uname says it."""
    return os.uname().release


def version() -> tuple[int, int]:
    """The series of its release: (5, 4) of 5.4.286."""
    found = re.match(r"(\d+)\.(\d+)", release())
    return (int(found[1]), int(found[2])) if found else (0, 0)
