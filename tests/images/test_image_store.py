from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kmatrix.fetch import apt
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.progress import Quiet
from kmatrix.vm import guest_image, image_build, image_recipe
from kmatrix.vm.guest_image import GuestImage, ImageStore
from kmatrix.vm.image_recipe import Recipe
from tests.images import inspect
from tests.images.conftest import Fake

pytestmark = pytest.mark.usefixtures("fake")


def obtain(store: ImageStore, *, force: bool = False) -> GuestImage:
    return store.obtain("arm64", reporter=Quiet(), force=force)


def left_in(store: ImageStore) -> list[str]:
    return sorted(path.name for path in store.root.iterdir() if not path.name.endswith(".lock") and path.name != "tmp") + sorted(
        f"tmp/{path.name}" for path in store.root.glob("tmp/*")
    )


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


def test_what_is_built_is_what_the_recipe_says(store: ImageStore) -> None:
    image = obtain(store)
    assert image.busybox.read_text() == "busybox\n"
    assert inspect.names(image.path, "/usr/share")[2:] == ["kept"]
    assert inspect.cat(image.path, "/usr/lib/deep/libx.so.1") == b"library\n"
    assert "Links: 2" in inspect.stat(image.path, "/usr/lib/deep/libhard.so")
    assert 'dest: "libx.so.1"' in inspect.stat(image.path, "/usr/lib/deep/libx.so")
    assert 'dest: "busybox"' in inspect.stat(image.path, "/usr/bin/vi")
    assert 'dest: "usr/bin"' in inspect.stat(image.path, "/bin")
    assert "Mode:  0600" in inspect.stat(image.path, "/etc/shadow")
    assert "Mode:  0755" in inspect.stat(image.path, "/usr/bin/busybox")  # the set-user-ID bit is gone
    assert "Mode:  0755" in inspect.stat(image.path, "/usr/sbin/kmatrix-init")
    assert inspect.cat(image.path, "/usr/sbin/kmatrix-init") == image_recipe._INIT.read_bytes()
    assert "character special" in inspect.stat(image.path, "/dev/console")
    assert image.manifest["packages"] == [{"name": "small", "version": "1:2.0-1", "sha256": "0123"}]
    image.verify()


def test_mmdebstrap_is_asked_for_the_arch_and_runs_nothing_in_it(store: ImageStore, fake: Fake) -> None:
    obtain(store)
    asked = (fake.folder / "calls").read_text()
    assert "--architectures=arm64" in asked
    assert "--variant=extract" in asked
    assert "--mode=chrootless" in asked
    assert "http://mirror.invalid/debian trixie main" in asked


def test_a_second_run_finds_it_without_building(store: ImageStore, fake: Fake) -> None:
    first = obtain(store)
    fake.mood = "fail"
    assert obtain(store) == first
    assert store.find("arm64") == first
    assert store.find("x86_64") is None
    assert fake.calls == 1


def test_only_one_of_many_builds(recipe_folder: Path, fake: Fake, store: ImageStore) -> None:
    def another() -> str:
        return ImageStore(store.root, Recipe.load(recipe_folder)).obtain("arm64", reporter=Quiet()).digest

    with ThreadPoolExecutor(4) as pool:
        digests = {future.result() for future in [pool.submit(another) for _ in range(4)]}
    assert len(digests) == 1
    assert fake.calls == 1


def test_force_builds_again_and_a_failure_leaves_the_old_one(store: ImageStore, fake: Fake) -> None:
    first = obtain(store)
    assert obtain(store, force=True).digest == first.digest
    assert fake.calls == 2
    fake.mood = "fail"
    with pytest.raises(InfraError):
        obtain(store, force=True)
    found = store.find("arm64")
    assert found is not None
    found.verify()
    assert left_in(store) == [found.folder.name]


def test_a_failure_is_told_in_its_own_words_and_leaves_nothing(store: ImageStore, fake: Fake) -> None:
    fake.mood = "fail"
    with pytest.raises(InfraError, match="Unable to locate package small") as caught:
        obtain(store)
    assert "failed to run" not in str(caught.value)
    assert caught.value.fix
    assert caught.value.where == "http://mirror.invalid/debian"
    assert left_in(store) == []
    fake.mood = "work"
    obtain(store).verify()


def test_a_full_disk_is_told_and_leaves_nothing(store: ImageStore, fake: Fake) -> None:
    fake.mood = "full"
    with pytest.raises(InfraError, match="not enough disk space") as caught:
        obtain(store)
    assert "KMATRIX_CACHE" in (caught.value.fix or "")
    assert left_in(store) == []


