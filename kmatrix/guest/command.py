"""Running a command for the host, with nothing left of it afterwards."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from . import confine
from .cgroup import Cgroup
from .privileges import Privileges


def run(
    argv: list[str],
    env: dict[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 60.0,
    cwd: str | None = None,
) -> dict[str, Any]:
    """Run `argv` to its end: exit status or signal, stdout and stderr. What it left running is killed when it has ended.

    `stdin` is text. Output that is not UTF-8 comes as base64 beside the text (`stdout_base64`). At the timeout (seconds) all that it
    started is killed, `timed_out` says so, and what was written until then is kept. A command that cannot be started ends as a shell
    says it: 127 where it is not there, 126 where it is not a program.
    """
    with Cgroup() as cgroup, _file(b"") as out, _file(b"") as err, _file((stdin or "").encode()) as given:
        privileges = confine.privileges()
        # Files, not pipes: what the command leaves running holds its end of a pipe open.
        try:
            process = subprocess.Popen(
                argv, env={**os.environ, **privileges.environ, **(env or {})}, cwd=cwd, stdin=given, stdout=out, stderr=err, start_new_session=True,
                preexec_fn=lambda: _enter(cgroup, privileges),
            )  # fmt: skip
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            code = 126 if isinstance(error, PermissionError) else 127
            words = f"{error.strerror}: {error.filename}\n"
            return {"exit": code, "signal": None, "timed_out": False, "stdout": "", "stderr": words}
        try:
            process.wait(timeout)
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
            process.kill()
        cgroup.kill()
        with suppress(ProcessLookupError):  # where there are no cgroups: its process group, if anybody is left in it
            os.killpg(process.pid, 9)
        code = process.wait()
        result = {"exit": code if code >= 0 else None, "signal": -code if code < 0 else None, "timed_out": timed_out}
        return result | _text("stdout", out) | _text("stderr", err)


def _enter(cgroup: Cgroup, privileges: Privileges) -> None:
    cgroup.join()
    privileges.confine()


@contextmanager
def _file(content: bytes) -> Iterator[int]:
    fd = os.memfd_create("stream")
    try:
        if content:
            os.write(fd, content)
            os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _text(name: str, fd: int) -> dict[str, str]:
    data = os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0)
    text = data.decode("utf-8", "replace")
    return {name: text} if text.encode() == data else {name: text, f"{name}_base64": base64.b64encode(data).decode()}
