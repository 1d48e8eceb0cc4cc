"""The `build` source: a kernel source tree on disk, built out of tree with a configuration that is checked.

The configuration is allnoconfig plus fragments (kmatrix/kernels/config/*.config, then the user's): small, everything a cell needs built
in, no initramfs and no modules. allnoconfig drops what does not fit (a missing dependency, a renamed symbol) without a word, and a
kernel without its BPF options is the classic broken one: so every option asked for is looked up in the resulting .config.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kmatrix.host import paths
from kmatrix.host import version as versions
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.progress import Reporter, Step
from kmatrix.host.version import Version
from kmatrix.kernels import build_log, layout
from kmatrix.kernels.entry import StagedKernel
from kmatrix.kernels.sources import imported
from kmatrix.matrix.arch import ARCHES, INFO, Arch, host_arch
from kmatrix.matrix.kernel import Kernel, SourceSpec

FRAGMENTS = Path(__file__).resolve().parent / "config"
"""The shipped fragments, one a purpose; all of them are used, in the order of their names. Those in variants/ only where asked for."""


@dataclass(frozen=True)
class Fix:
    """What an old tree needs to be built by new tools: words added to a variable of make's, and why."""

    variable: str
    words: str
    until: Version
    """The first release that needs it no more."""
    why: str
    pahole: Version = (0, 0)
    """The first pahole that needs it, and knows the words."""


_ALWAYS: Version = (999, 0)
FIXES = (
    Fix("HOSTCFLAGS", "-O2", _ALWAYS, "what giving HOSTCFLAGS replaces"),
    Fix(
        "HOSTCFLAGS",
        "-fcommon",
        (5, 7),
        "scripts/dtc defines yylloc in two objects, which gcc 10 and later refuse to link (e33a814e772c, scripts/dtc: Remove redundant YYLOC)",
    ),
    *(
        Fix(
            compiler,
            "-std=gnu11",
            (6, 15),
            "gcc 15 takes what is compiled without -std for C23, where false is a keyword and not include/linux/stddef.h's enumerator: x86's boot "
            "code (x86/boot: Use '-std=gnu11' to fix build with GCC 15), and 4.14's host tools, whose -std giving HOSTCFLAGS replaces",
        )
        for compiler in ("CC", "HOSTCC")
    ),
    Fix(
        "PAHOLE",
        "--skip_encoding_btf_enum64",
        (6, 0),
        "BTF_KIND_ENUM64 came with 6.0 (bpf: Add btf enum64 support): no older kernel parses BTF with it, and no loader of its time; the scripts of "
        "later stable releases say so to pahole by themselves, but not 5.4's",
        pahole=(1, 24),
    ),
    Fix("KCFLAGS", "-w", _ALWAYS, "a compiler newer than the tree warns of thousands of things that nobody will change in it"),
)


def make_variables(version: Version, pahole: Version) -> dict[str, str]:
    """What FIXES adds to make's variables in a tree of `version`, with that `pahole`."""
    chosen = [fix for fix in FIXES if version < fix.until and pahole >= fix.pahole]
    return {name: " ".join(fix.words for fix in chosen if fix.variable == name) for name in {fix.variable for fix in chosen}}


# The same tree and compiler give the same image; and ccache finds an object again wherever the tree and the output are: by paths relative
# to the output, which stands beside the tree or far from it, but in one way each time.
_REPRODUCIBLE = {
    "CCACHE_BASEDIR": "/",
    "CCACHE_NOHASHDIR": "1",
    "KBUILD_BUILD_TIMESTAMP": "Sun Sep  9 01:46:40 UTC 2001",
    "KBUILD_BUILD_USER": "kmatrix",
    "KBUILD_BUILD_HOST": "kmatrix",
    "KBUILD_BUILD_VERSION": "1",
    "LC_ALL": "C",
}


class BuildSource:
    """Builds a source tree, but only when asked: it takes minutes."""

    kind = "build"
    fetches = False
    slow = True

    def hint(self, spec: SourceSpec, kernel: Kernel, arch: Arch) -> str:
        """The command that gets this kernel."""
        if kernel.variant_of is not None and kernel.name == f"{kernel.variant_of.name}-{'-'.join(kernel.build)}":
            name = f"{kernel.variant_of.name} --variant {kernel.build[0]}"
        else:
            name = kernel.name
        return f"kmatrix kernels build {name} --arch {arch} --tree {spec.options.get('tree', 'DIR')}"

    def origin(self, source: Mapping[str, Any]) -> str:
        """What the store's kernel came from, in a few words; `source` is what `stage` said of it."""
        return f"built from {source['tree']}"

    def stage(self, spec: SourceSpec, kernel: Kernel, arch: Arch, into: Path, reporter: Reporter) -> StagedKernel:  # noqa: ARG002
        """Raises Unavailable: see `hint`."""
        raise Unavailable("not built yet", where=f"{kernel.name}-{arch}", fix=self.hint(spec, kernel, arch))


