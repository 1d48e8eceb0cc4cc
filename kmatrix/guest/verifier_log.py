"""What a verifier's log says. From 7.3 on the kernel explains a refusal at length, below the line that older kernels end with."""

from __future__ import annotations

_EXPLAINED = "\nVerification failed: "
"""What the explanation begins with (seen with 7.3-rc7): class, reason, source and a suggestion follow."""
_COUNTS = "processed "
"""What the line of statistics begins with, the last of every log."""


def plain(log: str) -> str:
    """The log as kernels before 7.3 would have ended it: without the explanation, with the statistics."""
    said, explained, rest = log.partition(_EXPLAINED)
    if not explained:
        return log
    counts = [line for line in rest.splitlines() if line.startswith(_COUNTS)]
    return "\n".join([said.rstrip("\n"), *counts]) + "\n"


def lines(log: str) -> list[str]:
    """The lines of the log that say something, without the explanation and the statistics."""
    return [line for line in plain(log).splitlines() if line and not line.startswith(_COUNTS)]
