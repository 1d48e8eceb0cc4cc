"""Waiting for other threads ends at an interrupt, also at one that the waiting system call does not see."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from kmatrix.host.threads import results

_WAITS = """
import signal, threading, time
from concurrent.futures import ThreadPoolExecutor
from kmatrix.host.threads import results
end = threading.Event()
def work():
    time.sleep(0.3)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    end.wait(60)
with ThreadPoolExecutor(1) as pool:
    try:
        results([pool.submit(work), later := pool.submit(print, "begun")])
    except KeyboardInterrupt:
        print("interrupted", later.cancelled(), flush=True)
        end.set()
"""


def test_an_interrupt_that_reaches_another_thread_is_seen() -> None:
    """The main thread's wait is not disturbed by it, as by one that comes a moment before the wait."""
    done = subprocess.run([sys.executable, "-c", _WAITS], check=True, timeout=30, capture_output=True, text=True)
    assert done.stdout == "interrupted True\n"


def test_what_failed_first_is_raised_when_all_have_ended() -> None:
    ended: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(lambda: 1 // 0), pool.submit(ended.append, 1)]
        with pytest.raises(ZeroDivisionError):
            results(futures)
        assert ended == [1]
        assert results([pool.submit(str, 1), pool.submit(str, 2)]) == ["1", "2"]
