"""How long a guest may take for what every cell and every object asks of it."""

from __future__ import annotations

MARGIN = 30.0
"""Seconds that a cell may take in the guest beyond its collector's own timeout (load and attach under TCG)."""
INTERRUPTION = 10.0
"""Seconds that a verifier at its limit takes to be interrupted, and to show where it is."""
