"""--fix: the standard's migrations, corrected; nothing else; and what comes out compiles and does the same once more."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmatrix.lint import objects
from kmatrix.lint.engine import Options, lint
from kmatrix.lint.fix import fix
from tests.lint import samples
from tests.lint.samples import TASK, body

OPTIONS = Options(includes=(samples.INCLUDE, samples.BPF_COMMON))

MIGRATIONS = {
    # before, after
    "a field": ("\treturn task->pid;", "\treturn BPF_CORE_READ(task, pid);"),
    "in a condition": ("\tif (task->cgroups != 0)\n\t\treturn 1;", "\tif (BPF_CORE_READ(task, cgroups) != 0)\n\t\treturn 1;"),
    "several hops": ("\treturn task->real_parent->tgid;", "\treturn BPF_CORE_READ(task, real_parent, tgid);"),
    "members of members": (
        "\treturn task->mm->exe_file->f_path.dentry->d_name.len;",
        "\treturn BPF_CORE_READ(task, mm, exe_file, f_path.dentry, d_name.len);",
    ),
    "an element": ("\treturn task->comm[0];", "\treturn BPF_CORE_READ(task, comm[0]);"),
    "in a macro's argument": ('\tbpf_printk("%d %d", task->pid, 7);', '\tbpf_printk("%d %d", BPF_CORE_READ(task, pid), 7);'),
    "a structure as a whole": (
        "\tstruct path path = task->mm->exe_file->f_path;\n\treturn path.dentry != 0;",
        "\tstruct path path = BPF_CORE_READ(task, mm, exe_file, f_path);\n\treturn path.dentry != 0;",
    ),
    "two in a line": ("\treturn task->pid + task->tgid;", "\treturn BPF_CORE_READ(task, pid) + BPF_CORE_READ(task, tgid);"),
    "bpf_probe_read": (
        "\tpid_t pid = 0;\n\tbpf_probe_read(&pid, sizeof(pid), &task->pid);\n\treturn pid;",
        "\tpid_t pid = 0;\n\tBPF_CORE_READ_INTO(&pid, task, pid);\n\treturn pid;",
    ),
    "bpf_probe_read that is checked": (
        "\tpid_t pid;\n\tif (bpf_probe_read(&pid, sizeof(pid), &task->pid))\n\t\treturn 0;\n\treturn pid;",
        "\tpid_t pid;\n\tif (BPF_CORE_READ_INTO(&pid, task, pid))\n\t\treturn 0;\n\treturn pid;",
    ),
    "bpf_probe_read behind a direct hop": (
        "\tpid_t pid = 0;\n\tbpf_probe_read(&pid, sizeof(pid), &task->real_parent->pid);\n\treturn pid;",
        "\tpid_t pid = 0;\n\tBPF_CORE_READ_INTO(&pid, task, real_parent, pid);\n\treturn pid;",
    ),
    "bpf_probe_read_str": (
        "\tchar comm[16];\n\tbpf_probe_read_str(comm, sizeof(comm), task->comm);\n\treturn comm[0];",
        "\tchar comm[16];\n\tBPF_CORE_READ_STR_INTO(&comm, task, comm);\n\treturn comm[0];",
    ),
    "bpf_probe_read_str of an address": (
        "\tchar comm[16];\n\tbpf_probe_read_str(&comm, sizeof(comm), &task->comm);\n\treturn comm[0];",
        "\tchar comm[16];\n\tBPF_CORE_READ_STR_INTO(&comm, task, comm);\n\treturn comm[0];",
    ),
}  # fmt: skip

UNTOUCHED = {
    "a bit field": ("KM201", "\treturn task->in_iowait;"),
    "behind a cast": ("KM201", "\treturn ((struct task_struct *)bpf_get_current_task())->pid + (task != 0);"),
    "a size that is not the destination's": ("KM204", "\tpid_t pid = 0;\n\tbpf_probe_read(&pid, 2, &task->pid);\n\treturn pid;"),
    "part of an array": ("KM204", "\tchar comm[16];\n\tbpf_probe_read(comm, sizeof(comm) - 1, &task->comm);\n\treturn comm[0];"),
    "an element by a call": ("KM201", "\treturn task->comm[bpf_get_prandom_u32() & 15];"),
    "in the program's own macro": ("KM201", "#define PID_OF(task) ((task)->pid)\n\treturn PID_OF(task);"),
}  # fmt: skip


def write(folder: Path, text: str, needs: tuple[str, ...] = ("btf",)) -> Path:
    path = folder / "sample.bpf.c"
    path.write_text(samples.whole(text))
    (folder / "collector.toml").write_text(samples.manifest(needs))
    return path


@pytest.mark.parametrize("name", MIGRATIONS)
def test_migration(name: str, tmp_path: Path) -> None:
    before, after = MIGRATIONS[name]
    path = write(tmp_path, body(TASK + before))
    report, mended = fix([path], OPTIONS)
    assert path.read_text() == samples.whole(body(TASK + after))
    assert (report.findings, mended > 0) == ([], True)
    compiled = objects.Compiled(samples.compile_c(path, tmp_path / "sample.o"))
    assert compiled.relocations
    assert fix([path], OPTIONS)[1] == 0
    assert path.read_text() == samples.whole(body(TASK + after))


@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_is_not_understood_stays(name: str, tmp_path: Path) -> None:
    code, statements = UNTOUCHED[name]
    path = write(tmp_path, body(TASK + statements))
    text = path.read_text()
    report, mended = fix([path], OPTIONS)
    assert ({f.code for f in report.findings}, mended, path.read_text()) == ({code}, 0, text)


def test_a_fallback_variant_is_not_migrated(tmp_path: Path) -> None:
    text = body(TASK + "\tpid_t pid = 0;\n\tbpf_probe_read(&pid, sizeof(pid), &task->pid);\n\treturn pid;")
    path = write(tmp_path, "#define task_struct my_task\nstruct my_task { int pid; };\n" + text, needs=("perf_buffer",))
    before = path.read_text()
    fix([path], OPTIONS)
    assert path.read_text() == before


def test_a_header_that_a_fallback_shares_is_not_migrated(tmp_path: Path) -> None:
    shared = samples.PREAMBLE + "static __always_inline int pid_of(struct task_struct *task)\n{\n\treturn task->pid;\n}\n"
    (tmp_path / "shared.h").write_text(shared)
    for name in ("core", "plain"):
        (tmp_path / f"{name}.bpf.c").write_text('#include "shared.h"\n' + body(TASK + "\treturn pid_of(task);") + samples.LICENSE)
    both = samples.manifest(["btf"], "core") + samples.manifest([], "plain").split("[[program]]")[0].split('name = "sample"\n')[
        1
    ].replace("only", "plain")
    (tmp_path / "collector.toml").write_text(both)
    report, mended = fix([tmp_path], OPTIONS)
    assert "KM201" in {f.code for f in report.findings}
    assert (mended, (tmp_path / "shared.h").read_text()) == (0, shared)


def test_a_missing_include_is_added(tmp_path: Path) -> None:
    path = tmp_path / "sample.bpf.c"
    head = '#include "vmlinux.h"\n#include <bpf/bpf_helpers.h>\n'
    path.write_text(head + body(TASK + "\treturn task->pid;") + samples.LICENSE)
    report, mended = fix([path], OPTIONS)
    assert (report.findings, mended) == ([], 1)
    assert path.read_text().startswith(head + "#include <bpf/bpf_core_read.h>\n")
    samples.compile_c(path, tmp_path / "sample.o")


def test_an_edit_that_clang_refuses_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kmatrix.lint.checks import reads

    monkeypatch.setattr(reads, "_hops", lambda _text: ["task", "no_such_field"])
    path = write(tmp_path, body(TASK + "\treturn task->pid;"))
    text = path.read_text()
    report, mended = fix([path], OPTIONS)
    assert (path.read_text(), mended, {f.code for f in report.findings}) == (text, 0, {"KM201"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["collector.toml", "sample.bpf.c"]


def test_generate_go(tmp_path: Path) -> None:
    (tmp_path / "p.bpf.c").write_text(samples.whole(samples.LICENSE))
    path = tmp_path / "generate.go"
    tool = "//go:generate go run github.com/cilium/ebpf/cmd/bpf2go"
    path.write_text(
        "package agent\n\n"
        f"{tool} p p.bpf.c\n"
        f"{tool} -cc clang -target amd64 p p.bpf.c -- -I../headers -O2\n"
        f"{tool} -target bpfel p p.bpf.c -- -g -O2 -Wall -Wextra -D__TARGET_ARCH_x86\n"
        f"{tool} p p.bpf.c -- -g -O2 -target amd64,arm64 -Wall -Wextra\n"
    )
    assert {f.code for f in lint([path]).findings} == {"KM601", "KM602", "KM603"}  # KM604 once there are two targets
    report, _ = fix([path], Options())
    assert not report.findings
    assert path.read_text() == (
        "package agent\n\n"
        f"{tool} -target amd64,arm64 p p.bpf.c -- -g -O2 -Wall -Wextra\n"
        f"{tool} -cc clang -target amd64,arm64 p p.bpf.c -- -I../headers -O2 -g -Wall -Wextra\n"
        f"{tool} -target amd64,arm64 p p.bpf.c -- -g -O2 -Wall -Wextra\n"
        f"{tool} -target amd64,arm64 p p.bpf.c -- -g -O2 -Wall -Wextra\n"
    )
