"""What a verifier's log ends with."""

from __future__ import annotations

from kmatrix.guest import verifier_log

_VERIFIER_CHATTER = ("processed ", "verification time", "stack depth", "-- END", "-- BEGIN", "max_states", "peak_states")


def last_words(log: str) -> str:
    """The line of a verifier log that says why: the last that is not a statistic."""
    lines = [line.strip() for line in verifier_log.plain(log).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith(_VERIFIER_CHATTER)), "")
