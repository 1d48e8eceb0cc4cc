"""A guest image, built: mmdebstrap resolves, verifies and extracts the packages, mke2fs makes the file system.

Neither needs root, a user namespace, a mount or anything of the other arch to run: extracted packages are never configured, and the
owner of every file is set to root inside the image afterwards.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from kmatrix.fetch import apt, archive
from kmatrix.host import cache, ext4, paths
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.progress import Reporter
from kmatrix.matrix.arch import INFO, Arch, host_arch
from kmatrix.vm.image_file import RecipeFile
from kmatrix.vm.image_recipe import SCHEMA, Recipe

_BUSYBOX_IN_GUEST = "usr/bin/busybox"
_MERGED = ("bin", "sbin", "lib", "lib64")  # in the guest these are links into usr/, whatever a package says
_DEVICES = {"dev/console": (5, 1), "dev/null": (1, 3)}  # the kernel opens the console before PID 1 can mount /dev
# sha256sum's list of the packages, written into the tree by a hook while they are still there.
_PACKAGES = "kmatrix-packages"
# Ends the whole process group when this process does, however it ends: standard input is a pipe that only we hold open.
_WITH_US = 'exec 3<&0 </dev/null; (read -r _ <&3; kill -KILL 0) & exec "$@" 3<&-'
_HOOK = f'cd "$1"/var/cache/apt/archives && sha256sum *.deb > "$1"/{_PACKAGES}'


def build(
    recipe: Recipe,
    arch: Arch,
    key: str,
    into: Path,
    *,
    reporter: Reporter,
    mirrors: Mapping[str, str] | None = None,
) -> None:
    """Build root.ext4, busybox and manifest.json in the empty folder `into`. Raises InfraError and OSError; may leave files."""
    _need_programs()
    data = recipe.data
    root = into / "root"
    scratch = into / "scratch"
    root.mkdir()
    scratch.mkdir()
    with reporter.step(f"guest image {arch}: packages"):
        suite = _open_suite(data.suite, (mirrors or {}).get("debian"))
        source = suite.archive
        packages = _unpack(_mmdebstrap(data, data.packages, arch, source, scratch), root, recipe.wants)
        python = _host_python(data, arch, source, root, scratch)
    with reporter.step(f"guest image {arch}: file system"):
        _complete(recipe, root)
        bytecode = _compile(root, python)
        busybox, image = into / "busybox", into / "root.ext4"
        shutil.copyfile(root / _BUSYBOX_IN_GUEST, busybox)
        busybox.chmod(0o555)
        ext4.make(root, image, uuid=data.uuid, epoch=data.source_date_epoch, label="kmatrix", devices=_DEVICES)
        image.chmod(0o444)
    manifest = {
        "schema": SCHEMA,
        "arch": arch,
        "key": key,
        "digest": paths.sha256(image),
        "size": image.stat().st_size,
        "busybox": paths.sha256(busybox),
        "recipe": recipe.digest,
        "source_date_epoch": data.source_date_epoch,
        "mirror": {"uri": source.uri, "suite": data.suite, "date": suite.release.get("Date")},
        "tools": {"mmdebstrap": _mmdebstrap_version(), "e2fsprogs": ext4.version()},
        "bytecode": bytecode,
        "packages": packages,
    }
    (into / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    cache.remove_tree(root)
    cache.remove_tree(scratch)


def _need_programs() -> None:
    packages = ["mmdebstrap"] if shutil.which("mmdebstrap") is None else []
    packages += ["e2fsprogs"] if ext4.missing_programs() else []
    if packages:
        raise InfraError(
            f"the guest image cannot be built: {' and '.join(packages)} not installed",
            fix=f"sudo apt-get install --no-install-recommends {' '.join(packages)}",
        )


def _open_suite(suite: str, mirror: str | None) -> apt.Suite:
    try:
        return apt.open_suite(suite, mirror=mirror)
    except Unavailable as error:  # which is said of kernels
        raise InfraError(f"the guest image cannot be built: {error.message}", where=error.where, fix=error.fix) from error


def _mmdebstrap(data: RecipeFile, packages: Sequence[str], arch: Arch, source: apt.Archive, scratch: Path) -> Path:
    """The packages and all they depend on, verified and extracted, as a tar in `scratch`. Raises InfraError when mmdebstrap fails.

    `--mode=chrootless` only means "do not chroot". With `--variant=extract` nothing is ever run in the new root, so this mode
    lacks nothing, and asks for neither root nor a user namespace; for root it has the virtue of mounting nothing on the host.
    """
    trusted = "[trusted=yes] " if source.trusted else ""
    tar, log = scratch / f"{arch}.tar", scratch / f"{arch}.log"
    command = [
        "sh",
        "-c",
        _WITH_US,
        "sh",
        "mmdebstrap",
        "--mode=chrootless",
        "--variant=extract",
        "--format=tar",
        "--skip=check/signed-by",
    ]
    command += [f"--architectures={INFO[arch].debian}", f"--include={','.join(packages)}", f"--extract-hook={_HOOK}"]
    command += [f"--keyring={_keys(source, scratch)}", '--aptopt=Acquire::Languages "none"']
    command += ['--aptopt=APT::Sandbox::User "root"']  # apt's own user may not get into the cache
    command += [f'--aptopt=Acquire::{scheme}::Proxy "{proxy}"' for scheme, proxy in apt.proxies()]
    uri = re.sub(r"^file:", "copy:", source.uri)  # apt would leave the packages where the hook does not see them
    command += [data.suite, str(tar), f"deb {trusted}{uri} {data.suite} {' '.join(data.components)}"]
    environment = os.environ | {"TMPDIR": str(scratch), "SOURCE_DATE_EPOCH": str(data.source_date_epoch), "LC_ALL": "C.UTF-8"}
    if STOP.is_set():
        raise InfraError("interrupted")
    with log.open("wb") as stderr:
        # A process group of its own: where its tar fails (a full disk), mmdebstrap sends SIGHUP to the whole of its group.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr, stderr=stderr, env=environment, process_group=0)
    _running.add(process)
    if STOP.is_set():  # set between the look above and here: who set it has not seen this one
        _kill(process)
    try:
        status = process.wait()
    except BaseException:
        _kill(process)
        raise
    finally:
        _running.discard(process)
        assert process.stdin is not None
        process.stdin.close()
    if status != 0:
        raise _mmdebstrap_failure(status, log.read_text(errors="replace"), source)
    return tar


_running: set[subprocess.Popen[bytes]] = set()
STOP = threading.Event()


def cancel() -> None:
    """End the builds under way in other threads of this process: Ctrl-C is only raised in the main one. They raise InfraError.

    None can be started in this process afterwards, but by `obtain_all`.
    """
    STOP.set()
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # All that it would clean up is in our scratch folder.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _keys(source: apt.Archive, scratch: Path) -> Path:
    """A folder with the archive's keys as apt reads them from trusted.gpg.d."""
    folder = scratch / "keys"
    folder.mkdir(exist_ok=True)
    rings = [path.read_bytes() for path in source.keyrings if os.access(path, os.R_OK)]
    armoured = [*source.keys, *(ring.decode("ascii", "replace") for ring in rings if ring.lstrip().startswith(b"-----BEGIN"))]
    binary = [ring for ring in rings if not ring.lstrip().startswith(b"-----BEGIN")]
    for number, key in enumerate([*binary, *map(apt.dearmor, armoured)]):
        (folder / f"{number}.gpg").write_bytes(key)
    return folder


