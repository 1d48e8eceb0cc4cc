"""The build source: fragments, the check of the configuration, and the run of make on a stand-in for a kernel tree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import need_programs
from kmatrix.host import paths
from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.progress import Quiet
from kmatrix.kernels import build
from kmatrix.kernels.build import Option, Recipe
from kmatrix.kernels.entry import KernelEntry, StagedKernel
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import ARCHES, Arch, host_arch
from kmatrix.matrix.kernel import BUILD_VARIANTS

from .fabricate import arm64_image, bzimage, kernel, leftovers

KERNEL = kernel("5.4", (5, 4))
HOST: Arch = host_arch() or "x86_64"


def test_fragment_lines() -> None:
    text = """# a comment
CONFIG_A=y
CONFIG_B=n
# CONFIG_C is not set
CONFIG_D="two words" # required
CONFIG_E=7  # optional: old ones
"""
    assert build.parse_fragment(text, "f") == [
        Option("CONFIG_A", "y", "f:2"),
        Option("CONFIG_B", None, "f:3"),
        Option("CONFIG_C", None, "f:4"),
        Option("CONFIG_D", '"two words"', "f:5", "required"),
        Option("CONFIG_E", "7", "f:6", "optional"),
    ]


@pytest.mark.parametrize("line", ["BPF=y", "CONFIG_BPF", "CONFIG_BPF=y # because", "CONFIG_BPF = y"])
def test_a_line_that_is_none(line: str) -> None:
    with pytest.raises(InputError, match="no configuration line") as caught:
        build.parse_fragment(f"\n{line}\n", "my.config")
    assert caught.value.where == "my.config:2"


def test_check() -> None:
    options = build.parse_fragment(
        "CONFIG_OK=y\nCONFIG_DROPPED=y\nCONFIG_MODULE=y\nCONFIG_NEWER=y\nCONFIG_OLD=y # optional\nCONFIG_MUST=y # required\n"
        "# CONFIG_OFF is not set\n# CONFIG_STAYS_ON is not set\nCONFIG_TWICE=y\nCONFIG_TWICE=m\n",
        "f",
    )
    config = "CONFIG_OK=y\n# CONFIG_DROPPED is not set\nCONFIG_MODULE=m\nCONFIG_STAYS_ON=y\nCONFIG_TWICE=m\n"
    symbols = frozenset({"OK", "DROPPED", "MODULE", "OLD", "OFF", "STAYS_ON", "TWICE"})
    found = build.check(options, config, symbols)
    assert [option.name for option in found.dropped] == ["CONFIG_DROPPED", "CONFIG_MODULE", "CONFIG_MUST", "CONFIG_STAYS_ON"]
    assert [option.name for option in found.unknown] == ["CONFIG_NEWER"]


@pytest.mark.parametrize("arch", ARCHES)
def test_the_shipped_fragments(arch: Arch) -> None:
    options = {option.name: option for option in build.fragment_options(Recipe(Path(), arch))}
    assert options["CONFIG_BPF_SYSCALL"] == Option("CONFIG_BPF_SYSCALL", "y", options["CONFIG_BPF_SYSCALL"].where, "required")
    assert options["CONFIG_DEBUG_INFO_BTF"].value == "y"
    assert ("CONFIG_X86_64" in options) == (arch == "x86_64")
    assert ("CONFIG_ARM64_4K_PAGES" in options) == (arch == "arm64")


def test_the_users_fragment_has_the_last_word(tmp_path: Path) -> None:
    own = tmp_path / "own.config"
    own.write_text("# CONFIG_DEBUG_INFO_BTF is not set\n")
    options = {option.name: option for option in build.fragment_options(Recipe(Path(), "x86_64", (own,)))}
    assert options["CONFIG_DEBUG_INFO_BTF"].value is None
    with pytest.raises(InputError, match="cannot be read"):
        build.fragment_options(Recipe(Path(), "x86_64", (tmp_path / "missing",)))


@pytest.mark.parametrize("variant", BUILD_VARIANTS)
def test_the_variants_fragments(variant: str) -> None:
    """Each has one, it parses, and the options that the matrix derives features from are what it sets."""
    options = {option.name: option.value for option in build.fragment_options(Recipe(Path(), HOST, variants=(variant,)))}
    usual = {option.name: option.value for option in build.fragment_options(Recipe(Path(), HOST))}
    assert options != usual
    for name, on in BUILD_VARIANTS[variant].items():
        # What is not asked for is off: the configuration begins with allnoconfig.
        assert (options.get(f"CONFIG_{name}") is not None) == on
    assert {path.stem for path in (build.FRAGMENTS / "variants").glob("*.config")} == set(BUILD_VARIANTS)


def test_fixes_for_old_trees() -> None:
    skip, gnu11 = {"PAHOLE": "--skip_encoding_btf_enum64"}, {"CC": "-std=gnu11", "HOSTCC": "-std=gnu11"}
    assert build.make_variables((4, 14), (1, 24)) == {"HOSTCFLAGS": "-O2 -fcommon", "KCFLAGS": "-w"} | gnu11 | skip
    assert build.make_variables((5, 15), (1, 23)) == {"HOSTCFLAGS": "-O2", "KCFLAGS": "-w"} | gnu11  # which has no such option
    assert build.make_variables((6, 1), (1, 24)) == {"HOSTCFLAGS": "-O2", "KCFLAGS": "-w"} | gnu11
    assert build.make_variables((6, 18), (1, 30)) == {"HOSTCFLAGS": "-O2", "KCFLAGS": "-w"}
    assert all(fix.why for fix in build.FIXES)


def test_the_fixes_reach_make(store: KernelStore, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pahole").write_text("#!/bin/sh\necho v1.25\n")
    (tmp_path / "bin/pahole").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    _write_makefile(tree, build='echo "$(CC);$(HOSTCC);$(PAHOLE)" > $(O)/../said')
    said: list[str] = []

    def stage(into: Path) -> StagedKernel:
        staged = build.stage(Recipe(tree, HOST), KERNEL, into, Quiet())
        said.extend((into.parent / "said").read_text().strip().split(";"))
        return staged

    store.add("5.4", HOST, stage)
    assert said[0].endswith("gcc -std=gnu11")
    assert said[1].endswith("gcc -std=gnu11")
    assert said[2] == "pahole --skip_encoding_btf_enum64"


def test_symbols_of_another_arch_are_unknown(tmp_path: Path) -> None:
    for place, text in {
        "Kconfig": "config TOP\n",
        "init/Kconfig": "menuconfig MENU\n\tbool\n\tconfig INDENTED\n",
        "arch/x86/Kconfig": "config X\n",
        "arch/arm64/Kconfig.debug": "config A\n",
        "tools/Kconfig": "config TOOL\n",
    }.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    assert build.kconfig_symbols(tmp_path, "x86_64") == {"TOP", "MENU", "INDENTED", "X"}
    assert build.kconfig_symbols(tmp_path, "arm64") == {"TOP", "MENU", "INDENTED", "A"}


def test_not_a_tree(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a kernel source tree"):
        build.tree_version(tmp_path)


# --- make, on a tree that only pretends

_MAKEFILE = """VERSION = 5
PATCHLEVEL = 4
SUBLEVEL = 9
.DEFAULT_GOAL := none
O ?= .
allnoconfig:
\t@grep -v '^CONFIG_IPV6=' $(KCONFIG_ALLCONFIG) > $(O)/.config; %(keep)s
olddefconfig:
\t@true
bzImage Image:
\t@echo "  CC  a.o"; %(build)s
\t@mkdir -p $(O)/arch/$(ARCH)/boot; cp image $(O)/arch/$(ARCH)/boot/$@
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    need_programs("make", "gcc")
    monkeypatch.setattr(build._Make, "_require", lambda *_: None)  # flex, pahole, … are not used by this tree
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "Kconfig").write_text("config IPV6\nconfig BPF\n")
    (folder / "image").write_bytes(bzimage("5.4.9") if HOST == "x86_64" else arm64_image("5.4.9"))
    return folder


