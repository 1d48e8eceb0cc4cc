"""The words of the matrix as frozen values: a kernel, where its image comes from, how it is simulated or varied, a target.

A kernel may be simulated on another one, and a simulation names the kernel that is booted: the two stand in one module, since each refers to the other.
What can be hidden, and what is not simulated, stands in kmatrix.matrix.simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from kmatrix.guest.facts import FACTS
from kmatrix.guest.past import Past
from kmatrix.guest.table_hidden import hidden_with
from kmatrix.host import version as versions
from kmatrix.host.version import Version
from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.matrix.features import FEATURES, status
from kmatrix.matrix.hosts import Host
from kmatrix.matrix.parameters import Definitions, feature
from kmatrix.matrix.privileges import ROOT, Privileges, Settings
from kmatrix.matrix.simulation import HIDEABLE, NOT_SIMULATED, later_than

FLAVOURS: Mapping[str, Mapping[str, bool]] = {
    "nobtf": {"DEBUG_INFO_BTF": False, "DEBUG_INFO_BTF_MODULES": False},
    "debug": {},
    "cgroup-v1": {"CGROUPS": True},
}
"""What a kernel can be built as besides as usual (kmatrix/kernels/config/variants/), and the options behind features that this decides.

Users write `variant_of` and `--variant`. In the code it is a flavour, for a collector's variant is something else."""

BUILDING = ("import", "build", "tarball", "git")
"""The sources that can give a kernel built differently."""

_CGROUP_V1 = ("systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1")
"""What a host of today boots with to mount every controller in version 1 and no version 2 (systemd(1)); the guest's init heeds it too."""


_UNPRIVILEGED = "kernel.unprivileged_bpf_disabled"
_PARANOID = "kernel.perf_event_paranoid"
_RESTRICTS = "SECURITY_PERF_EVENTS_RESTRICT"
"""The option, Debian's and Ubuntu's own, by which perf events are for CAP_SYS_ADMIN where kernel.perf_event_paranoid is more than 2, and it is 3."""
_OFF_BY_DEFAULT = "BPF_UNPRIV_DEFAULT_OFF"
"""The option by which ordinary users may load nothing: on where nobody says otherwise from 5.16 on (8a03e56b253e)."""


@dataclass(frozen=True)
class Condition:
    """What a circumstance takes of the kernel that it is of."""

    circumstance: str
    option: str
    """Of the kernel's configuration, without CONFIG_."""
    on: bool


@dataclass(frozen=True)
class SourceSpec:
    """One place where a kernel's image can come from, as kernels.toml has it."""

    kind: str
    arches: tuple[Arch, ...] = ARCHES
    options: Mapping[str, Any] = field(default_factory=dict)
    """As the models of `sources` name them; those that may be given several times (url, sha256, key, …) are tuples of strings."""
    untried: bool = False
    """Written from its publisher's layout, and never run by whoever wrote it: a bare run does not use it."""


@dataclass(frozen=True)
class Simulation:
    """How a simulated kernel differs from the one that is booted."""

    base: Kernel
    as_of: Version | None = None
    """Everything that the feature table dates after this release is hidden."""
    hide: frozenset[str] = frozenset()
    """Features hidden by name."""

    def hidden(self, arch: Arch) -> frozenset[str]:
        """The features out of sight: those named, what cannot be without them, and what came after `as_of`."""
        named = hidden_with(self.hide)
        if self.as_of is None:
            return named
        return named | hidden_with(later_than(self.as_of, arch, self.base.config) & HIDEABLE)

    def hides(self, name: str, arch: Arch) -> bool:
        """Whether a feature of the base is out of sight, with a parameter or without; by what the guest answers."""
        hidden = self.hidden(arch)
        if name in FEATURES:
            return name in hidden
        known = feature(name)
        if hidden.intersection(known.rests_on):
            return True
        kind, _, parameter = name.partition(":")
        if kind not in FACTS:
            return False
        past = _past(self.as_of, hidden)
        parameter, _, program = parameter.partition("@")
        return past.hides(kind, FACTS[kind][parameter]) or (bool(program) and past.hides("prog", FACTS["prog"][program]))

    def unhideable(self, arch: Arch) -> frozenset[str]:
        """What the base has, `as_of` did not, and nothing hides."""
        if self.as_of is None:
            return frozenset()
        return (later_than(self.as_of, arch, self.base.config) & self.base.features(arch)) - HIDEABLE

    @property
    def release(self) -> str | None:
        """What uname says in the guest; None for the base's own."""
        return f"{self.as_of[0]}.{self.as_of[1]}.0-kmatrix-sim" if self.as_of else None

    def request(self, arch: Arch) -> dict[str, Any]:
        """The simulation as the guest is told it."""
        return {"as_of": list(self.as_of) if self.as_of else None, "hidden": sorted(self.hidden(arch)), "release": self.release}

    def account(self, arch: Arch) -> dict[str, Any]:
        """The simulation as a record has it: base, as_of, what is hidden of what the base has, what uname says, what is not simulated."""
        return {
            "base": self.base.name,
            "as_of": versions.text(self.as_of) if self.as_of else None,
            "hidden": sorted(self.hidden(arch) & self.base.features(arch)),
            "release": self.release,
            "not_simulated": list(NOT_SIMULATED),
        }

    def __str__(self) -> str:
        parts = [f"as of {versions.text(self.as_of)}"] if self.as_of else []
        parts += [f"without {', '.join(sorted(self.hide))}"] if self.hide else []
        return f"{self.base.name} {' '.join(parts)}"