def test_a_mirror_out_of_reach_is_no_unavailable_kernel(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(suite: str, mirror: str | None = None) -> apt.Suite:
        raise Unavailable(f"no connection for {suite} to {mirror}", where="there", fix="mend it")

    monkeypatch.setattr(apt, "open_suite", refuse)
    with pytest.raises(InfraError, match="no connection for trixie to http://my") as caught:
        store.obtain("arm64", reporter=Quiet(), mirrors={"debian": "http://my"})
    assert not isinstance(caught.value, Unavailable)
    assert (caught.value.where, caught.value.fix) == ("there", "mend it")
    assert left_in(store) == []


def test_missing_programs_are_named_with_their_packages(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("kmatrix.host.ext4._SEARCH", "/nonexistent")
    with pytest.raises(InfraError, match="mmdebstrap and e2fsprogs not installed") as caught:
        obtain(store)
    assert (caught.value.fix or "").endswith("apt-get install --no-install-recommends mmdebstrap e2fsprogs")
    assert left_in(store) == []


def test_an_applet_that_a_package_brings_is_an_input_error(recipe_folder: Path, store: ImageStore) -> None:
    file = recipe_folder / "image.toml"
    file.write_text(file.read_text().replace('["vi"]', '["vi", "busybox"]'))
    with pytest.raises(InputError, match="packages bring busybox"):
        obtain(ImageStore(store.root, Recipe.load(recipe_folder)))
    assert left_in(store) == []


def test_an_interrupt_ends_mmdebstrap_and_leaves_nothing(store: ImageStore, fake: Fake) -> None:
    fake.mood = "hang"
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_for(lambda: fake.hanging)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        obtain(store)
    assert fake.hanging is not None
    wait_for(lambda: not alive(fake.hanging or 0))
    assert left_in(store) == []


def test_cancel_ends_builds_in_other_threads(
    recipe_folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake.mood = "hang"
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path))
    monkeypatch.setattr(image_recipe, "_RECIPE", recipe_folder)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_for(lambda: fake.hanging)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        guest_image.obtain_all(["x86_64", "arm64"], reporter=Quiet())
    wait_for(lambda: not alive(fake.hanging or 0))
    assert [path for path in (tmp_path / "images").rglob("*") if path.name not in (".x86_64.lock", ".arm64.lock", "tmp")] == []
    fake.mood = "work"
    assert [image.arch for image in guest_image.obtain_all(["x86_64", "arm64"], reporter=Quiet())] == ["x86_64", "arm64"]


def test_an_interrupt_between_two_builds_ends_the_first(
    recipe_folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It comes when the second is about to begin, and not when both are waited for."""

    class Interrupted(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **more: Any) -> Any:
            if fake.hanging:
                raise KeyboardInterrupt
            future = super().submit(*arguments, **more)
            wait_for(lambda: fake.hanging)
            return future

    fake.mood = "hang"
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path))
    monkeypatch.setattr(image_recipe, "_RECIPE", recipe_folder)
    monkeypatch.setattr(guest_image, "ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        guest_image.obtain_all(["x86_64", "arm64"], reporter=Quiet())
    assert not alive(fake.hanging or 0)
    image_build.STOP.clear()  # which obtain_all does, before it builds again


BUILDER = """
import sys
from pathlib import Path
from typing import Any
from kmatrix.fetch import apt
from kmatrix.vm import guest_image, image_build, image_recipe
from kmatrix.host.progress import Quiet
apt.open_suite = lambda suite, mirror=None: apt.Suite(apt.Archive("http://mirror.invalid/debian", suite), {}, {})
guest_image.ImageStore(Path(sys.argv[1]), guest_image.Recipe.load(Path(sys.argv[2]))).obtain("arm64", reporter=Quiet())
"""


def test_a_killed_build_leaves_no_process_and_does_not_hinder_the_next(store: ImageStore, fake: Fake, recipe_folder: Path) -> None:
    fake.mood = "hang"
    builder = subprocess.Popen([sys.executable, "-c", BUILDER, str(store.root), str(recipe_folder)])
    try:
        wait_for(lambda: fake.hanging)
    finally:
        builder.kill()
        builder.wait()
    assert fake.hanging is not None
    wait_for(lambda: not alive(fake.hanging or 0))
    assert store.entries() == []
    assert store.find("arm64") is None
    fake.mood = "work"
    image = obtain(store)
    assert left_in(store) == [image.folder.name]


def test_a_damaged_image_is_noticed(store: ImageStore) -> None:
    image = obtain(store)
    image.path.chmod(0o644)
    with image.path.open("r+b") as file:
        file.seek(5000)
        file.write(b"!")
    with pytest.raises(InfraError, match="digest differs") as caught:
        image.verify()
    assert "images build --force --arch arm64" in (caught.value.fix or "")


@pytest.mark.parametrize("damage", ["truncated", "busybox gone", "manifest cut", "manifest of another time"])
def test_a_part_of_an_image_is_no_image(store: ImageStore, damage: str) -> None:
    image = obtain(store)
    manifest = image.folder / "manifest.json"
    if damage == "truncated":
        os.truncate(image.path, 4096)
    elif damage == "busybox gone":
        image.busybox.unlink()
    elif damage == "manifest cut":
        manifest.write_text(manifest.read_text()[:100])
    else:
        manifest.write_text(manifest.read_text().replace('"schema": 1', '"schema": 0'))
    assert store.find("arm64") is None
    assert store.entries() == []
    obtain(store).verify()


def test_images_of_an_old_recipe_stay_until_they_are_removed(store: ImageStore, recipe_folder: Path) -> None:
    old = obtain(store)
    (recipe_folder / "rootfs/etc/hostname").write_text("new\n")
    changed = ImageStore(store.root, Recipe.load(recipe_folder))
    new = obtain(changed)
    assert {image.digest for image in changed.entries()} == {old.digest, new.digest}
    assert [changed.in_use(image) for image in (old, new)] == [False, True]
    changed.remove(old)
    assert changed.entries() == [new]
