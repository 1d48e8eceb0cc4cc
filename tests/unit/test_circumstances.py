"""Circumstances: 6.1+lockdown+cpus=4 is 6.1 with what they change, and with what they take away."""

from __future__ import annotations

import pytest

from kmatrix.guest.surroundings import wanted
from kmatrix.guest.sysctl import file_of
from kmatrix.host.errors import InputError
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.schema import Document, parse
from kmatrix.runs import surroundings

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
        ("6.1+jit=of", "unknown circumstance 'jit=of'; did you mean jit=off"),
        ("6.1+jit=off+harden", "jit=off and harden exclude each other"),
        ("6.1+unprivileged+unprivileged=0", "has unprivileged twice"),
        ("6.1+cap=", "write cap=bpf,perfmon, or cap=none"),
        ("6.1+cap=bpf,perfmn", "'perfmn' is no capability; did you mean perfmon"),
        ("5.4+cap=bpf,net_admin", "it has no CAP_BPF (CAP_BPF and CAP_PERFMON came with 5.8)"),
    ],
)
def test_a_wrong_one_is_one_error(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        SHIPPED.kernel(text)
    assert said in str(caught.value)
    assert caught.value.fix
    assert SHIPPED.find(text) is None


def test_a_list_of_capabilities_stands_in_a_list_of_kernels() -> None:
    def names(expression: str) -> list[str]:
        return [kernel.name for kernel in SHIPPED.select(expression)]

    assert names("6.1+cap=bpf,perfmon,5.4") == ["5.4", "6.1+cap=bpf,perfmon"]
    assert names("6.1+cap=cap_bpf,perfmon+cpus=2,>=6.18") == [*names(">=6.18"), "6.1+cap=cap_bpf,perfmon+cpus=2"]
    assert str(SHIPPED.target("6.1+cap=bpf,perfmon-arm64")) == "6.1+cap=bpf,perfmon-arm64"
    assert SHIPPED.kernel("6.1+cap=none").privileges.caps == ()
    with pytest.raises(InputError, match="'perfmn' is no capability; did you mean perfmon"):
        SHIPPED.select("6.1+cap=bpf,perfmn,5.4")


def test_what_is_left_to_a_loader() -> None:
    """What is said of capabilities in so many words holds for what another circumstance would leave, wherever it stands."""
    for text in ("6.1+cap=bpf,sys_admin+unprivileged", "6.1+unprivileged+cap=bpf,sys_admin"):
        assert SHIPPED.kernel(text).privileges.request == {
            "user": "nobody", "caps": ["bpf", "sys_admin"], "filter": None, "namespaces": [],
        }  # fmt: skip
    both = SHIPPED.kernel("6.1+unprivileged+seccomp=container").privileges
    assert (both.user, both.caps, both.filter) == ("nobody", (), "container")


def test_an_arch_or_a_kernel_that_cannot_have_it() -> None:
    jit = SHIPPED.target("5.15+jit=off-x86_64")
    with pytest.raises(InputError, match=r"5\.15 cannot have jit=off: its kernel was built with CONFIG_BPF_JIT_ALWAYS_ON"):
        surroundings.check(jit, lambda: None)
    with pytest.raises(InputError, match=r"6\.1 cannot have jit=off"):
        surroundings.check(SHIPPED.target("6.1+jit=off-x86_64"), lambda: {"BPF_JIT_ALWAYS_ON": "y"})
    with pytest.raises(InputError, match="cannot have lockdown: its kernel was built without CONFIG_SECURITY_LOCKDOWN_LSM"):
        surroundings.check(SHIPPED.target("6.1+lockdown-arm64"), dict)
    surroundings.check(SHIPPED.target("6.1+jit=off-x86_64"), lambda: {"BPF_JIT_ALWAYS_ON": "n"})
    own = parse(Document("my.toml", {
        "schema": 1, "extends": False, "kernels": {"5.9": {"version": "5.9", "sources": [{"kind": "import"}]}},
        "circumstances": {"ibt": {"cmdline": ["ibt=off"], "arches": ["x86_64"]}},
    }))  # fmt: skip
    surroundings.check(own.target("5.9+ibt-x86_64"), lambda: None)
    with pytest.raises(InputError, match=r"'5\.9\+ibt' cannot be had on arm64"):
        surroundings.check(own.target("5.9+ibt-arm64"), lambda: None)


def test_where_a_setting_stands() -> None:
    assert file_of("kernel.perf_event_paranoid") == "/proc/sys/kernel/perf_event_paranoid"
    assert file_of("net.ipv4.conf.eth0/1.rp_filter") == "/proc/sys/net/ipv4/conf/eth0.1/rp_filter"
    assert file_of("net/ipv4/conf/eth0.1/rp_filter") == "/proc/sys/net/ipv4/conf/eth0.1/rp_filter"


def test_a_projects_own() -> None:
    data = {
        "schema": 1,
        "extends": False,
        "sets": {"hard": ["5.9+quiet"]},
        "kernels": {"5.9": {"version": "5.9", "sources": [{"kind": "import"}]}},
        "circumstances": {
            "quiet": {"cmdline": ["audit=0"], "takes": ["lsm"], "excludes": ["loud"]},
            "loud": {"cmdline": ["audit=1"]},
            "user": {"user": "daemon"},
            "mine": {
                "sysctls": {"kernel.perf_event_paranoid": 3, "kernel.printk": "3 4 1 3"},
                "capabilities": ["CAP_BPF", "perfmon"],
                "user": "daemon",
                "namespaces": ["net"],
                "seccomp": "container",
                "cpus": 2,
                "memory": 512,
            },
        },
    }
    matrix = parse(Document("my.toml", data))
    (kernel,) = matrix.select("hard")
    assert (kernel.cmdline, kernel.has("lsm", "x86_64")) == (("audit=0",), False)
    mine = matrix.kernel("5.9+mine")
    assert (mine.cpus, mine.memory_mib, mine.privileges.user, mine.privileges.namespaces) == (2, 512, "daemon", ("net",))
    assert (mine.privileges.caps, mine.privileges.filter) == (("bpf", "perfmon"), "container")
    assert surroundings.parameters(mine) == (
        "kmatrix.sysctl.kernel.perf_event_paranoid=3", "kmatrix.sysctl.kernel.printk=3%204%201%203",
    )  # fmt: skip
    assert wanted(" ".join(("ro", *surroundings.parameters(mine))))["kernel.printk"] == "3 4 1 3"
    assert matrix.kernel("5.9+user").privileges.caps == ()
    with pytest.raises(InputError, match="no capability; did you mean bpf"):
        parse(Document("my.toml", {"schema": 1, "circumstances": {"x": {"capabilities": ["bpff"]}}}))
    with pytest.raises(InputError, match="quiet and loud exclude each other"):
        matrix.kernel("5.9+quiet+loud")
    with pytest.raises(InputError, match="did you mean lsm"):
        parse(Document("my.toml", {"schema": 1, "circumstances": {"x": {"takes": ["lsmm"]}}}))
    with pytest.raises(InputError, match="unknown kernel"):
        parse(Document("my.toml", {**data, "sets": {"hard": ["5.8+quiet"]}}))