@lru_cache(maxsize=64)
def _past(as_of: Version | None, hidden: frozenset[str]) -> Past:
    return Past({"as_of": as_of, "hidden": sorted(hidden)})


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
    """Guest memory, where this kernel needs another amount than the default."""
    cpus: int | None = None
    """CPUs of the guest, where they are not the default."""
    btf: str | None = None
    """The name of a file of BTF that loaders are given, whatever the kernel shows."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Settings made in the guest before anything else."""
    privileges: Privileges = ROOT
    """What is left to whatever loads."""
    conditions: tuple[Condition, ...] = ()
    """What its circumstances take of its configuration."""
    arches: tuple[Arch, ...] = ARCHES
    """Those on which its circumstances can be had."""
    declared_in: str = "kernels.toml"
    distribution: str | None = None
    """Whose build it is, where it is a distribution's with features ported back: its version says less of it than of an upstream kernel."""
    simulation: Simulation | None = None
    """Where this kernel is not booted itself, but its base with something hidden."""
    flavour_of: Kernel | None = None
    """The kernel that this one is, built or set up differently."""
    build: tuple[str, ...] = ()
    """The flavours that it is built as: names of FLAVOURS."""
    moving: bool = False
    """Whether its name goes on to newer series as they come out: `version` is then the least that it is."""
    host: Host | None = None
    """The real machine that runs it, where no VM does."""

    @property
    def is_plain(self) -> bool:
        """Whether it is neither simulated nor a flavour of another."""
        return self.simulation is None and self.flavour_of is None

    @property
    def real(self) -> Kernel:
        """The kernel that is booted: itself, or the base of a simulated one."""
        return self.simulation.base if self.simulation else self

    @property
    def image_of(self) -> Kernel:
        """The kernel whose image is booted: of one that is only set up differently, the one it is a flavour of."""
        real, of = self.real, self.real.flavour_of
        return of.image_of if of is not None and real.build == of.build and real.sources == of.sources else real

    def features(self, arch: Arch) -> frozenset[str]:
        """The declared features on `arch`: the overrides, and for the rest what version, config and arch imply.

        Of a simulated kernel: its base's without what is hidden.
        """
        if self.simulation is not None:
            return self.simulation.base.features(arch) - self.simulation.hidden(arch)
        return frozenset(name for name in FEATURES if self.has(name, arch))

    def has(self, name: str, arch: Arch) -> bool | None:
        """Whether the kernel is declared to have a feature, with a parameter or without.

        By name in kernels.toml, or by what version, config and arch imply. None where neither says: then the guest's probe decides. Raises
        BadName.
        """
        if self.simulation is not None:
            return False if self.simulation.hides(name, arch) else self.simulation.base.has(name, arch)
        let = self.privileges.lets(name, self.version, self.settings) if self.privileges.caps is not None else True
        if let is not True:
            there = replace(self, privileges=ROOT).has(name, arch)
            return there and let
        known = feature(name)
        for each in (name, known.same):
            if each is not None and (given := self._given(each, arch)) is not None:
                return given
        if any(self.has(other, arch) is False for other in known.rests_on):
            return False
        if self.host is not None:  # a vendor's kernel has what its version does not say: the machine itself is asked
            return None
        return known.says(self.version, arch, self.config)

    @property
    def settings(self) -> Settings:
        """Its own settings, by its sysctls, or by how it was built."""
        lets = not self.config.get(_OFF_BY_DEFAULT, self.version >= (5, 16))
        anyone = self.sysctls.get(_UNPRIVILEGED, "0" if lets else "2") == "0"
        restricts = self.config.get(_RESTRICTS, False)
        return Settings(anyone, restricts and int(self.sysctls.get(_PARANOID, "3")) > 2)

    def _given(self, name: str, arch: Arch) -> bool | None:
        """What kernels.toml says of the feature by name."""
        given = self.overrides.get(name)
        return given.get(arch) if isinstance(given, Mapping) else given

    def status(self, arch: Arch) -> str:
        """The standard's word for this kernel: full, partial, fallback or unsupported."""
        return status(self.features(arch), self.version)

    def sources_for(self, arch: Arch) -> tuple[SourceSpec, ...]:
        """The sources that have this arch, in order of preference."""
        return tuple(source for source in self.sources if arch in source.arches)


