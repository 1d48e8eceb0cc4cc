"""A vmlinux.h for sources that include one which is not there: of the newest shipped profile, written into the cache once."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from kmatrix.host.paths import cache_dir
from kmatrix.matrix.arch import Arch
from kmatrix.predict import header, store


@cache
def folder(arch: Arch) -> Path | None:
    """The folder that has the header for an arch; None where there is no profile with types of such a kernel."""
    known = [kernel for kernel in store.shipped() if kernel.arch == arch and kernel.btf]
    if not known:
        return None
    kernel = known[-1]
    home = cache_dir("headers") / f"{kernel.name}-{kernel.pack.digest[:16]}"
    path = home / "vmlinux.h"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        temporary = home / f".vmlinux.h.{os.getpid()}"
        temporary.write_text(header.write(kernel), encoding="utf-8")
        temporary.replace(path)
    return home