def _write_makefile(tree: Path, *, keep: str = "grep IPV6= $(KCONFIG_ALLCONFIG) >> $(O)/.config", build: str = "true") -> None:
    (tree / "Makefile").write_text(_MAKEFILE % {"keep": keep, "build": build})


def _build(store: KernelStore, tree: Path) -> KernelEntry:
    return store.add("5.4", HOST, lambda into: build.stage(Recipe(tree, HOST), KERNEL, into, Quiet()))


def test_build(store: KernelStore, tree: Path) -> None:
    _write_makefile(tree)
    before = sorted(tree.rglob("*"))
    entry = _build(store, tree)
    assert entry.release == "5.4.9"
    assert entry.config is not None
    assert "CONFIG_BPF_SYSCALL=y" in entry.config.read_text()
    assert entry.source["kind"] == "build"
    assert entry.source["tree"] == str(tree)
    assert entry.manifest["notes"] == []
    assert sorted(tree.rglob("*")) == before
    assert leftovers(store.root) == []


def test_a_variant_is_built_as_one(store: KernelStore, tree: Path) -> None:
    _write_makefile(tree)
    varied = replace(KERNEL, name="5.4-nobtf", build=("nobtf",))
    entry = store.add("5.4-nobtf", HOST, lambda into: build.stage(Recipe(tree, HOST), varied, into, Quiet()))
    assert entry.config is not None
    assert "# CONFIG_DEBUG_INFO_BTF is not set" in entry.config.read_text()
    assert entry.source["variants"] == ["nobtf"]


