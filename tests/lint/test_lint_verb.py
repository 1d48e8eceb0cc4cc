"""`kmatrix lint` as a person and a CI job use it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from conftest import KMATRIX
from kmatrix.lint.rules import RULES
from tests.lint import samples
from tests.lint.samples import TASK, body

CLI = [*KMATRIX, "lint"]


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A collector with one finding that can be mended and one that cannot."""
    folder = tmp_path / "agent" / "collector"
    folder.mkdir(parents=True)
    (folder / "sample.bpf.c").write_text(
        samples.whole(body(TASK + "\tif (bpf_core_field_exists(task->pid))\n\t\treturn task->tgid;"))
    )
    (folder / "collector.toml").write_text(samples.manifest(["btf"]))
    return tmp_path / "agent"


def test_text_and_status(project: Path) -> None:
    done = run("-I", samples.INCLUDE, cwd=project)
    lines = done.stdout.splitlines()
    assert [line.split(" ")[:2] for line in lines[:2]] == [
        ["collector/sample.bpf.c:12:34:", "KM206"],
        ["collector/sample.bpf.c:13:16:", "KM201"],
    ]
    assert lines[1].endswith("[*]")
    assert lines[-1].startswith("2 files: 1 error, 1 warning; 1 marked [*] can be mended by --fix")
    assert (done.returncode, done.stderr) == (1, "")
    fixed = run("-I", samples.INCLUDE, "--fix", "--ignore", "KM206", cwd=project)
    assert fixed.returncode == 0
    assert fixed.stdout == "2 files: nothing to say, 1 fixed\n"


@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        (["--select", "KM2"], ["KM206", "KM201"]),
        (["--select", "KM206,KM3"], ["KM206"]),
        (["--select", "needless-guard"], ["KM206"]),
        (["--ignore", "KM206"], ["KM201"]),
        (["--ignore", "km2"], []),
    ],
)
def test_select_and_ignore(arguments: list[str], codes: list[str], project: Path) -> None:
    done = run("-I", samples.INCLUDE, "--format", "json", *arguments, cwd=project)
    assert [finding["code"] for finding in json.loads(done.stdout)["findings"]] == codes
    assert done.returncode == bool(codes)


def test_json(project: Path) -> None:
    data = json.loads(run("-I", samples.INCLUDE, "--format", "json", cwd=project).stdout)
    finding = data["findings"][1]
    assert (data["schema"], data["files"], finding["name"], finding["level"]) == (1, 2, "direct-access", "error")
    source = (project / finding["file"]).read_bytes()
    edit = finding["edits"][0]
    assert (source[edit["start"] : edit["end"]], edit["text"]) == (b"task->tgid", "BPF_CORE_READ(task, tgid)")


