"""The store: whole entries or none, whoever asks at once and whatever ends them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kmatrix.host.errors import InfraError, InputError, StoreError
from kmatrix.host.progress import Quiet
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.store import KernelStore

from .fabricate import leftovers, staged

FILES = {
    "lib/modules/6.1.9/modules.dep": b"",
    "lib/modules/6.1.9/kernel/a.ko": b"a" * 100,
    "boot/config-6.1.9": b"CONFIG_A=y\n",
    "modules.ext4": b"ext4",
}


def add(store: KernelStore, name: str = "6.1", text: str = "image", **options: bool) -> KernelEntry:
    return store.add(name, "x86_64", lambda folder: staged(folder, text=text, files=FILES), **options)


def test_add_and_find(store: KernelStore) -> None:
    assert store.find("6.1", "x86_64") is None
    entry = add(store)
    assert store.find("6.1", "x86_64") == entry
    assert store.find("6.1", "arm64") is None
    assert entry.path.name == entry.digest
    assert entry.image.read_text() == "image"
    assert entry.modules == entry.path / "lib/modules/6.1.9"
    assert entry.modules_image == entry.path / "modules.ext4"
    assert entry.config == entry.path / "boot/config-6.1.9"
    assert entry.size == len("image") + sum(map(len, FILES.values()))
    assert store.entries() == [("6.1", "x86_64", entry)]
    assert store.verify("6.1", "x86_64") == []
    assert leftovers(store.root) == []


def test_no_modules_no_config(store: KernelStore) -> None:
    entry = store.add("4.14", "arm64", staged)
    assert (entry.modules, entry.modules_image, entry.config) == (None, None, None)


def test_staged_once(store: KernelStore) -> None:
    first = add(store)
    again = store.add("6.1", "x86_64", lambda _folder: pytest.fail("staged again"))
    assert again == first


def test_the_digest_is_of_the_content_alone(store: KernelStore, tmp_path: Path) -> None:
    here, there = add(store), add(KernelStore(tmp_path / "other"))
    assert here.digest == there.digest
    assert add(store, "other", "another image").digest != here.digest


def test_two_names_one_entry(store: KernelStore) -> None:
    first, second = add(store, "6.1"), add(store, "mine")
    assert first.path == second.path
    assert store.remove("6.1", "x86_64")
    assert store.find("mine", "x86_64") == second
    assert store.remove("mine", "x86_64")
    assert not second.path.exists()
    assert store.refs() == []
    assert not store.remove("mine", "x86_64")


def test_replace(store: KernelStore) -> None:
    old = add(store)
    new = add(store, text="newer", replace=True)
    assert new.digest != old.digest
    assert not old.path.exists()
    assert store.find("6.1", "x86_64") == new


def test_refs_in_order(store: KernelStore) -> None:
    for name in ("5.15", "5.4", "mine", "6.1"):
        add(store, name)
    assert [name for name, _ in store.refs()] == ["5.4", "5.15", "6.1", "mine"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_bad_names(store: KernelStore, name: str) -> None:
    with pytest.raises(InputError):
        add(store, name)


def _thaw(path: Path) -> Path:
    path.chmod(0o644)
    return path


def damage_size(entry: KernelEntry) -> None:
    _thaw(entry.image).write_text("longer than it was")


def damage_content(entry: KernelEntry) -> None:
    _thaw(entry.image).write_text("imagE")


def damage_missing(entry: KernelEntry) -> None:
    assert entry.config is not None
    entry.config.unlink()


def damage_no_manifest(entry: KernelEntry) -> None:
    (entry.path / "manifest.json").unlink()


def damage_bad_json(entry: KernelEntry) -> None:
    _thaw(entry.path / "manifest.json").write_text('{"schema": 1')


def damage_other_digest(entry: KernelEntry) -> None:
    manifest = _thaw(entry.path / "manifest.json")
    data = json.loads(manifest.read_text())
    data["files"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "damage",
    [damage_size, damage_content, damage_missing, damage_no_manifest, damage_bad_json, damage_other_digest],
    ids=lambda f: f.__name__,
)
def test_damage_is_refused_and_removable(store: KernelStore, damage) -> None:  # type: ignore[no-untyped-def]
    entry = add(store)
    damage(entry)
    with pytest.raises(InfraError, match="damaged") as caught:
        store.find("6.1", "x86_64")
    assert caught.value.fix is not None
    assert "kmatrix kernels remove 6.1 --arch x86_64" in caught.value.fix
    assert store.verify("6.1", "x86_64") != []
    assert store.remove("6.1", "x86_64")
    assert not entry.path.exists()
    assert add(store) == entry


def test_damage_is_mended_by_adding_the_same(store: KernelStore) -> None:
    entry = add(store)
    damage_size(entry)
    assert add(store, "other").digest == entry.digest
    assert store.find("6.1", "x86_64") == entry


def test_verify_reads_what_find_does_not(store: KernelStore) -> None:
    entry = add(store)
    before = entry.image.stat()
    damage_content(entry)
    os.utime(entry.image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.find("6.1", "x86_64") is not None
    assert store.verify("6.1", "x86_64") == ["boot/vmlinuz-6.1.9: its content has changed"]


def test_a_copy_without_its_times_is_sound(store: KernelStore) -> None:
    entry = add(store)
    os.utime(_thaw(entry.image))
    assert store.find("6.1", "x86_64") == entry


def test_a_file_too_many(store: KernelStore) -> None:
    entry = add(store)
    (entry.path / "extra").write_text("x")
    assert store.verify("6.1", "x86_64") == ["extra: is not in the manifest"]


@pytest.mark.parametrize("text", ["", "{}", '{"digest": "../../etc", "source": {}}', '{"digest": 3, "source": {}}', "[]"])
def test_a_damaged_ref(store: KernelStore, text: str) -> None:
    add(store)
    (store.root / "refs/6.1-x86_64.json").write_text(text)
    with pytest.raises(InfraError, match="damaged"):
        store.find("6.1", "x86_64")
    assert store.remove("6.1", "x86_64")
    assert store.find("6.1", "x86_64") is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(store: KernelStore, number: int) -> None:
    def stage(folder: Path):  # type: ignore[no-untyped-def]
        (folder / "half").write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(InfraError, match="disk is full") as caught:
        store.add("6.1", "x86_64", stage)
    assert "KMATRIX_CACHE" in str(caught.value.fix)
    assert leftovers(store.root) == []
    assert store.refs() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError("no"), SystemExit])
def test_nothing_is_left_of_a_failure(store: KernelStore, error) -> None:  # type: ignore[no-untyped-def]
    def stage(folder: Path):  # type: ignore[no-untyped-def]
        staged(folder)
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        store.add("6.1", "x86_64", stage)
    assert leftovers(store.root) == []
    assert store.refs() == []
    assert add(store).release == "6.1.9"


_STAGES_FOREVER = """
import sys, time
from pathlib import Path
from kmatrix.kernels.store import KernelStore
from kmatrix.host.progress import Quiet
def stage(folder):
    (folder / "half").write_text("half")
    print("staging", flush=True)
    time.sleep(600)