def test_what_was_built_before_is_kept_where_asked(store: KernelStore, tree: Path, tmp_path: Path) -> None:
    """A folder of the build's own, in which make finds what it has made already."""
    _write_makefile(tree, build="echo x >> $(O)/builds")
    for number in (1, 2):
        recipe = Recipe(tree, HOST, out=tmp_path / "out")
        store.add(f"b{number}", HOST, lambda into, recipe=recipe: build.stage(recipe, KERNEL, into, Quiet()))  # type: ignore[misc]
    assert (tmp_path / "out/builds").read_text() == "x\nx\n"


def test_a_dropped_option_is_named(store: KernelStore, tree: Path) -> None:
    _write_makefile(tree, keep="echo '# CONFIG_IPV6 is not set' >> $(O)/.config")
    with pytest.raises(InputError, match=r"CONFIG_IPV6=y \(.*net.config:\d+\) came out as n"):
        _build(store, tree)
    assert store.refs() == []
    assert leftovers(store.root) == []


def test_an_option_the_tree_does_not_know_is_noted(store: KernelStore, tree: Path) -> None:
    _write_makefile(tree, keep="true")
    (tree / "Kconfig").write_text("config BPF\n")
    assert _build(store, tree).manifest["notes"] == ["this tree has no CONFIG_IPV6"]


def test_a_failing_build_keeps_its_log(store: KernelStore, tree: Path) -> None:
    _write_makefile(tree, build="echo 'a.c:1:2: error: no such thing'; exit 1")
    with pytest.raises(InfraError, match="no such thing") as caught:
        _build(store, tree)
    assert caught.value.where is not None
    assert "no such thing" in Path(caught.value.where).read_text()
    assert Path(caught.value.where).is_relative_to(paths.cache_dir("builds"))
    assert leftovers(store.root) == []


def test_a_full_disk_while_building(store: KernelStore, tree: Path) -> None:
    _write_makefile(tree, build="echo 'ld: final link failed: No space left on device'; exit 1")
    with pytest.raises(InfraError, match="disk is full"):
        _build(store, tree)


def test_an_image_without_the_btf_asked_for(store: KernelStore, tree: Path) -> None:
    _write_makefile(tree)
    (tree / "image").write_bytes(bzimage("5.4.9", btf=False) if HOST == "x86_64" else arm64_image("5.4.9", btf=False))
    with pytest.raises(InfraError, match="the image has no BTF"):
        _build(store, tree)


def test_a_tree_of_another_version(store: KernelStore, tree: Path) -> None:
    _write_makefile(tree)
    with pytest.raises(InputError, match=r"the kernel is 5\.4\.9"):
        store.add("5.15", HOST, lambda into: build.stage(Recipe(tree, HOST), kernel("5.15", (5, 15)), into, Quiet()))


def test_a_tree_that_was_built_in(store: KernelStore, tree: Path) -> None:
    _write_makefile(tree)
    (tree / ".config").write_text("")
    with pytest.raises(InputError, match="has been built in") as caught:
        _build(store, tree)
    assert "mrproper" in str(caught.value.fix)


_BUILDS = """
import sys
from pathlib import Path
from kmatrix.kernels import build
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.kernel import Kernel
from kmatrix.host.progress import Quiet
build._Make._require = lambda *_: None
recipe = build.Recipe(Path(sys.argv[2]), sys.argv[3])
store = KernelStore(Path(sys.argv[1]))
store.add("5.4", recipe.arch, lambda into: build.stage(recipe, Kernel("5.4", (5, 4)), into, Quiet()))
"""


def test_interrupted(store: KernelStore, tree: Path, tmp_path: Path) -> None:
    mark = tmp_path / "compiler"
    _write_makefile(tree, build=f"echo $$$$ > {mark}; exec sleep 600")
    process = subprocess.Popen([sys.executable, "-c", _BUILDS, str(store.root), str(tree), HOST], stderr=subprocess.DEVNULL)
    while not (mark.exists() and mark.read_text().strip()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    compiler = Path("/proc") / mark.read_text().strip() / "cmdline"
    assert not compiler.exists() or b"sleep" not in compiler.read_bytes()
    assert leftovers(store.root) == []
    assert store.refs() == []


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other: Arch = "arm64" if HOST == "x86_64" else "x86_64"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="pahole") as caught:
        build._Make(Recipe(tmp_path, other), (5, 4), tmp_path, tmp_path / "log")
    assert caught.value.fix is not None
    assert caught.value.fix.startswith("apt-get install ")
    assert ("gcc-aarch64-linux-gnu" if other == "arm64" else "gcc-x86-64-linux-gnu") in caught.value.fix
