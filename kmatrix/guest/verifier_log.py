"""What a verifier's log says. From 7.3 on the kernel explains a refusal at length, below the line that older kernels end with."""

from __future__ import annotations

import re

_EXPLAINED = "\nVerification failed: "
"""What the explanation begins with (seen with 7.3-rc7): class, reason, source and a suggestion follow."""
_COUNTS = "processed "
"""What the line of statistics begins with, the last of every log."""
_NOISE = re.compile(
    r"\A(?:(?:R1 type=ctx expected=fp|arg#0 reference type\('UNKNOWN '\) size cannot be determined: -22|reg type unsupported for arg#0 .*|func#\d+ @\d+|arg#0 type is not a struct|Unrecognized arg#0 type PTR)\n)+"
)
"""What a log may begin with on any program: before the first instruction, kernels try to see the program's own arguments as a global function's
(btf_check_subprog_arg_match; seen on 5.10, 5.15, 6.1 and 6.12)."""


def plain(log: str) -> str:
    """The log as kernels before 7.3 would have ended it: without the explanation, with the statistics; and without what it may begin with on any program."""
    log = _NOISE.sub("", log)
    said, explained, rest = log.partition(_EXPLAINED)
    if not explained:
        return log
    counts = [line for line in rest.splitlines() if line.startswith(_COUNTS)]
    return "\n".join([said.rstrip("\n"), *counts]) + "\n"


def lines(log: str) -> list[str]:
    """The lines of the log that say something, without the explanation and the statistics."""
    return [line for line in plain(log).splitlines() if line and not line.startswith(_COUNTS)]
