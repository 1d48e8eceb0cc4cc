"""Settings of the running kernel by their names (sysctl(8))."""

from __future__ import annotations

ROOT = "/proc/sys"
_OTHER = str.maketrans("./", "/.")


def file_of(name: str) -> str:
    """The file of a setting. Where the first separator is a dot, a dot within a part is written as a slash: net.ipv4.conf.eth0/1.rp_filter."""
    first = min((name.index(each) for each in "./" if each in name), default=None)
    return f"{ROOT}/{name.translate(_OTHER) if first is not None and name[first] == '.' else name}"
