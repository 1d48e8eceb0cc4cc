"""Which library loads an object: the option, the manifest, the building of the cilium loader, and where loaders differ. No VM."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from conftest import need_programs
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.manifest import schema
from kmatrix.objects.source_lines import SourceLines
from kmatrix.report import differences
from kmatrix.runs import doctor
from kmatrix.runs.object_run import Outcome
from kmatrix.verdict.diagnosis import Failing, diagnose
from kmatrix.vm import loaders
from kmatrix.vm.loaders import build
from tests.lint.samples import compile_c
from tests.unit.facts import manifest

HERE = Path("/demo/collector.toml")
OWN = {"command": ["./agent"], "files": ["agent"]}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(build.FOLDER, raising=False)
    return tmp_path


# -- the option and the manifest ---------------------------------------------------------------------------------------------


def test_the_option_names_one_loader_or_all() -> None:
    assert loaders.chosen("cilium") == ("cilium",)
    assert loaders.chosen("all") == ("libbpf", "cilium")
    with pytest.raises(
        InputError, match=r"--loader: unknown loader 'cillium'; did you mean cilium\?\n  fix: one of: libbpf, cilium, all"
    ):
        loaders.chosen("cillium")


def test_a_manifest_says_what_loads_its_objects() -> None:
    head = {"name": "demo", "loader": "cilium"}
    said = schema.parse(manifest(collector=head), path=HERE)
    assert (said.library, said.loader) == ("cilium", None)
    assert schema.parse(manifest(), path=HERE).library == "libbpf"
    with pytest.raises(InputError, match=r"collector\.loader: unknown loader 'libpbf'; did you mean libbpf"):
        schema.parse(manifest(collector={"name": "demo", "loader": "libpbf"}), path=HERE)


def test_a_library_and_a_loader_of_its_own_are_one_too_many() -> None:
    with pytest.raises(
        InputError, match=r"collector.loader = 'cilium' says what loads the objects, and \[loader\] brings a program"
    ):
        schema.parse(manifest(collector={"name": "demo", "loader": "cilium"}, loader=OWN), path=HERE)


def test_a_name_at_the_top_is_told_where_it_belongs() -> None:
    with pytest.raises(InputError, match=r"under \[collector\]"):
        schema.parse(manifest(loader="cilium"), path=HERE)


def test_a_collector_that_another_library_loads_has_it_in_its_name() -> None:
    plain = schema.parse(manifest(), path=HERE)
    assert plain.loaded_by("libbpf") is plain
    other = plain.loaded_by("cilium")
    assert (other.name, other.library) == (f"{plain.name}+cilium", "cilium")
    assert other.loaded_by("cilium") is other


# -- building ----------------------------------------------------------------------------------------------------------------


def test_without_go_it_says_how_to_get_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(
        Unavailable, match=r"there is no Go here to build it\n  fix: apt-get install --no-install-recommends golang-go"
    ):
        build.cilium("x86_64")
    found = next(each for each in doctor.examine() if each.what == "cilium loader")
    assert (found.level, "there is no Go here" in found.found) == ("note", True)


def some_go(folder: Path, monkeypatch: pytest.MonkeyPatch, *, builds: str = "exit 1") -> None:
    """A `go` that has a version, and builds as the line of shell says."""
    go = folder / "bin" / "go"
    go.parent.mkdir()
    go.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo go version go1.19.8 linux/amd64 && exit 0\n{builds}\n')
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")


def test_without_the_library_it_says_how_to_get_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_go(cache, monkeypatch)
    monkeypatch.setenv("KMATRIX_OFFLINE", "1")
    with pytest.raises(Unavailable, match=rf"cilium/ebpf cannot be fetched from Debian: .*offline(?s:.)*fix: .*{build.FOLDER}="):
        build.cilium("arm64")


@pytest.mark.usefixtures("cache")
def test_a_folder_without_the_library_is_wrong_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_go(tmp_path, monkeypatch)
    monkeypatch.setenv(build.FOLDER, str(tmp_path))
    with pytest.raises(InputError, match=rf"{build.FOLDER}: .* has no cilium/ebpf"):
        build.cilium("x86_64")
    found = next(each for each in doctor.examine() if each.what == "cilium loader")
    assert found.level == "lacks"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as Go's module cache has it."""
    folder = tmp_path / "mod" / "ebpf@v0.16.0"
    (folder / "link").mkdir(parents=True)
    (folder / "collection.go").write_text("package ebpf\n")
    (folder / "link" / "tcx.go").write_text("package link\n\nfunc AttachTCX(opts TCXOptions) (Link, error) {\n")
    (folder / "go.mod").write_text("module github.com/cilium/ebpf\n\ngo 1.21\n\nrequire (\n\tgolang.org/x/sys v0.20.0\n)\n")
    monkeypatch.setenv(build.FOLDER, str(folder))
    return folder


