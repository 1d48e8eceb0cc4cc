"""The libraries that load objects in the guest, and the building of those that are programs of their own.

libbpf is in the guest image. The cilium loader, `cilium/`, is a small Go program around cilium/ebpf. Aya's would be a folder beside it, a name
in LIBRARIES, and a module in kmatrix/guest.
"""

from __future__ import annotations

from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.manifest.libraries import LIBRARIES, Library

ALL = "all"
TITLES = {"libbpf": "libbpf", "cilium": "cilium/ebpf"}
"""What the libraries call themselves."""


def chosen(text: str, *, where: str = "--loader") -> tuple[Library, ...]:
    """The libraries that an option names: one, or all. Raises InputError."""
    if text == ALL:
        return LIBRARIES
    for each in LIBRARIES:
        if text == each:
            return (each,)
    raise InputError(
        f"unknown loader {text!r}{did_you_mean(text, (*LIBRARIES, ALL))}",
        where=where,
        fix=f"one of: {', '.join((*LIBRARIES, ALL))}",
    )
