"""The document, its examples compiled, and guests to try them in."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import need_programs
from kmatrix.matrix.arch import ARCHES, INFO, Arch
from tests.guest.conftest import Guest, boot, room
from tests.standard import document
from tests.standard.document import Example

__all__ = ["boot", "room"]

COLLECTORS = Path(__file__).parents[2] / "collectors"
LICENSE = '\nchar LICENSE[] SEC("license") = "Dual BSD/GPL";\n'


@pytest.fixture(scope="session")
def text() -> str:
    return document.DOCUMENT.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def examples(text: str) -> dict[str, Example]:
    return {example.name: example for example in document.examples(text)}


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each example's source and objects are, in a folder of its name."""
    work = tmp_path_factory.mktemp("standard")
    (work / "bpf_common").symlink_to(COLLECTORS / "bpf_common")
    return work


@pytest.fixture(scope="session")
def compiled(examples: dict[str, Example], workshop: Path) -> Callable[[str, Arch], Path | str]:
    """compiled("headers", "arm64"): the object, or what clang says where it does not compile (warnings are errors)."""
    need_programs("clang")
    done: dict[tuple[str, Arch], Path | str] = {}

    def compile_(name: str, arch: Arch) -> Path | str:
        if (name, arch) not in done:
            example = examples[name]
            folder = workshop / name
            folder.mkdir(exist_ok=True)
            source, output = folder / f"{name}.bpf.c", folder / f"{name}_{INFO[arch].bpf2go}_bpfel.o"
            source.write_text(_whole(example, examples), encoding="utf-8")
            flags = ["-target", "bpf", "-g", "-O2", "-Wall", "-Wextra", "-Werror", f"-D__TARGET_ARCH_{INFO[arch].bpf2go}"]
            defines = [word for word in example.options if word.startswith("-D")]
            command = ["clang", *flags, *defines, "-c", str(source), "-o", str(output)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            done[name, arch] = output if result.returncode == 0 else result.stderr
        return done[name, arch]

    return compile_


def _whole(example: Example, examples: dict[str, Example]) -> str:
    """The example with the document's own headers before it, where it brings none, and a license."""
    headers = (
        "" if "#include" in example.text else examples["fallback-headers" if "fallback" in example.options else "headers"].text
    )
    licensed = "unlicensed" in example.options or 'SEC("license")' in example.text
    return headers + example.text + ("" if licensed else LICENSE)


NAMES = (*document.KERNELS, *document.STAND_INS.values(), document.WITHOUT_BTF)


@pytest.fixture(params=[f"{kernel}-{arch}" for kernel in NAMES for arch in ARCHES])
def guest(request: pytest.FixtureRequest, boot: Callable[[str], Guest]) -> Guest:
    """A pristine guest of every target that the document speaks of."""
    return boot(request.param)
