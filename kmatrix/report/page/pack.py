"""Texts made small, for a page that carries them: deflated in blocks, each block as base64, and a text that comes twice is kept once."""

from __future__ import annotations

import base64
import json
import zlib

BLOCK = 256 * 1024
"""Characters after which a block is full. Larger ones are hardly smaller in the end, and a page unpacks a whole block to read one text."""

Place = tuple[int, int]
"""Where a text is: the number of the block, and its place in it."""


class Pack:
    """Takes texts and gives their places; afterwards, the blocks.

    A block is a JSON array of texts, compressed as zlib does it (RFC 1950; browsers call that `deflate`).
    """

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._blocks: list[list[str]] = [[]]
        self._filled = 0

    def add(self, text: str) -> Place:
        """The place of the text."""
        if text not in self._places:
            if self._filled >= BLOCK:
                self._blocks.append([])
                self._filled = 0
            self._blocks[-1].append(text)
            self._filled += len(text)
            self._places[text] = len(self._blocks) - 1, len(self._blocks[-1]) - 1
        return self._places[text]

    def blocks(self) -> list[str]:
        """All blocks, by number."""
        return [_packed(json.dumps(block, ensure_ascii=False, separators=(",", ":"))) for block in self._blocks]


def _packed(text: str) -> str:
    """Lone surrogates, which a guest's bytes may have become, are replaced: they are no UTF-8."""
    return base64.b64encode(zlib.compress(text.encode(errors="replace"), 9)).decode()


def unpack(block: str) -> list[str]:
    """The texts of a block."""
    texts: list[str] = json.loads(zlib.decompress(base64.b64decode(block)))
    return texts
