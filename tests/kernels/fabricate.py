"""Kernel images, modules, packages and a signed archive, made by hand: small, and shaped as the real ones are."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import struct
import subprocess
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from kmatrix.fetch.archive import zstd
from kmatrix.kernels.entry import StagedKernel
from kmatrix.matrix.kernel import Kernel, SourceSpec

CONFIG = "CONFIG_BPF_SYSCALL=y\nCONFIG_DEBUG_INFO_BTF=y\n"


def kernel(name: str = "6.1", version: tuple[int, int] = (6, 1), *sources: SourceSpec) -> Kernel:
    return Kernel(name=name, version=version, sources=sources)


def debian_kernel(suite: str = "bookworm", series: str = "6.1") -> Kernel:
    major, minor = map(int, series.split("."))
    return kernel(series, (major, minor), SourceSpec("debian", options={"suite": suite, "series": series}))


def btf_section() -> bytes:
    types, strings = b"\x01" * 2000, b"\0int\0char\0"
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


def _contents(btf: bool, config: str | None) -> bytes:
    embedded = b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED" if config is not None else b""
    return b"\0" * 64 + (btf_section() if btf else b"") + b"filler" * 50 + embedded


def bzimage(release: str = "6.1.0-9-amd64", *, btf: bool = True, config: str | None = CONFIG, pack: str = "gzip") -> bytes:
    vmlinux = b"\x7fELF" + _contents(btf, config)
    packed = {"gzip": gzip.compress, "xz": lzma.compress, "none": bytes, "unknown": lambda data: b"????" + data}[pack](vmlinux)
    payload = packed + struct.pack("<I", len(vmlinux))
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    version = f"{release} (someone@somewhere) #1 SMP".encode() + b"\0"
    struct.pack_into("<H", setup, 0x20E, 0x100)
    setup[0x300 : 0x300 + len(version)] = version
    struct.pack_into("<II", setup, 0x248, 0, len(payload))
    payload += b"\0" * (-len(payload) % 16)
    struct.pack_into("<I", setup, 0x1F4, len(payload) // 16)
    return bytes(setup) + payload


def arm64_image(release: str = "6.1.0-9-arm64", *, btf: bool = True, config: str | None = CONFIG, junk: bytes = b"") -> bytes:
    body = junk + _contents(btf, config) + f"Linux version {release} (someone@somewhere)".encode() + b"\0" * 100
    header = bytearray(64)
    header[:2] = b"MZ"
    struct.pack_into("<Q", header, 16, 64 + len(body))
    header[56:60] = b"ARM\x64"
    return bytes(header) + body


def zboot(image: bytes) -> bytes:
    payload = gzip.compress(image)
    header = bytearray(64)
    header[:2], header[4:8] = b"MZ", b"zimg"
    struct.pack_into("<II", header, 8, 64, len(payload))
    header[24:28] = b"gzip"
    header[56:60] = b"\xcd\x23\x82\x81"
    return bytes(header) + payload


def module(name: str, depends: str = "", size: int = 0) -> bytes:
    """A relocatable ELF file with a .modinfo section: what depmod and modprobe take for a module."""
    modinfo = f"license=GPL\0depends={depends}\0name={name}\0vermagic=6.1 SMP\0".encode()
    names = b"\0.modinfo\0.shstrtab\0.data\0"
    body, sections, offset = b"", [b"\0" * 64], 64
    for at, data in ((1, b"\0" + modinfo), (10, names), (20, b"x" * size)):
        sections.append(struct.pack("<IIQQQQIIQQ", at, 1 if at != 10 else 3, 2, 0, offset + len(body), len(data), 0, 0, 1, 0))
        body += data
    header = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(sections), 2)
    return header + body + b"".join(sections)


def deb(files: dict[str, bytes], *, compress: str = "xz") -> bytes:
    """A .deb with these files (paths as in the package, without ./)."""
    tarball = io.BytesIO()
    with tarfile.open(fileobj=tarball, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path if path.startswith(("/", "..")) else f"./{path}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    packed = {"xz": lzma.compress, "gz": gzip.compress, "zst": zstd.compress}[compress](tarball.getvalue())
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    members = {"debian-binary": b"2.0\n", "control.tar.xz": lzma.compress(empty.getvalue()), f"data.tar.{compress}": packed}
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def kernel_deb(release: str = "6.1.0-9-amd64", image: bytes | None = None, *, suffix: str = "", prefix: str = "") -> bytes:
    """A kernel's package as Debian has it: an image, its config, and modules of which a VM can use some."""
    return deb(kernel_files(release, image, suffix=suffix, prefix=prefix))


