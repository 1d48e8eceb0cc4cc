"""Versions of kernels: how they are written, read and ordered. What sorts or reads one does it by this module.

Two orders are not here, as they are others' own: Debian's (`debian.debian_support`) and rpm's (`fetch.rpm.version_key`).
"""

from __future__ import annotations

import re

from kmatrix.host.errors import InputError

Version = tuple[int, int]
"""A series of kernels: (5, 4) of 5.4.286."""


def parse(text: str) -> Version:
    """The version that `text` writes as major.minor ("5.4"); a bare major stands for its first. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?", text)
    if match is None:
        raise ValueError(f"{text!r} is not a kernel version; write major.minor, such as 5.4")
    return int(match[1]), int(match[2] or 0)


def series(release: str) -> Version | None:
    """The series of a release as `uname -r`, a source tree or a tool says it: (5, 4) of "5.4.286-amd64". None if it names none."""
    match = re.match(r"v?(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else None


def text(version: Version) -> str:
    """The version as people write it: "5.4"."""
    return f"{version[0]}.{version[1]}"


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names and releases by the numbers in them: 5.4 before 5.4.10 before 5.15, and a number before a letter."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


_FIRST: Version = (0, 0)
_LAST: Version = (10**9, 0)


def between(term: str, where: str) -> tuple[Version, Version] | None:
    """The half-open range of versions that a comparison or range means; None where `term` is neither. Raises InputError for one that is none."""
    if ".." in term:
        low, _, high = term.partition("..")
        low_version, high_version = _bound(low, term, where), _bound(high, term, where)
        if low_version > high_version:
            raise InputError(f"{term!r} runs backwards", where=where, fix=f"write {high}..{low}")
        return low_version, _after(high_version, high)
    match = re.fullmatch(r"(>=|<=|==|=|>|<)\s*(.*)", term)
    if not match:
        return None
    operator, text = match.groups()
    version = _bound(text, term, where)
    after = _after(version, text)
    return {
        ">=": (version, _LAST), ">": (after, _LAST), "<": (_FIRST, version), "<=": (_FIRST, after), "=": (version, after), "==": (version, after),
    }[operator]  # fmt: skip


def _bound(text: str, term: str, where: str) -> Version:
    try:
        return parse(text.strip())
    except ValueError:
        raise InputError(
            f"{text!r} in {term!r} is not a kernel version", where=where, fix="write major.minor, such as '>=5.8' or 5.4..6.1"
        ) from None


def _after(version: Version, text: str) -> Version:
    """The first version past `version`; a bare major (`5`) stands for all its minors."""
    return (version[0], version[1] + 1) if "." in text else (version[0] + 1, 0)