@pytest.mark.usefixtures("cache")
def test_it_is_built_once_for_all_that_it_is_made_of(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What go is told, and that a change of the library is another build."""
    log = tmp_path / "log"
    some_go(tmp_path, monkeypatch, builds=f'env >> {log}; echo "ARGS $*" >> {log}; cat go.mod >> {log}; echo program > "$8"')
    first = build.cilium("arm64")
    assert first.version == "0.16.0"
    said = log.read_text()
    for words in ("GOARCH=arm64", "CGO_ENABLED=0", "-tags tcx -ldflags", "main.version=0.16.0", "golang.org/x/sys v0.20.0"):
        assert words in said
    assert f"replace github.com/cilium/ebpf => {library}" in said
    size = log.stat().st_size
    assert build.cilium("arm64") == first
    assert log.stat().st_size == size
    (library / "collection.go").write_text("package ebpf // changed\n")
    assert build.cilium("arm64").packed != first.packed
    assert log.stat().st_size > size


@pytest.mark.usefixtures("cache", "library")
def test_what_does_not_compile_is_told_in_the_words_of_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_go(tmp_path, monkeypatch, builds='echo "link/x.go:3:8: undefined: cmp" >&2; exit 1')
    with pytest.raises(
        InfraError, match=r"does not compile with cilium/ebpf 0\.16\.0 and go1\.19\.8: link/x\.go:3:8: undefined: cmp"
    ):
        build.cilium("x86_64")


# -- where they differ -------------------------------------------------------------------------------------------------------


def outcome(library: str, **program: Any) -> Outcome:
    report = {"loaded": True, "attached": True, "error": None, "section": "tcx/ingress", "log": "", "diagnosis": None}
    return Outcome("6.12-x86_64", programs={"ingress": report | program}, library=library, loader=f"{library} 1")


def test_a_difference_is_a_row_with_its_reason() -> None:
    refused = outcome("cilium", attached=False, error="no such function")
    said = differences.render({"a/x.o": [outcome("libbpf"), refused]}, width=120)
    assert said.splitlines()[3].split() == ["ingress", "attached", "not", "attached", "6.12-x86_64", "no", "such", "function"]
    assert differences.render({"x.o": [refused, dataclasses.replace(refused, library="libbpf")]}, width=120) == differences.NONE


def test_a_map_that_only_one_makes_is_a_difference() -> None:
    """libbpf leaves a map of global variables out before 5.2; cilium/ebpf fails."""
    left_out = dataclasses.replace(outcome("libbpf"), maps={"x.rodata": {"id": None, "error": None}})
    failed = dataclasses.replace(outcome("cilium"), maps={".rodata": {"id": None, "error": "map create: not supported"}})
    said = differences.render({"x.o": [left_out, failed]}, width=120)
    assert said.splitlines()[3].split()[:6] == ["map", ".rodata", "left", "out", "not", "made"]


def test_an_object_that_one_does_not_open_is_a_difference() -> None:
    closed = Outcome("6.12-x86_64", error="section maps: bad", library="cilium", loader="cilium/ebpf 1")
    said = differences.render({"x.o": [outcome("libbpf"), closed]}, width=120)
    assert "error" in said
    assert "section maps: bad" in said


# -- its words ---------------------------------------------------------------------------------------------------------------

WORDS = {
    "4.14: no BTF": (
        "program lookup: apply CO-RE relocations: load kernel spec: no BTF found for kernel version 4.14.67: not supported",
        "btf",
        "this kernel has no BTF of its own",
    ),
    "6.1, by 0.9.1: BTF with enum64": (
        "program exit_openat: apply CO-RE relocations: can't read types: type id 3677: unknown kind: Unknown (19)",
        "library",
        "this cilium/ebpf does not read the kernel's BTF",
    ),
    "4.14: a function of the program's own": (
        "program entry: load program: bpf2bpf calls not supported (requires >= v4.16)",
        "instruction",
        "instruction call_function (a call of a function of the program's own), since 4.16",
    ),
    "6.1: a section": (
        'program on: cannot load program on: program type is unspecified (cilium/ebpf 0.11.0 does not know SEC("ksyscall/getpgid"))',
        "section",
        "cilium/ebpf 0.11.0 does not know what kind of program section ksyscall/getpgid is for",
    ),
    "6.12: tcx": (
        'cilium/ebpf 0.11.0 has no function that attaches SEC("tcx/ingress")',
        "library",
        'cilium/ebpf 0.11.0 has no function that attaches SEC("tcx/ingress")',
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_its_words_have_causes(name: str) -> None:
    text, kind, says = WORDS[name]
    found = diagnose(Failing("load", text, (4, 14), "x86_64"))
    assert found is not None
    assert (found.kind, found.headline()[: len(says)]) == (kind, says)


def test_a_map_of_global_variables_before_5_2() -> None:
    text = "map .rodata: map create: read- and write-only maps not supported (requires >= v5.2)"
    found = diagnose(Failing("map", text, (4, 14), "x86_64", map_type="array", name=".rodata", max_entries=1))
    assert found is not None
    assert (found.kind, found.since) == ("global-data", "5.2")


POISONED = """
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
struct bpf_lpm_trie_key { __u32 prefixlen; } __attribute__((preserve_access_index));
SEC("kprobe/trie_lookup_elem") int lookup(void *ctx)
{
    __u32 bits = 0;
    bpf_core_read(&bits, sizeof(bits), &((struct bpf_lpm_trie_key *)ctx)->prefixlen);
    return bits;
}
char _license[] SEC("license") = "GPL";
"""


def test_what_a_poisoned_access_is_of_the_object_says(tmp_path: Path) -> None:
    """cilium/ebpf puts a call of helper 195896080 where a relocation came to nothing, and does not say which."""
    need_programs("clang")
    (tmp_path / "p.bpf.c").write_text(POISONED)
    lines = SourceLines(compile_c(tmp_path / "p.bpf.c", tmp_path / "p.o").read_bytes())
    log = "0: (b4) w1 = 0\n{at}: (85) call unknown#195896080\ninvalid func unknown#195896080\n"
    at = next(number for number in range(20) if lines.relocated("lookup", log.format(at=number)) is not None)
    found = diagnose(
        Failing(
            "load",
            "program lookup: load program: invalid argument",
            (6, 1),
            "x86_64",
            log=log.format(at=at),
            name="lookup",
            lines=lines,
        )
    )
    assert found is not None
    assert (found.kind, found.what) == (
        "btf-field",
        "CO-RE: btf:bpf_lpm_trie_key.prefixlen is not in this kernel, or of another kind",
    )
    assert "prefixlen" in str(found.where)