def split_debs(release: str) -> dict[str, bytes]:
    """The packages that Debian splits a kernel into from 6.19 on, by what their names begin with; the image stands among the modules."""
    files = kernel_files(release, suffix=".xz", prefix="usr/")
    image = {f"usr/lib/modules/{release}/vmlinuz": files.pop(f"boot/vmlinuz-{release}")}
    config = {path: data for path, data in files.items() if path.startswith("boot/config-")}
    rest = {path: data for path, data in files.items() if path not in config}
    return {"linux-base": deb(config), "linux-binary": deb(image), "linux-modules": deb(rest)}


def kernel_files(release: str, image: bytes | None = None, *, suffix: str = "", prefix: str = "") -> dict[str, bytes]:
    """What is in it, by path."""
    if image is None:
        image = bzimage(release) if release.endswith("amd64") else arm64_image(release)
    pack = lzma.compress if suffix == ".xz" else bytes
    tree = f"{prefix}lib/modules/{release}"
    modules = {
        "net/sched/cls_bpf": module("cls_bpf"),
        "fs/9p/9p": module("9p", "9pnet"),
        "net/9p/9pnet": module("9pnet"),
        "drivers/net/veth": module("veth"),
        "drivers/net/wireless/wifi": module("wifi", size=5000),
        "sound/core/snd": module("snd"),
    }
    return {
        f"boot/config-{release}": CONFIG.encode(),
        f"boot/vmlinuz-{release}": image,
        **{f"{tree}/kernel/{path}.ko{suffix}": pack(data) for path, data in modules.items()},
        f"{tree}/modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
        f"{tree}/modules.builtin.modinfo": b"ext4.license=GPL\0",
        f"{tree}/modules.order": b"".join(f"kernel/{path}.ko\n".encode() for path in modules),
        f"usr/share/doc/linux-image-{release}/copyright": b"GPL-2",
    }


def staged(folder: Path, release: str = "6.1.9", text: str = "image", *, files: dict[str, bytes] | None = None) -> StagedKernel:
    """What a source does, without a source."""
    (folder / "boot").mkdir()
    (folder / f"boot/vmlinuz-{release}").write_text(text)
    for path, data in (files or {}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return StagedKernel(release, {"kind": "import", "image": text}, True, "said so")


# --- an archive


@dataclass
class Signer:
    """A throw-away key."""

    home: Path
    keyring: Path

    @classmethod
    def make(cls, home: Path) -> Signer:
        home.mkdir(mode=0o700, parents=True)
        signer = cls(home, home / "archive.gpg")
        signer._gpg("--quick-generate-key", "Test Archive <archive@example.org>", "ed25519", "sign", "never")
        signer.keyring.write_bytes(signer._gpg("--export"))
        return signer

    def _gpg(self, *arguments: str, data: bytes | None = None) -> bytes:
        command = ["gpg", "--batch", "--homedir", str(self.home), "--pinentry-mode", "loopback", "--passphrase", "", *arguments]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    def close(self) -> None:
        """End the agent that gpg leaves running."""
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], capture_output=True, check=False)

    def clearsign(self, text: bytes) -> bytes:
        return self._gpg("--clearsign", data=text)

    def detached(self, text: bytes) -> bytes:
        return self._gpg("--detach-sign", data=text)

    def fingerprint(self) -> str:
        listed = self._gpg("--list-keys", "--with-colons").decode()
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))

    def armoured(self) -> str:
        return self._gpg("--export", "--armor").decode()


