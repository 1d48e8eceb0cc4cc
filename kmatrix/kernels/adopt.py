"""A running machine's own kernel, taken into the store: image, configuration, and of its modules those that a guest needs.

The machine is this one, or one that SSH leads to. Files are read one by one, and what is not needed is not read. A machine that SSH leads
to is believed to be itself by its host key, as ssh(1) has it: known_hosts, or a fingerprint that the user gives. An unknown key is refused.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import platform
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import paramiko

from kmatrix.fetch.archive import Member
from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.progress import Reporter
from kmatrix.kernels import layout
from kmatrix.kernels.entry import StagedKernel
from kmatrix.matrix.arch import Arch, parse_arch
from kmatrix.matrix.hosts import ADDRESS

_CONNECT = 30.0
"""Seconds that a connection may take, and each answer on it."""


class Place(Protocol):
    """A machine's files."""

    where: str
    """What errors and the store call it."""

    def uname(self) -> tuple[str, str]:
        """Its kernel's release, and its machine as uname -m says it."""
        ...

    def read(self, path: str) -> bytes | None:
        """A file's content; None where there is none. Raises InputError where it may not be read."""
        ...

    def files(self, folder: str) -> Iterator[tuple[str, int]]:
        """The regular files below a folder, by their paths from it, each with its size. Links to folders are not followed."""
        ...


@dataclass
class Local:
    """This machine, or what stands under `root`."""

    root: Path = Path("/")
    release: str = field(default_factory=platform.release)
    machine: str = field(default_factory=platform.machine)
    where: str = "this machine"

    def uname(self) -> tuple[str, str]:
        """Of the kernel that runs."""
        return self.release, self.machine

    def read(self, path: str) -> bytes | None:
        """A file's content."""
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _denied(f"/{path}", self.where, error) from None

    def files(self, folder: str) -> Iterator[tuple[str, int]]:
        """Those below a folder."""
        base = self.root / folder
        for path in sorted(base.rglob("*")) if base.is_dir() else ():
            if path.is_file():
                yield path.relative_to(base).as_posix(), path.stat().st_size


@dataclass
class Remote:
    """A machine that SSH leads to."""

    client: paramiko.SSHClient
    where: str
    _listed: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    @cached_property
    def _files(self) -> paramiko.SFTPClient:
        """Asked for where files are read: a machine that only runs commands need not have it."""
        return self.client.open_sftp()

    def uname(self) -> tuple[str, str]:
        """As the machine says it."""
        words = self._said("uname -r; uname -m").decode(errors="replace").split()
        if len(words) != 2:
            raise InfraError(
                f"uname says {' '.join(words) or 'nothing'!r}", where=self.where, fix="adopt a machine with Linux and a shell"
            )
        return words[0], words[1]

    def read(self, path: str) -> bytes | None:
        """A file's content; by `sudo -n`, where the user may not read it and sudo asks for no password."""
        with self._reading(f"/{path}"):
            try:
                with self._files.open(f"/{path}", "rb") as file:
                    file.prefetch()
                    return file.read()
            except FileNotFoundError:
                return None
            except PermissionError as error:
                if found := self._said(f"sudo -n cat {shlex.quote(f'/{path}')}"):
                    return found
                raise _denied(f"/{path}", self.where, error) from None

    def files(self, folder: str) -> Iterator[tuple[str, int]]:
        """Those below a folder, listed once."""
        if folder not in self._listed:
            self._listed[folder] = sorted(self._below(f"/{folder}", PurePosixPath()))
        return iter(self._listed[folder])

    def _below(self, folder: str, path: PurePosixPath) -> Iterator[tuple[str, int]]:
        with self._reading(f"{folder}/{path}"):
            try:
                found = self._files.listdir_attr(f"{folder}/{path}")
            except FileNotFoundError:
                return
        for each in found:
            mode = each.st_mode or 0
            if stat.S_ISDIR(mode):
                yield from self._below(folder, path / each.filename)
            elif stat.S_ISREG(mode):
                yield (path / each.filename).as_posix(), each.st_size or 0

    def _said(self, command: str) -> bytes:
        with self._reading(f"the answer to `{command}`"):
            _, output, _ = self.client.exec_command(command, timeout=_CONNECT)
            said: bytes = output.read()
            return said

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Raises InfraError where the connection fails, or the machine refuses."""
        try:
            yield
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise InfraError(
                f"{what} could not be read: {error or type(error).__name__}", where=self.where, fix="try again"
            ) from None


def _denied(path: str, where: str, error: OSError) -> InputError:
    fix = f"adopt as root, or have {path} readable: some distributions let root alone read their kernel's image"
    return InputError(f"{path} cannot be read: {error.strerror or error}", where=where, fix=fix)


# --- SSH


class _Known(paramiko.MissingHostKeyPolicy):
    """A host whose key is in no known_hosts: good if it has the fingerprint that the user gave, and refused otherwise."""

    def __init__(self, fingerprint: str | None) -> None:
        self._fingerprint = fingerprint

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        """Raises InputError."""
        found = fingerprint(key)
        if self._fingerprint is None:
            raise InputError(
                f"the host key of {hostname} is not known: {key.get_name()} {found}",
                where=hostname,
                fix=f"compare it with what `ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` says there; then connect once by ssh, or give --host-key {found}",
            )
        if found != self._fingerprint:
            raise InfraError(
                f"the host key of {hostname} is {found}, and --host-key says {self._fingerprint}",
                where=hostname,
                fix="find out which machine answers there",
            )


def fingerprint(key: paramiko.PKey) -> str:
    """A key's fingerprint as ssh-keygen -l shows it: SHA256:…."""
    return f"SHA256:{base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip('=')}"


