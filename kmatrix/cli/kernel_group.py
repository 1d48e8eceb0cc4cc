"""`kmatrix kernels` with all of its verbs: some stand in modules of their own, and use what `kernels` has."""

from __future__ import annotations

from kmatrix.cli import adopt, gc, lock, try_sources
from kmatrix.cli.kernels import group

group.add_command(lock.command)
group.add_command(gc.command)
group.add_command(try_sources.command)
group.add_command(adopt.command)
