"""kernels.lock: exactly which kernels a project runs on, and where each came from. Data and text; kmatrix.matrix.lock_schema reads it, and kmatrix.matrix.load writes the file.

A kernel is held by its `digest`: sha256 over image, configuration and modules as the kernel store has them. What kmod and e2fsprogs of
this host make of them (KernelEntry.content leaves it out) may differ from host to host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from kmatrix.host.errors import InfraError, InputError, Unavailable, without_credentials
from kmatrix.host.version import natural
from kmatrix.matrix.arch import ARCHES, Arch

_HEAD = """\
# Exactly the kernels that this project runs on. Written by `kmatrix kernels lock`, to be checked in; a run refuses any other
# (docs/kernels-lock.md).
"""


@dataclass(frozen=True)
class Locked:
    """One kernel × arch."""

    kernel: str
    arch: Arch
    release: str
    source: str
    """The kind of source it came from."""
    digest: str
    pin: Mapping[str, Any] = field(default_factory=dict)
    """The options that make that source get exactly this again."""
    files: tuple[Mapping[str, Any], ...] = ()
    """The files it was made from: url, sha256, size (where it is known)."""

    @property
    def target(self) -> str:
        """Kernel × arch, as it is written everywhere."""
        return f"{self.kernel}-{self.arch}"


@dataclass(frozen=True)
class Lock:
    """All of a kernels.lock."""

    path: Path
    kernels: Mapping[tuple[str, Arch], Locked] = field(default_factory=dict)

    def held(self, kernel: str, arch: Arch) -> Locked:
        """What `kernel` × `arch` must be. Raises InputError where the lock does not have it."""
        found = self.kernels.get((kernel, arch))
        if found is None:
            raise InputError(
                f"{kernel}-{arch} is not in it", where=str(self.path), fix=f"kmatrix kernels lock {kernel} --arch {arch}"
            )
        return found

    def expect(self, locked: Locked) -> Callable[[str, str | None], str | None]:
        """What `download.working_for` is given: the sha256 that an address of the lock must have.

        The file's name counts where the address itself is not in it: each host's apt has a mirror of its own.
        """
        exact = {str(file["url"]): str(file["sha256"]) for file in locked.files}
        named: dict[str, set[str]] = {}
        for url, digest in exact.items():
            named.setdefault(url.rsplit("/", 1)[-1], set()).add(digest)

        def expected(url: str, digest: str | None) -> str | None:
            url = without_credentials(url)
            held = exact.get(url)
            if held is None and len(same := named.get(url.rsplit("/", 1)[-1], set())) == 1:
                (held,) = same
            if held is not None and digest not in (None, held):
                raise self._refused(locked, f"{url} has sha256 {digest}, and the lock asks for {held}")
            return held

        return expected

    def check_files(self, locked: Locked, artifacts: Iterable[Mapping[str, Any]]) -> None:
        """Raises InfraError unless the files that a source used are those of the lock."""
        used = {str(file["sha256"]): str(file["url"]) for file in artifacts}
        wanted = {str(file["sha256"]): str(file["url"]) for file in locked.files}
        for digest, url in used.items():
            if digest not in wanted:
                expected = next((held for held, address in wanted.items() if address == url), "/".join(wanted) or "none")
                raise self._refused(locked, f"{url} has sha256 {digest}, and the lock asks for {expected}")

    def check(self, locked: Locked, digest: str, release: str, origin: str, get: str | None = None) -> None:
        """Raises InfraError unless the kernel with this digest is the one held; `get` is the command that gets that one."""
        if digest != locked.digest:
            raise self._refused(
                locked,
                f"{origin} is {release} (digest {digest}), and the lock asks for {locked.release} (digest {locked.digest}, from {locked.source})",
                get,
            )

    def gone(self, locked: Locked, error: InfraError) -> Unavailable:
        """`error`, of the one source that could have had it, with what it means: that kernel is no longer to be had there."""
        command = f"kmatrix kernels lock {locked.kernel} --arch {locked.arch}"
        given = locked.source in ("import", "build")
        return Unavailable(
            f"{self.path} holds it to {locked.release} (from {locked.source}), which {error.message}",
            where=locked.target,
            fix=f"{error.fix}; or hold it to {f'another: give that, then {command}' if given else f'the newest: {command} --update'}",
        )

    def _refused(self, locked: Locked, what: str, get: str | None = None) -> InfraError:
        command = f"kmatrix kernels lock {locked.kernel} --arch {locked.arch}"
        wanted = f"get the one it asks for{f' ({get})' if get else ''}"
        newest = "" if get else f"  (the newest: {command} --update)"
        fix = f"{wanted}, or take into the lock what is here: {command}{newest}"
        return InfraError(f"refused by {self.path}: {what}", where=locked.target, fix=fix)


def record(kernel: str, arch: Arch, *, release: str, digest: str, source: Mapping[str, Any]) -> Locked:
    """What the lock says of an entry of the store; of an address, not the password that it may have."""
    artifacts = source.get("artifacts")
    if artifacts is None:  # an entry of before there were any
        artifacts = [source] if "url" in source and "sha256" in source else []
    files = tuple({name: file[name] for name in ("url", "sha256", "size") if file.get(name) is not None} for file in artifacts)
    files = tuple({**file, "url": without_credentials(str(file["url"]))} for file in files)
    pin = dict(source.get("pin", {"version": source["version"]} if source["kind"] == "debian" else {}))
    pin |= {name: tuple(map(without_credentials, pin[name])) for name in ("url", "sha256") if name in pin}
    return Locked(kernel, arch, release, str(source["kind"]), digest, pin, files)


def render(lock: Lock) -> str:
    """The text of a kernels.lock: the same for the same content, one value a line."""
    kernels: dict[str, dict[str, Any]] = {}
    for locked in sorted(lock.kernels.values(), key=lambda each: (natural(each.kernel), ARCHES.index(each.arch))):
        entry: dict[str, Any] = {"release": locked.release, "source": locked.source, "digest": locked.digest}
        entry |= {"pin": dict(locked.pin)} if locked.pin else {}
        entry |= {"files": [dict(file) for file in locked.files]} if locked.files else {}
        kernels.setdefault(locked.kernel, {})[locked.arch] = entry
    return _HEAD + tomli_w.dumps({"schema": 1, "kernels": kernels})
