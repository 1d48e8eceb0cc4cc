"""What is strict of a request."""

from __future__ import annotations

import pytest

from kmatrix.host.errors import InputError
from kmatrix.matrix.load import load_matrix
from kmatrix.runs.machine_room import refuse_missing

TARGETS = load_matrix().targets("5.4,6.1", "all")


def refused(missing: list[str], kernels: str | None, arch: str | None) -> str:
    with pytest.raises(InputError) as error:
        refuse_missing(TARGETS, dict.fromkeys(missing, "no"), kernels=kernels, arch=arch)
    return error.value.message


def test_kernels_asked_for_have_to_be_there_each() -> None:
    assert refused(["5.4-arm64"], "5.4,6.1", None) == "--kernels=5.4,6.1 asks for kernels that cannot be had:\n  5.4-arm64: no"
    refuse_missing(TARGETS, {}, kernels="5.4,6.1", arch="all")


def test_of_an_arch_asked_for_one_has_to_be_there() -> None:
    none, some = ["5.4-arm64", "6.1-arm64"], ["5.4-arm64", "5.4-x86_64"]
    said = refused([*none, "5.4-x86_64"], None, "all")
    assert said == "--arch=all: no kernel for arm64 can be had:\n  5.4-arm64: no\n  6.1-arm64: no"
    refuse_missing(TARGETS, dict.fromkeys(some, "no"), kernels=None, arch="all")


def test_a_bare_run_takes_what_there_is() -> None:
    refuse_missing(TARGETS, {str(target): "no" for target in TARGETS}, kernels=None, arch=None)
