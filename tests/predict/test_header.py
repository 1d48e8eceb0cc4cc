"""vmlinux.h out of a profile: it compiles for BPF, and each structure has the kernel's size and offsets."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from conftest import need_programs
from kmatrix.cli import cli
from kmatrix.host.errors import InputError
from kmatrix.lint import kernel_header
from kmatrix.lint.source import Unit
from kmatrix.predict import header, store
from tests.predict.kernels import kernel

HOST_ONLY = {"warn_args"}
"""It holds a va_list, whose size is the target's."""


def checked(text: str, made: header.Header, folder: Path) -> str:
    """What clang says of the header, with an assertion for each size and offset."""
    need_programs("clang")
    (folder / "vmlinux.h").write_text(text)
    lines = ['#include "vmlinux.h"']
    for name, node in made.composites():
        if name.split()[1] in HOST_ONLY:
            continue
        lines.append(f'_Static_assert(sizeof({name}) == {node.size}, "size of {name}");')
        lines += [
            f'_Static_assert(__builtin_offsetof({name}, {member}) == {bit // 8}, "{name}.{member}");'
            for member, bit, width, _ in node.members
            if member and not width
        ]
    (folder / "t.c").write_text("\n".join(lines))
    done = subprocess.run(
        ["clang", "-target", "bpf", "-fsyntax-only", "-w", "t.c"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert len(lines) > 5
    return done.stderr[-3000:]


def test_layouts_of_all_kinds(tmp_path: Path) -> None:
    on = kernel(
        tmp_path,
        "typedef unsigned char u8; typedef struct { int a; } plain_t; enum { FREE = 3 } loose; enum named { ONE = 1 };"
        "struct packed { u8 a; int b; } __attribute__((packed)); struct inner { long l; char c; };"
        "struct gaps { u8 a; long b __attribute__((aligned(32))); u8 c; struct packed p; struct inner in; plain_t t; } __attribute__((aligned(64)));"
        "struct bits { int a : 3, : 5, b : 7; long c : 40; u8 d : 1; unsigned e; };"
        "union both { struct { int x; struct inner *next; }; u8 bytes[24]; int (*calls[2])(struct gaps *, const char *, ...); void (*volatile none)(void); };"
        "struct tail { int n; union both list[]; }; struct self { struct self *next; enum named how; };"
        "struct gaps g; struct bits b; union both u; struct tail t; struct self s; plain_t p;",
    )
    text = header.write(on)
    assert checked(text, header.Header(on), tmp_path) == ""
    assert "int (*calls[2])(struct gaps *, const char *, ...);" in text
    assert "void (*volatile none)(void);" in text
    assert "FREE = 3," in text
    assert "struct tail {" in text


@pytest.mark.parametrize("name", ["5.4-arm64", "6.18-x86_64"])
def test_a_real_kernel(name: str, tmp_path: Path) -> None:
    on = store.named(name)
    text = header.write(on)
    assert checked(text, header.Header(on), tmp_path) == ""
    assert "struct task_struct {" in text
    assert "const struct cred *cred;" in text
    assert "false = 0," in text


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "vmlinux.h"
    assert CliRunner().invoke(cli, ["profiles", "vmlinux-h", "5.4", "--arch=arm64", "-o", str(out)]).exit_code == 0
    assert "struct user_pt_regs {" in out.read_text()
    for words, said in (("4.14-x86_64", "the kernel has no BTF"), ("3.10-x86_64", "there is no profile '3.10-x86_64'")):
        error = CliRunner().invoke(cli, ["profiles", "vmlinux-h", words]).exception
        assert isinstance(error, InputError)
        assert said in error.message


def test_lint_takes_one_where_a_source_s_own_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    kernel_header.folder.cache_clear()
    source = tmp_path / "a.bpf.c"
    source.write_text('#include "vmlinux.h"\nint pid(struct task_struct *t) { return t->pid; }\n')
    assert Unit(source, "x86_64").errors == []
    assert len(list((tmp_path / "cache" / "headers").glob("*/vmlinux.h"))) == 1
    (tmp_path / "vmlinux.h").write_text("struct task_struct { int other; };\n")
    assert "no member named 'pid'" in Unit(source, "x86_64").errors[0][0]
    kernel_header.folder.cache_clear()
