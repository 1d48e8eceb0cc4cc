"""virtme-ng by itself: a kernel booted to run a script, as a person would."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from kmatrix.matrix.arch import host_arch
from kmatrix.vm import VmSpec

_SAID = "all-was-done"
_TIMEOUT = 300.0


def run(spec: VmSpec, script: str = "true") -> float:
    """Seconds that `vng --exec` takes for the script: with the host's own root for the host's arch, with the guest image's for another.

    Raises RuntimeError, with the console's last lines, where the script does not come to its end.
    """
    command = [str(Path(sys.executable).with_name("vng")), "--run", str(spec.kernel.image), "--force-9p"]
    command += ["--busybox", str(spec.image.busybox), "--memory", f"{spec.memory_mib}M", "--cpus", str(spec.cpus)]
    if spec.accel == "tcg":
        command.append("--disable-kvm")
    if spec.arch != host_arch():
        command += ["--arch", spec.arch, "--root-disk", str(spec.image.path), "--root-fstype", "ext4"]
    # --verbose shows the console, which is how we know that the script came to its end: vng loses exit statuses where there is no udev.
    command += ["--verbose", "--exec", f"{script} && echo {_SAID}"]
    environ = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(Path.home())}
    start = time.perf_counter()
    try:
        done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"vng does not run: {error}") from None
    taken = time.perf_counter() - start
    lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    if not any(line.strip().endswith(_SAID) and "echo" not in line for line in lines):
        raise RuntimeError("vng did not run the script to its end:\n" + "\n".join(lines[-20:]))
    return taken
