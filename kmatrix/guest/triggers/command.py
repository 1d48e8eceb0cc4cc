"""The trigger that is a command of the user's."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress

from ..child import Child, Outcome, Pipes
from .kind import WORK, Kind, Spec

OUTPUT_KEPT = 65536  # bytes of a command's output, from its end


def _command(spec: Spec) -> Child:
    """Run a command in the folder that the trigger's files were put into."""
    argv = [str(word) for word in spec["command"]]
    os.makedirs(WORK, mode=0o755, exist_ok=True)
    environment = {**os.environ, **{str(name): str(value) for name, value in (spec.get("env") or {}).items()}}
    path = os.path.join(WORK, argv[0]) if "/" in argv[0] else shutil.which(argv[0], path=environment.get("PATH"))
    if path is None:
        raise FileNotFoundError(errno.ENOENT, "no such command in the guest", argv[0])
    path = os.path.normpath(path)
    outputs = tuple(os.memfd_create(name, 0) for name in ("stdout", "stderr"))

    def action(pipes: Pipes) -> int:
        pid = os.getpid()
        os.setsid()
        os.chdir(WORK)
        comm = os.path.basename(path).encode()[:15].decode("utf-8", "replace")
        pipes.say({"pid": pid, "tgid": pid, "uid": 0, "gid": 0, "comm": comm, "path": path, "filename": path})
        pipes.ready()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        os.execve(path, argv, environment)

    child = Child("command", action)
    child.title, child.outputs = argv[0], outputs
    return child


def _judge_command(child: Child, outcome: Outcome) -> None:
    texts = []
    for fd in child.outputs:
        size = os.lseek(fd, 0, os.SEEK_END)
        texts.append(os.pread(fd, OUTPUT_KEPT, max(0, size - OUTPUT_KEPT)).decode("utf-8", "replace"))
        os.close(fd)
    outcome.extra.update(stdout=texts[0], stderr=texts[1])
    with suppress(ValueError):
        said = json.loads(texts[0])
        if isinstance(said, dict):
            outcome.known.update(said)
    code = outcome.exit or 0
    outcome.known.update(exit_status=outcome.exit, exit_code=code << 8 if code >= 0 else -code)
    if outcome.ok and outcome.exit != 0:
        last = (texts[1].strip() or texts[0].strip()).splitlines()[-1:]
        outcome.ok, outcome.error = False, ": ".join([f"{child.title} ended with {outcome.exit}", *last])


KINDS: Mapping[str, Kind] = {
    "command": Kind(
        _command,
        {
            "pid": "the command's process",
            "tgid": "the same",
            "comm": "its name after the exec",
            "path": "the program",
            "filename": "the same",
            "exit_status": "its exit status",
            "exit_code": "the same << 8, or the signal, as the kernel and wait(2) have it",
        },
        options={"command": (), "env": ()},
        says_more=True,
        to_the_end=True,
        judge=_judge_command,
    ),
}