@dataclass(frozen=True)
class Recipe:
    """What to build: a source tree for an arch, with the user's fragments on top of the shipped ones."""

    tree: Path
    arch: Arch
    fragments: tuple[Path, ...] = ()
    jobs: int | None = None
    variants: tuple[str, ...] = ()
    """Names of matrix.BUILD_VARIANTS, in this order between the shipped fragments and the user's."""
    out: Path | None = None
    """Where the build's files are kept, so that the next build of the same tree compiles only what has changed; None: they go."""


def declared_tree(kernel: Kernel, arch: Arch) -> Path | None:
    """The tree that kernels.toml names for this kernel's build source, if it does (relative to that file)."""
    for spec in kernel.sources_for(arch):
        if spec.kind == "build" and "tree" in spec.options:
            return Path(kernel.declared_in).parent / Path(spec.options["tree"]).expanduser()
    return None


@dataclass(frozen=True)
class Option:
    """One line of a fragment: `value` is None for "is not set".

    `mark` is "optional" (may be dropped), "required" (must be there even if the tree does not know it) or empty.
    """

    name: str
    value: str | None
    where: str
    mark: str = ""


def parse_fragment(text: str, where: str) -> list[Option]:
    """The options of a configuration fragment: `CONFIG_X=y`, `# CONFIG_X is not set`.

    `# optional` or `# required` at the end of a line marks the option (see Option). Raises InputError for a line that is none of this,
    no comment and not empty.
    """
    options = []
    for number, line in enumerate(text.splitlines(), 1):
        place = f"{where}:{number}"
        if match := re.fullmatch(r"#\s*(CONFIG_\w+) is not set\s*", line):
            options.append(Option(match[1], None, place))
        elif match := re.fullmatch(r'(CONFIG_\w+)=("[^"]*"|\S+)(?:\s+#\s*(optional|required)\b.*)?\s*', line):
            options.append(Option(match[1], None if match[2] == "n" else match[2], place, match[3] or ""))
        elif line.strip() and not line.lstrip().startswith("#"):
            fix = "write CONFIG_X=y or # CONFIG_X is not set (and nothing after it but # optional or # required)"
            raise InputError(f"{line.strip()!r} is no configuration line", where=place, fix=fix)
    return options


@dataclass(frozen=True)
class Check:
    """Requested options against the resulting configuration."""

    dropped: tuple[Option, ...]
    """The tree has them, and they did not come out as asked for."""
    unknown: tuple[Option, ...]
    """The tree's Kconfig has no such symbol: an older or newer kernel's. No error by itself."""


def check(requested: Iterable[Option], config: str, symbols: frozenset[str]) -> Check:
    """Compare `requested` (the last line for a name counts) with the text of .config; `symbols` are those of the tree's Kconfig files."""
    result = parse_config(config)
    dropped: list[Option] = []
    unknown: list[Option] = []
    for option in {option.name: option for option in requested}.values():
        if result.get(option.name) == option.value or option.mark == "optional":
            continue
        known = option.name.removeprefix("CONFIG_") in symbols
        (dropped if known or option.mark == "required" else unknown).append(option)
    return Check(tuple(dropped), tuple(unknown))


def parse_config(text: str) -> dict[str, str]:
    """The options that are set in a .config."""
    return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE))


def kconfig_symbols(tree: Path, arch: Arch) -> frozenset[str]:
    """Every symbol that the tree's Kconfig files define for `arch` (another arch's are as good as unknown)."""
    found = set()
    for folder, folders, names in os.walk(tree):
        place = Path(folder).relative_to(tree).as_posix()
        if place == "arch":
            folders[:] = [INFO[arch].kbuild]
        elif place == ".":
            folders[:] = [name for name in folders if name not in (".git", "Documentation", "samples", "tools")]
        for name in names:
            if name.startswith("Kconfig"):
                with contextlib.suppress(OSError):
                    text = (Path(folder) / name).read_text(errors="replace")
                    found.update(re.findall(r"^\s*(?:menu)?config\s+(\w+)", text, re.MULTILINE))
    return frozenset(found)


