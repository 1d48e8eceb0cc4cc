"""What the rules say of kernels, asked of real ones: their BTF, their tracepoints, their verifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kmatrix.lint import facts
from kmatrix.lint.rules import RULES
from kmatrix.matrix.features import Version
from kmatrix.objects.btf import UNION, Btf
from kmatrix.vm.channel import pack
from tests.guest.conftest import Guest, boot, room
from tests.lint import samples
from tests.lint.samples import body

__all__ = ["boot", "room"]  # fixtures

KERNELS = ("5.4-arm64", "5.10-x86_64", "6.1-arm64", "6.12-x86_64")
"""Both arches, and a kernel on either side of most changes."""


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, boot: Callable[[str], Guest]) -> tuple[str, Version, Btf]:
    guest = boot(request.param)
    arch = guest.target.arch
    return arch, guest.target.kernel.version, Btf(guest.vm.get("/sys/kernel/btf/vmlinux", timeout=120))


def test_fields(kernel: tuple[str, Version, Btf]) -> None:
    """KM206, KM207, KM208, KM203, KM401, KM402: every line of the tables of fields and registers is as this kernel has it."""
    arch, version, btf = kernel
    wrong = []
    for struct, spans in facts.CHANGED.items():
        there = btf.fields(struct)
        for field, span in spans.items():
            expected = (span.since is None or version >= span.since) and (span.until is None or version < span.until)
            # kernfs_node.id is there before too, in another form.
            found = field in there and not (struct == "kernfs_node" and there[field].kind == UNION)
            if expected != found:
                wrong.append(f"{struct}.{field}: {span}, found {there.get(field)}")
    for struct, fields in facts.STABLE.items():
        wrong += [f"{struct}.{field} is not there" for field in fields - btf.fields(struct).keys()]
    registers = btf.fields("pt_regs").keys()
    assert not registers & facts.USER_REGISTERS
    assert (registers >= facts.X86_REGISTERS) == (arch == "x86_64")
    assert (registers >= facts.ARM64_REGISTERS) == (arch == "arm64")
    assert ("regs" in btf.fields("user_pt_regs")) == (arch == "arm64")
    for struct, fields in facts.FIXED.items():
        wrong += [
            f"{struct}.{field} moved to {btf.fields(struct)[field]}"
            for field in fields
            if btf.fields(struct)[field].bit != OFFSETS[field]
        ]
    assert not wrong


OFFSETS = {
    "__sk_common": 0, "skc_daddr": 0, "skc_rcv_saddr": 32, "skc_hash": 64, "skc_portpair": 96, "skc_dport": 96, "skc_num": 112, "skc_family": 128,
    "skc_state": 144,
}  # fmt: skip
"""In bits, in struct sock and struct sock_common of every kernel."""


def test_offsets_differ_between_kernels(boot: Callable[[str], Guest]) -> None:
    """KM101, KM202: task_struct.pid is somewhere else in each of these."""
    offsets = set()
    for name in ("5.4-arm64", "6.1-arm64"):
        offsets.add(Btf(boot(name).vm.get("/sys/kernel/btf/vmlinux", timeout=120)).fields("task_struct")["pid"].bit)
    assert len(offsets) == 2


def test_system_calls_that_only_x86_64_has(boot: Callable[[str], Guest]) -> None:
    """KM403: the table is the difference of two booted guests' events/syscalls, and what it offers instead is on arm64."""

    def calls(name: str) -> set[str]:
        listed = boot(name).vm.run(["ls", "/sys/kernel/tracing/events/syscalls"], timeout=60).stdout.decode().split()
        return {event.removeprefix("sys_enter_") for event in listed if event.startswith("sys_enter_")}

    x86, arm64 = calls("6.1-x86_64"), calls("6.1-arm64")
    by_configuration = {"kexec_file_load", "lookup_dcookie", "pkey_alloc", "pkey_free", "pkey_mprotect", "uselib"}
    assert (x86 - arm64) - by_configuration == facts.X86_ONLY_SYSCALLS
    assert {instead.split()[0] for instead in facts.SYSCALL_INSTEAD.values()} <= arm64


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("4.14-x86_64", "sys_getpid"),
        ("4.14-arm64", "sys_getpid"),
        ("6.1-x86_64", "__x64_sys_getpid"),
        ("6.1-arm64", "__arm64_sys_getpid"),
    ],
)
def test_the_symbol_of_a_system_call(kernel: str, name: str, boot: Callable[[str], Guest]) -> None:
    """KM404: it is another one on each of these."""
    symbols = boot(kernel).vm.run(["cat", "/proc/kallsyms"], timeout=120).stdout.decode().split()
    assert {each for each in symbols if each in ("sys_getpid", "__x64_sys_getpid", "__arm64_sys_getpid")} == {name}


