"""Objects are checked on the host, before a VM is spent on them."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import need_programs
from kmatrix.host.errors import InputError
from kmatrix.manifest import schema
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.own_loader import Loader
from kmatrix.matrix.load import load_matrix
from kmatrix.objects import compiled
from kmatrix.runs import request
from tests.cells.broken import compile_object


@pytest.fixture(scope="module", autouse=True)
def _clang() -> None:
    need_programs("clang")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    for arch in ("x86", "arm64"):
        compile_object(folder / f"tiny_{arch}_bpfel.o", arch)
    return folder


def manifest_for(folder: Path, **variant: Any) -> Collector:
    data = {
        "schema": 1,
        "collector": {"name": "demo"},
        "variant": [{"name": "v", "behaviour": "full", "object": "tiny", "transport": "perf", "buffer": "events"} | variant],
        "program": [{"name": "enter", "hook": "tp/syscalls/sys_enter_openat"}],
        "trigger": {"kind": "open"},
        "event": [{"name": "open", "field": [{"name": "pid", "type": "u32", "nonzero": True}]}]
        if variant.get("buffer", True)
        else [],
    }
    return schema.parse(data, path=folder / "collector.toml")


def refused(folder: Path, **variant: Any) -> InputError:
    collector = manifest_for(folder, **variant)
    with pytest.raises(InputError) as error:
        compiled.load(collector, collector.variants[0], "x86_64")
    assert error.value.fix
    return error.value


def test_what_an_object_holds(built: Path) -> None:
    info = compiled.inspect(built / "tiny_x86_bpfel.o")
    assert info.programs == {"enter": "tracepoint/syscalls/sys_enter_openat"}
    assert info.maps == {"events"}
    assert info.has_btf
    assert info.compiled_for == "x86_64"


def test_the_right_one_is_taken_and_tp_is_tracepoint(built: Path) -> None:
    collector = manifest_for(built)
    assert compiled.load(collector, collector.variants[0], "arm64").path.name == "tiny_arm64_bpfel.o"


def test_missing(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert "no object for x86_64 (looked in" in str(error)
    assert error.fix == "compile it for x86_64, or correct `object`"


def test_of_two_that_it_may_be_none_is_taken(built: Path, tmp_path: Path) -> None:
    for name in ("tiny_x86_bpfel.o", "tiny_bpfel_x86.o"):  # bpf2go's, and the older bpf2go's
        shutil.copy(built / "tiny_x86_bpfel.o", tmp_path / name)
    assert f"In {tmp_path} there are tiny_x86_bpfel.o and tiny_bpfel_x86.o" in str(refused(tmp_path))


def test_all_that_a_run_needs_are_checked_at_once(built: Path) -> None:
    collector = manifest_for(built)
    assert [path.name for path in compiled.check(collector, ["x86_64", "arm64"])] == ["tiny_x86_bpfel.o", "tiny_arm64_bpfel.o"]
    assert compiled.check(manifest_for(built, arches=["x86_64"], object="tiny_x86_bpfel.o"), ["arm64"]) == {}
    with pytest.raises(InputError, match="compiled for x86_64, wanted for arm64"):
        compiled.check(manifest_for(built, object="tiny_x86_bpfel.o"), ["x86_64", "arm64"])


def test_an_object_is_stale_where_its_own_source_is_newer_by_more_than_a_checkout_takes() -> None:
    plain, ring = Path("build/a_plain_x86_bpfel.o"), Path("build/a_plain_ring_x86_bpfel.o")
    sources = {Path("a_plain.bpf.c"): 1000.0, Path("a_plain_ring.bpf.c"): 500.0}
    assert compiled.stale({plain: 939.0, ring: 500.0}, sources) == {plain: Path("a_plain.bpf.c")}
    assert compiled.stale({plain: 940.0, ring: 440.0}, sources) == {}
    other = Path("other.o")  # of whichever source
    assert compiled.stale({other: 600.0}, sources) == {other: Path("a_plain.bpf.c")}
    assert compiled.stale({other: 600.0}, {}) == {}


def test_where_no_variant_is_for_an_arch_there_is_nothing_to_try(built: Path) -> None:
    collector = manifest_for(built, arches=["x86_64"])
    assert compiled.nothing_for(collector, "arm64") == "no variant of demo is for arm64 (variant.arches)"
    assert compiled.nothing_for(collector, "x86_64") is None
    loader = Loader(command=("./agent",))
    assert (
        compiled.nothing_for(collector.model_copy(update={"loader": loader}), "arm64") is None
    )  # it refuses by itself, or does not


def test_for_the_wrong_arch(built: Path) -> None:
    assert "compiled for arm64, wanted for x86_64" in str(refused(built, object="tiny_arm64_bpfel.o"))


def test_for_the_wrong_arch_whatever_its_name(tmp_path: Path) -> None:
    source = tmp_path / "regs.bpf.c"
    source.write_text(
        "struct user_pt_regs { unsigned long regs[31]; } __attribute__((preserve_access_index));\n"
        '__attribute__((section("kprobe/x"), used)) int enter(struct user_pt_regs *ctx) { return ctx->regs[0]; }\n'
    )
    compile_object(tmp_path / "tiny.bpf.o", "arm64", source=source)
    assert compiled.inspect(tmp_path / "tiny.bpf.o").compiled_for == "arm64"


def test_without_btf_where_core_is_claimed(tmp_path: Path) -> None:
    source = tmp_path / "plain.bpf.c"
    source.write_text('__attribute__((section("tp/x/y"), used)) int enter(void *ctx) { return 0; }\n')
    compile_object(tmp_path / "tiny.bpf.o", "x86", source=source)
    data = (tmp_path / "tiny.bpf.o").read_bytes()
    (tmp_path / "tiny.bpf.o").write_bytes(data.replace(b"\0.BTF\0", b"\0.XXX\0"))
    assert "has no .BTF section" in str(refused(tmp_path, needs=["btf"], transport=None, buffer=None))


def test_source_code_is_named_so(tmp_path: Path) -> None:
    source = tmp_path / "prog.bpf.c"
    source.write_text("int main(void) { return 0; }\n")
    with pytest.raises(InputError, match="this is source code, not a compiled object"):
        compiled.inspect(source)


@pytest.mark.parametrize("keep", [0, 3, 40, 200, -40])
def test_truncated(built: Path, tmp_path: Path, keep: int) -> None:
    whole = (built / "tiny_x86_bpfel.o").read_bytes()
    (tmp_path / "tiny.bpf.o").write_bytes(whole[:keep])
    assert "not a whole ELF file" in str(refused(tmp_path))


def test_a_program_of_the_host(tmp_path: Path) -> None:
    shutil.copy("/bin/true", tmp_path / "tiny.bpf.o")
    assert "not a BPF object" in str(refused(tmp_path))


def test_a_program_or_map_that_is_not_there(built: Path) -> None:
    collector = manifest_for(built, buffer="event")
    with pytest.raises(InputError, match=r"no map 'event' in the object; did you mean events"):
        compiled.load(collector, collector.variants[0], "x86_64")
    entered = collector.model_copy(update={"programs": (collector.programs[0].model_copy(update={"name": "entre"}),)})
    with pytest.raises(InputError, match=r"no program 'entre' in the object; did you mean enter"):
        compiled.load(entered, entered.variants[0], "x86_64")
    elsewhere = collector.model_copy(update={"programs": (collector.programs[0].model_copy(update={"hook": "kprobe/x"}),)})
    with pytest.raises(InputError, match="make hook and SEC"):
        compiled.load(elsewhere, elsewhere.variants[0], "x86_64")


def test_a_variant_that_does_not_need_btf_may_not_use_core(tmp_path: Path) -> None:
    source = tmp_path / "core.bpf.c"
    source.write_text(
        "struct task_struct { int pid; } __attribute__((preserve_access_index));\n"
        '__attribute__((section("tp/x/y"), used)) int enter(struct task_struct *task) { return task->pid; }\n'
    )
    compile_object(tmp_path / "tiny.bpf.o", "x86", source=source)
    assert compiled.inspect(tmp_path / "tiny.bpf.o").uses_core
    assert "has CO-RE relocations, but the variant does not need btf" in str(refused(tmp_path, transport=None, buffer=None))


def test_objects_of_one_name_in_different_folders_are_told_apart(tmp_path: Path) -> None:
    """As `core/prog` and `plain/prog`: each variant gets its own."""
    for name, define in (("core", "BREAK_VALUE"), ("plain", "NOTHING")):
        (tmp_path / name).mkdir()
        compile_object(tmp_path / name / "prog.bpf.o", "x86", define)
    collector = manifest_for(tmp_path, object="core/prog.bpf.o")
    second = collector.variants[0].model_copy(update={"name": "w", "object": "plain/prog.bpf.o"})
    collector = collector.model_copy(update={"variants": (*collector.variants, second)})
    asked = request.request(collector, load_matrix().target("6.1-x86_64"))
    sent = [base64.b64decode(asked["objects"][variant["object"]]) for variant in asked["variants"]]
    assert sent == [(tmp_path / name / "prog.bpf.o").read_bytes() for name in ("core", "plain")]
