"""Versions of kernels: read, written and put in order in one way everywhere."""

from __future__ import annotations

import random

import pytest

from kmatrix.host import version
from kmatrix.report.table import target_key


@pytest.mark.parametrize(("text", "read"), [("5.4", (5, 4)), ("5.15", (5, 15)), ("6", (6, 0)), ("10.0", (10, 0))])
def test_what_is_read(text: str, read: version.Version) -> None:
    assert version.parse(text) == read


@pytest.mark.parametrize("text", ["", "5.", ".4", "5.4.1", "v5.4", "5.4-rc1", "5,4", " 5.4"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="is not a kernel version"):
        version.parse(text)


@pytest.mark.parametrize(
    ("release", "series"),
    [("5.4.286-amd64", (5, 4)), ("6.1.0-9-amd64", (6, 1)), ("v1.24", (1, 24)), ("5.15", (5, 15)), ("mainline", None), ("5", None)],
)
def test_the_series_of_a_release(release: str, series: version.Version | None) -> None:
    assert version.series(release) == series


def test_it_is_written_as_it_was_read() -> None:
    assert version.text(version.parse("5.10")) == "5.10"


def test_names_sort_by_their_numbers() -> None:
    ordered = ["4.14", "5.4", "5.4-nobtf", "5.4.9", "5.4.10", "5.10", "5.15-cgroup1", "6.1", "rhel-8.9", "rhel-8.10", "v5.4"]
    shuffled = random.Random(1).sample(ordered, len(ordered))
    assert sorted(shuffled, key=version.natural) == ordered


def test_targets_sort_by_arch_and_then_by_kernel() -> None:
    targets = ["5.4-x86_64", "5.4-nobtf-x86_64", "5.10-x86_64", "rhel-9-x86_64", "4.14-arm64", "6.1-arm64"]
    assert sorted(random.Random(2).sample(targets, 6), key=target_key) == targets
