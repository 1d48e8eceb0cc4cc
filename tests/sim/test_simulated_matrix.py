"""Simulated kernels in kernels.toml: what they take from their base, how they are selected, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kmatrix.host import paths
from kmatrix.host.errors import InputError
from kmatrix.host.toml import read_toml
from kmatrix.matrix import schema
from kmatrix.matrix.arch import ARCHES
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.schema import Document
from kmatrix.matrix.selection import Matrix

SHIPPED = load_matrix(Path("/"))
SIMULATED = ["4.9-sim", "4.14-sim", "5.4-sim", "6.1-nobtf", "6.1-nokprobes"]


def with_kernels(**kernels: Any) -> Matrix:
    return schema.parse(
        Document("kernels.toml", read_toml(paths.data("kernels.toml"))), Document("mine.toml", {"schema": 1, "kernels": kernels})
    )


def test_the_set_sim_and_all_have_them_and_ranges_do_not() -> None:
    assert [k.name for k in SHIPPED.select("sim")] == SIMULATED
    assert set(SIMULATED) <= {k.name for k in SHIPPED.select("all")}
    assert set(SIMULATED) <= set(SHIPPED.sets["default"])
    assert not set(SIMULATED) & {k.name for k in SHIPPED.select(">=4")}
    assert not set(SIMULATED) & {k.name for k in SHIPPED.select("4.14..6.1")}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("real", ["4.14", "5.4"])
def test_a_simulated_kernel_is_declared_as_its_model_is(real: str, arch: Any) -> None:
    model, simulated = SHIPPED.kernel(real), SHIPPED.kernel(f"{real}-sim")
    assert simulated.version == model.version
    assert simulated.features(arch) == model.features(arch)
    assert simulated.status(arch) == model.status(arch)


def test_what_depends_on_a_hidden_feature_goes_with_it() -> None:
    target = Target(SHIPPED.kernel("6.1-nobtf"), "x86_64")
    assert target.kernel.version == (6, 1)
    assert target.kernel.real.name == "6.1"
    gone = Target(SHIPPED.kernel("6.1"), "x86_64").features - target.features
    assert {"btf", "fentry", "current_task_btf"} <= gone
    assert "ringbuf" in target.features


def test_what_a_record_says_of_it() -> None:
    simulation = SHIPPED.kernel("5.4-sim").simulation
    assert simulation is not None
    account = simulation.account("arm64")
    assert (account["base"], account["as_of"], account["release"]) == ("6.1", "5.4", "5.4.0-kmatrix-sim")
    assert "ringbuf" in account["hidden"]
    assert account["not_simulated"]
    assert set(simulation.request("arm64")["hidden"]) <= set(FEATURES)


def test_a_base_that_is_replaced_is_replaced_under_the_simulated_kernel_too() -> None:
    mine = with_kernels(**{"6.1": {"version": "6.1", "features": {"ringbuf": False}, "sources": [{"kind": "import"}]}})
    assert "ringbuf" not in mine.kernel("6.1-nobtf").features("x86_64")


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"base": "6.2", "as_of": "5.4"}, "unknown kernel '6.2'"),
        ({"base": "5.4-sim", "as_of": "5.4"}, "itself simulated"),
        ({"base": "6.1", "as_of": "6.12"}, "newer than 6.1"),
        ({"base": "5.4", "as_of": "4.14"}, "5.10 or newer"),
        ({"base": "6.1", "hide": ["ringbuff"]}, "unknown feature 'ringbuff'"),
        ({"base": "6.1", "hide": ["cgroup_v2"]}, "cannot be hidden"),
        ({"base": "6.1", "as_of": "4.3"}, "cgroup_v2"),
        ({"base": "6.1"}, "as_of or hide"),
        ({"hide": ["btf"]}, "need a base"),
        ({"version": "6.1", "as_of": "5.4"}, "need a base"),
        ({"base": "6.1", "as_of": "5.4", "sources": [{"kind": "import"}]}, "takes sources from its base"),
        ({"base": "6.1", "as_of": "5.4", "status": "full"}, "make it 'partial'"),
        ({"base": "6.1", "as_of": "five"}, "not an upstream series"),
        ({}, "version is missing"),
    ],
)
def test_mistakes_are_one_clear_error(entry: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=r"mine\.toml") as caught:
        with_kernels(mine=entry)
    assert word in str(caught.value)
