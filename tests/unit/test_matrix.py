"""kernels.toml: the shipped table, selection, validation."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmatrix.host import paths
from kmatrix.host.errors import InputError
from kmatrix.host.toml import read_toml
from kmatrix.matrix import schema
from kmatrix.matrix.arch import ARCHES, parse_arch, parse_arches
from kmatrix.matrix.features import FEATURES, status
from kmatrix.matrix.kernel import Kernel, Target
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.schema import Document
from kmatrix.matrix.selection import Matrix

SHIPPED = load_matrix(Path("/"))


def names(expression: str) -> list[str]:
    return [kernel.name for kernel in SHIPPED.select(expression)]


BETWEEN = ["6.16", "6.17", "7.2", "7.3"]
NEWER = ["6.12", *BETWEEN[:2], "6.18", *BETWEEN[2:]]
UPSTREAM = [
    "4.9-sim",
    "4.14",
    "4.14-sim",
    "4.19",
    "5.4",
    "5.4-sim",
    "5.10",
    "5.15",
    "5.15-nobtf",
    "6.1",
    "6.1-cgroup1",
    "6.1-nobtf",
    "6.1-nokprobes",
    "6.6",
    "6.12",
    "6.12-16k",
    "6.12-cloud",
    "6.12-rt",
    *BETWEEN[:2],
    "6.18",
    "7.2",
    "latest",
    "7.3",
    "next",
]
DISTRIBUTIONS = [
    "amazon-2",
    "rhel-8",
    "oracle-uek6",
    "ubuntu-20.04",
    "rhel-9",
    "oracle-uek7",
    "ubuntu-22.04",
    "amazon-2023",
    "ubuntu-24.04",
]


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("5.4,6.1", ["5.4", "6.1"]),
        ("6.1, 5.4", ["5.4", "6.1"]),
        (">=5.8", ["5.10", "5.15", "6.1", "6.6", *NEWER]),  # no distribution's
        (">5.10", ["5.15", "6.1", "6.6", *NEWER]),
        ("<=5.4", ["4.14", "4.19", "5.4"]),
        ("<5", ["4.14", "4.19"]),
        ("5.4..6.1", ["5.4", "5.10", "5.15", "6.1"]),
        ("5..5", ["5.4", "5.10", "5.15"]),
        ("mission", ["4.14", "5.4", "5.15", "6.1"]),
        ("debian,4.14", ["4.14", "5.10", "6.1", "6.12"]),
        ("all", [*UPSTREAM, *DISTRIBUTIONS]),
        ("rhel-8,5.4", ["5.4", "rhel-8"]),
        ("distributions", DISTRIBUTIONS),
    ],
)
def test_selection(expression: str, chosen: list[str]) -> None:
    assert names(expression) == chosen


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("5.5", "did you mean"),
        ("debain", "did you mean debian"),
        ("", "no kernel given"),
        (" , ", "no kernel given"),
        (">=9", "no kernel of"),
        ("6.1..5.4", "runs backwards"),
        (">=x", "not a kernel version"),
    ],
)
def test_a_selection_that_makes_no_sense_says_so(expression: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        names(expression)
    assert says in str(error.value)
    assert "fix:" in str(error.value)


REAL = [name for name, kernel in SHIPPED.kernels.items() if kernel.is_plain and kernel.distribution is None and not kernel.moving]


@given(st.sampled_from(REAL), st.sampled_from(REAL))
def test_a_range_is_the_two_comparisons_together(low: str, high: str) -> None:
    lowest, highest = sorted((low, high), key=lambda name: SHIPPED.kernels[name].version)
    assert names(f"{lowest}..{highest}") == [name for name in names(f">={lowest}") if name in names(f"<={highest}")]


@pytest.mark.parametrize(("text", "arch"), [("amd64", "x86_64"), ("aarch64", "arm64"), ("x86", "x86_64"), ("ARM64", "arm64")])
def test_arch_aliases(text: str, arch: str) -> None:
    assert parse_arch(text) == arch


def test_arches() -> None:
    assert parse_arches("arm64,x86_64,amd64") == ARCHES == parse_arches("all")
    with pytest.raises(InputError, match=r"unknown arch 'arm46'; did you mean arm64"):
        parse_arches("arm46")
    with pytest.raises(InputError, match="no arch given"):
        parse_arches(",")


def test_a_target_is_written_kernel_dash_arch() -> None:
    assert str(SHIPPED.target("5.4-aarch64")) == "5.4-arm64"
    with pytest.raises(InputError, match="not a target"):
        SHIPPED.target("arm64")


def test_a_target_for_a_kernel_and_a_kernel_for_a_target_say_what_to_write() -> None:
    with pytest.raises(InputError, match=r"'5\.4-aarch64' is a target") as error:
        SHIPPED.select("6.1,5.4-aarch64")
    assert error.value.fix == "write --kernels=5.4 --arch=arm64"
    for kernel in ("5.4", "5.4-sim", "5.4-nobtf"):
        with pytest.raises(InputError, match="is a kernel, and a target") as error:
            SHIPPED.target(kernel)
        assert error.value.fix == f"write {kernel}-x86_64 or {kernel}-arm64"


def test_a_point_release_is_a_kernel_by_its_name() -> None:
    """Debian's archive keeps several of a series, in a suite, its security suite and its backports."""
    kernel = SHIPPED.kernel("6.1.172")
    assert (kernel.name, kernel.version, kernel.image_of) == ("6.1.172", (6, 1), kernel)
    assert [(each.kind, each.options["suite"], each.options["version"]) for each in kernel.sources] == [
        ("debian", "bookworm", "6.1.172"),
        ("debian", "bookworm-security", "6.1.172"),
        ("debian", "bookworm-backports", "6.1.172"),
    ]
    assert names("6.1,6.1.172") == ["6.1", "6.1.172"]
    with pytest.raises(InputError, match=r"unknown kernel '4\.14\.67'"):
        SHIPPED.kernel("4.14.67")  # nothing in Debian has it


