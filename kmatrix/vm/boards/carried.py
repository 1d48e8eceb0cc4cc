"""What is brought to a real machine once: Python, libbpf and a shell of the guest image, packed, so that it is the same everywhere.

A machine's own Python may be old, or not there at all. So none of it is used: what is carried starts by its own dynamic linker, and needs of
the machine a kernel, a shell and its usual commands. A static busybox unpacks it there, and says whether it arrived whole.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from kmatrix.host import cache, paths
from kmatrix.host.errors import InfraError
from kmatrix.host.progress import Reporter
from kmatrix.matrix.arch import Arch
from kmatrix.vm.guest_image import GuestImage

_TOPS = ("usr", "etc", "bin", "sbin", "lib", "lib64")
_LEFT = (
    *("usr/share/*", "*/__pycache__", "*/__pycache__/*"),
    # For people, and for networks: sshd, tc and their like, and their libraries.
    *("usr/bin/scp", "usr/bin/sftp", "usr/bin/ssh*", "usr/lib/openssh/*", "usr/sbin/sshd", "usr/sbin/bpftool", "usr/bin/bpftool"),
    *(
        "usr/sbin/tc",
        "usr/lib/tc/*",
        "usr/lib/*/tc/*",
        "usr/bin/rdma",
        "usr/sbin/devlink",
        "usr/sbin/dcb",
        "usr/sbin/tipc",
        "usr/sbin/vdpa",
    ),
    *(
        f"usr/lib/*/lib{name}*"
        for name in (
            "sqlite3",
            "systemd",
            "krb5",
            "gssapi",
            "k5crypto",
            "gmp",
            "pam",
            "fido2",
            "cbor",
            "xtables",
            "nss_hesiod",
            "edit",
        )
    ),
    *("usr/lib/*/krb5/*", "usr/lib/*/engines-3/*", "usr/lib/*/ossl-modules/*"),
    # Of Python, what the agent has no use for.
    *(
        f"usr/lib/python3*/{name}/*"
        for name in (
            "asyncio",
            "unittest",
            "xml",
            "xmlrpc",
            "wsgiref",
            "tkinter",
            "sqlite3",
            "dbm",
            "multiprocessing",
            "curses",
            "config-*",
        )
    ),
    *(f"usr/lib/python3*/lib-dynload/_{name}*" for name in ("test", "codecs_", "sqlite3", "curses", "xx")),
)
"""What of the guest image neither the agent nor a trigger needs, by path; `*` crosses slashes."""
_FORM = 2
"""The form of the pack: a change makes a new one."""
LINKERS: dict[Arch, str] = {
    "x86_64": "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "arm64": "usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
}
"""The dynamic linker in what is carried; the libraries are in its folder."""


@dataclass(frozen=True)
class Pack:
    """What is carried to machines of one arch."""

    path: Path
    """A tar, packed by gzip."""
    busybox: Path
    digest: str
    """sha256 of `path`."""
    size: int

    @property
    def name(self) -> str:
        """What its folder on a machine is called."""
        return f"root-{self.digest[:16]}"


def obtain(image: GuestImage, reporter: Reporter) -> Pack:
    """What is carried of the guest image, packed now where it was not yet. Raises InfraError."""
    root = paths.cache_dir("carried")
    key = hashlib.sha256(f"{_FORM} {image.digest} {_LEFT}".encode()).hexdigest()[:16]
    folder = root / f"{image.arch}-{key}"
    with cache.locked(root / f".{image.arch}.lock", f"what is carried to machines of {image.arch}", reporter):
        if not (folder / "root.tar.gz").exists():
            with reporter.step(f"packing what is carried to machines of {image.arch}"), cache.staging(root, image.arch) as staging:
                _pack(image, staging)
                cache.publish(root, staging, folder)
    path = folder / "root.tar.gz"
    return Pack(path, image.busybox, paths.sha256(path), path.stat().st_size)


def _pack(image: GuestImage, into: Path) -> None:
    tree = into / "tree"
    tree.mkdir()
    command = ["debugfs", "-R", f"rdump / {tree}", str(image.path)]
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    try:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, env=environment)
    except FileNotFoundError:
        raise InfraError("debugfs is not installed", fix="apt-get install e2fsprogs") from None
    except subprocess.CalledProcessError as error:
        raise InfraError(f"the guest image cannot be read: {error.stderr.decode(errors='replace').strip()}") from None
    with (
        (into / "root.tar.gz").open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for top in _TOPS:
            archive.add(tree / top, top, filter=_kept)
    cache.remove_tree(tree)


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if any(fnmatch.fnmatchcase(member.name, pattern) for pattern in _LEFT):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member