@dataclass(frozen=True)
class Variation:
    """What makes a kernel a flavour of another: how it is built or set up differently."""

    build: tuple[str, ...] = ()
    """Names of FLAVOURS."""
    cgroup_v1: bool = False
    """Whether every cgroup controller is mounted in version 1."""
    cmdline: tuple[str, ...] = ()
    config: Mapping[str, bool] = field(default_factory=dict)
    features: Mapping[str, bool | Mapping[str, bool]] = field(default_factory=dict)
    memory_mib: int | None = None
    sources: tuple[SourceSpec, ...] = ()
    """Where it comes from; empty for the sources of what it is a flavour of."""
    summary: str = ""


def vary(of: Kernel, name: str, variation: Variation, where: str) -> Kernel:
    """Return `of` built or set up as `variation` says.

    What `of` declares of a feature is not taken over where an option that the variation changes decides that feature.
    """
    config = {option: on for flavour in variation.build for option, on in FLAVOURS[flavour].items()} | dict(variation.config)
    overrides = {name: given for name, given in of.overrides.items() if not set(feature(name).config) & set(config)} | dict(
        variation.features
    )
    if variation.cgroup_v1:
        overrides |= {"cgroup_v2": variation.features.get("cgroup_v2", False)}
    sources = variation.sources or of.sources
    if variation.build and not variation.sources:
        sources = tuple(source for source in of.sources if source.kind in BUILDING) or (SourceSpec("build"),)
    return replace(
        of,
        name=name,
        summary=variation.summary or f"{of.name} as {', '.join(variation.build)}",
        sources=sources,
        overrides=overrides,
        config={**of.config, **config},
        cmdline=(*of.cmdline, *variation.cmdline, *(_CGROUP_V1 if variation.cgroup_v1 else ())),
        memory_mib=variation.memory_mib or of.memory_mib,
        declared_in=where,
        flavour_of=of,
        build=variation.build,
    )


class Features(AbstractSet[str]):
    """The features that a target has. Going through them gives those without a parameter; any name may be asked for."""

    def __init__(self, plain: frozenset[str], has: Callable[[str], bool | None]) -> None:
        self._plain = plain
        self._has = has

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._plain if name in FEATURES else self._has(name) is True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain)

    def __len__(self) -> int:
        return len(self._plain)

    def issuperset(self, names: Iterable[str]) -> bool:
        """Whether the target has all of `names`."""
        return all(name in self for name in names)

    @classmethod
    def _from_iterable(cls, it: Iterable[str]) -> frozenset[str]:  # type: ignore[override]
        return frozenset(it)


@dataclass(frozen=True)
class Target:
    """Kernel × arch, written `5.4-arm64`."""

    kernel: Kernel
    arch: Arch
    found: Mapping[str, bool] = field(default_factory=dict, compare=False, repr=False)
    """What the guest's probe found of features that nothing declares (`Kernel.has` is None)."""
    defined: Definitions = field(default_factory=dict, compare=False, repr=False)
    """The project's own names for features."""

    def __str__(self) -> str:
        return f"{self.kernel.name}-{self.arch}"

    def has(self, name: str) -> bool | None:
        """Whether the target has a feature: as declared; where nothing declares it, as found; None where it was not looked for yet."""
        if name in self.defined:
            return self.defined[name].there(self.has)
        declared = self.kernel.has(name, self.arch)
        return self.found.get(name) if declared is None else declared

    def knowing(self, defined: Definitions, found: Mapping[str, bool] | None = None) -> Target:
        """The same target with a project's own names, and with what was found in its guest."""
        return replace(self, defined=defined, found=found or {})

    @cached_property
    def features(self) -> Features:
        """The features of this target."""
        return Features(self.kernel.features(self.arch), self.has)

    @property
    def simulated(self) -> Simulation | None:
        """How it differs from what is booted; None for a real kernel."""
        return self.kernel.simulation
