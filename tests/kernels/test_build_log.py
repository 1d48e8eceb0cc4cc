"""Which line of a build's log is the one that tells. The logs are of real builds, shortened."""

from __future__ import annotations

import pytest

from kmatrix.kernels import build_log

PROBES = """\
/bin/sh: 1: pahole: not found
  SYNC    include/config/auto.conf.cmd
  HOSTCC  scripts/basic/fixdep
"""
COMPILER = (
    PROBES
    + """\
  CC      kernel/bpf/core.o
  CC      kernel/bpf/verifier.o
kernel/bpf/verifier.c: In function 'do_check':
kernel/bpf/verifier.c:4711:9: error: 'foo' undeclared (first use in this function)
 4711 |         foo = 1;
      |         ^~~
kernel/bpf/verifier.c:4712:9: error: 'bar' undeclared (first use in this function)
  CC      mm/slub.o
make[3]: *** [scripts/Makefile.build:262: kernel/bpf/verifier.o] Error 1
make[2]: *** [scripts/Makefile.build:497: kernel/bpf] Error 2
make: *** [Makefile:1736: kernel] Error 2
"""
)
LINKER = """\
  LD      vmlinux
ld: kernel/bpf/core.o: in function `bpf_jit_compile':
core.c:(.text+0x12): undefined reference to `arch_foo'
make: *** [Makefile:1081: vmlinux] Error 1
"""
TOOL = """\
  GEN     .btf.vmlinux.bin.o
pahole: .tmp_vmlinux.btf: No debugging information found
  LD      .tmp_vmlinux.kallsyms1
FAILED: load BTF from vmlinux: Invalid argument
make: *** [Makefile:1081: vmlinux] Error 255
"""
NO_TOOL = """\
  YACC    scripts/kconfig/parser.tab.[ch]
/bin/sh: 1: bison: not found
make[2]: *** [scripts/Makefile.host:17: scripts/kconfig/parser.tab.h] Error 127
"""
WITHOUT_RULE = "make[2]: *** No rule to make target 'debian/certs/x.pem', needed by 'certs/x509_certificate_list'.  Stop.\n"
OUT_OF_MEMORY = (
    PROBES + "  CC      fs/ext4/inode.o\ngcc: fatal error: Killed signal terminated program cc1\ncompilation terminated.\n"
)


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (COMPILER, "kernel/bpf/verifier.c:4711:9: error: 'foo' undeclared (first use in this function)"),
        (LINKER, "core.c:(.text+0x12): undefined reference to `arch_foo'"),
        (TOOL, "FAILED: load BTF from vmlinux: Invalid argument"),
        (NO_TOOL, "/bin/sh: 1: bison: not found"),
        (WITHOUT_RULE, WITHOUT_RULE.strip()),
        (PROBES + "the last word\nmake: *** [Makefile:1: all] Error 1\n", "/bin/sh: 1: pahole: not found"),
        ("", ""),
    ],
)
def test_the_line_that_tells(log: str, line: str) -> None:
    assert build_log.telling(log.splitlines()) == line


def test_what_was_passed_over_long_before_is_not_blamed() -> None:
    """A configuration asks for tools that may be missing; the compiler's error is what counts."""
    lines = (PROBES + "  CC      x.o\n" * 100 + "odd words\nmake: *** [Makefile:1: all] Error 1\n").splitlines()
    assert build_log.telling(lines) == "odd words"


@pytest.mark.parametrize(
    ("log", "status", "says"),
    [
        (PROBES, -9, "SIGKILL ended it"),
        (PROBES, -15, "SIGTERM ended it"),
        (OUT_OF_MEMORY, 2, "one of its programs was killed (gcc: fatal error: Killed signal terminated program cc1)"),
        ("make[2]: *** [scripts/Makefile.build:1: fs/x.o] Killed\n", 2, "one of its programs was killed"),
        ("make: *** [Makefile:1736: vmlinux] Terminated\n", 2, "one of its programs was killed"),
        (COMPILER, 2, None),
        (NO_TOOL, 2, None),
    ],
)
def test_what_was_killed_is_not_blamed_on_a_line(log: str, status: int, says: str | None) -> None:
    found = build_log.killed(log.splitlines(), status)
    assert found is None if says is None else str(found).startswith(says)
