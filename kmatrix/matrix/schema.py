"""kernels.toml, checked: its tables as pydantic models, and the matrix that is derived from them.

Nothing here reads a file (kmatrix.matrix.load does): a matrix is made from parsed TOML, and every error names the file and key. What a
kernel's sources may say is checked in kmatrix.matrix.sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from kmatrix.host import version as versions
from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.validation import Strict, validate
from kmatrix.matrix.arch import ARCHES, parse_arch
from kmatrix.matrix.circumstances import LEAST_MIB, SEPARATOR, Circumstance
from kmatrix.matrix.definitions import DefinitionModel, define
from kmatrix.matrix.host_schema import HostModel, check_names
from kmatrix.matrix.hosts import Host
from kmatrix.matrix.kernel import FLAVOURS, Kernel, Simulation, SourceSpec, Variation, vary
from kmatrix.matrix.parameters import Definition, feature
from kmatrix.matrix.privileges import Privileges, capability
from kmatrix.matrix.selection import DEFAULT_SET, STORE, Matrix
from kmatrix.matrix.simulation import HIDEABLE, OLDEST_BASE, not_hideable
from kmatrix.matrix.sources import AnySource, SourceModel

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._]*(-[0-9A-Za-z._]+)*")
_VERSION = re.compile(r"(\d+)\.(\d+)")

MIRROR_SCHEMES = ("http://", "https://", "file:/")


class _KernelModel(Strict):
    version: str | None = None
    moving: bool = False
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
    cpus: Annotated[int, Field(ge=1, le=8)] | None = None
    sources: Annotated[tuple[AnySource, ...], Field(strict=False)] = ()

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
            feature(name)  # an unknown name is an error, with the nearest
        if given := not_hideable(value):
            raise ValueError(f"{', '.join(given)} cannot be hidden; what can: {', '.join(sorted(HIDEABLE))}")
        return value

    @field_validator("build")
    @classmethod
    def _known_variants(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in FLAVOURS:
                raise ValueError(f"unknown variant {name!r}{did_you_mean(name, FLAVOURS)}; known: {', '.join(FLAVOURS)}")
        return value

    @model_validator(mode="after")
    def _a_variant_varies(self) -> _KernelModel:
        if self.variant_of is None:
            return self
        if not (self.build or self.cgroup or self.cmdline or self.memory or self.config or self.features):
            raise ValueError("a variant needs what it is a variant in: build, cgroup, cmdline, memory, config or features")
        taken = [name for name in ("version", "moving", "base", "as_of", "hide") if getattr(self, name)]
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
            for name in (
                "version",
                "moving",
                "distribution",
                "features",
                "config",
                "cmdline",
                "memory",
                "cpus",
                "sources",
                "build",
                "cgroup",
            )
            if getattr(self, name)
        ]
        if own:
            raise ValueError(f"a simulated kernel takes {', '.join(own)} from its base")
        return self

    @field_validator("features")
    @classmethod
    def _known_features(cls, value: dict[str, bool | dict[str, bool]]) -> dict[str, bool | dict[str, bool]]:
        for name, given in value.items():
            feature(name)  # an unknown name is an error, with the nearest
            if isinstance(given, dict):
                for arch in given:
                    if arch not in ARCHES:
                        raise ValueError(f"{name}: unknown arch {arch!r}; use {' or '.join(ARCHES)}")
        return value


class _CircumstanceModel(Strict):
    summary: str = ""
    cmdline: Annotated[tuple[str, ...], Field(strict=False)] = ()
    cgroup: Literal["v1"] | None = None
    sysctls: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]+(\.[A-Za-z0-9_/-]+)+$")], int | str] = {}
    cpus: Annotated[int, Field(ge=1, le=64)] | None = None
    memory: Annotated[int, Field(ge=LEAST_MIB, le=65536)] | None = None
    user: str | None = None
    capabilities: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    seccomp: Literal["container"] | None = None
    namespaces: Annotated[tuple[Literal["mount", "cgroup", "uts", "ipc", "net"], ...], Field(strict=False)] = ()
    takes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Features that a kernel does not have under it."""
    since: str | None = None
    arches: Annotated[tuple[str, ...], Field(strict=False)] = ARCHES
    config: dict[str, bool] = {}
    """Options that the kernel must have been built with, or without."""
    excludes: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @field_validator("capabilities")
    @classmethod
    def _are_capabilities(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return value and tuple(capability(name) for name in value)

    @field_validator("arches")
    @classmethod
    def _are_arches(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for arch in value:
            if arch not in ARCHES:
                raise ValueError(f"unknown arch {arch!r}; use {' or '.join(ARCHES)}")
        return value

    @field_validator("takes")
    @classmethod
    def _known_features(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            feature(name)  # an unknown name is an error, with the nearest
        return value

    @field_validator("since")
    @classmethod
    def _is_version(cls, value: str | None) -> str | None:
        if value is not None and not _VERSION.fullmatch(value):
            raise ValueError(f'{value!r} is not an upstream series; write it as major.minor, such as "5.4"')
        return value


class _FileModel(Strict):
    schema_version: Annotated[Literal[1], Field(alias="schema")]
    circumstances: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_-]*(=[A-Za-z0-9_.-]+)?$")], _CircumstanceModel] = {}
    extends: bool = True
    sets: dict[str, Annotated[tuple[str, ...], Field(strict=False)]] = {}
    mirrors: dict[str, str] = {}
    features: dict[str, DefinitionModel] = {}
    kernels: dict[Annotated[str, AfterValidator(lambda name: _check_name(name))], _KernelModel] = {}
    hosts: dict[Annotated[str, AfterValidator(lambda name: _check_name(name, "host"))], HostModel] = {}

    @field_validator("mirrors")
    @classmethod
    def _mirrors_are_addresses(cls, value: dict[str, str]) -> dict[str, str]:
        for key, mirror in value.items():
            if key != "debian" and "://" not in key:
                raise ValueError(f"{key!r} is neither debian nor the address that a mirror stands in for, such as https://…/")
            if not mirror.startswith(MIRROR_SCHEMES):
                raise ValueError(f"{key}: {mirror!r} is no address; it begins with {', '.join(MIRROR_SCHEMES)}")
        return value


def _check_name(name: str, what: str = "kernel") -> str:
    if not _NAME.fullmatch(name) or any(name.endswith(f"-{arch}") for arch in ARCHES) or name in ("all", STORE):
        raise ValueError(
            f"{name!r} cannot name a {what}: letters, digits, '.', '_' and '-', not ending in an arch, not 'all' or 'store'"
        )
    return name


class Document(NamedTuple):
    """One kernels.toml, read and not yet checked."""

    where: str
    """Its path, which errors name."""
    data: object


class _Declared(NamedTuple):
    """An entry of [kernels], and the file that has it."""

    entry: _KernelModel
    where: str
    file: int
    """The number of that file, in the order in which they were given."""


def parse(*documents: Document) -> Matrix:
    """Return the matrix of one or several kernels.toml, the shipped one first.

    The tables are merged before anything follows from them: a kernel, set or mirror of a later file replaces one of the same name, and a
    file that says `extends = false` leaves out the kernels and sets of those before it. So what is a variant of a kernel, or simulated on
    it, is one of the kernel that is in force. Raises InputError naming the file, the key and the fix.
    """
    declared: dict[str, _Declared] = {}
    sets: dict[str, tuple[str, ...]] = {}
    set_in: dict[str, str] = {}
    mirrors: dict[str, str] = {}
    defined: dict[str, Definition] = {}
    circumstances: dict[str, Circumstance] = {}
    hosts: dict[str, Host] = {}
    for number, (where, data) in enumerate(documents):
        model = validate(_FileModel, data, where=where)
        if not model.extends:
            declared, sets = {}, {}
        declared |= {name: _Declared(entry, where, number) for name, entry in model.kernels.items()}
        sets |= model.sets
        set_in |= dict.fromkeys(model.sets, where)
        mirrors |= model.mirrors
        circumstances |= {name: _circumstance(name, entry) for name, entry in model.circumstances.items()}
        hosts |= {name: entry.value(name, where) for name, entry in model.hosts.items()}
        defined = define(model.features, defined, where)
    kernels = _derive(declared)
    last = documents[-1].where
    for name, members in sets.items():
        _check_set(name, members, kernels, last if name in kernels else set_in[name])
    check_names(hosts, {*kernels, *sets})
    if DEFAULT_SET not in sets:
        sets[DEFAULT_SET] = tuple(kernels)
    ordered = dict(sorted(kernels.items(), key=lambda item: (item[1].distribution is not None, item[1].version, item[0])))
    return Matrix(ordered, sets, mirrors, last, defined=defined, circumstances=circumstances, hosts=hosts)


def _circumstance(name: str, entry: _CircumstanceModel) -> Circumstance:
    variation = Variation(
        cgroup_v1=entry.cgroup == "v1",
        cmdline=entry.cmdline,
        features=dict.fromkeys(entry.takes, False),
        memory_mib=entry.memory,
        summary=entry.summary,
    )
    # Another user than root has no capability but those that it is given.
    caps = () if entry.user is not None and entry.capabilities is None else entry.capabilities
    return Circumstance(
        name,
        variation,
        since=versions.parse(entry.since) if entry.since else None,
        excludes=entry.excludes,
        arches=tuple(arch for arch in ARCHES if arch in entry.arches),
        config=entry.config,
        sysctls={setting: str(value) for setting, value in entry.sysctls.items()},
        cpus=entry.cpus,
        privileges=Privileges(entry.user, caps, entry.seccomp, entry.namespaces),
    )


class _OwnNames(Strict):
    """What is read of a kernels.toml for a manifest that stands below it."""

    model_config = ConfigDict(extra="ignore")
    features: dict[str, DefinitionModel] = {}


def definitions(document: Document) -> dict[str, Definition]:
    """The names for features of one kernels.toml, whatever else is in it. Raises InputError."""
    return define(validate(_OwnNames, document.data, where=document.where).features, {}, document.where)


def _derive(declared: Mapping[str, _Declared]) -> dict[str, Kernel]:
    """Plain kernels first, then the variants of them, then those simulated on either."""
    entries = {name: each.entry for name, each in declared.items()}
    kernels: dict[str, Kernel] = {}
    for name, (entry, where, _) in declared.items():
        if entry.base is None and entry.variant_of is None:
            kernels[name] = _kernel(name, entry, where)
    for name, (entry, where, _) in declared.items():
        if entry.variant_of is not None:
            kernels[name] = _variant(name, entry, entry.variant_of, kernels, entries, where)
    for name, (entry, where, _) in declared.items():
        if entry.base is not None:
            kernels[name] = _simulated(name, entry, entry.base, kernels, entries, where)
    for name, (entry, where, file) in declared.items():
        # What an earlier file says of the status of a variant does not bind a later file that replaces what it is a variant of.
        root = entry.base or entry.variant_of or name
        if declared[root].file <= file:
            _check_status(kernels[name], entry, where)
    return kernels


def _kernel(name: str, entry: _KernelModel, where: str) -> Kernel:
    assert entry.version is not None, "the model has seen to it"
    kernel = Kernel(
        name=name,
        version=versions.parse(entry.version),
        moving=entry.moving,
        summary=entry.summary,
        sources=tuple(_source(source, f'{where}: kernels."{name}".sources') for source in entry.sources),
        overrides=entry.features,
        config=entry.config,
        cmdline=entry.cmdline,
        memory_mib=entry.memory,
        cpus=entry.cpus,
        declared_in=where,
        distribution=entry.distribution,
    )
    if entry.build or entry.cgroup:
        raise InputError(
            "build and cgroup are a variant's",
            where=f'{where}: kernels."{name}"',
            fix=f'keep {name!r} plain, and add [kernels."{name}-…"] with variant_of = "{name}"',
        )
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
    return vary(kernels[of], name, _variation(name, entry, where), where)


def _variation(name: str, entry: _KernelModel, where: str) -> Variation:
    return Variation(
        build=entry.build,
        cgroup_v1=entry.cgroup == "v1",
        cmdline=entry.cmdline,
        config=entry.config,
        features=entry.features,
        memory_mib=entry.memory,
        sources=tuple(_source(source, f'{where}: kernels."{name}".sources') for source in entry.sources),
        summary=entry.summary,
    )


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
    simulation = Simulation(kernels[base_name], versions.parse(entry.as_of) if entry.as_of else None, frozenset(entry.hide))
    return _on(Kernel(name=name, version=(0, 0), summary=entry.summary, declared_in=where), simulation)


def _on(kernel: Kernel, simulation: Simulation) -> Kernel:
    """The simulated kernel with what it takes from its base, checked."""
    base, place = simulation.base, f'{kernel.declared_in}: kernels."{kernel.name}"'
    if base.version < OLDEST_BASE:
        oldest = versions.text(OLDEST_BASE)
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
        if member.partition(SEPARATOR)[0] not in kernels:  # circumstances are looked at where the set is used
            raise InputError(
                f"unknown kernel {member!r}{did_you_mean(member, kernels)}", where=place, fix=f"known kernels: {', '.join(kernels)}"
            )
