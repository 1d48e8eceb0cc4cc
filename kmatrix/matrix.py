"""kernels.toml → frozen Kernel and Target, and the expressions that select them. All validation of the matrix stands here, and
that of its sources in kmatrix.sources.

Nothing here reads a file (kmatrix.config does): a matrix is made from the parsed TOML, and every error names the file and key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from kmatrix.arch import ARCHES, Arch, parse_arch, parse_arches
from kmatrix.errors import InputError
from kmatrix.features import FEATURES, Version, status
from kmatrix.lock import Lock
from kmatrix.nearest import did_you_mean
from kmatrix.simulation import HIDEABLE, OLDEST_BASE, Simulation, not_hideable
from kmatrix.sources import SourceModel
from kmatrix.validation import Strict, validate

__all__ = ["ARCHES", "Arch", "Kernel", "Matrix", "SourceSpec", "Target", "parse_arch", "parse_arches"]

DEFAULT_SET = "default"
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._]*(-[0-9A-Za-z._]+)*")
_VERSION = re.compile(r"(\d+)\.(\d+)")


MIRROR_SCHEMES = ("http://", "https://", "file:/")


BUILD_VARIANTS: Mapping[str, Mapping[str, bool]] = {
    "nobtf": {"DEBUG_INFO_BTF": False, "DEBUG_INFO_BTF_MODULES": False},
    "debug": {},
    "cgroup-v1": {"CGROUPS": True},
}
"""What a kernel can be built as besides as usual (kmatrix/kernels/config/variants/), and the options behind features that this decides."""

BUILDING = ("import", "build", "tarball", "git")
"""The sources that can give a kernel built differently."""

_CGROUP_V1 = ("systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1")
"""What a host of today boots with to mount every controller in version 1 and no version 2 (systemd(1)); the guest's init heeds it too."""


