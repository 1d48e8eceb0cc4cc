"""What all tests share beside the repository's own conftest.py (which the collectors' cells have too)."""

from __future__ import annotations

from hypothesis import settings

# A machine that boots VMs beside the tests is slow now and then: how long an example takes says nothing.
settings.register_profile("kmatrix", deadline=None)
settings.load_profile("kmatrix")
