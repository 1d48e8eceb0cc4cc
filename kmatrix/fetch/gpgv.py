"""OpenPGP signatures, checked by gpgv: what apt uses, and what every Debian host has."""

from __future__ import annotations

import base64
import contextlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kmatrix.host.errors import InfraError


@dataclass(frozen=True)
class Keys:
    """What a signature is checked with.

    `files` are binary or armoured key files; `texts`, armoured keys themselves; `fingerprints` (whole, in upper case), where there are any,
    the only keys accepted.
    """

    files: tuple[Path, ...] = ()
    texts: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()


def verify(data: bytes | Path, keys: Keys, *, where: str, signature: bytes | None = None, fix: str | None = None) -> bytes:
    """The text that was signed with one of `keys`: of the clear-signed `data`, or `data` itself with a detached `signature`.

    A file too large to be held is given as its path, with a signature, and not returned. `fix` is what to do about a bad signature.

    Raises InfraError when there is no good signature by one of them, any signature is bad, or gpgv is not installed.
    As for apt, one good signature is enough: releases are signed by several keys, not all of which every host knows.
    """
    gpgv = shutil.which("gpgv")
    if gpgv is None:
        raise InfraError("gpgv is not installed", fix="apt-get install gpgv")
    with tempfile.TemporaryDirectory(prefix="kmatrix-gpgv-") as name:
        folder = Path(name)
        rings = _keyring_files(keys, folder)
        if not rings:
            raise InfraError("there is no key to verify it with", where=where, fix=fix or "apt-get install debian-archive-keyring")
        message, output = folder / "message", folder / "output"
        if isinstance(data, bytes):
            message.write_bytes(data)
        else:
            message = data.absolute()
        command = [gpgv, "--homedir", name, "--status-fd", "1"]
        for ring in rings:
            command += ["--keyring", str(ring)]
        if signature is None:
            command += ["--output", str(output), str(message)]
        else:
            (folder / "signature").write_bytes(signature)
            command += [str(folder / "signature"), str(message)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        status = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("[GNUPG:] ")]
        if not _accepted(status, keys.fingerprints):
            raise InfraError(
                "its signature is not good: " + _why(status, done.stderr),
                where=where,
                fix=fix or "check the mirror; for a newer release's key: apt-get install debian-archive-keyring",
            )
        if signature is None:
            return output.read_bytes()
        return data if isinstance(data, bytes) else b""


def _accepted(status: list[list[str]], fingerprints: tuple[str, ...]) -> bool:
    words = [line[0] for line in status]
    if "BADSIG" in words:
        return False
    good = False
    for line in status:
        # gpgv says GOODSIG, EXPSIG, EXPKEYSIG or REVKEYSIG first and VALIDSIG after any of them: only after GOODSIG does it count.
        if line[0] in ("GOODSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "ERRSIG"):
            good = line[0] == "GOODSIG"
        elif line[0] == "VALIDSIG" and good:
            keys = {line[1], line[-1]}  # the (sub)key that signed, and its primary key
            if not fingerprints or keys & set(fingerprints):
                return True
    return False


def _why(status: list[list[str]], stderr: str) -> str:
    for word, text in (("BADSIG", "the text was changed after it was signed"), ("EXPKEYSIG", "the key has expired")):
        if any(line[0] == word for line in status):
            return text
    unknown = [line[1] for line in status if line[0] == "NO_PUBKEY"]
    if unknown:
        return f"none of the known keys made it (made by {', '.join(unknown)})"
    return stderr.strip().splitlines()[-1] if stderr.strip() else "there is none"


def _keyring_files(keys: Keys, folder: Path) -> list[Path]:
    """The keys as files that gpgv reads: it knows no armour, so armoured ones are unpacked into `folder`."""
    rings = []
    texts = [key.encode() for key in keys.texts]
    for path in keys.files:
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if b"-----BEGIN PGP" in data:
            texts.append(data)
        else:
            rings.append(path.absolute())
    for number, text in enumerate(texts):
        ring = folder / f"key{number}.gpg"
        ring.write_bytes(dearmor(text.decode(errors="replace")))
        rings.append(ring)
    return rings


def armor(key: bytes) -> str:
    """A binary key, armoured; one that is armoured already, as it is."""
    if b"-----BEGIN PGP" in key:
        return key.decode(errors="replace")
    kind = "PGP PUBLIC KEY BLOCK"
    return f"-----BEGIN {kind}-----\n\n{base64.b64encode(key).decode()}\n-----END {kind}-----\n"


def dearmor(text: str) -> bytes:
    """The binary form of the armoured PGP keys in `text` (RFC 9580 §6.2). A deb822 field's form (" ." for an empty line) is read too."""
    keys = b""
    for block in re.findall(r"-----BEGIN PGP [^\n]*-----\n(.*?)-----END PGP ", text + "\n", re.DOTALL):
        lines = [line.strip() for line in block.splitlines()]
        lines = ["" if line == "." else line for line in lines]
        body = lines[lines.index("") + 1 :] if "" in lines else lines
        with contextlib.suppress(ValueError):
            keys += base64.b64decode("".join(line for line in body if not line.startswith("=")))
    return keys
