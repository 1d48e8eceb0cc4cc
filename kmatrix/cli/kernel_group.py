"""`kmatrix kernels` with all of its verbs: `lock` and `gc` stand in modules of their own, and `lock` uses what `kernels` has."""

from __future__ import annotations

from kmatrix.cli import gc, lock
from kmatrix.cli.kernels import group

group.add_command(lock.command)
group.add_command(gc.command)
