"""ci/Containerfile, built by buildah, and used as a CI does: as an ordinary user without a single capability.

Slow (some minutes): Debian's base image is made by mmdebstrap, so that no registry is asked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.console import ROOT

pytestmark = pytest.mark.slow

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE = "localhost/debian:trixie-slim"

Buildah = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """buildah with a store of its own. It runs without a container engine and without user namespaces (isolation chroot)."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("buildah", "mmdebstrap"))):
        pytest.skip("building the image takes root, and: apt-get install buildah mmdebstrap")
    at = tmp_path_factory.mktemp("buildah")
    registries = at / "registries.conf"
    registries.write_text('unqualified-search-registries = ["localhost"]\n')
    options = ["--root", at / "store", "--runroot", at / "run", "--storage-driver", "vfs", "--registries-conf", registries]

    def run(verb: str, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["buildah", *options, verb, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False
        )
        assert not check or done.returncode == 0, f"buildah {verb}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done

    yield run
    run("rm", "--all", check=False)
    shutil.rmtree(at, ignore_errors=True)


@pytest.fixture(scope="module")
def container(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A container of the built image."""
    base = tmp_path_factory.mktemp("base") / "base.tar"
    made = subprocess.run(
        ["mmdebstrap", "--variant=minbase", "trixie", base], capture_output=True, text=True, timeout=900, check=False
    )
    if made.returncode:
        pytest.skip(f"Debian's base cannot be made here: {made.stderr[-300:]}")
    empty = buildah("from", "scratch").stdout.strip()
    buildah("add", empty, base, "/")
    buildah("commit", empty, BASE)
    base.unlink()
    # A host's own certificates, where it has some that Debian has not: pip in the image reads them.
    settings = tmp_path_factory.mktemp("pip") / "pip.conf"
    settings.write_text("[global]\ncert = /host.crt\n")
    mounts = [f"{CERTIFICATES}:/host.crt:ro", f"{settings}:/etc/pip.conf:ro"] if CERTIFICATES.exists() else []
    certificates = [word for mount in mounts for word in ("--volume", mount)]
    recipe = ["--file", "ci/Containerfile", "--tag", "localhost/kmatrix"]
    buildah("build", "--pull-never", "--isolation", "chroot", *certificates, *recipe, ".")
    return buildah("from", "--pull-never", "localhost/kmatrix").stdout.strip()


def in_it(buildah: Buildah, container: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    bare = ("--isolation", "chroot", "--user", "1000:1000", "--cap-drop", "ALL")
    return buildah("run", *bare, container, "--", *command, check=check)


def test_the_image_lacks_nothing_and_needs_no_right(buildah: Buildah, container: str) -> None:
    capabilities = in_it(buildah, container, "grep", "CapEff", "/proc/self/status").stdout.split()[1]
    assert int(capabilities, 16) == 0
    found = in_it(buildah, container, "kmatrix", "doctor", "--json", check=False).stdout
    findings = json.loads(found)
    lacks = [each for each in (findings if isinstance(findings, list) else findings["findings"]) if each["level"] == "lacks"]
    assert [each["what"] for each in lacks if each["what"] not in ("memory", "disk")] == []


def test_a_guest_image_is_built_in_it_and_objects_are_compiled(buildah: Buildah, container: str) -> None:
    """What asks most of a container: packages are unpacked and a file system is made, with no mount and no chroot."""
    in_it(buildah, container, "kmatrix", "images", "build", "--arch", "x86_64")
    listed = json.loads(in_it(buildah, container, "kmatrix", "images", "list", "--json").stdout)
    assert [image["arch"] for image in listed] == ["x86_64"]
    source = '#include <linux/bpf.h>\\n#include <bpf/bpf_helpers.h>\\nSEC("socket") int f(void *c) { return 0; }'
    compiled = f"printf '{source}' | clang -target bpf -g -O2 -I/usr/include/x86_64-linux-gnu -x c -c -o /tmp/x.o - && kmatrix needs /tmp/x.o"
    assert "x.o: all its programs need Linux" in in_it(buildah, container, "sh", "-c", compiled).stdout
