"""Why a program or a map failed, in words: a table of the kernel's and libbpf's answers, each with its cause, first release and remedy.

Pure: it reads what the guest reported. An answer that no row matches has no diagnosis, and is shown as it is.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kmatrix.matrix import history
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.features import FEATURES, Version
from kmatrix.verdict import own_words


@dataclass(frozen=True)
class Diagnosis:
    """The cause of a failure."""

    kind: str
    """Its class, such as `helper`, `map-type` or `verifier`; docs/diagnosis.md lists them."""
    what: str
    """One line: what is missing or wrong."""
    fix: str
    """One sentence: what to do."""
    since: str | None = None
    """The first release that has what is missing, where something is."""
    where: str | None = None
    """The line of C source at which the verifier or libbpf stopped, where they name it."""

    def headline(self) -> str:
        """The cause with its first release."""
        said = self.since is None or self.what.endswith(f"before {self.since}")
        return self.what if said else f"{self.what}, since {self.since}"


@dataclass(frozen=True)
class Failing:
    """What failed, and on which kernel."""

    stage: str
    """`map`, `load` or `attach`."""
    error: str
    """libbpf's words, or the guest's own."""
    version: Version
    arch: Arch
    errno: int | None = None
    log: str = ""
    """The verifier's log."""
    section: str = ""
    name: str = ""
    """The program's or map's name."""
    map_type: str | None = None
    max_entries: int | None = None
    wants: Mapping[str, Any] = field(default_factory=dict)
    """The program's type, by name, and its expected attach type, by number."""
    btf: Mapping[str, Any] = field(default_factory=dict)
    """What the kernel's BTF has of the names in the failure (kmatrix.guest.why)."""


def diagnose(failing: Failing) -> Diagnosis | None:
    """Return the cause of a failure; None where no row of the table knows it."""
    if failing.stage == "map":
        return _map(failing)
    if (found := _own_words(failing)) is not None:
        return found
    text = f"{failing.error}\n{failing.log}"
    for pattern, row in _ROWS:
        if (match := re.search(pattern, text)) and (found := row(failing, match)) is not None:
            return found
    if failing.stage == "attach":
        return _attach(failing) or (_too_new(failing) if failing.errno == errno.EINVAL else None)
    return _too_new(failing)


def _own_words(failing: Failing) -> Diagnosis | None:
    """The cause that is told in so many words; the rest of a log is not asked then."""
    kind = failing.wants.get("type")
    since = history.prog_type_since(kind) if kind else None
    new_enough = since is not None and failing.version >= since
    told = own_words.cause(
        failing.error, failing.log, kind, failing.errno if failing.stage == "load" else None, new_enough=new_enough
    )
    if told is None:
        return None
    places = [place for place in (_source_line(failing), told.where) if place]
    return Diagnosis(told.kind, told.what, told.fix, None, "; ".join(places) or None)


Reports = Mapping[str, Mapping[str, Any]]
"""What the guest reports of the programs or maps of an object, by name (docs/protocol.md)."""

_WITHOUT_MAP = re.compile(r"BPF map '([^']+)' is referenced but wasn't created")
"""What libbpf puts into the log of a program whose map could not be made."""


def explain(programs: Reports, maps: Reports, version: Version, arch: Arch) -> tuple[Reports, Reports]:
    """Return the reports with a `diagnosis` each, as JSON has it: None where nothing failed, or where the cause is not known.

    A program that failed for want of a map has the map's.
    """
    known_maps = {name: {**report, "diagnosis": _of_map(name, report, version, arch)} for name, report in maps.items()}
    return {
        name: {**report, "diagnosis": _of_program(name, report, known_maps, version, arch)} for name, report in programs.items()
    }, known_maps


