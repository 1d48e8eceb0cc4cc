"""What a target's guest shows to BPF programs, captured for a profile (kmatrix.predict.profile)."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

from kmatrix.guest.facts import FACTS
from kmatrix.host.errors import InfraError
from kmatrix.host.paths import scratch_console
from kmatrix.matrix.kernel import Target
from kmatrix.predict import collect
from kmatrix.runs.machine_room import MachineRoom, config_of
from kmatrix.vm.errors import GuestError, KernelDied

_KINDS = ("attach", "link", "insn", "kfunc")
"""What the guest's own probes tell, and the script for hosts does not."""
_SECONDS = 600.0


def capture(room: MachineRoom, target: Target) -> dict[str, Any]:
    """The capture of kmatrix/predict/collect.py in a VM of the target, with what the guest's own probes say beside it.

    Raises InfraError where the machine room fails.
    """
    names = [f"{kind}:{name}" for kind in _KINDS for name in FACTS[kind]]
    script = Path(collect.__file__).read_bytes()
    try:
        with scratch_console(f"profile-{target}") as console, room.machine(target, console) as (vm, probe):
            vm.call("put", timeout=60, path="/run/kmatrix/collect.py", data=base64.b64encode(script).decode())
            vm.call("run", {"argv": ["mount", "-t", "securityfs", "securityfs", "/sys/kernel/security"]}, timeout=90)
            argv = ["python3", "/run/kmatrix/collect.py", "/run/kmatrix/capture.json.gz"]
            ended = vm.call("run", {"argv": argv, "timeout": _SECONDS}, timeout=_SECONDS + 30)
            if ended["exit"] != 0:
                raise InfraError(f"the kernel could not be captured: {ended['stderr'].strip()[-300:]}", where=str(target))
            packed = vm.call("get", timeout=60, path="/run/kmatrix/capture.json.gz")["data"]
            facts = vm.call("facts", timeout=60 + 5 * len(names), names=names, config=None)["features"]
    except (KernelDied, GuestError) as error:
        raise InfraError(f"the kernel could not be captured: {error}", where=str(target)) from None
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed)))
    found["config"] = found["config"] or config_of(room.spec(target).kernel.config)
    found["facts"] = {**probe["features"], **facts}
    found["kernel"] = target.kernel.name
    return found