def test_a_flavour_with_sources_of_its_own_has_an_image_of_its_own() -> None:
    for name in ("6.12-rt", "6.12-cloud", "6.12-16k"):
        kernel = SHIPPED.kernels[name]
        assert kernel.image_of is kernel
        assert not kernel.is_plain
    assert [source.arches for source in SHIPPED.kernels["6.12-16k"].sources] == [("arm64",)]
    assert SHIPPED.kernels["6.1-cgroup1"].image_of is SHIPPED.kernels["6.1"]


def test_the_standards_feature_table_is_in_the_shipped_matrix() -> None:
    """CORE_STANDARDS.md, "Feature Matrix"."""
    for arch in ARCHES:
        found = {name: SHIPPED.kernels[name].status(arch) for name in REAL}
        newer = dict.fromkeys(("5.10", "5.15", "6.1", "6.6", *NEWER), "full")
        assert found == {"4.14": "fallback", "4.19": "fallback", "5.4": "partial"} | newer
        assert status(frozenset({"btf", "ringbuf"}), (4, 9)) == "unsupported"


@pytest.mark.parametrize(
    ("feature", "first"),
    [("global_data", (5, 2)), ("bpf_link", (5, 7)), ("ringbuf", (5, 8)), ("cgroup_id_helper", (4, 18)), ("prog_names", (4, 15))],
)
def test_features_follow_the_version(feature: str, first: tuple[int, int]) -> None:
    before = (first[0], first[1] - 1)
    assert not FEATURES[feature].default(before, "x86_64", {})
    assert FEATURES[feature].default(first, "x86_64", {})


def test_features_follow_arch_config_and_override() -> None:
    modern = Kernel("k", (6, 1))
    assert "fentry" in modern.features("x86_64")
    assert "fentry" not in modern.features("arm64")  # ftrace direct calls came with 6.4
    assert "btf" not in Kernel("k", (6, 1), config={"DEBUG_INFO_BTF": False}).features("x86_64")
    backported = Kernel("k", (4, 18), overrides={"ringbuf": True, "btf": {"x86_64": True}})
    assert {"ringbuf", "btf"} <= backported.features("x86_64")
    assert "btf" not in backported.features("arm64")


SHIPPED_FILE = Document("kernels.toml", read_toml(paths.data("kernels.toml")))


def parse(data: dict[str, Any]) -> Matrix:
    return schema.parse(SHIPPED_FILE, Document("my.toml", {"schema": 1} | data))