@contextlib.contextmanager
def connected(
    address: str,
    *,
    host_key: str | None = None,
    identity: Path | None = None,
    known_hosts: Path | None = None,
    timeout: float = _CONNECT,
) -> Iterator[Remote]:
    """The machine at `ssh://user@host:port`, by the user's agent and keys, with what ~/.ssh/config says of the host.

    Each step has `timeout` seconds. `host_key` is a fingerprint for a host that known_hosts does not have. Raises InputError for an unknown
    host key or an address that is none, InfraError where there is no connection, or the host has another key than the one that is known.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise InputError(f"{address!r} is no address", where="adopt", fix="write ssh://user@host, ssh://host:port, or local")
    host = match["host"].strip("[]")
    config = Path("~/.ssh/config").expanduser()
    said = paramiko.SSHConfig.from_path(str(config)).lookup(host) if config.is_file() else {}
    keys: Any = [str(identity)] if identity is not None else said.get("identityfile")  # one or several
    port = int(match["port"] or said.get("port", 22))
    with paramiko.SSHClient() as client:
        client.load_system_host_keys(str(known_hosts) if known_hosts is not None else None)
        client.set_missing_host_key_policy(_Known(host_key))
        try:
            client.connect(
                said.get("hostname", host),
                port,
                match["user"] or said.get("user"),
                key_filename=keys,
                timeout=timeout,
                banner_timeout=timeout,
                auth_timeout=timeout,
            )
        except paramiko.BadHostKeyException as error:
            raise InfraError(
                f"the host key is {fingerprint(error.key)}, and known_hosts has {fingerprint(error.expected_key)}",
                where=address,
                fix="find out which machine answers there; `ssh-keygen -R HOST` forgets the old key",
            ) from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            fix = "check that `ssh` gets there without a password: kmatrix uses your agent and keys (--identity FILE)"
            raise InfraError(f"no connection: {error or type(error).__name__}", where=address, fix=fix) from None
        yield Remote(client, address)


# --- what is taken


@dataclass(frozen=True)
class Found:
    """What a machine says of itself."""

    release: str
    arch: Arch
    system: str
    """Its distribution, as /etc/os-release names it; empty where nothing says so."""
    config: str | None


def look(place: Place) -> Found:
    """The kernel that runs on the machine, and its configuration. Raises InputError for an arch that kmatrix does not have."""
    release, machine = place.uname()
    arch = parse_arch(machine, where=place.where)
    text = (place.read("etc/os-release") or b"").decode(errors="replace")
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)"?$', text, re.MULTILINE)
    return Found(release, arch, system[1] if system else "", _config(place, release))


def _config(place: Place, release: str) -> str | None:
    for path in (f"boot/config-{release}", f"lib/modules/{release}/config"):
        if (data := place.read(path)) is not None:
            return data.decode(errors="replace")
    packed = place.read("proc/config.gz")
    return gzip.decompress(packed).decode(errors="replace") if packed else None


def stage(place: Place, found: Found, into: Path, reporter: Reporter) -> StagedKernel:
    """Lay out the machine's kernel in `into`. Raises InputError where its image is not there, or may not be read."""
    release = found.release
    with reporter.step(f"{place.where}: reading {release}") as step:
        image = next(
            (
                (path, data)
                for path in (
                    f"boot/vmlinuz-{release}",
                    f"lib/modules/{release}/vmlinuz",
                    f"boot/Image-{release}",
                    f"boot/vmlinux-{release}",
                )
                if (data := place.read(path)) is not None
            ),
            None,
        )
        if image is None:
            fix = "give the image by hand: kmatrix kernels import NAME --arch ARCH --image FILE --modules DIR"
            raise InputError(f"has no image of its kernel (/boot/vmlinuz-{release})", where=place.where, fix=fix)
        path, data = image

        def members() -> Iterator[Member]:
            yield Member(f"boot/vmlinuz-{release}", len(data), lambda: data)
            if found.config is not None:
                text = found.config.encode()
                yield Member(f"boot/config-{release}", len(text), lambda: text)
            folder = f"lib/modules/{release}"
            for name, size in place.files(folder):
                if name not in ("vmlinuz", "config"):
                    yield Member(f"{folder}/{name}", size, partial(_read, place, f"{folder}/{name}"))

        laid_out = layout.lay_out([members], found.arch, into, where=place.where, step=step)
    origin = f"{place.where}: /{path}"
    source = {"kind": "import", "image": origin, "sha256": hashlib.sha256(data).hexdigest()}
    return layout.staged(laid_out, source)


def _read(place: Place, path: str) -> bytes:
    data = place.read(path)
    if data is None:
        raise InputError(f"/{path} is gone", where=place.where, fix="try again")
    return data


def off(config: str, options: set[str]) -> list[str]:
    """Of `options` (without CONFIG_), those that the configuration does not have as y or m."""
    on = set(re.findall(r"^CONFIG_(\w+)=[ym]$", config, re.MULTILINE))
    return sorted(options - on)
