"""The log of a kernel's build, read for the line that says why it failed. Pure functions over its lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

_GAVE_UP = re.compile(r"\*\*\* ")
"""make's own line: it names the target that failed, and says nothing of why."""
_ERROR = re.compile(
    r"\b(fatal )?error\b: |undefined reference|multiple definition|No rule to make target|cannot find -l", re.IGNORECASE
)
_NOT_THERE = re.compile(r": not found$|: command not found|No such file or directory|Permission denied|^FAILED")
_PROGRESS = re.compile(r"^\s*(make(\[\d+\])?: (Entering|Leaving|Nothing)|[A-Z][A-Z0-9_]{1,9}( \[M\])? {2,}|#)")
"""What a build prints while all is well: `  CC      init/main.o`."""
_ABOVE = 40
"""Lines above make's first complaint in which its reason stands: others' compilers print in between."""
_KILLED = re.compile(
    r"\*\*\* .*\] (Killed|Terminated)\b|(Killed|Terminated) signal terminated program|internal compiler error: Killed"
)


def telling(lines: Sequence[str]) -> str:
    """The line that says why make gave up: a compiler's or linker's error, else what stands right above make's first complaint."""
    end = next((number for number, line in enumerate(lines) if _GAVE_UP.search(line)), len(lines))
    above = lines[max(0, end - _ABOVE) : end]
    for pattern, where in ((_ERROR, above), (_ERROR, lines), (_NOT_THERE, above)):
        if (found := next((line for line in where if pattern.search(line) and not _PROGRESS.match(line)), None)) is not None:
            return found.strip()
    said = [line.strip() for line in above if line.strip() and not _PROGRESS.match(line)]
    return (said or [line.strip() for line in lines if line.strip()] or [""])[-1]


def killed(lines: Sequence[str], status: int) -> str | None:
    """What ended make, or a program that it ran, from outside; None where nothing did. `status` is Popen's: -N for signal N."""
    if status < 0:
        return f"{signal.Signals(-status).name} ended it"
    last = next((line for line in reversed(lines) if _KILLED.search(line)), None)
    return f"one of its programs was killed ({last.strip()})" if last is not None else None
