"""The matrix of all kernels and named sets, and the expressions that select kernels and targets from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from kmatrix.host import version as versions
from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.matrix import circumstances
from kmatrix.matrix.arch import ARCHES, parse_arch, parse_arches
from kmatrix.matrix.circumstances import Known
from kmatrix.matrix.hosts import Host
from kmatrix.matrix.kernel import FLAVOURS, Kernel, Target, Variation, vary
from kmatrix.matrix.lockfile import Lock
from kmatrix.matrix.parameters import Definitions

DEFAULT_SET = "default"
STORE = "store"
"""What --kernels calls all kernels whose image is on this machine. The matrix does not know them: kmatrix.runs.machine_room does."""


def asked_for(expression: str | None) -> str | None:
    """The kernels that a --kernels asks for by name, each of which must be had; None for a bare run, and for the default set: what can be had."""
    return None if expression is None or expression.strip() == DEFAULT_SET else expression


@dataclass(frozen=True)
class Matrix:
    """All kernels, the named sets of them, and the mirrors."""

    kernels: Mapping[str, Kernel]
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mirrors: Mapping[str, str] = field(default_factory=dict)
    where: str = "kernels.toml"
    lock: Lock | None = None
    """What the kernels are held to, where there is a kernels.lock."""
    defined: Definitions = field(default_factory=dict)
    """The project's own names for features: [features.NAME]."""
    circumstances: Known = field(default_factory=dict)
    """What a kernel can be run under: [circumstances.NAME]."""
    hosts: Mapping[str, Host] = field(default_factory=dict)
    """Real machines: [hosts.NAME]. No set, range or wildcard means one; which kernel it runs, only the machine can tell (kmatrix.vm.boards)."""

    def find(self, name: str) -> Kernel | None:
        """The kernel of that name; None where there is none.

        Some stand in no kernels.toml: 5.4-nobtf is 5.4 built as that flavour, 6.1.172 a point release, 6.1+lockdown 6.1 under a circumstance.
        """
        if name in self.kernels:
            return self.kernels[name]
        if circumstances.SEPARATOR in name:
            with suppress(InputError):
                return self._under(name, name)
            return None
        if (point := _POINT.fullmatch(name)) is not None and (base := self.kernels.get(point[1])) is not None:
            return _point_release(base, name)
        for base in self.kernels.values():
            for flavour in FLAVOURS:
                if name == f"{base.name}-{flavour}" and base.is_plain:
                    return vary(base, name, Variation(build=(flavour,)), base.declared_in)
        return None

    def _under(self, text: str, where: str) -> Kernel:
        """The kernel under circumstances that `text` names. Raises InputError."""
        base, names = circumstances.parts(text)
        return circumstances.under(self.kernel(base, where=where), names, self.circumstances, where=where)

    def select(self, expression: str, *, where: str = "--kernels") -> tuple[Kernel, ...]:
        """The kernels that `expression` means, in the matrix's order.

        A comma-separated list of: a kernel's name, a set's name, `all`, a comparison (`>=5.8`, `<6`), a range (`5.4..6.1`, both ends in).
        Comparisons and ranges are over the upstream version, and mean plain kernels only: a simulated one, a flavour, a distribution's or
        one that moves is named, or in a set. Raises InputError (with the nearest names) for an unknown name and for a term that selects nothing.
        """
        terms = self.terms(expression)
        if not terms:
            raise InputError("no kernel given", where=where, fix=self._choices(where))
        chosen = {name: None for term in terms for name in self._term(term, where)}
        named = tuple(kernel for name, kernel in self.kernels.items() if name in chosen)
        return (*named, *(self.kernel(name, where=where) for name in chosen if name not in self.kernels))

    def terms(self, expression: str) -> list[str]:
        """The terms of a comma-separated list. What a list of capabilities (6.1+cap=bpf,perfmon) goes on with belongs to it."""
        terms: list[str] = []
        for term in (each.strip() for each in expression.split(",")):
            if terms and circumstances.is_open(terms[-1]) and not self._is_term(term):
                terms[-1] += f",{term}"
            elif term:
                terms.append(term)
        return terms

    def _is_term(self, text: str) -> bool:
        base = circumstances.parts(text)[0]
        return (
            base in (*self.sets, *self.hosts, "all", STORE) or re.match(r"[<>=\d]", text) is not None or self.find(base) is not None
        )

    def targets(self, kernels: str, arches: str, *, where: str = "--kernels") -> tuple[Target, ...]:
        """Every target of the kernels × arches selected by the two expressions."""
        chosen = self.select(kernels, where=where)
        return tuple(Target(kernel, arch) for kernel in chosen for arch in parse_arches(arches))

    def target(self, text: str, *, where: str = "target") -> Target:
        """The target written `5.4-arm64` (arch aliases understood)."""
        if self.as_target(text) is None and self.find(text) is not None:
            written = " or ".join(f"{text}-{arch}" for arch in ARCHES)
            raise InputError(f"{text!r} is a kernel, and a target (kernel × arch) is wanted", where=where, fix=f"write {written}")
        name, _, arch = text.rpartition("-")
        if not name:
            raise InputError(f"{text!r} is not a target", where=where, fix="write it as KERNEL-ARCH, such as 5.4-arm64")
        return Target(self.kernel(name, where=where), parse_arch(arch, where=where))

    def as_target(self, text: str) -> Target | None:
        """The target that `text` would be; None where it is none."""
        name, _, arch = text.rpartition("-")
        kernel = self.find(name)
        if kernel is None:
            return None
        try:
            return Target(kernel, parse_arch(arch))
        except InputError:
            return None

    def kernel(self, name: str, *, where: str = "--kernels") -> Kernel:
        """The kernel of that name; raises InputError with the nearest names."""
        if (found := self.find(name)) is not None:
            return found
        if name.partition(circumstances.SEPARATOR)[0] in self.hosts:
            raise self._not_a_kernel(name, where)
        if circumstances.SEPARATOR in name and not any(name.endswith(f"-{arch}") for arch in ARCHES):
            return self._under(name, where)
        if (target := self.as_target(name)) is not None:
            option = "--kernels=" if where == "--kernels" else ""
            fix = f"write {option}{target.kernel.name} --arch={target.arch}"
            raise InputError(f"{name!r} is a target (kernel × arch), and a kernel is wanted", where=where, fix=fix)
        known = [*self.kernels, *self.sets, *self.hosts, *_words(where)]
        fix = self._choices(where)
        if re.fullmatch(r"\d+\.\d+", name):
            fix = f'to add it, declare [kernels."{name}"] with its sources in a kernels.toml of your own (docs/kernels-toml.md); known are {fix}'
        raise InputError(f"unknown kernel {name!r}{did_you_mean(name, known)}", where=where, fix=fix)

    def _not_a_kernel(self, name: str, where: str) -> InputError:
        host, _, under = name.partition(circumstances.SEPARATOR)
        if under:
            what = f"{host} is a real machine, and no circumstance can be made there: {under} is a VM's"
            return InputError(what, where=where, fix=f"write --kernels={host}, or name a kernel with +{under}")
        fix = "name a kernel; kmatrix run, kmatrix features and pytest run on real machines (docs/how-to/boards.md)"
        return InputError(
            f"{host} is a real machine ([hosts.{host}]), and this takes kernels that are booted", where=where, fix=fix
        )

    def _term(self, term: str, where: str) -> Iterable[str]:
        if term == "all":
            return list(self.kernels)
        if term in self.kernels:
            return [term]
        if term in self.sets:
            return self.sets[term]
        accepts = versions.between(term, where)
        if accepts is None:
            return [self.kernel(term, where=where).name]
        low, high = accepts
        plain = {
            name: kernel
            for name, kernel in self.kernels.items()
            if kernel.is_plain and kernel.distribution is None and not kernel.moving
        }
        names = [name for name, kernel in plain.items() if low <= kernel.version < high]
        if not names:
            raise InputError(f"no kernel of {self.where} is in {term!r}", where=where, fix=self._choices(where))
        return names

    def _choices(self, where: str) -> str:
        return f"kernels: {', '.join(self.kernels)}; sets: {', '.join([*self.sets, *_words(where)])}; or >=5.8, 5.4..6.1"


def series_of(name: str) -> str | None:
    """The series of a point release's name: 6.1 of 6.1.172; None for any other name."""
    return match[1] if (match := _POINT.fullmatch(name)) is not None else None


_POINT = re.compile(r"(\d+\.\d+)\.\d+")


def _point_release(base: Kernel, name: str) -> Kernel | None:
    """`base` in the one release that `name` says, where Debian's archive is a source of it: it keeps several, in up to three suites."""
    sources = []
    for source in base.sources:
        if source.kind == "debian":
            suite = str(source.options["suite"])
            release = suite.partition("-")[0]
            for each in dict.fromkeys((suite, release, f"{release}-security", f"{release}-backports")):
                sources.append(replace(source, options={**source.options, "suite": each, "version": name}))
    return replace(base, name=name, summary=f"{base.name} in release {name}", sources=tuple(sources)) if sources else None


def _words(where: str) -> tuple[str, ...]:
    """What may be written beside the names of kernels and sets."""
    return ("all", STORE) if where == "--kernels" else ("all",)
