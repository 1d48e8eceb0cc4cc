"""Looking into an ext4 image without mounting it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

DEBUGFS = "/usr/sbin/debugfs"


@dataclass(frozen=True)
class Inode:
    kind: str
    mode: int
    owner: tuple[int, int]
    times: frozenset[int]
    """Seconds of atime, ctime, mtime and crtime."""


def inodes(image: Path) -> dict[int, Inode]:
    """Every inode in use, by number."""
    header = _debugfs(image, "stats")
    total = int(re.search(r"Inode count:\s+(\d+)", header)[1])  # type: ignore[index]
    found = {}
    for text in _debugfs(image, *(f"stat <{number}>" for number in (2, *range(11, total + 1)))).split("\nInode: ")[0:]:
        match = re.search(r"(\d+)\s+Type: (.+?)\s+Mode:\s+(\d+).*?User:\s+(\d+)\s+Group:\s+(\d+).*?Links: (\d+)", text, re.DOTALL)
        if match and int(match[6]):
            times = frozenset(int(word, 16) for word in re.findall(r"[acm]r?time: 0x([0-9a-f]{8})", text))
            found[int(match[1])] = Inode(match[2], int(match[3], 8), (int(match[4]), int(match[5])), times)
    return found


def stat(image: Path, path: str) -> str:
    return _debugfs(image, f"stat {path}")


def cat(image: Path, path: str) -> bytes:
    return subprocess.run([DEBUGFS, "-R", f"cat {path}", str(image)], capture_output=True, check=True).stdout


def names(image: Path, path: str) -> list[str]:
    """What is in a folder, in its order on disk."""
    return [line.split("/")[5] for line in _debugfs(image, f"ls -p {path}").splitlines() if line.count("/") >= 7]


def extract(image: Path, into: Path) -> Path:
    _debugfs(image, f"rdump / {into}")
    return into


def _debugfs(image: Path, *commands: str) -> str:
    script = "\n".join(commands) + "\n"
    done = subprocess.run([DEBUGFS, "-f", "-", str(image)], input=script, capture_output=True, text=True, check=True)
    return re.sub(r"^debugfs: .*\n", "", done.stdout, flags=re.MULTILINE)
