"""What can go wrong with a VM, by who has to look at it."""

from __future__ import annotations

from kmatrix.host.errors import InfraError, KmatrixError
from kmatrix.vm.console import Splat


class VmLost(InfraError):
    """QEMU ended, and the console does not say that the kernel died."""


class GuestTimeout(InfraError):
    """The guest did not answer in time, and the console shows no reason."""


class GuestError(KmatrixError):
    """The agent raised an exception while it did what it was asked.

    `kind` is the exception's type, `detail` its message, `traceback` the guest's traceback.
    """

    def __init__(self, kind: str, detail: str, traceback: str = "", *, where: str | None = None) -> None:
        super().__init__(f"{kind}: {detail}", where=where)
        self.kind = kind
        self.detail = detail
        self.traceback = traceback

    def __reduce__(self) -> tuple[object, ...]:
        return (_guest_error, (self.kind, self.detail, self.traceback, self.where))


class KernelDied(KmatrixError):
    """The guest's kernel panicked, or stopped answering after an oops, a BUG, a lockup or a stall. `splat` is what the console says."""

    def __init__(self, splat: Splat, *, where: str | None = None) -> None:
        super().__init__(f"{splat.kind}: {splat.title}", where=where)
        self.splat = splat

    def __reduce__(self) -> tuple[object, ...]:
        return (_kernel_died, (self.splat, self.where))


class KernelFails(InfraError):
    """The kernel does not come up, or dies of what kmatrix itself does there. It says nothing of what was to be tried."""


def _guest_error(kind: str, detail: str, traceback: str, where: str | None) -> GuestError:
    return GuestError(kind, detail, traceback, where=where)


def _kernel_died(splat: Splat, where: str | None) -> KernelDied:
    return KernelDied(splat, where=where)