def _mmdebstrap_failure(status: int, log: str, source: apt.Archive) -> Exception:
    full = os.strerror(errno.ENOSPC)
    if full in log:
        return OSError(errno.ENOSPC, full)
    # "E:" begins errors, of apt as of mmdebstrap; the last ones only say that the ones before were fatal.
    errors = [line[2:].strip() for line in log.splitlines() if line.startswith("E:")]
    telling = [line for line in errors if not re.match(r"(mmdebstrap|setup|apt) .*failed", line)] or errors
    said = "; ".join(dict.fromkeys(telling[:3])) or f"exit status {status}"
    return InfraError(
        f"mmdebstrap failed: {said}",
        where=source.uri,
        fix="mend the mirror or the network (or packages in images/image.toml), then: kmatrix images build",
    )


def _mmdebstrap_version() -> str:
    done = subprocess.run(["mmdebstrap", "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"^mmdebstrap (\S+)", done.stdout + done.stderr, re.MULTILINE)
    return match[1] if match else "unknown"


def _unpack(tar: Path, root: Path, wants: Callable[[str], bool]) -> list[dict[str, str]]:
    """Extract the files that are wanted from the tar into `root`; the packages that the tar was made of, by name."""
    packages: list[dict[str, str]] = []
    for entry in archive.tar_entries(tar):
        path = _merged(entry.path)
        if path == _PACKAGES and entry.content is not None:
            packages = _parse_packages(entry.content.read().decode())
        elif wants(path):
            _extract(entry, root, path)
    tar.unlink()
    return packages


def _merged(path: str) -> str:
    """A member's path in the guest, where bin, sbin and lib are links into usr/."""
    return f"usr/{path}" if "/" in path and path.split("/")[0] in _MERGED else path


def _extract(entry: archive.TarEntry, root: Path, path: str) -> None:
    target = root / path
    if entry.kind in ("folder", "other") or path in _MERGED:
        return  # folders are made for what is in them; the recipe has the links, and the file system's maker the devices
    target.parent.mkdir(parents=True, exist_ok=True)
    if entry.kind == "symlink":
        target.symlink_to(entry.target)
    elif entry.kind == "hardlink":
        target.hardlink_to(root / _merged(entry.target))
    elif entry.content is not None:
        with target.open("wb") as file:
            shutil.copyfileobj(entry.content, file)
        target.chmod(0o755 if entry.executable else 0o644)


def _parse_packages(sums: str) -> list[dict[str, str]]:
    """`sha256sum *.deb` as name, version and sha256: apt names the files name_version_arch.deb, with `:` as %3a."""
    packages = []
    for line in sums.splitlines():
        digest, _, file = line.partition("  ")
        name, version, _ = unquote(file).split("_", 2)
        packages.append({"name": name, "version": version, "sha256": digest})
    return packages


def _host_python(data: RecipeFile, arch: Arch, source: apt.Archive, root: Path, scratch: Path) -> Path | None:
    """A tree with the guest's Python that this host can run; None where the host is of neither arch.

    The image's own if it is for the host's arch, else the same suite's packages for the host's.
    """
    host = host_arch()
    if host is None or host == arch:
        return None if host is None else root
    tree = scratch / "python"
    tree.mkdir()
    _unpack(_mmdebstrap(data, ["python3-minimal"], host, source, scratch), tree, lambda path: path.startswith("usr/"))
    return tree


def _compile(root: Path, python: Path | None) -> str | None:
    """Compile the guest's Python library; the program that did it, or None where this host cannot run it.

    Without bytecode the guest works, but compiles what it imports at every boot: seconds, where the CPU is emulated. Only the same
    version's bytecode counts, so the guest's own Python does it, started by its own dynamic loader. One process and a fixed hash
    seed: what is written depends on the order of work and on the order of sets.
    """
    if python is None:
        return None
    program = (python / "usr/bin/python3").resolve()
    loader = next((python / "usr/lib").glob("*-linux-gnu/ld-linux-*.so.*"))
    command = [str(loader), "--library-path", str(loader.parent), str(program), "-SB", "-m", "compileall", "-q", "-f"]
    command += ["--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/", str(root / "usr/lib" / program.name)]
    environment = {"PYTHONHOME": str(python / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(command, env=environment, umask=0o022, capture_output=True, text=True, check=False)
    except PermissionError:  # the cache is on a noexec mount
        return None
    if done.returncode != 0:
        raise InfraError(
            f"the guest's Python library does not compile: {done.stdout.strip() or done.stderr.strip()}", where=str(root)
        )
    return program.name


def _complete(recipe: Recipe, root: Path) -> None:
    """What packages do not bring: folders, links, applets, the files of rootfs/, kmatrix-init."""
    data = recipe.data
    for path in data.directories:
        (root / path).mkdir(parents=True, exist_ok=True)
    for path, content in recipe.files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(content)
        target.chmod(int(data.modes.get(path, "0644"), 8))
    brought = [name for name in data.applets for folder in ("bin", "sbin") if os.path.lexists(root / "usr" / folder / name)]
    if brought:
        raise InputError(
            f"packages bring {', '.join(brought)} already",
            where=str(recipe.file),
            fix="take them out of applets (or the packages' own into remove)",
        )
    for path, goal in {**data.symlinks, **{f"usr/bin/{name}": "busybox" for name in data.applets}}.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(goal)
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(0o755)  # whatever the builder's umask
