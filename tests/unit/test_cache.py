"""The cache's one protocol: made whole by one of many, gone with the dead, kept from who would remove what is in use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kmatrix.host import cache
from kmatrix.host.progress import Quiet, Step, Stoppable, Stopped

HEAD = """
import os, sys, time
from pathlib import Path
from kmatrix.host import cache
root = Path(sys.argv[1])
"""

STAGES = """
with cache.staging(root, "thing") as folder:
    (folder / "half").write_text("made")
    print(folder, flush=True)
    time.sleep(1000)
"""

LOCKS = """
with cache.locked(root / "locks" / "thing.lock", "thing"):
    print("locked", flush=True)
    sys.stdin.readline()
"""

HOLDS = """
cache.hold(root)
print("held", flush=True)
sys.stdin.readline()
"""

# Each of many makes the same thing unless it is there; every making leaves a line.
MAKES = """
with cache.locked(root / "thing.lock", "thing"):
    if not (root / "thing").exists():
        with cache.staging(root) as folder:
            for part in ("a", "b"):
                (folder / part).write_text(part)
                time.sleep(0.1)
            with (root / "makings").open("a") as log:
                log.write(f"{os.getpid()}\\n")
            cache.publish(root, folder, root / "thing")
print(sorted(path.name for path in (root / "thing").iterdir()), flush=True)
"""


@contextmanager
def other(script: str, root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that runs `script` on `root`, and the first line that it says."""
    command = [sys.executable, "-c", HEAD + script, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


class Heard(Quiet):
    """A reporter that calls back at the first step."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.labels: list[str] = []
        self._then = then

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        self.labels.append(label)
        self._then()
        with super().step(label) as step:
            yield step


# --- staging


def test_it_is_gone_afterwards(tmp_path: Path) -> None:
    with cache.staging(tmp_path, "x86") as folder:
        (folder / "x").write_text("x")
        assert folder.name.startswith("x86.")
        assert folder.stat().st_dev == tmp_path.stat().st_dev
    assert not list((tmp_path / "tmp").iterdir())


def test_it_is_gone_after_an_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with cache.staging(tmp_path) as folder:
            (folder / "x").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list((tmp_path / "tmp").iterdir())


def test_folders_that_nobody_may_enter_go_too(tmp_path: Path) -> None:
    with cache.staging(tmp_path) as folder:
        (folder / "deep/er").mkdir(parents=True)
        (folder / "deep/er/x").write_text("x")
        (folder / "deep").chmod(0)
    assert not list((tmp_path / "tmp").iterdir())


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    with cache.staging(tmp_path) as one, cache.staging(tmp_path) as two:
        assert one != two
        assert one.exists()


def test_the_dead_are_swept_and_the_living_are_not(tmp_path: Path) -> None:
    with other(STAGES, tmp_path) as (process, said):
        left = Path(said)
        with cache.staging(tmp_path):
            assert (left / "half").exists(), "its owner lives"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert left.exists()
    with cache.staging(tmp_path):
        assert not left.exists()


def test_a_plain_file_there_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "file").write_text("x")
    with cache.staging(tmp_path) as folder:
        assert not list(folder.iterdir())


def test_many_that_come_and_go_never_sweep_each_other(tmp_path: Path) -> None:
    lost: list[Path] = []

    def work() -> None:
        for _ in range(50):
            with cache.staging(tmp_path) as folder:
                if not folder.is_dir():
                    lost.append(folder)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not lost
    assert not list((tmp_path / "tmp").iterdir())


# --- publishing


def test_what_was_published_stays(tmp_path: Path) -> None:
    with cache.staging(tmp_path) as folder:
        (folder / "x").write_text("x")
        cache.publish(tmp_path, folder, tmp_path / "kind" / "made")
    assert (tmp_path / "kind" / "made" / "x").read_text() == "x"
    assert not list((tmp_path / "tmp").iterdir())


def test_one_of_many_processes_makes_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HEAD + MAKES, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert {process.communicate()[0].strip() for process in processes} == {"['a', 'b']"}
    assert len((tmp_path / "makings").read_text().split()) == 1


def test_what_had_the_name_stays_for_who_uses_it(tmp_path: Path) -> None:
    def publish(text: str) -> None:
        with cache.staging(tmp_path) as folder:
            (folder / "x").write_text(text)
            cache.publish(tmp_path, folder, tmp_path / "made")

    publish("old")
    user = cache.share(tmp_path / "made")
    publish("new")
    assert (tmp_path / "made/x").read_text() == "new"
    (retired,) = (tmp_path / "tmp").iterdir()
    assert (retired / "x").read_text() == "old"
    os.close(user)
    cache.sweep(tmp_path)
    assert not retired.exists()


# --- locks


def test_waiting_is_shown_and_ends_with_the_others_work(tmp_path: Path) -> None:
    with other(LOCKS, tmp_path) as (process, _):
        heard = Heard(lambda: process.communicate("\n"))
        with cache.locked(tmp_path / "locks/thing.lock", "thing", heard):
            pass
    assert heard.labels == ["thing: waiting for another kmatrix process"]


def test_a_lock_that_is_free_is_not_waited_for(tmp_path: Path) -> None:
    heard = Heard(lambda: None)
    with cache.locked(tmp_path / "thing.lock", "thing", heard):
        pass
    assert not heard.labels


def test_a_lock_dies_with_its_owner(tmp_path: Path) -> None:
    with other(LOCKS, tmp_path) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
    with cache.locked(tmp_path / "locks/thing.lock", "thing", limit=0):
        pass


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_a_limit(limit: float, tmp_path: Path) -> None:
    heard = Heard(lambda: None)
    with other(LOCKS, tmp_path):
        start = time.monotonic()
        with pytest.raises(cache.Busy), cache.locked(tmp_path / "locks/thing.lock", "thing", heard, limit=limit):
            pytest.fail("it is the other's")
        assert limit <= time.monotonic() - start < limit + 5
    assert bool(heard.labels) == (limit > 0)


def test_ctrl_c_ends_the_waiting(tmp_path: Path) -> None:
    main = threading.main_thread().ident
    assert main is not None
    with other(LOCKS, tmp_path) as (process, _):
        heard = Heard(lambda: threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start())
        with pytest.raises(KeyboardInterrupt), cache.locked(tmp_path / "locks/thing.lock", "thing", heard):
            pytest.fail("it is the other's")
        assert process.poll() is None


def test_a_thread_that_waits_ends_when_it_is_no_longer_wanted(tmp_path: Path) -> None:
    ended: list[BaseException] = []
    stop = threading.Event()

    def wait() -> None:
        try:
            with cache.locked(tmp_path / "locks/thing.lock", "thing", Stoppable(Quiet(), stop)):
                pass
        except BaseException as error:
            ended.append(error)

    with other(LOCKS, tmp_path):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
        stop.set()
        thread.join(10)
    assert [type(error) for error in ended] == [Stopped]


# --- in use


def test_what_another_process_holds_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / "kernel"
    folder.mkdir()
    os.utime(folder, (0, 0))
    with other(HOLDS, folder) as (process, _):
        assert cache.idle_days(folder) < 1
        assert not cache.remove_unused(folder)
        process.kill()
        process.wait()
        assert cache.remove_unused(folder)
    assert not folder.exists()


def test_what_is_gone_cannot_be_held(tmp_path: Path) -> None:
    assert not cache.hold(tmp_path / "gone")


def test_a_folder_made_anew_is_held_anew(tmp_path: Path) -> None:
    folder = tmp_path / "kernel"
    try:
        for _ in range(2):
            folder.mkdir()
            assert cache.hold(folder)
            assert cache.hold(folder)
            assert not cache.remove_unused(folder)
            cache.remove_tree(folder)
    finally:
        os.close(cache._held.pop(folder))
