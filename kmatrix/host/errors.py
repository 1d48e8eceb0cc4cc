"""The errors that reach a person: each says what is wrong, where, and what to do next."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"\b(https?://)[^/@\s]+@", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """`text`, with the user and password that its http addresses may have left out."""
    return _CREDENTIALS.sub(r"\1", text)


class KmatrixError(Exception):
    """Anything kmatrix stops for on purpose.

    `message` says what is wrong in one sentence, `where` names the file, key or target it is about, `fix` is what to do next
    (a command where there is one). The CLI prints the three and no traceback. A password in an address never gets into any of them.
    """

    def __init__(self, message: str, *, fix: str | None = None, where: str | None = None) -> None:
        self.message = without_credentials(message)
        self.fix = None if fix is None else without_credentials(fix)
        self.where = None if where is None else without_credentials(where)
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        return f"{head}\n  fix: {self.fix}" if self.fix else head

    def __reduce__(self) -> tuple[object, ...]:
        # The default reduces to cls(str(self)), which would fold fix and where into the message (xdist sends errors by pickle).
        return (_rebuild, (type(self), self.message, self.fix, self.where))


def _rebuild(cls: type[KmatrixError], message: str, fix: str | None, where: str | None) -> KmatrixError:
    return cls(message, fix=fix, where=where)


class InputError(KmatrixError):
    """The user's own file or option is wrong; nothing was run and nothing was written."""


class InfraError(KmatrixError):
    """The machine room failed (no image, QEMU died, boot timed out): says nothing about any collector. A pytest error, never a failure."""


class StoreError(InfraError):
    """The cache itself is in trouble (a full disk, a folder that cannot be written, a damaged entry): no other source would help."""


class Unavailable(InfraError):
    """A kernel cannot be had on this machine, for the reason given."""