def test_sarif_is_valid(project: Path) -> None:
    """What SARIF 2.1.0 requires of each object, and GitHub's code scanning on top."""
    log = json.loads(run("-I", samples.INCLUDE, "--format", "sarif", cwd=project).stdout)
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-schema-2.1.0.json")
    (sarif,) = log["runs"]
    driver = sarif["tool"]["driver"]
    assert driver["name"]
    rules = driver["rules"]
    assert [rule["id"] for rule in rules] == ["KM201", "KM206"]
    for rule in rules:
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"]
        assert rule["help"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note", "none")
    assert len(sarif["results"]) == 2
    for result in sarif["results"]:
        assert result["message"]["text"]
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning")
        (location,) = result["locations"]
        where = location["physicalLocation"]
        base = where["artifactLocation"]["uriBaseId"]
        assert sarif["originalUriBaseIds"][base]["uri"] == f"{project.as_uri()}/"
        assert (project / where["artifactLocation"]["uri"]).is_file()
        assert where["region"]["startLine"] >= 1
        assert where["region"]["startColumn"] >= 1


def test_sarif_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "sound.bpf.c").write_text(samples.whole(samples.LICENSE))
    done = run("-I", samples.INCLUDE, "--format", "sarif", tmp_path, cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["runs"][0]["results"] == []


@pytest.mark.parametrize("code", RULES)
def test_explain(code: str) -> None:
    from kmatrix.lint import output

    text = output.explain(RULES[code])
    for part in (code, RULES[code].name, "Evidence:", "Wrong", "Right:"):
        assert part in text


def test_explain_on_the_command_line(tmp_path: Path) -> None:
    done = run("--explain", "KM103", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("KM103 no-license")
    assert len(run("--explain", "all", cwd=tmp_path).stdout.splitlines()) == len(RULES)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "no such file or folder"),
        ([], "no collector.toml below"),
        (["--select", "KM2O1", "."], "no rule 'KM2O1'; did you mean KM"),
        (["--explain", "direct-acess"], "did you mean direct-access"),
        (["--format", "xml", "."], "xml"),
        (["notes.txt"], "not a C source"),
    ],
)
def test_wrong_input_is_status_2(arguments: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_colour_on_a_terminal_only(project: Path) -> None:
    assert "\033[" not in run("-I", samples.INCLUDE, cwd=project).stdout
    assert b"\033[31mKM201\033[0m" in _on_a_terminal(project, {})
    assert b"\033[" not in _on_a_terminal(project, {"NO_COLOR": "1"})


def _on_a_terminal(cwd: Path, env: dict[str, str]) -> bytes:
    master, slave = pty.openpty()
    process = subprocess.Popen([*CLI, "-I", str(samples.INCLUDE)], cwd=cwd, stdout=slave, stderr=slave, env={**os.environ, **env})
    os.close(slave)
    said = b""
    try:
        while chunk := os.read(master, 65536):
            said += chunk
    except OSError:  # the other side is closed
        pass
    process.wait(60)
    os.close(master)
    return said


def test_a_broken_manifest_beside_the_source_is_said(project: Path) -> None:
    manifest = project / "collector" / "collector.toml"
    manifest.write_text(manifest.read_text().replace('"btf"', '"bft"'))
    done = run("-I", samples.INCLUDE, "collector/sample.bpf.c", cwd=project)
    assert "collector/collector.toml:1:1: KM001" in done.stdout
    assert "did you mean btf" in done.stdout


def test_the_standards_layout_with_bpf2go(tmp_path: Path) -> None:
    """bpf_src/program.c and its flags are known from generate.go; the variant is found by bpf2go's name."""
    for name in ("bpf_src", "agent", "bpf_common"):
        (tmp_path / name).mkdir()
    (tmp_path / "bpf_common" / "types.h").write_text('#pragma once\n#include "vmlinux.h"\n')
    text = samples.whole(body(TASK + "\treturn BPF_CORE_READ(task, pid);")).replace('"vmlinux.h"', '"types.h"')
    (tmp_path / "bpf_src" / "program.c").write_text(text)
    (tmp_path / "agent" / "generate.go").write_text(
        "package agent\n\n//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64,arm64 -cc clang watch ../bpf_src/program.c -- "
        f"-I../bpf_common -I{samples.INCLUDE} -g -O2 -Wall -Wextra\n"
    )
    (tmp_path / "collector.toml").write_text(samples.manifest([], "agent/watch"))
    done = run("--format", "json", ".", cwd=tmp_path)
    found = [(finding["code"], finding["file"]) for finding in json.loads(done.stdout)["findings"]]
    assert found == [("KM502", "bpf_src/program.c")]


def test_what_is_not_c_and_what_is_not_utf_8(tmp_path: Path) -> None:
    """Each is one finding, or none; never a traceback."""
    (tmp_path / "junk.bpf.c").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "empty.bpf.c").write_bytes(b"")
    (tmp_path / "open.bpf.c").write_bytes(b"#if 0\n")
    (tmp_path / "dangling.bpf.c").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "generate.go").write_text('//go:generate bpf2go "unclosed a b\n//go:generate bpf2go\n')
    latin = samples.whole(body(TASK + "\t/* caf\xe9 */\n\treturn task->pid;")).replace("\n", "\r\n")
    (tmp_path / "latin.bpf.c").write_bytes(latin.encode("latin-1"))
    done = run("-I", samples.INCLUDE, ".", "--format", "json", cwd=tmp_path)
    assert done.stderr == ""
    found = {(f["file"], f["code"]) for f in json.loads(done.stdout)["findings"]}
    assert found == {("junk.bpf.c", "KM001"), ("open.bpf.c", "KM001"), ("nowhere", "KM001"), ("latin.bpf.c", "KM201")}
    run("-I", samples.INCLUDE, "--fix", "latin.bpf.c", cwd=tmp_path)
    assert (tmp_path / "latin.bpf.c").read_bytes() == latin.replace("task->pid", "BPF_CORE_READ(task, pid)").encode("latin-1")


@pytest.mark.parametrize(("text", "status"), [("int x = ;\n", 1), ("int x;\n", 0)])
def test_a_c_file_that_does_not_parse_is_said_whatever_it_is_called(text: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "agent.c").write_text(text)
    done = run("agent.c", cwd=tmp_path)
    assert done.returncode == status
    assert ("agent.c:1:9: KM001 clang: expected expression" in done.stdout) is bool(status)


@pytest.mark.parametrize(
    ("section", "meant"),
    [
        ("tracepont/sched/sched_switch", "tracepoint/sched/sched_switch"),
        ("cgroup/conect4", "cgroup/connect4"),
        ("fentri/do_exit", "fentry/do_exit"),
        ("a_loader_of_its_own", None),
    ],
)
def test_a_misspelt_section_is_told_with_the_nearest(section: str, meant: str | None, tmp_path: Path) -> None:
    source = tmp_path / "x.bpf.c"
    source.write_text(samples.whole(body("\treturn 1;", section)))
    done = run(source, "-I", samples.INCLUDE, cwd=tmp_path)
    assert (f'did you mean SEC("{meant}")?' in done.stdout) == (meant is not None)
    assert ("KM106" in done.stdout) == (meant is not None)
