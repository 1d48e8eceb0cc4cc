"""The libraries that kmatrix loads objects with."""

from __future__ import annotations

from typing import Literal, get_args

Library = Literal["libbpf", "cilium"]
LIBRARIES: tuple[Library, ...] = get_args(Library)
"""The libraries that kmatrix loads objects with: what `loader` in a manifest and the option --loader name."""
