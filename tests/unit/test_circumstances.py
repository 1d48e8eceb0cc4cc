"""Circumstances: 6.1+lockdown+cpus=4 is 6.1 with what they change, and with what they take away."""

from __future__ import annotations

import pytest

from kmatrix.host.errors import InputError
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.schema import Document, parse

SHIPPED = load_matrix()


def test_what_a_circumstance_changes() -> None:
    kernel = SHIPPED.kernel("6.1+lockdown+cpus=4+mem=2G")
    assert (kernel.name, kernel.version, kernel.cpus, kernel.memory_mib) == ("6.1+lockdown+cpus=4+mem=2G", (6, 1), 4, 2048)
    assert kernel.cmdline == ("lockdown=confidentiality",)
    assert kernel.image_of is SHIPPED.kernels["6.1"]
    assert not kernel.is_plain
    assert kernel.has("helper:bpf_probe_read_kernel", "x86_64") is False
    assert kernel.has("probe_read_kernel", "arm64") is False
    assert SHIPPED.kernels["6.1"].has("probe_read_kernel", "arm64") is True
    assert kernel.has("ringbuf", "x86_64") is True


def test_it_stands_where_kernels_and_targets_do() -> None:
    assert [each.name for each in SHIPPED.select("6.1,6.1+nolsm")] == ["6.1", "6.1+nolsm"]
    assert str(SHIPPED.target("6.1+cgroup1+cpus=2-arm64")) == "6.1+cgroup1+cpus=2-arm64"
    target = SHIPPED.as_target("6.1+lockdown-arm64")
    assert target is not None
    assert target.kernel.name == "6.1+lockdown"
    assert SHIPPED.kernel("6.1+cgroup1").has("cgroup_v2", "x86_64") is False
    assert "+nolsm" not in ",".join(each.name for each in SHIPPED.select("all"))
    built = SHIPPED.kernel("5.15-nobtf+cpus=2")
    assert built.image_of is SHIPPED.kernels["5.15-nobtf"]
    assert SHIPPED.kernel("6.1.172+lockdown").image_of.name == "6.1.172"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("6.1+lokdown", "unknown circumstance 'lokdown'; did you mean lockdown"),
        ("6.1+lockdown+lockdown", "has lockdown twice"),
        ("6.1+cpus=2+cpus=4", "has cpus twice"),
        ("6.1+cpus=0", "write cpus=4"),
        ("6.1+cpus=65", "write cpus=4"),
        ("6.1+cpus", "write cpus=4"),
        ("6.1+mem=64M", "a guest has 160M to 64G"),
        ("6.1+mem=lots", "write mem=256M, or mem=2G"),
        ("6.1+lockdown=yes", "unknown circumstance 'lockdown=yes'"),
        ("6.1+", "unknown circumstance ''"),
        ("4.14+lockdown", "cannot have lockdown: it came with 5.4"),
        ("5.4-sim+nolsm", "is simulated, and has no circumstances"),
        ("6.2+lockdown", "unknown kernel '6.2'"),
    ],
)
def test_a_wrong_one_is_one_error(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        SHIPPED.kernel(text)
    assert said in str(caught.value)
    assert caught.value.fix
    assert SHIPPED.find(text) is None


def test_a_projects_own() -> None:
    data = {
        "schema": 1,
        "extends": False,
        "sets": {"hard": ["5.9+quiet"]},
        "kernels": {"5.9": {"version": "5.9", "sources": [{"kind": "import"}]}},
        "circumstances": {
            "quiet": {"cmdline": ["audit=0"], "takes": ["lsm"], "excludes": ["loud"]},
            "loud": {"cmdline": ["audit=1"]},
        },
    }
    matrix = parse(Document("my.toml", data))
    (kernel,) = matrix.select("hard")
    assert (kernel.cmdline, kernel.has("lsm", "x86_64")) == (("audit=0",), False)
    with pytest.raises(InputError, match="quiet and loud exclude each other"):
        matrix.kernel("5.9+quiet+loud")
    with pytest.raises(InputError, match="did you mean lsm"):
        parse(Document("my.toml", {"schema": 1, "circumstances": {"x": {"takes": ["lsmm"]}}}))
    with pytest.raises(InputError, match="unknown kernel"):
        parse(Document("my.toml", {**data, "sets": {"hard": ["5.8+quiet"]}}))