def test_a_users_file_extends_the_shipped_one_or_replaces_it() -> None:
    own = {"kernels": {"5.9": {"version": "5.9"}}}
    assert "6.1" in parse(own).kernels
    assert list(parse(own | {"extends": False}).kernels) == ["5.9"]
    assert [k.name for k in parse(own | {"sets": {"mine": ["5.9", "6.1"]}}).select("mine")] == ["5.9", "6.1"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"kernls": {}}, "my.toml: kernls: unknown key; did you mean kernels?"),
        ({"kernels": {"5.9": {"version": "5.9", "featurs": {}}}}, 'kernels."5.9".featurs: unknown key; did you mean features'),
        ({"kernels": {"5.9": {}}}, 'kernels."5.9": version is missing'),
        ({"kernels": {"5.9": {"version": "five"}}}, "is not an upstream series"),
        (
            {"kernels": {"5.9": {"version": "5.9", "features": {"ringbuff": True}}}},
            "unknown feature 'ringbuff'; did you mean ringbuf",
        ),
        ({"kernels": {"5.9": {"version": "5.9", "sources": [{"kind": "debain"}]}}}, "did you mean debian?"),
        ({"kernels": {"5.9": {"version": "5.9", "sources": [{"kind": "debian", "series": "5.9"}]}}}, "needs suite"),
        ({"kernels": {"5.9": {"version": "5.9", "sources": [{"kind": "package"}]}}}, "needs one of url, repository"),
        (
            {"kernels": {"5.9": {"version": "5.9", "sources": [{"kind": "package", "repository": "x"}]}}},
            "name the kernel's in packages",
        ),
        ({"kernels": {"5.9": {"version": "5.9", "sources": [{"kind": "oci", "ref": "x", "key": "y"}]}}}, "takes no key"),
        ({"kernels": {"5.9": {"version": "5.9", "sources": [{"kind": "oci", "ref": "x", "trust": "no"}]}}}, "first-use"),
        ({"kernels": {"5.9": {"version": "5.9", "sources": [{"kind": "package", "url": "x", "sha256": "abc"}]}}}, "sha256"),
        ({"kernels": {"5.9": {"version": "5.9", "sources": [{"kind": "import", "arches": ["mips"]}]}}}, "unknown arch 'mips'"),
        ({"kernels": {"5.9": {"version": "5.9", "status": "partial"}}}, "make it 'full'"),
        ({"kernels": {"bad name": {"version": "5.9"}}}, "cannot name a kernel"),
        ({"kernels": {"5.9-arm64": {"version": "5.9"}}}, "cannot name a kernel"),
        ({"sets": {"mine": ["5.8"]}}, "sets.mine: unknown kernel '5.8'"),
        ({"sets": {"mine": []}}, "the set is empty"),
        ({"sets": {"6.1": ["5.4"]}}, "already a kernel"),
        ({"schema": 2}, "schema"),
    ],
)
def test_a_wrong_file_is_one_error_naming_file_key_and_fix(data: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        parse(data)
    assert says in str(error.value)
    assert "my.toml" in str(error.value)
    assert error.value.fix


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_matrix(file=tmp_path / "kernels.toml")
    (tmp_path / "kernels.toml").write_text("schema = \n")
    with pytest.raises(InputError, match="not TOML"):
        load_matrix(tmp_path)


def test_the_nearest_kernels_toml_above_counts(tmp_path: Path) -> None:
    (tmp_path / "kernels.toml").write_text('schema = 1\n[kernels."5.9"]\nversion = "5.9"\n')
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert "5.9" in load_matrix(deep).kernels


def test_targets_are_kernels_times_arches() -> None:
    assert [str(target) for target in SHIPPED.targets("5.4,6.1", "arm64")] == ["5.4-arm64", "6.1-arm64"]
    assert isinstance(SHIPPED.targets("5.4", "all")[0], Target)


# --- variants

VARIED = """
schema = 1
extends = false
[kernels."5.15"]
version = "5.15"
features = { btf = true, cgroup_v2 = true }
memory = 300
cmdline = ["a=1"]
sources = [{ kind = "debian", suite = "x", series = "5.15" }, { kind = "build", tree = "src" }]
[kernels."5.15-plain"]
variant_of = "5.15"
build = ["nobtf"]
status = "fallback"
[kernels."5.15-v1"]
variant_of = "5.15"
cgroup = "v1"
memory = 512
"""


def test_a_variant_built_differently() -> None:
    found = schema.parse(Document("k.toml", tomllib.loads(VARIED)))
    kernel = found.kernel("5.15-plain")
    assert kernel.version == (5, 15)
    assert [source.kind for source in kernel.sources] == ["build"]  # Debian has only the usual one
    assert kernel.image_of is kernel
    assert kernel.memory_mib == 300
    for arch in ARCHES:
        assert "btf" in found.kernel("5.15").features(arch)
        # What follows from BTF goes with it, although nobody said so.
        assert not kernel.features(arch) & {"btf", "fentry", "current_task_btf", "btf_modules"}
        assert {"ringbuf", "cgroup_v2"} <= kernel.features(arch)


def test_a_variant_set_up_differently() -> None:
    found = schema.parse(Document("k.toml", tomllib.loads(VARIED)))
    kernel = found.kernel("5.15-v1")
    assert kernel.image_of is found.kernel("5.15")
    assert kernel.memory_mib == 512
    assert kernel.cmdline[0] == "a=1"
    assert "systemd.unified_cgroup_hierarchy=0" in kernel.cmdline
    assert kernel.features("arm64") == found.kernel("5.15").features("arm64") - {"cgroup_v2"}


def test_a_variant_follows_what_it_is_a_variant_of() -> None:
    """A kernels.toml that replaces the plain kernel replaces it under its variants too."""
    base = Document("k.toml", tomllib.loads(VARIED))
    own = 'schema = 1\n[kernels."5.15"]\nversion = "5.16"\nsources = [{ kind = "import" }]\n'
    found = schema.parse(base, Document("own.toml", tomllib.loads(own)))
    assert found.kernel("5.15-plain").version == (5, 16)
    assert [source.kind for source in found.kernel("5.15-plain").sources] == ["import"]


def test_a_variant_that_nobody_declared() -> None:
    found = schema.parse(Document("k.toml", tomllib.loads(VARIED)))
    kernel = found.kernel("5.15-nobtf")
    assert kernel.build == ("nobtf",)
    assert kernel.status("x86_64") == "fallback"
    assert [each.name for each in found.select("5.15-nobtf,5.15")] == ["5.15", "5.15-nobtf"]
    assert str(found.target("5.15-nobtf-arm64")) == "5.15-nobtf-arm64"
    for name in ("5.15-plain-nobtf", "5.15-nosuch", "5.15-"):
        with pytest.raises(InputError, match="unknown kernel"):
            found.kernel(name)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('variant_of = "5.15"', "needs what it is a variant in"),
        ('variant_of = "5.51"\nbuild = ["nobtf"]', "did you mean"),
        ('variant_of = "5.15-plain"\nbuild = ["nobtf"]', "itself a variant"),
        ('variant_of = "5.15"\nbuild = ["nobtff"]', "unknown variant"),
        ('variant_of = "5.15"\nversion = "5.15"\nbuild = ["nobtf"]', "takes no version"),
        ('version = "5.15"\nbuild = ["nobtf"]', "build and cgroup are a variant's"),
        ('variant_of = "5.15"\nbuild = ["nobtf"]\nstatus = "full"', "make it 'fallback'"),
        ('variant_of = "5.15"\ncgroup = "v2"', "cgroup"),
    ],
)
def test_a_variant_that_is_none(entry: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        schema.parse(Document("k.toml", tomllib.loads(f"{VARIED}[kernels.mine]\n{entry}\n")))


@pytest.mark.parametrize("key", ["http://a.example/ ", "oci", "a.example"])
def test_mirrors_are_addresses(key: str) -> None:
    text = f'schema = 1\n[mirrors]\n"{key}" = "{"nowhere" if "://" in key else "http://m.example/"}"\n'
    with pytest.raises(InputError, match="mirrors"):
        schema.parse(Document("k.toml", tomllib.loads(text)))


def test_a_version_that_is_not_there_says_how_to_add_it() -> None:
    with pytest.raises(InputError) as error:
        load_matrix().select("5.19")
    assert 'to add it, declare [kernels."5.19"] with its sources in a kernels.toml of your own' in str(error.value)
    assert "store" in str(error.value.fix)
    with pytest.raises(InputError) as elsewhere:
        load_matrix().select("stoer", where="expect.kernels")
    assert "store" not in str(elsewhere.value)
