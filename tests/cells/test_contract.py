"""A contract in a collector.toml and as options of `kmatrix run`: the form that the kernel can run is loaded, and nobody misses the other."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from conftest import KMATRIX, Shell, need_programs
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.runs import cell_records

ROOT = Path(__file__).parents[2]


MANIFEST = """
schema = 1
[collector]
name = "forms"
[[variant]]
name = "only"
behaviour = "full"
object = "forms_{arch}.o"
[variant.contract]
one_of = ["connect_fentry", "connect_kprobe"]
[[program]]
name = "connect_fentry"
hook = "fentry/tcp_v4_connect"
needs = ["fentry"]
[[program]]
name = "connect_kprobe"
hook = "kprobe/tcp_v4_connect"
[trigger]
kind = "tcp_connect"
"""


def compile_forms(path: Path, arch: Arch) -> None:
    need_programs("clang")
    source = ROOT / "tests" / "guest" / "bpf" / "forms.bpf.c"
    flags = ["-target", "bpf", "-g", "-O2", f"-D__TARGET_ARCH_{INFO[arch].bpf2go}", f"-I{ROOT / 'collectors' / 'bpf_common'}"]
    subprocess.run(["clang", *flags, "-c", str(source), "-o", str(path)], check=True)


def kmatrix(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*KMATRIX, *arguments], cwd=folder, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.usefixtures("both_of_6_1")
def test_a_collector_with_two_forms_is_full_on_both_arches(tmp_path: Path, run_in: Shell) -> None:
    for arch in ("x86_64", "arm64"):
        compile_forms(tmp_path / f"forms_{arch}.o", arch)
    (tmp_path / "collector.toml").write_text(MANIFEST)
    done = run_in("pytest", "--kernels=6.1")
    assert "2 passed" in done.stdout, done.stdout
    ran = {}
    for record in cell_records.read_all(tmp_path / ".kmatrix"):
        assert record.observed == "full"
        assert record.facts is not None
        attempt = record.facts["attempts"][0]
        ran[record.arch] = {name: bool(p["runs"]) for name, p in attempt["programs"].items() if p["attached"]}
        assert {name for name, p in attempt["programs"].items() if p.get("off")} == {"connect_fentry", "connect_kprobe"} - ran[
            record.arch
        ].keys()
        assert attempt["one_of"][0]["ran"] == list(ran[record.arch])
    assert ran == {"x86_64": {"connect_fentry": True}, "arm64": {"connect_kprobe": True}}

    # A contract that does not fit the object is an error of the input, and no cell runs.
    (tmp_path / "collector.toml").write_text(MANIFEST.replace("one_of =", "variables = { nobody = 1 }\none_of ="))
    wrong = run_in("pytest", "--kernels=6.1", "--arch=x86_64")
    assert "variant 'only': contract: variables.nobody: forms_x86_64.o has no variable 'nobody'" in wrong.stdout
    assert wrong.returncode == 1


@pytest.mark.usefixtures("both_of_6_1")
def test_options_of_run_make_the_load_whole(tmp_path: Path) -> None:
    compile_forms(tmp_path / "forms.o", "x86_64")
    options = ("--kernels=6.1", "--arch=arm64")
    bare = kmatrix(tmp_path, "run", "forms.o", *options)
    assert bare.returncode == 1
    said = bare.stdout
    assert "the object does not load as a whole on 6.1-arm64: it loads with these programs off: open_fentry" in said
    assert "connect_fentry and connect_kprobe (tcp_v4_connect)" in said
    assert "--one-of connect_fentry,connect_kprobe" in said

    whole = (
        "--one-of", "connect_fentry,connect_kprobe", "--one-of", "open_fentry,open_kprobe", "--one-of", "gone,",
        "--attach-to", "open_kprobe=vfs_open", "--attach-to", "open_fentry=vfs_open",
    )  # fmt: skip
    good = kmatrix(tmp_path, "run", "forms.o", *options, *whole)
    assert good.returncode == 0, good.stdout
    assert "6.1-arm64: connect_kprobe (connect_fentry: no fentry on this kernel" in good.stdout
    cells = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in good.stdout.splitlines() if line.count("│") == 4}
    assert cells["connect_fentry"] == "off"
    assert cells["connect_kprobe"] == cells["open_kprobe"] == cells["always"] == "attached"

    as_json = json.loads(kmatrix(tmp_path, "run", "forms.o", *options, *whole, "--json").stdout)["targets"][0]
    assert as_json["together"] is True
    assert [group["ran"] for group in as_json["one_of"]] == [["connect_kprobe"], ["open_kprobe"], []]

    wrong = kmatrix(tmp_path, "run", "forms.o", *options, "--one-of", "connect_fentry,connect_kpobe")
    assert wrong.returncode == 2
    assert "forms.o has no program 'connect_kpobe'; did you mean connect_kprobe" in wrong.stderr
