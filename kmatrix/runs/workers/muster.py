"""The workers of a run, called together: spoken with, told apart by what they can run, and given what the run takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kmatrix import kernels
from kmatrix.host.errors import InfraError, InputError, KmatrixError
from kmatrix.host.progress import Reporter
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Target
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.runs.workers import judge
from kmatrix.runs.workers.address import Address
from kmatrix.runs.workers.deliver import Delivery
from kmatrix.runs.workers.judge import Able
from kmatrix.runs.workers.link import Link
from kmatrix.runs.workers.parcel import Parcel, of_image, of_kernel
from kmatrix.runs.workers.plan import Host
from kmatrix.runs.workers.project import Project
from kmatrix.vm import guest_image

T = TypeVar("T")
R = TypeVar("R")
_AT_ONCE = 8


@dataclass
class Worker:
    """A machine that works on the run."""

    link: Link
    description: Mapping[str, Any]
    able: Able
    host: Host
    tree: str = ""
    """The project's folder there: what stands for the project's `base` here."""
    sent: int = 0
    """Bytes of content that were sent to it for this run."""
    brought: Sequence[str] = ()
    left: Sequence[str] = ()
    """The targets that its disk has no room for."""

    @property
    def address(self) -> Address:
        """Where it is."""
        return self.link.address

    @property
    def account(self) -> str:
        """What was sent to it, in one line."""
        if not self.brought:
            return f"{self.address}: all is there, nothing was sent"
        size = f"{self.sent / (1 << 20):.1f} MiB" if self.sent >= 1 << 20 else f"{self.sent / 1024:.1f} KiB"
        return f"{self.address}: {size} sent ({', '.join(self.brought)})"


@dataclass(frozen=True)
class Luggage:
    """What a run takes."""

    targets: Sequence[Target]
    kernels: Mapping[str, Parcel]
    """By target."""
    images: Mapping[Arch, Parcel]
    project: Project
    pins: Sequence[Mapping[str, str]]
    """As kmatrix.runs.workers.ready has them."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """The targets whose kernel could not be had here, and why."""


def each(work: Callable[[T], R], things: Sequence[T]) -> list[R]:
    """What `work` makes of each of `things`, side by side. Raises one error that says what is wrong with each of them."""

    def one(thing: T) -> R | KmatrixError:
        try:
            return work(thing)
        except KmatrixError as error:
            return error

    if not things:
        return []
    with ThreadPoolExecutor(min(len(things), _AT_ONCE)) as pool:
        found = [*pool.map(one, things)]
    wrong = [result for result in found if isinstance(result, KmatrixError)]
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        kind = InputError if all(isinstance(error, InputError) for error in wrong) else InfraError
        raise kind("\n".join([f"{len(wrong)} workers cannot be worked with:", *map(str, wrong)]))
    return [result for result in found if not isinstance(result, KmatrixError)]


def connect(addresses: Sequence[Address], accel: str) -> list[Worker]:
    """The workers at the addresses, asked what they have. Raises what is wrong with any of them."""

    links: list[Link] = []

    def one(address: Address) -> Worker:
        link = Link(address)
        links.append(link)
        description = link.ask("describe")
        able = judge.able(description, accel)
        return Worker(link, description, able, Host(str(address), able.arches, able.native))

    try:
        return each(one, addresses)
    except BaseException:
        for link in links:
            link.close()
        raise


def pack(room: MachineRoom, targets: Sequence[Target], project: Project, reporter: Reporter) -> Luggage:
    """What cells on `targets` take, got here first where it is not yet. Raises InfraError where a guest image cannot be built."""
    bases = {(target.kernel.image_of.name, target.arch): Target(target.kernel.image_of, target.arch) for target in targets}
    got = kernels.obtain_all(bases.values(), room.store, mirrors=room.matrix.mirrors, lock=room.matrix.lock, reporter=reporter)
    entries = {str(base): entry for base, entry in got if not isinstance(entry, KmatrixError)}
    missing = {str(base): str(error) for base, error in got if isinstance(error, KmatrixError)}
    images = guest_image.obtain_all(
        list(dict.fromkeys(target.arch for target in targets)), mirrors=room.matrix.mirrors, reporter=reporter
    )
    packed = {name: of_kernel(name.rpartition("-")[0], entry) for name, entry in entries.items()}
    base_of = {str(target): f"{target.kernel.image_of.name}-{target.arch}" for target in targets}
    pins = [
        {"kernel": name.rpartition("-")[0], "arch": entry.arch, "release": entry.release, "digest": entry.content}
        for name, entry in entries.items()
    ]
    return Luggage(
        [target for target in targets if base_of[str(target)] in entries],
        {str(target): packed[base_of[str(target)]] for target in targets if base_of[str(target)] in entries},
        {image.arch: of_image(image) for image in images},
        project,
        pins,
        {name: missing[base] for name, base in base_of.items() if base in missing},
    )


def equip(worker: Worker, luggage: Luggage, reporter: Reporter) -> None:
    """Have at the worker the project, and what it needs for the targets that it can run, as far as its disk has room.

    Raises InfraError where it has room for none of them, and what fails on the way.
    """
    delivery = Delivery(worker.link)
    wanted = [target for target in luggage.targets if target.arch in worker.able.arches]
    parcels = list({p.id: p for t in wanted for p in (luggage.images[t.arch], luggage.kernels[str(t)])}.values())
    lacks = delivery.lacks([*parcels, luggage.project.parcel])
    sizes = {parcel.id: parcel.size for parcel in parcels if parcel.id in lacks}
    free = worker.description["free"] - (luggage.project.parcel.size if luggage.project.parcel.id in lacks else 0)
    takes = []
    for target in wanted:
        kernel, image = luggage.kernels[str(target)], luggage.images[target.arch]
        parts = [(parcel.id, sizes[parcel.id]) for parcel in (kernel, image) if parcel.id in sizes]
        # Where the kernel has been for a while its snapshot is there too.
        takes.append((str(target), [*parts, (f"snapshot of {target}", judge.SNAPSHOT if kernel.id in sizes else 0)]))
    fit, worker.left = judge.fitting(free, takes)
    if wanted and not fit:
        cache = worker.description["cache"]
        fix = f"free some there, or give it a cache on a larger disk: --tx ssh={worker.address}//env:KMATRIX_CACHE=/path"
        said = f"its disk is full: {max(free, 0) >> 20} MiB are free for {cache}, and no target fits"
        raise InfraError(said, where=str(worker.address), fix=fix)
    worker.host.only = frozenset(fit)
    chosen = {p.id for t in wanted if str(t) in fit for p in (luggage.images[t.arch], luggage.kernels[str(t)])}
    for parcel in parcels:
        if parcel.id in lacks & chosen:
            delivery.bring(parcel, reporter)
    worker.tree = delivery.bring(luggage.project.parcel, reporter)
    worker.sent, worker.brought = delivery.sent, delivery.brought


def look_for_snapshots(worker: Worker, luggage: Luggage, cwd: Path, file: Path | None, accel: str) -> None:
    """Have the plan know whose snapshots are at the worker."""
    project, names = luggage.project, sorted(worker.host.only or ())
    told = project.there(file, worker.tree) if file is not None else None
    with suppress(InputError):  # a kernels.toml that is wrong there is told by the cells
        asked: dict[str, Any] = {
            "cwd": project.there(cwd, worker.tree),
            "file": told,
            "targets": names,
            "pins": [*luggage.pins],
            "accel": accel,
        }
        worker.host.ready |= set(worker.link.ask("ready", **asked)["ready"])