@dataclass
class Archive:
    """A Debian archive in a folder."""

    root: Path
    signer: Signer
    suite: str = "bookworm"
    origin: str = "Debian"
    packages: dict[str, list[tuple[str, str, bytes, str]]] = field(default_factory=dict)

    def add(self, name: str, version: str, arch: str, data: bytes, depends: str = "") -> Path:
        """Put a package into the pool and the index; returns its file."""
        file = self.root / f"pool/{name}_{version}_{arch}.deb"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        self.packages.setdefault(arch, []).append((name, version, data, depends))
        return file

    def publish(self, *, by_hash: bool = True, inline: bool = True) -> None:
        """Write the indices and sign the release."""
        base = self.root / "dists" / self.suite
        sums = []
        for arch, packages in self.packages.items():
            text = "".join(self._stanza(name, version, arch, data, depends) for name, version, data, depends in packages)
            index = lzma.compress(text.encode())
            folder = base / f"main/binary-{arch}"
            digest = hashlib.sha256(index).hexdigest()
            (folder / "by-hash/SHA256").mkdir(parents=True, exist_ok=True)
            (folder / "Packages.xz").write_bytes(index)
            if by_hash:
                (folder / "by-hash/SHA256" / digest).write_bytes(index)
            sums.append(f" {digest} {len(index)} main/binary-{arch}/Packages.xz")
        head = f"Origin: {self.origin}\nLabel: Debian\nSuite: stable\nCodename: {self.suite}\n"
        head += "Acquire-By-Hash: yes\n" if by_hash else ""
        release = (head + "SHA256:\n" + "\n".join(sums) + "\n").encode()
        if inline:
            (base / "InRelease").write_bytes(self.signer.clearsign(release))
        else:
            (base / "Release").write_bytes(release)
            (base / "Release.gpg").write_bytes(self.signer.detached(release))

    def _stanza(self, name: str, version: str, arch: str, data: bytes, depends: str) -> str:
        digest = hashlib.sha256(data).hexdigest()
        return (
            f"Package: {name}\nVersion: {version}\nArchitecture: {arch}\n"
            + (f"Depends: {depends}\n" if depends else "")
            + f"Filename: pool/{name}_{version}_{arch}.deb\nSize: {len(data)}\nSHA256: {digest}\n\n"
        )

    def files(self, pattern: str) -> list[Path]:
        return sorted(self.root.glob(pattern))


def debian_archive(root: Path, signer: Signer, arch: str = "amd64") -> Archive:
    """An archive with one real candidate, an older one, and the packages that must not be taken for it."""
    archive = Archive(root, signer)
    archive.add(f"linux-image-6.1.0-8-{arch}", "6.1.8-1", arch, b"old")
    archive.add(f"linux-image-6.1.0-9-{arch}", "6.1.9-1", arch, kernel_deb(f"6.1.0-9-{arch}"))
    archive.add(f"linux-image-6.1.0-10-cloud-{arch}", "6.1.10-1", arch, b"cloud")
    archive.add(f"linux-image-{arch}", "6.1.9-1", arch, b"meta", depends=f"linux-image-6.1.0-9-{arch} (= 6.1.9-1)")
    archive.publish()
    return archive


class Served:
    """A loopback HTTP server of a folder, which counts and can cut short."""

    def __init__(self, root: Path) -> None:
        self.requests: Counter[str] = Counter()
        self.truncate = ""
        served = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                served.requests[self.path] += 1
                if served.truncate and self.path.endswith(served.truncate):
                    data = (root / self.path.lstrip("/")).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                    return
                super().do_GET()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(root)))
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def count(self, ending: str) -> int:
        return sum(number for path, number in self.requests.items() if path.endswith(ending))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def serve(root: Path) -> Iterator[Served]:
    served = Served(root)
    try:
        yield served
    finally:
        served.close()


def apt_root(folder: Path, uri: str, keyring: Path, suite: str = "bookworm") -> Path:
    """An /etc/apt that knows one mirror."""
    (folder / "sources.list.d").mkdir(parents=True, exist_ok=True)
    text = f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n"
    (folder / "sources.list.d/debian.sources").write_text(text)
    return folder


def leftovers(root: Path) -> list[str]:
    """What a store holds besides finished entries, refs and locks."""
    return [path.name for path in (root / "tmp").glob("*")] if (root / "tmp").exists() else []


def cpio(files: dict[str, bytes]) -> bytes:
    """A cpio archive in the newc format."""
    out = b""
    for name, data in [*files.items(), ("TRAILER!!!", b"")]:
        fields = [0, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return out


def bare_rpm(files: dict[str, bytes]) -> bytes:
    """An RPM whose headers say nothing: what rpmbuild would not make."""
    header = b"\x8e\xad\xe8\x01\0\0\0\0" + struct.pack(">II", 0, 0)
    return b"\xed\xab\xee\xdb".ljust(96, b"\0") + header + header + gzip.compress(cpio(files))