class _KernelModel(Strict):
    version: str | None = None
    variant_of: str | None = None
    build: Annotated[tuple[str, ...], Field(strict=False)] = ()
    cgroup: Literal["v1"] | None = None
    base: str | None = None
    as_of: str | None = None
    hide: Annotated[tuple[str, ...], Field(strict=False)] = ()
    summary: str = ""
    distribution: str | None = None
    status: Literal["full", "partial", "fallback", "unsupported"] | None = None
    features: dict[str, bool | dict[str, bool]] = {}
    config: dict[str, bool] = {}
    cmdline: Annotated[tuple[str, ...], Field(strict=False)] = ()
    memory: Annotated[int, Field(ge=64, le=65536)] | None = None
    sources: Annotated[tuple[SourceModel, ...], Field(strict=False)] = ()

    @field_validator("version", "as_of")
    @classmethod
    def _is_version(cls, value: str | None) -> str | None:
        if value is not None and not _VERSION.fullmatch(value):
            raise ValueError(f'{value!r} is not an upstream series; write it as major.minor, such as "5.4"')
        return value

    @field_validator("hide")
    @classmethod
    def _can_be_hidden(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in FEATURES:
                raise ValueError(f"unknown feature {name!r}{did_you_mean(name, FEATURES)}; `kmatrix features` lists them")
        if given := not_hideable(value):
            raise ValueError(f"{', '.join(given)} cannot be hidden; what can: {', '.join(sorted(HIDEABLE))}")
        return value

    @field_validator("build")
    @classmethod
    def _known_variants(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in BUILD_VARIANTS:
                raise ValueError(
                    f"unknown variant {name!r}{did_you_mean(name, BUILD_VARIANTS)}; known: {', '.join(BUILD_VARIANTS)}"
                )
        return value

    @model_validator(mode="after")
    def _a_variant_varies(self) -> _KernelModel:
        if self.variant_of is None:
            return self
        if not (self.build or self.cgroup or self.cmdline or self.memory or self.config or self.features):
            raise ValueError("a variant needs what it is a variant in: build, cgroup, cmdline, memory, config or features")
        taken = [name for name in ("version", "base", "as_of", "hide") if getattr(self, name)]
        if taken:
            raise ValueError(f"a variant takes no {', '.join(taken)}: it has the version of what it is a variant of")
        return self

    @model_validator(mode="after")
    def _real_or_simulated(self) -> _KernelModel:
        if self.variant_of is not None:
            return self
        if self.base is None:
            if self.as_of is not None or self.hide:
                raise ValueError("as_of and hide need a base: the kernel that is booted and of which something is hidden")
            if self.version is None:
                raise ValueError("version is missing (or base, for a simulated kernel)")
            return self
        if self.as_of is None and not self.hide:
            raise ValueError("a kernel with a base needs as_of or hide: what is simulated")
        own = [
            name
            for name in ("version", "distribution", "features", "config", "cmdline", "memory", "sources", "build", "cgroup")
            if getattr(self, name)
        ]
        if own:
            raise ValueError(f"a simulated kernel takes {', '.join(own)} from its base")
        return self

    @field_validator("features")
    @classmethod
    def _known_features(cls, value: dict[str, bool | dict[str, bool]]) -> dict[str, bool | dict[str, bool]]:
        for name, given in value.items():
            if name not in FEATURES:
                raise ValueError(f"unknown feature {name!r}{did_you_mean(name, FEATURES)}; `kmatrix features` lists them")
            if isinstance(given, dict):
                for arch in given:
                    if arch not in ARCHES:
                        raise ValueError(f"{name}: unknown arch {arch!r}; use {' or '.join(ARCHES)}")
        return value


class _FileModel(Strict):
    schema_version: Annotated[Literal[1], Field(alias="schema")]
    extends: bool = True
    sets: dict[str, Annotated[tuple[str, ...], Field(strict=False)]] = {}
    mirrors: dict[str, str] = {}
    kernels: dict[Annotated[str, AfterValidator(lambda name: _check_name(name))], _KernelModel] = {}

    @field_validator("mirrors")
    @classmethod
    def _mirrors_are_addresses(cls, value: dict[str, str]) -> dict[str, str]:
        for key, mirror in value.items():
            if key != "debian" and "://" not in key:
                raise ValueError(f"{key!r} is neither debian nor the address that a mirror stands in for, such as https://…/")
            if not mirror.startswith(MIRROR_SCHEMES):
                raise ValueError(f"{key}: {mirror!r} is no address; it begins with {', '.join(MIRROR_SCHEMES)}")
        return value


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name) or any(name.endswith(f"-{arch}") for arch in ARCHES) or name == "all":
        raise ValueError(f"{name!r} cannot name a kernel: letters, digits, '.', '_' and '-', not ending in an arch, not 'all'")
    return name


@dataclass(frozen=True)
class SourceSpec:
    """One place where a kernel's image can come from, as kernels.toml has it."""

    kind: str
    arches: tuple[Arch, ...] = ARCHES
    options: Mapping[str, Any] = field(default_factory=dict)
    """As sources.SOURCE_OPTIONS names them; those that may be given several times (url, sha256, key, …) are tuples of strings."""
    untried: bool = False
    """Written from its publisher's layout, and never run by whoever wrote it: a bare run does not use it."""


@dataclass(frozen=True)
class Kernel:
    """An entry of kernels.toml: a release, where its image comes from, what it is declared to be able to do."""

    name: str
    version: Version
    summary: str = ""
    sources: tuple[SourceSpec, ...] = ()
    overrides: Mapping[str, bool | Mapping[str, bool]] = field(default_factory=dict)
    """Features declared by name, for both arches or per arch, over what the version implies."""
    config: Mapping[str, bool] = field(default_factory=dict)
    """Kernel options known to be on or off, where that differs from what the features expect."""
    cmdline: tuple[str, ...] = ()
    memory_mib: int | None = None
    """Guest memory, where this kernel needs more than the default."""
    declared_in: str = "kernels.toml"
    distribution: str | None = None
    """Whose build it is, where it is a distribution's with features ported back: its version says less of it than of an upstream kernel."""
    simulation: Simulation | None = None
    """Where this kernel is not booted itself, but its base with something hidden."""
    variant_of: Kernel | None = None
    """The kernel that this one is, built or set up differently."""
    build: tuple[str, ...] = ()
    """The variants that it is built as: names of BUILD_VARIANTS."""
    variation: _KernelModel | None = field(default=None, repr=False, compare=False)
    """What kernels.toml says of a variant."""

    @property
    def is_plain(self) -> bool:
        """Whether it is neither simulated nor a variant."""
        return self.simulation is None and self.variant_of is None

    @property
    def real(self) -> Kernel:
        """The kernel that is booted: itself, or the base of a simulated one."""
        return self.simulation.base if self.simulation else self

    @property
    def image_of(self) -> Kernel:
        """The kernel whose image is booted: of one that is only set up differently, the one it is a variant of."""
        real = self.real
        return real.variant_of.image_of if real.variant_of is not None and not real.build else real

    def features(self, arch: Arch) -> frozenset[str]:
        """The declared features on `arch`: the overrides, and for the rest what version, config and arch imply.

        Of a simulated kernel: its base's without what is hidden.
        """
        if self.simulation is not None:
            return self.simulation.base.features(arch) - self.simulation.hidden(arch)
        return frozenset(name for name in FEATURES if self._declares(name, arch))

    def _declares(self, name: str, arch: Arch) -> bool:
        given = self.overrides.get(name)
        if isinstance(given, Mapping):
            given = given.get(arch)
        return FEATURES[name].default(self.version, arch, self.config) if given is None else bool(given)

    def status(self, arch: Arch) -> str:
        """The standard's word for this kernel: full, partial, fallback or unsupported."""
        return status(self.features(arch), self.version)

    def sources_for(self, arch: Arch) -> tuple[SourceSpec, ...]:
        """The sources that have this arch, in order of preference."""
        return tuple(source for source in self.sources if arch in source.arches)


@dataclass(frozen=True)
class Target:
    """Kernel × arch, written `5.4-arm64`."""

    kernel: Kernel
    arch: Arch

    def __str__(self) -> str:
        return f"{self.kernel.name}-{self.arch}"

    @cached_property
    def features(self) -> frozenset[str]:
        """The features declared for this target."""
        return self.kernel.features(self.arch)

    @property
    def simulated(self) -> Simulation | None:
        """How it differs from what is booted; None for a real kernel."""
        return self.kernel.simulation


@dataclass(frozen=True)
class Matrix:
    """All kernels, the named sets of them, and the mirrors."""

    kernels: Mapping[str, Kernel]
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mirrors: Mapping[str, str] = field(default_factory=dict)
    where: str = "kernels.toml"
    lock: Lock | None = None
    """What the kernels are held to, where there is a kernels.lock."""

    def variant(self, name: str) -> Kernel | None:
        """The kernel that a name such as 5.4-nobtf means without standing in kernels.toml: 5.4 built as that variant."""
        for base in self.kernels.values():
            for variant in BUILD_VARIANTS:
                if name == f"{base.name}-{variant}" and base.is_plain:
                    return _vary(base, name, _KernelModel(variant_of=base.name, build=(variant,)), base.declared_in)
        return None

    def select(self, expression: str, *, where: str = "--kernels") -> tuple[Kernel, ...]:
        """The kernels that `expression` means, in the matrix's order.

        A comma-separated list of: a kernel's name, a set's name, `all`, a comparison (`>=5.8`, `<6`), a range (`5.4..6.1`, both ends in).
        Comparisons and ranges are over the upstream version, and mean plain kernels only: a simulated one, a variant or a distribution's is
        named, or in a set. Raises InputError (with the nearest names) for an unknown name and for a term that selects nothing.
        """
        terms = [term for term in (t.strip() for t in expression.split(",")) if term]
        if not terms:
            raise InputError("no kernel given", where=where, fix=self._choices())
        chosen = {name: None for term in terms for name in self._term(term, where)}
        named = tuple(kernel for name, kernel in self.kernels.items() if name in chosen)
        return (*named, *(self.kernel(name, where=where) for name in chosen if name not in self.kernels))

    def targets(self, kernels: str, arches: str, *, where: str = "--kernels") -> tuple[Target, ...]:
        """Every target of the kernels × arches selected by the two expressions."""
        chosen = self.select(kernels, where=where)
        return tuple(Target(kernel, arch) for kernel in chosen for arch in parse_arches(arches))

    def target(self, text: str, *, where: str = "target") -> Target:
        """The target written `5.4-arm64` (arch aliases understood)."""
        if self.as_target(text) is None and (text in self.kernels or self.variant(text) is not None):
            written = " or ".join(f"{text}-{arch}" for arch in ARCHES)
            raise InputError(f"{text!r} is a kernel, and a target (kernel × arch) is wanted", where=where, fix=f"write {written}")
        name, _, arch = text.rpartition("-")
        if not name:
            raise InputError(f"{text!r} is not a target", where=where, fix="write it as KERNEL-ARCH, such as 5.4-arm64")
        return Target(self.kernel(name, where=where), parse_arch(arch, where=where))

    def as_target(self, text: str) -> Target | None:
        """The target that `text` would be; None where it is none."""
        kernel, _, arch = text.rpartition("-")
        try:
            return Target(self.kernels[kernel], parse_arch(arch))
        except (KeyError, InputError):
            return None

    def kernel(self, name: str, *, where: str = "--kernels") -> Kernel:
        """The kernel of that name; raises InputError with the nearest names."""
        if name not in self.kernels:
            if (variant := self.variant(name)) is not None:
                return variant
            if (target := self.as_target(name)) is not None:
                option = "--kernels=" if where == "--kernels" else ""
                fix = f"write {option}{target.kernel.name} --arch={target.arch}"
                raise InputError(f"{name!r} is a target (kernel × arch), and a kernel is wanted", where=where, fix=fix)
            known = [*self.kernels, *self.sets, "all"]
            raise InputError(f"unknown kernel {name!r}{did_you_mean(name, known)}", where=where, fix=self._choices())
        return self.kernels[name]

    def _term(self, term: str, where: str) -> Iterable[str]:
        if term == "all":
            return list(self.kernels)
        if term in self.kernels:
            return [term]
        if term in self.sets:
            return self.sets[term]
        accepts = _version_test(term, where)
        if accepts is None:
            return [self.kernel(term, where=where).name]
        low, high = accepts
        plain = {name: kernel for name, kernel in self.kernels.items() if kernel.is_plain and kernel.distribution is None}
        names = [name for name, kernel in plain.items() if low <= kernel.version < high]
        if not names:
            raise InputError(f"no kernel of {self.where} is in {term!r}", where=where, fix=self._choices())
        return names

    def _choices(self) -> str:
        return f"kernels: {', '.join(self.kernels)}; sets: {', '.join([*self.sets, 'all'])}; or >=5.8, 5.4..6.1"


_FIRST: Version = (0, 0)
_LAST: Version = (10**9, 0)


def _version_test(term: str, where: str) -> tuple[Version, Version] | None:
    """The half-open range of versions that a comparison or range means; None where `term` is neither."""
    if ".." in term:
        low, _, high = term.partition("..")
        low_version, high_version = _bound(low, term, where), _bound(high, term, where)
        if low_version > high_version:
            raise InputError(f"{term!r} runs backwards", where=where, fix=f"write {high}..{low}")
        return low_version, _after(high_version, high)
    match = re.fullmatch(r"(>=|<=|==|=|>|<)\s*(.*)", term)
    if not match:
        return None
    operator, text = match.groups()
    version = _bound(text, term, where)
    after = _after(version, text)
    return {
        ">=": (version, _LAST), ">": (after, _LAST), "<": (_FIRST, version), "<=": (_FIRST, after), "=": (version, after), "==": (version, after),
    }[operator]  # fmt: skip


def _bound(text: str, term: str, where: str) -> Version:
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?", text.strip())
    if not match:
        raise InputError(
            f"{text!r} in {term!r} is not a kernel version", where=where, fix="write major.minor, such as '>=5.8' or 5.4..6.1"
        )
    return int(match[1]), int(match[2] or 0)


def _after(version: Version, text: str) -> Version:
    """The first version past `version`; a bare major (`5`) stands for all its minors."""
    return (version[0], version[1] + 1) if "." in text else (version[0] + 1, 0)


def parse(data: object, *, where: str, base: Matrix | None = None) -> Matrix:
    """The matrix of a parsed kernels.toml, on top of `base` unless the file says `extends = false`.

    A kernel, set or mirror of the file replaces one of the same name. Raises InputError naming `where`, the key and the fix.
    """
    model = validate(_FileModel, data, where=where)
    kernels = dict(base.kernels) if base and model.extends else {}
    for name, entry in model.kernels.items():
        if entry.base is None and entry.variant_of is None:
            kernels[name] = _kernel(name, entry, where)
    for name, entry in model.kernels.items():
        if entry.variant_of is not None:
            kernels[name] = _variant(name, entry, entry.variant_of, kernels, model.kernels, where)
    for name, entry in model.kernels.items():
        if entry.base is not None:
            kernels[name] = _simulated(name, entry, entry.base, kernels, model.kernels, where)
    for name, kernel in kernels.items():
        if kernel.variant_of is not None and kernel.variation is not None:  # what it is a variant of may have been replaced
            kernels[name] = _vary(kernels[kernel.variant_of.name], name, kernel.variation, kernel.declared_in)
        if kernel.simulation is not None and kernel.simulation.base.name in kernels:  # its base may have been replaced
            base_now = kernels[kernel.simulation.base.name]
            kernels[name] = _on(kernel, replace(kernel.simulation, base=base_now))
    sets = dict(base.sets) if base and model.extends else {}
    sets |= model.sets
    for set_name, members in sets.items():
        _check_set(set_name, members, kernels, where)
    if DEFAULT_SET not in sets:
        sets[DEFAULT_SET] = tuple(kernels)
    mirrors = (dict(base.mirrors) if base else {}) | model.mirrors
    ordered = dict(sorted(kernels.items(), key=lambda item: (item[1].distribution is not None, item[1].version, item[0])))
    return Matrix(ordered, sets, mirrors, where)


def _kernel(name: str, entry: _KernelModel, where: str) -> Kernel:
    assert entry.version is not None, "the model has seen to it"
    kernel = Kernel(
        name=name,
        version=_parse_version(entry.version),
        summary=entry.summary,
        sources=tuple(_source(source, f'{where}: kernels."{name}".sources') for source in entry.sources),
        overrides=entry.features,
        config=entry.config,
        cmdline=entry.cmdline,
        memory_mib=entry.memory,
        declared_in=where,
        distribution=entry.distribution,
    )
    if entry.build or entry.cgroup:
        raise InputError(
            "build and cgroup are a variant's",
            where=f'{where}: kernels."{name}"',
            fix=f'keep {name!r} plain, and add [kernels."{name}-…"] with variant_of = "{name}"',
        )
    _check_status(kernel, entry, where)
    return kernel


def _variant(
    name: str, entry: _KernelModel, of: str, kernels: Mapping[str, Kernel], given: Mapping[str, _KernelModel], where: str
) -> Kernel:
    place = f'{where}: kernels."{name}".variant_of'
    plain = [known for known, kernel in kernels.items() if kernel.is_plain]
    if of in given and (given[of].variant_of or given[of].base):
        raise InputError(f"{of!r} is itself a variant or simulated", where=place, fix=f"name a plain kernel: {', '.join(plain)}")
    if of not in plain:
        raise InputError(f"unknown kernel {of!r}{did_you_mean(of, plain)}", where=place, fix=f"known kernels: {', '.join(plain)}")
    kernel = _vary(kernels[of], name, entry, where)
    _check_status(kernel, entry, where)
    return kernel


def _vary(of: Kernel, name: str, entry: _KernelModel, where: str) -> Kernel:
    """`of`, built or set up as `entry` says: what it declares otherwise follows from that, and is not taken over."""
    config = {option: on for variant in entry.build for option, on in BUILD_VARIANTS[variant].items()} | entry.config
    overrides = {
        feature: given for feature, given in of.overrides.items() if not set(FEATURES[feature].config) & set(config)
    } | entry.features
    if entry.cgroup == "v1":
        overrides |= {"cgroup_v2": entry.features.get("cgroup_v2", False)}
    sources = of.sources
    if entry.sources:
        sources = tuple(_source(source, f'{where}: kernels."{name}".sources') for source in entry.sources)
    elif entry.build:
        sources = tuple(source for source in of.sources if source.kind in BUILDING) or (SourceSpec("build"),)
    return replace(
        of,
        name=name,
        summary=entry.summary or f"{of.name} as {', '.join(entry.build)}",
        sources=sources,
        overrides=overrides,
        config={**of.config, **config},
        cmdline=(*of.cmdline, *entry.cmdline, *(_CGROUP_V1 if entry.cgroup == "v1" else ())),
        memory_mib=entry.memory or of.memory_mib,
        declared_in=where,
        variant_of=of,
        build=entry.build,
        variation=entry,
    )


def _parse_version(text: str) -> Version:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _simulated(
    name: str, entry: _KernelModel, base_name: str, kernels: Mapping[str, Kernel], given: Mapping[str, _KernelModel], where: str
) -> Kernel:
    place = f'{where}: kernels."{name}".base'
    if base_name not in kernels or (base_name in given and given[base_name].base is not None) or kernels[base_name].simulation:
        real = [known for known, kernel in kernels.items() if kernel.simulation is None]
        if base_name in kernels or base_name in given:
            raise InputError(f"{base_name!r} is itself simulated", where=place, fix=f"name a real kernel: {', '.join(real)}")
        raise InputError(
            f"unknown kernel {base_name!r}{did_you_mean(base_name, real)}", where=place, fix=f"known kernels: {', '.join(real)}"
        )
    simulation = Simulation(kernels[base_name], _parse_version(entry.as_of) if entry.as_of else None, frozenset(entry.hide))
    kernel = _on(Kernel(name=name, version=(0, 0), summary=entry.summary, declared_in=where), simulation)
    _check_status(kernel, entry, where)
    return kernel


def _on(kernel: Kernel, simulation: Simulation) -> Kernel:
    """The simulated kernel with what it takes from its base, checked."""
    base, place = simulation.base, f'{kernel.declared_in}: kernels."{kernel.name}"'
    if base.version < OLDEST_BASE:
        oldest = ".".join(map(str, OLDEST_BASE))
        raise InputError(f"a base must be {oldest} or newer, {base.name} is not", where=f"{place}.base", fix='write base = "6.1"')
    if simulation.as_of is not None and simulation.as_of > base.version:
        raise InputError(
            f"as_of is newer than {base.name}: what came later cannot be added", where=f"{place}.as_of", fix="choose a newer base"
        )
    for arch in ARCHES:
        if left := simulation.unhideable(arch):
            raise InputError(
                f"{base.name} has {', '.join(sorted(left))}, which was not there yet and cannot be hidden",
                where=f"{place}.as_of",
                fix="choose a newer as_of",
            )
    return replace(
        kernel,
        version=simulation.as_of or base.version,
        sources=base.sources,
        config=base.config,
        cmdline=base.cmdline,
        memory_mib=base.memory_mib,
        simulation=simulation,
    )


def _check_status(kernel: Kernel, entry: _KernelModel, where: str) -> None:
    if entry.status is not None:
        for arch in ARCHES:
            if kernel.status(arch) != entry.status:
                raise InputError(
                    f"status is {entry.status!r}, but the features declared for {arch} make it {kernel.status(arch)!r}",
                    where=f'{where}: kernels."{kernel.name}".status',
                    fix=f'write status = "{kernel.status(arch)}", or correct features (full: btf and ringbuf; partial: btf; fallback: neither, 4.14 or later)',
                )


def _source(model: SourceModel, where: str) -> SourceSpec:
    return SourceSpec(model.kind, tuple(parse_arch(arch, where=where) for arch in model.arches), model.options(), model.untried)


def _check_set(name: str, members: tuple[str, ...], kernels: Mapping[str, Kernel], where: str) -> None:
    place = f"{where}: sets.{name}"
    if name in kernels or name == "all":
        raise InputError(
            f"{name!r} is already {'every kernel' if name == 'all' else 'a kernel'}", where=place, fix="give the set another name"
        )
    if not members:
        raise InputError("the set is empty", where=place, fix="name at least one kernel")
    for member in members:
        if member not in kernels:
            raise InputError(
                f"unknown kernel {member!r}{did_you_mean(member, kernels)}", where=place, fix=f"known kernels: {', '.join(kernels)}"
            )