def _of_map(name: str, report: Mapping[str, Any], version: Version, arch: Arch) -> dict[str, Any] | None:
    if not report.get("error"):
        return None
    return _plain(
        diagnose(
            Failing(
                stage="map",
                error=str(report["error"]),
                version=version,
                arch=arch,
                errno=report.get("errno"),
                name=name,
                map_type=report.get("type"),
                max_entries=report.get("max_entries"),
            )
        )
    )


def _of_program(name: str, report: Mapping[str, Any], maps: Reports, version: Version, arch: Arch) -> dict[str, Any] | None:
    if not report.get("error"):
        return None
    log = str(report.get("log") or "")
    without = _WITHOUT_MAP.search(log)
    if without and (cause := maps.get(without[1], {}).get("diagnosis")) is not None:
        return dict(cause)
    found = diagnose(
        Failing(
            stage="attach" if report["loaded"] else "load",
            error=str(report["error"]),
            version=version,
            arch=arch,
            errno=report.get("errno"),
            log=log,
            section=str(report.get("section") or ""),
            name=name,
            wants=report.get("wants") or {},
            btf=report.get("btf") or {},
        )
    )
    if found is not None and found.what.startswith("helper bpf_ringbuf_"):  # missing where the map type is: one cause
        rings = [each["diagnosis"] for each in maps.values() if each["type"] == "ringbuf" and each["diagnosis"] is not None]
        return dict(rings[0]) if rings else _plain(found)
    return _plain(found)


def _plain(found: Diagnosis | None) -> dict[str, Any] | None:
    return {**asdict(found), "headline": found.headline()} if found is not None else None