@pytest.fixture
def load(boot: Callable[[str], Guest], tmp_path: Path) -> Callable[..., str]:
    """load(kernel, source): empty where every program of it loads there, else what libbpf and the verifier said."""

    def load_(name: str, text: str, *, code: str = "", licensed: bool = True) -> str:
        guest = boot(name)
        source = tmp_path / "sample.bpf.c"
        source.write_text(samples.whole(text, code, licensed=licensed))
        data = samples.compile_c(
            source, tmp_path / "sample.o", "-Wno-unused", arch={"x86_64": "x86", "arm64": "arm64"}[guest.target.arch]
        ).read_bytes()
        answer = guest.call("object", name="sample.o", data=pack(data), programs=None)
        failed = {name: program for name, program in answer["programs"].items() if not program["loaded"]}
        return "" if not failed and not answer.get("error") else str((failed, answer.get("error"), answer.get("log")))

    return load_


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("KM201", "invalid mem access"),
        ("KM207", ""),
        ("KM208", "invalid CO-RE relocation"),
        ("KM103", "cannot call GPL-restricted function"),
        ("KM105", "legacy map definitions"),
    ],
)
def test_the_verifier_says_so_too(code: str, says: str, load: Callable[..., str]) -> None:
    """Of a rule about the verifier, 6.1 loads the right example and refuses the wrong one (of KM207: 5.10 does)."""
    rule = RULES[code]
    more = body("\t__u32 key = 0;\n\treturn bpf_map_lookup_elem(&counts, &key) != 0;") if code == "KM105" else ""
    assert load("6.1-arm64", rule.right + more, code=code) == ""
    refused = load("5.10-x86_64" if code == "KM207" else "6.1-arm64", rule.wrong + more, code=code, licensed=code != "KM103")
    assert refused
    assert says in refused


def test_the_same_c_is_refused_on_x86_64_alone(load: Callable[..., str]) -> None:
    """KM402, where the register's name is user space's."""
    text = "struct pt_regs___user { unsigned long rdi; } __attribute__((preserve_access_index));\n" + body(
        "\treturn BPF_CORE_READ((struct pt_regs___user *)ctx, rdi) != 0;"
    )
    assert "invalid CO-RE relocation" in load("5.10-x86_64", text)


@pytest.mark.parametrize(
    ("code", "kernel"), [("KM501", "4.14-x86_64"), ("KM502", "4.14-arm64"), ("KM503", "5.4-arm64"), ("KM504", "4.14-x86_64")]
)
def test_what_a_claimed_kernel_refuses(code: str, kernel: str, load: Callable[..., str]) -> None:
    """The wrong example of a rule about claims does not load on the kernel that its variant claims; the right one does."""
    wrong, right = RULES[code].wrong, RULES[code].right
    if code == "KM503":
        wrong += body("\t__u32 one = 1;\n\tbpf_ringbuf_output(&events, &one, sizeof(one), 0);")
        right += body("\t__u32 one = 1;\n\tbpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &one, sizeof(one));")
    refused = load(kernel, wrong)
    assert refused
    assert "map 'events': failed to create" in refused or code != "KM503"
    assert load(kernel, right) == ""
