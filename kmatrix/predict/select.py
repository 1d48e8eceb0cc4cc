"""Which profiles are meant by an expression, as --kernels has it."""

from __future__ import annotations

from collections.abc import Sequence

from kmatrix.host import version
from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.matrix.arch import parse_arches
from kmatrix.objects.compiled import ObjectInfo
from kmatrix.predict import store
from kmatrix.predict.kernel import Kernel

_FIX = "kmatrix profiles list has them all; kmatrix profiles add makes one"


def kernels(expression: str | None, arch: str) -> list[Kernel]:
    """The profiles that --kernels (`5.4,6.1`, `>=5.8`, `5.4..6.1`, `5.4-arm64`, `all`; None: all) and --arch select. Raises InputError."""
    arches = parse_arches(arch)
    every = [kernel for kernel in store.kernels() if kernel.arch in arches]
    if not every:
        raise InputError("there is no profile of a kernel", where=f"--arch={arch}", fix="make one: kmatrix profiles add")
    found: dict[str, Kernel] = {}
    for term in (expression or "all").split(","):
        found |= {kernel.name: kernel for kernel in _term(term.strip(), every)}
    return [kernel for kernel in every if kernel.name in found]


def _term(term: str, every: Sequence[Kernel]) -> list[Kernel]:
    if term == "all":
        return [*every]
    named = [kernel for kernel in every if term in (kernel.name, kernel.meta["kernel"])]
    if named:
        return named
    versions = version.between(term, "--kernels")
    if versions is None:
        known = [*dict.fromkeys(kernel.meta["kernel"] for kernel in every), *(kernel.name for kernel in every)]
        raise InputError(f"there is no profile {term!r}{did_you_mean(term, known)}", where="--kernels", fix=_FIX)
    low, high = versions
    found = [kernel for kernel in every if low <= kernel.version < high]
    if not found:
        raise InputError(f"no profile is in {term!r}", where="--kernels", fix=_FIX)
    return found


def fitting(info: ObjectInfo, kernels: Sequence[Kernel]) -> list[Kernel]:
    """Those of the arch that the object is compiled for; all, where it is the same for all. Raises InputError where there is none."""
    found = [kernel for kernel in kernels if info.compiled_for in (None, kernel.arch)]
    if not found:
        raise InputError(
            f"compiled for {info.compiled_for} ({info.compiled_because}), and no profile of that arch is selected",
            where=str(info.path),
            fix=f"--arch={info.compiled_for}, or compile it for the other arch",
        )
    return found