def _release(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def _by_arch(feature: str, failing: Failing) -> Version:
    since = FEATURES[feature].since
    return since if isinstance(since, tuple) else since[failing.arch]


# -- maps --------------------------------------------------------------------------------------------------------------------

_SIZED_BY_NOBODY = ("perf_event_array", "sk_storage", "inode_storage", "task_storage", "cgrp_storage")
"""libbpf sizes the first by the CPUs; the storages must have no size."""


def _map(failing: Failing) -> Diagnosis | None:
    kind = failing.map_type or ""
    since = history.map_type_since(kind)
    if since is not None and failing.version < since:
        return Diagnosis(
            "map-type", f"map type {kind}", f"give kernels before {_release(since)} a variant without it", _release(since)
        )
    if kind == "struct_ops" and failing.errno == errno.EINVAL and failing.version < (6, 4):
        return Diagnosis(
            "map-type",
            "a structure that is registered by a link (.struct_ops.link)",
            'put it in SEC(".struct_ops") for older kernels',
            "6.4",
        )
    if failing.max_entries == 0 and kind not in _SIZED_BY_NOBODY:
        return Diagnosis(
            "map-size",
            f"map {failing.name} has max_entries = 0",
            "its loader sets the size before it loads the object: give one in the source, or set it there too",
        )
    if failing.errno == errno.ENOMEM or (failing.errno == errno.EPERM and failing.version < (5, 11)):
        size = f" of {failing.max_entries} entries" if failing.max_entries else ""
        if failing.version < (5, 11):
            return Diagnosis(
                "memlock",
                f"map {failing.name}{size}: no more memory may be locked",
                "raise RLIMIT_MEMLOCK, or make the map smaller",
            )
        return Diagnosis(
            "memory",
            f"map {failing.name}{size}: the VM's memory is too small for it",
            "give the kernel more memory in kernels.toml (memory, in MiB), or make the map smaller",
        )
    return None


# -- programs ----------------------------------------------------------------------------------------------------------------

Row = Callable[[Failing, "re.Match[str]"], Diagnosis | None]


def _source_line(failing: Failing) -> str | None:
    """The last line of C source in the log before the end: `; text`, with `@ file:line` on newer kernels (6.12 has it, 6.1 has not)."""
    lines = [line[2:].strip() for line in failing.log.splitlines() if line.startswith("; ")]
    return next((line for line in reversed(lines) if line and not line.startswith("@")), None)


def _helper(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    found = history.helper(int(match["number"]))
    if found is None:
        return None
    name, since = found
    if failing.version < since:
        return Diagnosis(
            "helper",
            f"helper {name}",
            f"call it only where the kernel has it (bpf_core_enum_value_exists), or give kernels before {_release(since)} a variant without it",
            _release(since),
            _source_line(failing),
        )
    kind = failing.wants.get("type") or "this type"
    return Diagnosis(
        "helper-type",
        f"helper {name} is not for programs of type {kind} on this kernel",
        "use another helper, or another kind of program",
        None,
        _source_line(failing),
    )


def _atomic(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    if failing.version >= (5, 12):
        return None
    return Diagnosis(
        "instruction",
        "instruction atomic_fetch (an atomic operation whose old value is used)",
        "compile with -mcpu=v2, or use the operation without its result",
        "5.12",
        _source_line(failing),
    )


def _callback(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    if failing.version >= (5, 13):
        return None
    return Diagnosis(
        "callback",
        "a reference to a function (a callback, as bpf_loop and bpf_for_each_map_elem take it)",
        "a guard around the call does not help, since the callback stays in the object: put it into a program of its own that old kernels do not load",
        "5.13",
    )


def _global_pointer(_: Failing, match: re.Match[str]) -> Diagnosis | None:
    return Diagnosis(
        "global-function",
        f"global function {match['function']}() with a pointer argument",
        "make the function static, or __always_inline",
        "5.13",
    )


def _relocation(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    kind, name, member = match["kind"], match["type"].split("___")[0], match["member"]
    known = failing.btf.get("type") or {}
    where = _source_line(failing)
    if known and not known["there"]:
        alike = f"; the nearest is {', '.join(known['alike'])}" if known["alike"] else ""
        return Diagnosis(
            "btf-type",
            f"CO-RE: btf:{kind} {name} is not in this kernel{alike}",
            f"guard the access with bpf_core_type_exists, and read the type of newer kernels by a flavour ({kind} {(known['alike'] or [name])[0]}___new)",
            None,
            where,
        )
    field_ = f".{member}" if member else ""
    return Diagnosis(
        "btf-field",
        f"CO-RE: btf:{name}{field_} is not in this kernel, or of another kind",
        "guard the access with bpf_core_field_exists, and read what other kernels have by a flavour of the type",
        None,
        where,
    )


def _argument(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    function, index = match["function"], int(match["index"])
    count = (failing.btf.get("function") or {}).get("arguments")
    has = f"has {count} argument{'' if count == 1 else 's'}" if count is not None else "has fewer arguments"
    beyond = " (or its return value, which comes after the last)" if failing.section.startswith("fexit") else ""
    return Diagnosis(
        "btf-function",
        f"btf:func/{function} {has} on this kernel, and the program reads argument {index + 1}{beyond}",
        "load another program for kernels whose function has another signature",
        None,
        _source_line(failing),
    )


def _tail_call(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    since = "5.10" if failing.arch == "x86_64" else "6.0"
    return Diagnosis(
        "tail-call",
        f"a tail call in a program with subprograms, on {failing.arch}",
        "make the functions __always_inline, or make the tail call from the program itself, without subprograms",
        since,
        _source_line(failing),
    )


def _stack(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    first = int(match["first"])
    return Diagnosis(
        "stack",
        f"uninitialised stack given to a helper (byte {first} of {match['size']}, and perhaps those after it)",
        "clear the whole structure with memset or __builtin_memset, or give its padding a name and a value",
        None,
        _source_line(failing),
    )


def _no_btf_function(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    name = match["function"]
    if (newer := _too_new(failing)) is not None:  # an iterator's name is that of no function where there are no iterators
        return newer
    if re.search(r"dummy|placeholder", name):
        return _placeholder(name)
    return Diagnosis(
        "symbol",
        f"btf:func/{name} is not in this kernel",
        "attach to another function on such kernels, or make the program optional",
    )


def _placeholder(name: str) -> Diagnosis:
    return Diagnosis(
        "placeholder",
        f"{name} stands for a target that the loader chooses",
        "attach it by its own loader, or name the function in SEC()",
    )


def _kfunc(_: Failing, match: re.Match[str]) -> Diagnosis | None:
    return Diagnosis(
        "kfunc",
        f"kernel function {match['function']} is not in this kernel",
        "declare it __weak, and call it only where bpf_ksym_exists says so",
    )


def _no_kernel_btf(*_: object) -> Diagnosis | None:
    return Diagnosis(
        "btf",
        "this kernel has no BTF of its own (CONFIG_DEBUG_INFO_BTF, 5.2 on)",
        "give it a variant without CO-RE, or bring a BTF file",
    )


def _no_trampoline(failing: Failing, _: re.Match[str] | None = None) -> Diagnosis | None:
    if not re.match(r"f(entry|exit|mod_ret)|lsm|freplace", failing.section):
        return None
    since = _by_arch("fentry", failing)
    if failing.section.startswith("freplace") and failing.arch == "arm64":
        since = (6, 0)  # b2ad54e1533e; seen to attach on 6.1
    if failing.version >= since:
        return None
    if failing.section.startswith("freplace"):
        return Diagnosis("attach-type", f"freplace on {failing.arch}", "have the program itself do it there", _release(since))
    return Diagnosis(
        "attach-type",
        f"no fentry on {failing.arch} before {_release(since)}" if failing.arch == "arm64" else "fentry",
        "use a kprobe there",
        _release(since),
    )


def _no_jit(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """The verifier took it, the JIT did not, and there is no interpreter (bpf_prog_select_runtime in kernel/bpf/core.c)."""
    if failing.stage != "load" or "processed " not in failing.log:
        return None
    return Diagnosis(
        "jit",
        f"the kernel's JIT for {failing.arch} does not take an instruction of the program, and the kernel has no interpreter (CONFIG_BPF_JIT_ALWAYS_ON)",
        "avoid atomic operations other than an addition whose old value is not used (all that arm64's JIT takes in 5.15), or give such kernels a variant without them",
    )


def _fixed(kind: str, what: str, fix: str, since: str | None = None) -> Row:
    return lambda failing, _: Diagnosis(kind, what, fix, since, _source_line(failing))


_ROWS: tuple[tuple[str, Row], ...] = (
    (
        r"failed to resolve CO-RE relocation <\w+> \[\d+\] (?P<kind>struct|union|enum) (?P<type>\w+)(?:\.(?P<member>[\w.\[\]]+)|::\w+)?",
        _relocation,
    ),
    (r"kernel BTF is missing|failed to find valid kernel BTF|Error loading vmlinux BTF", _no_kernel_btf),
    (r"failed to find kernel BTF type ID of '(?P<function>\w+)'", _no_btf_function),
    (r"extern \(func ksym\) '(?P<function>\w+)'[^\n]*not found", _kfunc),
    (r"func '(?P<function>\w+)' doesn't have (?P<index>\d+)-th argument", _argument),
    (r"(?:invalid|unknown) func \S+#(?P<number>\d+)", _helper),
    (r"program of this type cannot use helper \S+#(?P<number>\d+)", _helper),
    (r"BPF_(?:STX|XADD) uses reserved fields|BPF_ATOMIC uses invalid atomic opcode", _atomic),
    (
        r"number of funcs in func_info doesn't match number of subprogs|unrecognized bpf_ld_imm64 insn|invalid bpf_ld_imm64 insn|invalid BPF_LD_IMM insn",
        _callback,
    ),
    (r"Arg#\d+ type PTR in (?P<function>\w+)\(\) is not supported yet", _global_pointer),
    (r"tail_calls are not allowed in (?:non-JITed )?programs with bpf-to-bpf calls", _tail_call),
    (r"invalid (?:indirect )?read from stack (?:R\d+ )?off -?\d+\+(?P<first>\d+) size (?P<size>\d+)", _stack),
    (r"-524|ENOTSUPP", _no_trampoline),
    (r"-524|ENOTSUPP", _no_jit),
    (
        r"BPF program is too large|program too large|at most 4096",
        _fixed(
            "verifier-size",
            "the verifier gave up: the program is too complex (1,000,000 instructions on all paths; 4,096 in all before 5.2)",
            "make loops shorter, or split the program by tail calls",
        ),
    ),
    (
        r"The sequence of \d+ jumps is too complex",
        _fixed(
            "verifier-size",
            "the verifier gave up: too many branches are open at once (8,192)",
            "make branches and loops simpler, or split the program by tail calls",
        ),
    ),
    (
        r"back-edge from insn|infinite loop detected",
        _fixed(
            "loop",
            "a loop that the verifier does not take (bounded loops are from 5.3 on)",
            "unroll it (#pragma unroll), or bound it by a constant",
        ),
    ),
    (
        r"combined stack size of|stack depth|exceeds 512|Looks like the BPF stack limit",
        _fixed(
            "verifier-stack", "more than 512 bytes of stack", "keep large values in a map, such as a per-CPU array of one element"
        ),
    ),
    (
        r"R\d+ (?:invalid mem access '(?:map_value_or_null|ptr_or_null_\w*|\w+_or_null)')",
        _fixed("verifier", "a pointer that may be NULL is used unchecked", "test the pointer before it is used"),
    ),
    (
        r"R\d+ invalid mem access '(?:scalar|inv)'",
        _fixed("verifier", "a number is used as a pointer", "read kernel memory by bpf_probe_read_kernel or BPF_CORE_READ"),
    ),
    (
        r"unbounded (?:memory access|min value)|min value is (?:negative|outside)|max value is outside|invalid access to map value|R\d+ unbounded",
        _fixed(
            "verifier",
            "an offset or size that the verifier cannot bound",
            "compare it with a constant, or mask it with &, right before it is used",
        ),
    ),
    (r"R\d+ !read_ok", _fixed("verifier", "a register is read that nothing wrote", "give the variable a value on every path")),
    (
        r"Unreleased reference",
        _fixed(
            "verifier",
            "a reference is not released on every path",
            "release it (bpf_ringbuf_discard, bpf_sk_release, …) before each return",
        ),
    ),
    (
        r"unreachable insn",
        _fixed(
            "verifier", "the program has code that nothing reaches", "remove it; before 5.0 the verifier does not take dead code"
        ),
    ),
    (
        r"cannot call GPL.?(?:only|restricted) function",
        _fixed("licence", "a helper for GPL programs only", 'declare the licence: char LICENSE[] SEC("license") = "GPL"'),
    ),
    (
        r"cannot pass map_type \d+ into func",
        _fixed(
            "verifier",
            "this kernel's helper does not take a map of this type",
            "use another map type, or give such kernels a variant",
        ),
    ),
    (
        r"invalid bpf_context access",
        _fixed(
            "context",
            "a field of the context that this kernel does not give, or not to this kind of program",
            "read it only where the kernel has it, or give such kernels a variant",
        ),
    ),
)
"""Pattern → cause. The first that matches is it, so what is told exactly stands before what is told in general."""


def _too_new(failing: Failing) -> Diagnosis | None:
    """A program that the kernel refused without a word: of a type, attach type or flag that is newer than the kernel."""
    section, kind = failing.section, failing.wants.get("type")
    if re.match(r"f(entry|exit|mod_ret)", section) and failing.version < _by_arch("fentry", failing):
        return _no_trampoline(failing)
    if re.match(r"xdp\.frags", section) and failing.version < (5, 18):
        return Diagnosis(
            "flag",
            "XDP programs for packets in several buffers (xdp.frags)",
            'put a program in SEC("xdp") beside it for older kernels',
            "5.18",
        )
    if re.match(r"(u(ret)?probe(\.multi)?|usdt)\.s(/|$)", section) and failing.version < (6, 0):
        return Diagnosis(
            "flag", "sleepable uprobes (a section with .s)", "use the form that does not sleep on older kernels", "6.0"
        )
    expected = history.attach_type(int(failing.wants.get("attach_type") or 0))
    named = failing.wants.get("attach_type") and expected is not None and failing.version < expected[1]
    since = history.prog_type_since(kind) if kind else None
    if named and expected is not None and (since is None or expected[1] > since):
        return Diagnosis(
            "attach-type",
            f"attach type {expected[0]}",
            "give such kernels another program, or make this one optional",
            _release(expected[1]),
        )
    if since is not None and failing.version < since:
        return Diagnosis(
            "program-type", f"program type {kind}", "give such kernels another program, or make this one optional", _release(since)
        )
    if re.match(r"[\w.]+\.s(/|$)", section) and failing.version < (5, 10):
        return Diagnosis(
            "flag", "sleepable programs (a section with .s)", "use the form that does not sleep on older kernels", "5.10"
        )
    return None


def _attach(failing: Failing) -> Diagnosis | None:
    """A program that loaded, and could not be attached."""
    section, target = failing.section, failing.section.partition("/")[2]
    own = re.match(r"attach type (?P<name>\w+), since (?P<since>\d+\.\d+)", failing.error)
    if own:
        return Diagnosis(
            "attach-type",
            f"attach type {own['name']}",
            "fall back to what older kernels have, such as clsact for tcx, by another program or another call",
            own["since"],
        )
    if "list of LSMs" in failing.error:
        return Diagnosis(
            "lsm",
            "bpf is not in this kernel's list of LSMs: the program would be attached and never run",
            "boot with lsm=…,bpf (CONFIG_LSM), or use a kprobe there",
        )
    if re.match(r"k(ret)?probe\.(multi|session)", section):
        since = _by_arch("kprobe_multi", failing)
        if failing.version < since:
            return Diagnosis(
                "attach-type", f"link kprobe_multi on {failing.arch}", "attach a kprobe to each function there", _release(since)
            )
        if failing.errno == errno.EOPNOTSUPP:
            return Diagnosis(
                "config",
                "link kprobe_multi needs CONFIG_FPROBE, which this kernel was built without",
                "attach a kprobe to each function there",
            )
    if failing.errno in (errno.ENOENT, errno.ESRCH, errno.EINVAL) and re.match(r"k(ret)?probe/|ksyscall|kretsyscall", section):
        if re.search(r"dummy|placeholder", target):
            return _placeholder(target)
        if failing.errno == errno.ENOENT or "failed to create kprobe" in failing.error:
            return Diagnosis(
                "symbol",
                f"symbol {target}: this kernel has no such function, or it may not be probed",
                "attach to another function on such kernels, or make the program optional",
            )
    if failing.errno == errno.ENOENT and re.match(r"(tp|tracepoint|raw_tp|raw_tracepoint)/", section):
        return Diagnosis(
            "tracepoint",
            f"tracepoint {target} is not in this kernel",
            "attach to another tracepoint on such kernels, or make the program optional",
        )
    if "missing ':function[+offset]' specification" in failing.error:
        return _placeholder(section)
    if failing.errno == errno.EBUSY and re.match(r"f(entry|exit|mod_ret)/", section):
        # It was tried by itself: what the trampoline did not find is a place for it at the function's entry (bpf_arch_text_poke).
        return Diagnosis(
            "symbol",
            f"function {target} cannot be traced by {section.partition('/')[0]} on this kernel: its entry has no place for it",
            "attach to another function, or to a tracepoint, on such kernels",
        )
    if failing.errno == errno.EBUSY:
        return Diagnosis(
            "busy",
            "the hook is taken: another program is attached there, and it has room for one",
            "attach one of them only (kmatrix run --program NAME)",
        )
    return None
