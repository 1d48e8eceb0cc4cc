"""The QEMU process: started so that it cannot outlive us, ended at once.

PR_SET_PDEATHSIG makes the kernel kill QEMU when its parent dies, even by SIGKILL. It is set by setpriv(1) between fork and exec,
because Python's own hook there (preexec_fn) is not safe beside threads; then a shell looks whether the parent still is who it was,
as it may have died just before. The "parent" in that system call is the creating *thread*: a QEMU started by a worker thread would
die with the thread, so whoever is not the main thread has it started by one thread that lives as long as the process.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from kmatrix.host.errors import InfraError


class Process:
    """A running QEMU (or one that has ended: `kill` may be called any number of times)."""

    def __init__(self, argv: Sequence[str], pass_fds: Iterable[int]) -> None:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise InfraError("setpriv is not installed", fix="apt-get install util-linux")
        # QEMU's own words go to memory: there is no file that could stay behind.
        self._words = os.memfd_create("qemu-stderr", os.MFD_CLOEXEC)
        check = f'[ "$PPID" = {os.getpid()} ] && exec "$@"'
        command = [setpriv, "--pdeathsig", "KILL", "--", "/bin/sh", "-c", check, "sh", *argv]
        fds = tuple(pass_fds)

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C in the terminal is for us; we then end QEMU in order
            )

        try:
            self._popen = _in_lasting_thread(start)
        except OSError as error:
            os.close(self._words)
            raise InfraError(f"cannot start {argv[0]}: {error.strerror}") from error
        except BaseException:
            os.close(self._words)
            raise
        self.pid = self._popen.pid

    def kill(self) -> None:
        """End it now and reap it."""
        if self._popen.returncode is None:
            self._popen.kill()
            self._popen.wait()

    def wait(self, timeout: float) -> bool:
        """Wait for it to end by itself; whether it did."""
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ended(self) -> str:
        """How it ended, in words, with what it wrote (once it has ended)."""
        code = self._popen.returncode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit status {code}"
        words = os.pread(self._words, 1 << 16, 0).decode("utf-8", "replace").strip() if self._words >= 0 else ""
        return f"{how}: {words}" if words else how

    def close(self) -> None:
        """Kill, reap, and let go of everything."""
        self.kill()
        if self._words >= 0:
            words, self._words = self._words, -1
            os.close(words)


_Job = tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]
_jobs: queue.SimpleQueue[_Job] | None = None
_jobs_lock = threading.Lock()


def _in_lasting_thread(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    if threading.current_thread() is threading.main_thread():
        return start()
    global _jobs
    with _jobs_lock:
        if _jobs is None:
            _jobs = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(_jobs,), name="kmatrix-qemu-parent", daemon=True).start()
    future: Future[subprocess.Popen[bytes]] = Future()
    _jobs.put((start, future))
    return future.result()


def _serve(jobs: queue.SimpleQueue[_Job]) -> None:
    while True:
        start, future = jobs.get()
        try:
            future.set_result(start())
        except BaseException as error:
            future.set_exception(error)


def _forget_thread() -> None:
    # The child of a fork has the module's variables but not the thread.
    global _jobs, _jobs_lock
    _jobs, _jobs_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_thread)
