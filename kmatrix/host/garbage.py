"""Python's garbage collector, kept from what it cannot find: what was imported stays until the process ends.

It looks through all modules several times while they are imported, and again at the end of the process, whose memory is given back anyway.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Nothing is looked for: around imports, which leave little to be found."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def keep() -> None:
    """What there is now is not looked through again, and stays until the process ends."""
    gc.freeze()


def keep_at_exit() -> None:
    """The same when the process ends, after all that is registered with atexit from now on."""
    atexit.register(keep)