def tree_version(tree: Path) -> str:
    """The version in a source tree's Makefile ("5.15.135"). Raises InputError when it is no kernel source tree."""
    try:
        makefile = (tree / "Makefile").read_text(errors="replace")
    except OSError:
        makefile = ""
    parts = [re.search(rf"^{key}\s*=\s*(\d+)", makefile, re.MULTILINE) for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    if not all(parts) or not (tree / "Kconfig").is_file():
        raise InputError(
            "is not a kernel source tree", where=str(tree), fix="give the folder with the kernel's Makefile and Kconfig"
        )
    return ".".join(part[1] for part in parts if part)


def stage(recipe: Recipe, kernel: Kernel, into: Path, reporter: Reporter) -> StagedKernel:
    """Configure, check, build, and lay the kernel out in `into`. The build's own files are beside it, and go with it.

    Raises InputError when the tree is none, is another version than `kernel`, or drops an option asked for; InfraError when a tool is
    missing or the build fails (its log is kept).
    """
    recipe = replace(recipe, variants=tuple(dict.fromkeys((*kernel.build, *recipe.variants))))
    version = tree_version(recipe.tree)
    layout.check_series(kernel, version)
    label = f"{kernel.name}-{recipe.arch}"
    if (recipe.tree / ".config").exists() or (recipe.tree / "include/config").exists():
        raise InputError(
            "has been built in, which forbids building elsewhere", where=str(recipe.tree), fix=f"make -C {recipe.tree} mrproper"
        )
    options = fragment_options(recipe)
    out = recipe.out or into.parent / "build"
    out.mkdir(parents=True, exist_ok=recipe.out is not None)
    log = paths.cache_dir("builds") / f"{label}.log"
    make = _Make(recipe, kernel.version, out, log)
    with reporter.step(f"{label}: configuring {version}"):
        unknown = _configure(recipe, make, options)
    config = parse_config((out / ".config").read_text())
    has_modules = "m" in config.values()
    with reporter.step(f"{label}: building {version} (log: {log})") as step:
        make.run([INFO[recipe.arch].image, *(["modules"] if has_modules else [])], step)
        if has_modules:
            make.run([f"INSTALL_MOD_PATH={out / 'installed'}", "INSTALL_MOD_STRIP=1", "modules_install"], step)
    image = out / "arch" / INFO[recipe.arch].kbuild / "boot" / INFO[recipe.arch].image
    built = imported.stage_image(
        image, recipe.arch, into, module_tree=out / "installed" if has_modules else None, config=out / ".config"
    )
    if config.get("CONFIG_DEBUG_INFO_BTF") == "y" and built.btf is False:
        # The makefiles of some versions only warn when pahole is missing or fails.
        raise InfraError(
            "CONFIG_DEBUG_INFO_BTF=y, and the image has no BTF: pahole failed", where=str(log), fix="apt-get install pahole"
        )
    source = {
        "kind": "build",
        "tree": str(recipe.tree.resolve()),
        "version": version,
        "compiler": make.compiler_version(),
        "fragments": [str(path) for path in recipe.fragments],
        "variants": list(recipe.variants),
        "unknown": [option.name for option in unknown],
    }
    notes = [f"this tree has no {', '.join(option.name for option in unknown)}"] if unknown else []
    return replace(built, source=source, notes=(*built.notes, *notes))


def fragment_options(recipe: Recipe) -> list[Option]:
    """The options asked for: the shipped fragments' (but for the other arch's), then the variants', then the user's."""
    shipped = [path for path in sorted(FRAGMENTS.glob("*.config")) if path.stem not in ARCHES or path.stem == recipe.arch]
    shipped += [FRAGMENTS / "variants" / f"{name}.config" for name in recipe.variants]
    options = []
    for path in (*shipped, *recipe.fragments):
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read: {error}", where=str(path), fix="check the path") from None
        options += parse_fragment(text, str(path))
    return options


def _configure(recipe: Recipe, make: _Make, options: Sequence[Option]) -> tuple[Option, ...]:
    """Write .config, and check it; returns the options that the tree does not know."""
    wanted = {option.name: option.value for option in options}
    lines = [f"# {name} is not set" if value is None else f"{name}={value}" for name, value in wanted.items()]
    fragment = make.out / "kmatrix.matrix.load"
    fragment.write_text("\n".join(lines) + "\n")
    make.run([f"KCONFIG_ALLCONFIG={fragment}", "allnoconfig"])
    make.run(["olddefconfig"])
    found = check(options, (make.out / ".config").read_text(), kconfig_symbols(recipe.tree, recipe.arch))
    if found.dropped:
        config = parse_config((make.out / ".config").read_text())
        listed = "; ".join(
            f"{option.name}={option.value or 'n'} ({option.where}) came out as {config.get(option.name, 'n')}"
            for option in found.dropped
        )
        raise InputError(
            f"the tree's configuration drops what was asked for: {listed}",
            where=str(recipe.tree),
            fix="ask for what these depend on as well (make menuconfig's search says what), or mark the line # optional",
        )
    return found.unknown


def _pahole() -> Version:
    """Of the pahole that is installed; (0, 0) where none is."""
    binary = shutil.which("pahole")
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout if binary else ""
    return versions.series(said) or (0, 0)


class _Make:
    """The kernel's make, with one arch's compiler, an output folder and a log."""

    def __init__(self, recipe: Recipe, version: Version, out: Path, log: Path) -> None:
        self.out = out
        self._log = log
        log.write_text("")
        info = INFO[recipe.arch]
        prefix = "" if recipe.arch == host_arch() else info.cross_prefix
        self._gcc = f"{prefix}gcc"
        self._require(prefix, recipe.arch)
        ccache = "ccache " if shutil.which("ccache") else ""
        self._command = ["make", "-C", str(recipe.tree), f"O={out}", f"-j{recipe.jobs or os.cpu_count() or 1}"]
        self._command += [f"ARCH={info.kbuild}", f"CROSS_COMPILE={prefix}"]
        added, programs = (
            make_variables(version, _pahole()),
            {"CC": f"{ccache}{self._gcc}", "HOSTCC": f"{ccache}gcc", "PAHOLE": "pahole"},
        )
        variables = {name: f"{programs.get(name, '')} {added.get(name, '')}".strip() for name in {*added, *programs}}
        # An empty LOCALVERSION keeps a git tree's "+" out of the release.
        self._command += [*(f"{name}={value}" for name, value in sorted(variables.items())), "LOCALVERSION="]

    def compiler_version(self) -> str:
        """What the compiler says of itself."""
        return subprocess.run([self._gcc, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]

    def run(self, arguments: Sequence[str], step: Step | None = None) -> None:
        """Run make; each line of its output is one unit of progress. On any exception the whole process group is ended."""
        process = subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | _REPRODUCIBLE,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            with self._log.open("a") as log:
                for count, line in enumerate(process.stdout, 1):
                    log.write(line)
                    if step is not None:
                        step.advance(count)
            status = process.wait()
        except BaseException:
            _end_group(process)
            raise
        if status != 0:
            self._raise(arguments, status)

    def _raise(self, arguments: Sequence[str], status: int) -> None:
        lines = self._log.read_text(errors="replace").splitlines()
        if any(os.strerror(errno.ENOSPC) in line for line in lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.out))
        if (by := build_log.killed(lines, status)) is not None:
            raise InfraError(
                f"make {arguments[-1]} did not end by itself: {by}",
                where=str(self._log),
                fix="build again with fewer compilers at once (--jobs), where memory was short; what was built is not built again",
            )
        raise InfraError(
            f"make {arguments[-1]} failed: {build_log.telling(lines) or 'it says nothing'}",
            where=str(self._log),
            fix=f"less {self._log}",
        )

    def _require(self, prefix: str, arch: Arch) -> None:
        """Raises InfraError naming the packages of every tool that is missing."""
        tools = {tool: tool for tool in ("make", "gcc", "flex", "bison", "bc", "pahole", "perl")}
        if prefix:
            tools[self._gcc] = "gcc-" + prefix.rstrip("-").replace("_", "-")
        missing = {tool: deb for tool, deb in tools.items() if shutil.which(tool) is None}
        if "gcc" not in missing:
            # resolve_btfids (5.10 and later) and objtool are linked with libelf.
            probe = subprocess.run(["gcc", "-E", "-include", "libelf.h", "-x", "c", "/dev/null"], capture_output=True, check=False)
            if probe.returncode != 0:
                missing["libelf.h"] = "libelf-dev"
        if missing:
            raise InfraError(
                f"building a kernel for {arch} needs {', '.join(missing)}, not installed",
                fix=f"apt-get install {' '.join(sorted(set(missing.values())))}",
            )


def _end_group(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    if process.stdout is not None:
        process.stdout.close()
