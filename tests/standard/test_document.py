"""What docs/standard.md says of features, kernels, rules, cells and files is so."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.overhead import BTF_FILE
from kmatrix.lint import engine
from kmatrix.lint.rules import RULES
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.load import load_matrix
from kmatrix.objects.btf import Btf
from kmatrix.verdict.expectation import expected
from tests.guest.conftest import Guest
from tests.lint.samples import manifest
from tests.standard.document import KERNELS, Example, rows

ROOT = Path(__file__).parents[2]


def test_the_feature_table_is_the_code_s(text: str) -> None:
    def since(name: str, arch: Arch) -> str:
        found = FEATURES[name].since
        version = found if isinstance(found, tuple) else found[arch]
        return "{}.{}".format(*version)

    table = {row[0]: tuple(row[1:3]) for row in rows(text, "feature")}
    assert table == {name: (since(name, "x86_64"), since(name, "arm64")) for name in FEATURES}


def test_the_kernels_are_those_of_kernels_toml(text: str) -> None:
    matrix = load_matrix()
    named: list[str] = []
    for names, *columns, status, _ in rows(text, "kernel"):
        for name in names.split(", "):
            named.append(name)
            kernel = matrix.kernel(name)
            for arch in ARCHES:
                assert kernel.status(arch) == status, name
                for feature, there in zip(("btf", "ringbuf", "cgroup_v2"), columns, strict=True):
                    assert (feature in kernel.features(arch)) == (there == "yes"), (name, feature)
    assert set(named) >= set(KERNELS)


def test_every_rule_of_the_lint_is_here_and_no_other(text: str) -> None:
    checklist = {code for row in rows(text, "done") for code in re.findall(r"KM\d+", row[-1])}
    about_the_lint_itself = {code for code in RULES if code.startswith("KM0")}
    assert checklist == set(RULES) - about_the_lint_itself
    assert set(re.findall(r"KM\d{3}", text)) <= set(RULES)


def test_the_lint_finds_what_an_example_breaks_and_nothing_else(
    examples: dict[str, Example], compiled: Callable[[str, Arch], Path | str], workshop: Path
) -> None:
    """In its source, and in its objects."""
    for name, example in examples.items():
        for arch in ARCHES:
            compiled(name, arch)
        if example.needs is not None and "SEC(" in example.text:
            hook, program = re.findall(r'^SEC\("(.+)"\)\nint (\w+)\(', example.text, re.M)[0]
            claimed = manifest(example.needs, name, f'[[program]]\nname = "{program}"\nhook = "{hook}"\n')
            (workshop / name / "collector.toml").write_text(claimed, encoding="utf-8")
    found: dict[str, set[str]] = {name: set() for name in examples}
    for finding in engine.lint([workshop / name for name in examples]).findings:
        if (
            finding.code != "KM707"
        ):  # the examples' needs say which kernels are meant; their programs are pieces that do not ask for all of it
            found[Path(finding.place.file).parent.name].add(finding.code)
    assert found == {name: example.breaks for name, example in examples.items()}


def test_cells_are_expected_to_be_what_the_document_says(text: str) -> None:
    matrix = load_matrix()
    for cell, said, _ in rows(text, "cell"):
        name, _, target = cell.removesuffix("]").partition("[")
        collector = load_collector(ROOT / "collectors" / name)
        assert expected(collector, matrix.target(target), matrix).behaviour == said, cell


def test_cells_files_and_examples_that_are_named_exist(text: str, examples: dict[str, Example]) -> None:
    matrix = load_matrix()
    cells = re.findall(r"`(\w+)\[([\w.-]+-(?:x86_64|arm64))\]`", text)
    assert cells
    for collector, target in cells:
        assert (ROOT / "collectors" / collector / "collector.toml").exists(), collector
        matrix.target(target)
    for name in re.findall(r"`(tests/[\w/.]+|collectors/[\w/.]+|kmatrix/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (ROOT / "docs" / link).exists(), link
    # Every example that claims something is referred to where the document says what changed, or stands in its rule.
    seen = [cell for row in rows(text, "the original") for cell in re.findall(r"[\w.-]+", row[-1]) if cell in examples]
    assert len(seen) > 15


def test_no_offset_is_right_on_two_kernels(text: str) -> None:
    places = [int(cell) for row in rows(text, "`task_struct.tgid` is at") for cell in row[2:]]
    assert len(set(places)) == len(places) == 2 * (len(KERNELS) - 1)


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "4.14"])
@pytest.mark.parametrize("arch", ARCHES)
def test_members_are_where_the_document_says(text: str, boot: Callable[[str], Guest], kernel: str, arch: Arch) -> None:
    """On exactly the release that it names: that is its point."""
    guest = boot(f"{kernel}-{arch}")
    release, *places = next(row[1:] for row in rows(text, "`task_struct.tgid` is at") if row[0] == kernel)
    if not guest.vm.spec.kernel.release.startswith(release):
        pytest.skip(f"this is {guest.vm.spec.kernel.release}, the document speaks of {release}")
    member = Btf(guest.vm.get(BTF_FILE)).member("struct", "task_struct", "tgid")
    assert member is not None
    assert member.offset == int(places[ARCHES.index(arch)])


def test_the_kernel_refuses_a_ring_buffer_of_no_power_of_two(examples: dict[str, Example], boot: Callable[[str], Guest]) -> None:
    """libbpf would round it up: this asks the kernel."""
    assert "48 * 1024" in examples["ringbuf-size"].text
    for arch in ARCHES:
        guest = boot(f"6.1-{arch}")
        for entries, good in ((48 * 1024, False), (64 * 1024, True)):
            argv = ["bpftool", "map", "create", "/sys/fs/bpf/ring", "type", "ringbuf", "name", "ring", "entries", str(entries)]
            result = guest.vm.run([*argv, "key", "0", "value", "0"])
            assert (result.exit == 0) == good, result.stderr
            assert good or b"Invalid argument" in result.stderr


def test_clang_has_no_target_of_bpf2go_s() -> None:
    command = ["clang", "-target", "amd64,arm64", "-x", "c", "-c", "/dev/null", "-o", "/dev/null"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "unknown target triple" in result.stderr


def test_the_makefile_builds_as_the_document_says(text: str) -> None:
    flags = re.findall(r"-[gOW]\w*", text.split("//go:generate", 1)[1].split("\n", 1)[0].split(" -- ", 1)[1])
    assert flags == ["-g", "-O2", "-Wall", "-Wextra"]
    makefile = (ROOT / "collectors" / "Makefile").read_text(encoding="utf-8")
    assert " ".join(flags) in makefile
    assert "-D__TARGET_ARCH_$(2)" in makefile
