"""Whether a target can be under its circumstances, before anything boots; and whether its guest is, once it is up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from kmatrix.guest.surroundings import PREFIX
from kmatrix.host.errors import InputError
from kmatrix.matrix.kernel import Kernel, Target
from kmatrix.vm.spec import DEFAULT_MEMORY_MIB

_LEAST = 0.6
"""Of the memory that a guest is given, the part that it says is its own at least: the kernel's image and tables come off."""


def parameters(kernel: Kernel) -> tuple[str, ...]:
    """The kernel's command line, with the sysctls that its guest is to set."""
    settings = (f"{PREFIX}{name}={value.replace(' ', '%20')}" for name, value in kernel.sysctls.items())
    return (*kernel.cmdline, *settings)


def check(target: Target, config: Callable[[], Mapping[str, str] | None]) -> None:
    """Raises InputError for a circumstance that the target's arch or kernel cannot have.

    `config` is the configuration that came with the kernel's image; where none did, what kernels.toml says of it counts.
    """
    kernel = target.kernel
    if target.arch not in kernel.arches:
        fix = f"--arch={kernel.arches[0]}" if kernel.arches else "give one of them"
        raise InputError(f"{kernel.name!r} cannot be had on {target.arch}", where=str(target), fix=fix)
    if not kernel.conditions:
        return
    came = config()
    for condition in kernel.conditions:
        on = kernel.config.get(condition.option) if came is None else came.get(condition.option, "n") not in ("n", "")
        if on is not None and on is not condition.on:
            built = f"was built {'with' if on else 'without'} CONFIG_{condition.option}"
            raise InputError(
                f"{kernel.image_of.name} cannot have {condition.circumstance}: its kernel {built}",
                where=str(target),
                fix="name another kernel, or build one that can (kmatrix kernels build)",
            )


def differing(target: Target, found: Mapping[str, Any]) -> list[str]:
    """How the guest is otherwise than the target's circumstances say, as sentences; `found` is its own account (kmatrix.guest.surroundings)."""
    kernel, said = target.kernel, []
    for word in kernel.cmdline:
        name, _, value = word.partition("=")
        if name == "lockdown" and found["lockdown"] != value:
            said.append(f"lockdown is {found['lockdown'] or 'not in this kernel'}, not {value}")
        if name == "lsm" and ("bpf" in value.split(",")) != ("bpf" in found["lsm"]):
            said.append(f"the list of LSMs is {','.join(found['lsm'])}, not {value}")
    for name, value in kernel.sysctls.items():
        if (now := found["sysctls"].get(name)) is None or now.split() != value.split():
            why = f" ({found['refused'][name]})" if name in found["refused"] else ""
            said.append(f"{name} is {'not there' if now is None else now}, and cannot be set to {value}{why}")
    if found["cgroup"] == "v2" and kernel.has("cgroup_v2", target.arch) is False:
        said.append("cgroups of version 2 are mounted")
    if found["cpus"] != (kernel.cpus or 1):
        said.append(f"it has {found['cpus']} CPUs, not {kernel.cpus or 1}")
    given = kernel.memory_mib or DEFAULT_MEMORY_MIB
    if not given * _LEAST <= found["memory_mib"] <= given:
        said.append(f"it has {found['memory_mib']} MiB of memory, not {given}")
    return said + _loader(kernel, found["loader"])


def _loader(kernel: Kernel, found: Mapping[str, Any]) -> list[str]:
    said, wanted = [], kernel.privileges
    if _set(wanted.caps) != _set(found["caps"]):
        said.append(f"a loader has {_words(found['caps'])}, not {_words(wanted.caps)}")
    if (wanted.user is None) != (found["uid"] == 0):
        said.append(f"a loader is user {found['uid']}")
    if (wanted.filter is not None) is not found["filter"]:
        said.append(f"a loader has {'a' if found['filter'] else 'no'} filter of system calls")
    return said


def _set(caps: Collection[str] | None) -> frozenset[str] | None:
    return None if caps is None else frozenset(caps)


def _words(caps: Collection[str] | None) -> str:
    return "all capabilities" if caps is None else f"the capabilities {', '.join(sorted(caps))}" if caps else "no capability"
