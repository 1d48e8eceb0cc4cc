"""A small recipe, and an mmdebstrap that makes a small tree of it, or fails in the ways the real one does."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmatrix.fetch import apt
from kmatrix.vm import image_build
from kmatrix.vm.guest_image import ImageStore
from kmatrix.vm.image_recipe import Recipe

RECIPE = """
schema = 1
suite = "trixie"
components = ["main"]
source_date_epoch = 1000000000
uuid = "6b6d6174-7269-7801-8000-000000000001"
packages = ["small"]
remove = ["usr/share/*"]
keep = ["usr/share/kept"]
directories = ["dev", "proc", "tmp"]
applets = ["vi"]
[symlinks]
"bin" = "usr/bin"
[modes]
"etc/shadow" = "0600"
"usr/sbin/kmatrix-init" = "0755"
"""

MMDEBSTRAP = r"""#!/bin/sh
[ "$1" = --version ] && { echo "mmdebstrap 0.0"; exit; }
echo "$*" >> "$FAKE/calls"
for word; do case "$word" in *.tar) tar=$word ;; esac; done
case $(cat "$FAKE/mood") in
  fail) echo "I: running apt-get update..." >&2; echo "E: Unable to locate package small" >&2; echo "E: mmdebstrap failed to run" >&2; exit 25 ;;
  full) echo "E: cannot copy to x: No space left on device" >&2; exit 25 ;;
  hang) echo $$ > "$FAKE/hanging"; sleep 300; exit 0 ;;
esac
root=$(mktemp -d)
mkdir -p "$root/usr/bin" "$root/usr/share" "$root/lib/deep" "$root/usr/sbin"
echo busybox > "$root/usr/bin/busybox"; chmod 4755 "$root/usr/bin/busybox"
echo gone > "$root/usr/share/gone"; echo kept > "$root/usr/share/kept"
echo library > "$root/lib/deep/libx.so.1"; ln -s libx.so.1 "$root/lib/deep/libx.so"
ln "$root/lib/deep/libx.so.1" "$root/lib/deep/libhard.so"
echo "0123  small_1%3a2.0-1_amd64.deb" > "$root/kmatrix-packages"
tar -C "$root" -cf "$tar" .
rm -r "$root"
"""


class Fake:
    """The stand-in: what it is to do, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mood = "work"

    @property
    def mood(self) -> str:
        return (self.folder / "mood").read_text()

    @mood.setter
    def mood(self, mood: str) -> None:
        (self.folder / "mood").write_text(mood)

    @property
    def calls(self) -> int:
        file = self.folder / "calls"
        return len(file.read_text().splitlines()) if file.exists() else 0

    @property
    def hanging(self) -> int | None:
        """The process id of the one that hangs, when it does."""
        file = self.folder / "hanging"
        text = file.read_text().strip() if file.exists() else ""
        return int(text) if text else None


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    folder = tmp_path / "fake"
    folder.mkdir()
    program = folder / "mmdebstrap"
    program.write_text(MMDEBSTRAP)
    program.chmod(0o755)
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    archive = apt.Archive("http://mirror.invalid/debian", "trixie")
    monkeypatch.setattr(apt, "open_suite", lambda suite, mirror=None: apt.Suite(archive, {"Date": "today"}, {}))  # noqa: ARG005
    monkeypatch.setattr(image_build, "host_arch", lambda: None)  # there is no Python in it to compile with
    return Fake(folder)


@pytest.fixture
def recipe_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    (folder / "rootfs/etc").mkdir(parents=True)
    (folder / "image.toml").write_text(RECIPE)
    (folder / "rootfs/etc/shadow").write_text("root:*:20000::::::\n")
    return folder


@pytest.fixture
def store(tmp_path: Path, recipe_folder: Path) -> ImageStore:
    root = tmp_path / "images"
    root.mkdir()
    return ImageStore(root, Recipe.load(recipe_folder))


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that an ordinary user (nobody, where the tests run as root) owns and can get into."""
    folder = Path(tempfile.mkdtemp(prefix="kmatrix-nobody-", dir="/var/tmp"))
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    yield folder
    shutil.rmtree(folder)
