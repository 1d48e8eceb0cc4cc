"""What the user has set of the network: whether it may be used at all (`offline`), mirrors and proxies.

A mirror may stand in for any address (`[mirrors]` in kernels.toml). `session` heeds them for whoever fetches.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from kmatrix.host.errors import Unavailable

SCHEMES = ("http", "https", "file", "copy")
"""What an address may begin with; `copy:` is apt's other word for `file:`."""

OFFLINE = "KMATRIX_OFFLINE"
"""The environment variable behind --offline: what this process starts (xdist's workers) heeds it too."""


def offline() -> bool:
    """Whether nothing may be fetched (--offline, or $KMATRIX_OFFLINE set to anything but 0)."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def go_offline() -> None:
    """Fetch nothing from now on, in this process and what it starts."""
    os.environ[OFFLINE] = "1"


def on_disk(url: str) -> bool:
    """Whether an address (as it is really asked for: see `mirrored`) is on this machine."""
    return urlsplit(url).scheme in ("file", "copy", "")


def require_network(url: str) -> None:
    """Raises Unavailable where `url` is not on this machine and nothing may be fetched: for who lets a program fetch (git, mmdebstrap)."""
    if offline() and not on_disk(url):
        raise Unavailable("not fetched: kmatrix is offline", where=url, fix=f"leave out --offline, and unset {OFFLINE}")


_mirrors: dict[str, str] = {}


def use_mirrors(mirrors: Mapping[str, str]) -> None:
    """From now on, take what is asked for below each address that is a key of `mirrors` from its value instead."""
    _mirrors.clear()
    _mirrors.update((prefix, mirror) for prefix, mirror in mirrors.items() if "://" in prefix)


def mirrored(url: str, mirrors: Mapping[str, str] | None = None) -> str:
    """The address that `url` is really asked for at: its longest prefix that has a mirror (of those in use, or `mirrors`), replaced."""
    known = _mirrors if mirrors is None else mirrors
    for prefix in sorted(known, key=len, reverse=True):
        base = prefix.rstrip("/")
        if url == base or url.startswith(f"{base}/"):
            return known[prefix].rstrip("/") + url[len(base) :]
    return url


@lru_cache(maxsize=1)
def proxies() -> tuple[tuple[str, str], ...]:
    """The proxies apt is told to use (Acquire::http::Proxy), if any; those of the environment are requests' own business."""
    binary = shutil.which("apt-config")
    if binary is None:
        return ()
    done = subprocess.run([binary, "dump", "--format", "%f=%v%n"], capture_output=True, text=True, check=False)
    found = re.findall(r"^Acquire::(https?)::proxy=(\S+)$", done.stdout, re.MULTILINE | re.IGNORECASE)
    return tuple((scheme.lower(), proxy) for scheme, proxy in found if proxy.upper() != "DIRECT")