KernelStore(Path(sys.argv[1])).add(sys.argv[2], "x86_64", stage)
"""


def _stager(store: KernelStore, name: str, script: str = _STAGES_FOREVER) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(store.root), name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "staging\n"
    return process


def test_what_a_killed_process_left_is_cleaned(store: KernelStore) -> None:
    killed, alive = _stager(store, "6.1"), _stager(store, "5.4")
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(leftovers(store.root)) == 2
        add(store, "6.1")  # its lock died with it
        assert [name.split(".x")[0] for name in leftovers(store.root)] == ["5.4-x86_64"] or len(leftovers(store.root)) == 1
        assert leftovers(store.root)[0].startswith("5.4-")
    finally:
        alive.send_signal(signal.SIGINT)
        alive.wait()
    assert leftovers(store.root) == []


_STAGES_WHEN_TOLD = """
import sys
from pathlib import Path
from kmatrix.kernels.entry import StagedKernel
from kmatrix.kernels.store import KernelStore
from kmatrix.host.progress import Quiet
def stage(folder):
    print("staging", flush=True)
    sys.stdin.readline()
    (folder / "boot").mkdir()
    (folder / "boot/vmlinuz-6.1.9").write_text("other")
    return StagedKernel("6.1.9", {}, True, "")
KernelStore(Path(sys.argv[1])).add(sys.argv[2], "x86_64", stage)
"""


def test_the_one_waiting_gets_what_the_other_made(store: KernelStore) -> None:
    other = _stager(store, "6.1", _STAGES_WHEN_TOLD)
    waited = []

    class Tells(Quiet):
        @contextmanager
        def step(self, label: str) -> Iterator[Any]:
            if "waiting for another" in label:
                waited.append(label)
                other.communicate("\n")
            with super().step(label) as step:
                yield step

    entry = store.add("6.1", "x86_64", lambda _folder: pytest.fail("staged beside the other"), reporter=Tells())
    assert entry.image.read_text() == "other"
    assert waited == ["6.1-x86_64: waiting for another kmatrix process"]


def test_a_store_that_may_not_be_read_is_one_error(store: KernelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store)
    ref = store.root / "refs" / "6.1-x86_64.json"
    assert ref.stat().st_mode & 0o777 == 0o644  # so that another user may
    read = Path.read_text

    def refuse(path: Path, *arguments: Any, **options: Any) -> str:
        if path == ref:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(StoreError, match="the kernel store cannot be read: Permission denied") as error:
        store.find("6.1", "x86_64")
    assert "KMATRIX_CACHE" in str(error.value.fix)
