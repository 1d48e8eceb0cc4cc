"""BTF from a file, for kernels that show none: the circumstance `btf=FILE` (4.19+btf=4.19.btf).

The kernel stays as it is. The file is brought into the guest, and the loaders of kmatrix name it to their library (libbpf's btf_custom_path,
cilium/ebpf's KernelTypes), as an agent does that ships BTF files for old kernels. So the feature `btf` is there for what loads, and what the
kernel itself does with BTF (fentry, kernel functions) is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmatrix.guest.kernel import EXTERNAL_BTF
from kmatrix.host.errors import InputError
from kmatrix.matrix.kernel import Target
from kmatrix.vm.machine import Machine

_RAW, _ELF = b"\x9f\xeb", b"\x7fELF"


def data_of(target: Target, start: Path | None = None) -> bytes | None:
    """The BTF that a loader is given on the target; None where it is the kernel's own business.

    The file is looked for in the current folder (or `start`), and in those above it. Raises InputError where it is not there, or is no BTF.
    """
    name = target.kernel.btf
    if name is None:
        return None
    here = start or Path.cwd()
    found = next((path for folder in (here, *here.parents) if (path := folder / name).is_file()), None)
    if found is None:
        raise InputError(f"there is no file {name} in {here} or above it", where=str(target), fix="put the BTF file there")
    data = found.read_bytes()
    if not data.startswith((_RAW, _ELF)):
        fix = "unpack it, if it is packed; `bpftool btf dump file FILE` says what a BTF file is"
        raise InputError("is neither BTF nor an ELF file with BTF", where=str(found), fix=fix)
    return data


def bring(vm: Machine, target: Target) -> None:
    """Bring the file to where the guest's loaders look for it, where there is one. Raises InputError."""
    if (data := data_of(target)) is not None:
        vm.put(EXTERNAL_BTF, data)


def known(probe: Mapping[str, Any], target: Target) -> Mapping[str, Any]:
    """The guest's `probe`, with the feature `btf` as it is for what loads with the file."""
    if target.kernel.btf is None:
        return probe
    said: dict[str, dict[str, Any]] = {
        "features": {"btf": True},
        "why": {"btf": f"the circumstance btf={target.kernel.btf}: a file that the loader names"},
    }
    return {**probe, **{part: {**probe.get(part, {}), **more} for part, more in said.items()}}
