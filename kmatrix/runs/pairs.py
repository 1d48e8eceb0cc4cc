"""Objects on targets: which go together, and all of them tried side by side, each in a VM of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.paths import scratch_console
from kmatrix.host.threads import results
from kmatrix.matrix.kernel import Target
from kmatrix.objects.compiled import ObjectInfo
from kmatrix.objects.memory import map_bytes
from kmatrix.runs import external_btf
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.vm.errors import GuestError, KernelDied
from kmatrix.vm.machine import Machine

T = TypeVar("T")
Pair = tuple[ObjectInfo, Target]


def fit(info: ObjectInfo, targets: Sequence[Target]) -> list[Target]:
    """The targets of the arch that the object is compiled for; all, where it is the same for all."""
    return [target for target in targets if info.compiled_for in (None, target.arch)]


def pairs(infos: Sequence[ObjectInfo], targets: Sequence[Target]) -> list[Pair]:
    """Each object with each target of its arch. Raises InputError where all are compiled for arches of which no target is selected."""
    found = [(info, target) for info in infos for target in fit(info, targets)]
    if not found:
        arches = sorted({str(info.compiled_for) for info in infos})
        raise InputError(
            f"compiled for {' and '.join(arches)}, no such target is selected",
            where=str(infos[0].path),
            fix=f"--arch={arches[0] if len(arches) == 1 else 'all'}",
        )
    return found


@contextmanager
def machine_for(
    what: str, info: ObjectInfo, target: Target, room: MachineRoom, contract: Mapping[str, Any] | None
) -> Iterator[tuple[Machine, Mapping[str, Any]]]:
    """A pristine VM for the object, with what its guest's probe found: it has room for the maps as the contract sizes them, and the BTF that
    the target's circumstances bring. `what` names the run in the console's file. Raises what `MachineRoom.machine` raises, and InputError."""
    with (
        scratch_console(f"{what}-{target}") as console,
        room.machine(target, console, room_for=_map_bytes(info, contract)) as (vm, probe),
    ):
        external_btf.bring(vm, target)
        yield vm, probe


def _map_bytes(info: ObjectInfo, contract: Mapping[str, Any] | None) -> int:
    """Bytes that the object's maps take, with the sizes that the contract gives them."""
    sizes = {name: terms["max_entries"] for name, terms in ((contract or {}).get("maps") or {}).items()}
    return map_bytes(info, {name: size for name, size in sizes.items() if isinstance(size, int)})


def side_by_side(
    chosen: Sequence[Pair],
    room: MachineRoom,
    one: Callable[[ObjectInfo, Target], T],
    failed: Callable[[ObjectInfo, Target, str, bool], T],
) -> dict[Path, list[T]]:
    """What `one` returns for each pair, by the object's path; as many at once as there are cores.

    Where the kernel or the machine fails, it is what `failed` makes of the words; its last argument says whether it was the machine.
    """
    lock = threading.Lock()  # the machine room's caches are filled by one thread; only VMs run side by side

    def tried(info: ObjectInfo, target: Target) -> T:
        try:
            with lock:
                room.spec(target)
            return one(info, target)
        except KernelDied as error:
            return failed(info, target, str(error), False)
        except (InfraError, GuestError) as error:
            return failed(info, target, str(error), True)

    with ThreadPoolExecutor(max_workers=max(1, min(len(chosen), os.cpu_count() or 1))) as pool:
        outcomes = results([pool.submit(tried, *pair) for pair in chosen])
    found: dict[Path, list[T]] = {info.path: [] for info, _ in chosen}
    for (info, _), outcome in zip(chosen, outcomes, strict=True):
        found[info.path].append(outcome)
    return found
