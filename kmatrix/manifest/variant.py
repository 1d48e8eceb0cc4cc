"""[[variant]], [[program]], [[map]] and [[expect]]: the ways a collector can run, and what it consists of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from kmatrix.host.validation import Strict
from kmatrix.manifest.contract import Contract, Form
from kmatrix.manifest.event import Event
from kmatrix.manifest.sink import Entry
from kmatrix.manifest.types import Arches, Behaviour, Names, Transport, check_features, check_pattern
from kmatrix.matrix.arch import ARCHES, INFO, Arch

_TYPE_OF_HOOK: tuple[tuple[str, str], ...] = (
    ("tracepoint/", "tracepoint"), ("tp/", "tracepoint"), ("raw_tracepoint", "raw_tracepoint"), ("raw_tp", "raw_tracepoint"),
    ("kprobe", "kprobe"), ("kretprobe", "kprobe"), ("ksyscall", "kprobe"), ("kretsyscall", "kprobe"), ("uprobe", "kprobe"),
    ("uretprobe", "kprobe"), ("usdt", "kprobe"), ("tp_btf/", "tracing"), ("fentry", "tracing"), ("fexit", "tracing"),
    ("fmod_ret", "tracing"), ("iter", "tracing"), ("lsm", "lsm"), ("perf_event", "perf_event"), ("xdp", "xdp"), ("tc", "sched_cls"),
    ("classifier", "sched_cls"), ("action", "sched_act"), ("socket", "socket_filter"), ("cgroup_skb", "cgroup_skb"),
    ("cgroup/skb", "cgroup_skb"), ("cgroup/sock", "cgroup_sock"), ("cgroup/dev", "cgroup_device"), ("sockops", "sock_ops"),
    ("sk_msg", "sk_msg"), ("sk_skb", "sk_skb"), ("sk_lookup", "sk_lookup"),
)  # fmt: skip
"""What a section's name begins with → the program's type as the kernel says it."""


class Variant(Strict):
    """One way the collector can run."""

    name: str
    behaviour: Literal["full", "partial", "fallback"]
    """What this variant is when it runs with nothing missing."""
    object: str | dict[Arch, str] | None = None
    """The compiled object, relative to the manifest: a file, a bpf2go stem, a text with {arch}, or a table by arch. None with a
    loader of the collector's own: then the variant is recognised by what is in the kernel."""
    needs: Names = ()
    arches: Arches = ARCHES
    transport: Transport | None = None
    buffer: str | None = None
    """The map that events come out of."""
    drops: str | None = None
    """The map in which the programs count records that the buffer had no room for: numbers of 64 bits, whose sum it is."""
    contract: Contract | None = None
    """What the loader sets before it loads."""

    _features = field_validator("needs")(check_features)

    def candidates(self, arch: Arch) -> tuple[str, ...]:
        """The file names that may hold this variant's object for `arch`, in the order they are looked for."""
        if self.object is None:
            return ()
        if not isinstance(self.object, str):
            return (self.object[arch],) if arch in self.object else ()
        text = self.object.replace("{arch}", arch)
        bpf = INFO[arch].bpf2go
        # bpf2go wrote name_bpfel_x86.o until v0.12 and name_x86_bpfel.o since.
        return (text, f"{text}_{bpf}_bpfel.o", f"{text}_bpfel_{bpf}.o", f"{text}_bpfel.o", f"{text}.bpf.o", f"{text}.o")


class Program(Strict):
    """One BPF program of the collector."""

    name: str
    hook: str
    """Where it attaches, as in SEC(): `tracepoint/syscalls/sys_enter_openat`."""
    required: bool = True
    attach: bool = True
    """False for a program that is only loaded: tail-called, or attached by the agent in a way of its own."""
    fires: bool = True
    """False for a program that the trigger does not reach. One that it should reach and that never runs is `silent`."""
    arches: Arches = ARCHES
    needs: Names = ()
    variants: Names = ()
    """The variants that have it; none named means all."""
    type: str | None = None
    """Its type as the kernel says it, where a loader of the collector's own loads it and the hook does not give it away."""
    tag: str | None = None
    """The kernel's hash of its instructions, where that is what tells it from another."""

    _features = field_validator("needs")(check_features)

    @property
    def kernel_type(self) -> str | None:
        """The type that the kernel will say it has; None where neither `type` nor the hook says."""
        return self.type or next((kind for prefix, kind in _TYPE_OF_HOOK if self.hook.startswith(prefix)), None)


class Map(Strict):
    """A map that must exist in the kernel while the collector runs, and what must be in it."""

    name: str
    type: str | None = None
    """As the kernel says it; None where any type will do."""
    variants: Names = ()
    contains: Annotated[tuple[Entry, ...], Field(strict=False)] = ()

    def events(self) -> Iterator[Event]:
        """Each entry that it must hold, as an event out of the map."""
        for entry in self.contains:
            match = dict(entry.checks("key"))
            shown = ", ".join(f"{name} = {value}" for name, value in match.items())
            fields = [{"name": name, "equals": value} for name, value in entry.checks("value")]
            yield Event.model_validate(
                {
                    "name": f"{self.name}[{shown}]",
                    "from": f"map:{self.name}",
                    "match": match,
                    "variants": self.variants,
                    "field": fields,
                }
            )


class Expect(Strict):
    """An exception to what the variants' needs say, with its reason."""

    kernels: str
    arch: str = "all"
    behaviour: Behaviour
    variant: str | None = None
    degraded: Names = ()
    """The degradations expected with it: `program:NAME`, `field:EVENT.NAME`."""
    message: str | None = None
    """Of a refusal: a regular expression that its message must hold."""
    reason: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _a_refusal_says_why(self) -> Expect:
        if (self.behaviour == "refusal") != (self.message is not None):
            raise ValueError('behaviour = "refusal" and message = "regex" go together: what must a refusal there say?')
        if self.message is not None:
            check_pattern(self.message)
        return self


def form_needs(form: Form, programs: Mapping[str, Program]) -> list[str]:
    """The features that a form needs: its own, and those of its programs."""
    return [*(form.needs or ()), *(name for each in form.programs if each in programs for name in programs[each].needs)]


def applies(variants: tuple[str, ...], name: str) -> bool:
    """Whether an entry for `variants` is there in the variant `name`; an entry that names none is there in all."""
    return not variants or name in variants
