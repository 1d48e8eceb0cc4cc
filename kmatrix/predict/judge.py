"""Will a program load and attach on a kernel of which there is a profile? The answer, or the first reason why not.

What is asked in the order of libbpf and the kernel: the kernel's BTF, what the object wants the kernel to provide, maps, the program's type
and target, its instructions, what the code that is reached asks for. The verifier's judgement of the code itself is not foreseen.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kmatrix.guest import table_context
from kmatrix.guest.spelling import GIVEN
from kmatrix.guest.table_insns import FORMS
from kmatrix.matrix import history
from kmatrix.objects.btf import Relocation
from kmatrix.objects.needs import REWRITTEN
from kmatrix.objects.reach import EXISTENCE, Known
from kmatrix.predict import attach, words
from kmatrix.predict.core import Resolved
from kmatrix.predict.kernel import Kernel
from kmatrix.predict.pack import Pack
from kmatrix.predict.subject import Demand, Program, Subject
from kmatrix.predict.types import View
from kmatrix.predict.words import Writer
from kmatrix.verdict.diagnosis import Diagnosis

State = Literal["not loaded", "not attached", "placeholder", "loaded", "attached"]
"""As `kmatrix run` says it. `loaded`: where it is attached its section does not say, or the profile does not tell (`unknown`)."""
GOOD: tuple[State, ...] = ("loaded", "attached")
_POISON = 195896080
"""What libbpf writes in the place of a relocation that came to nothing: the number of no helper (0xbad2310)."""


@dataclass(frozen=True)
class Prediction:
    """What is foreseen of one program on one kernel."""

    program: str
    section: str
    kernel: str
    state: State
    cause: Diagnosis | None = None
    """Why it does not load or attach."""
    unknown: tuple[str, ...] = ()
    """What the profile does not tell and the answer rests on."""

    @property
    def good(self) -> bool:
        """Whether nothing is known to be in its way."""
        return self.state in GOOD or self.state == "placeholder"


class Judge:
    """One object, on the kernels of a pack."""

    def __init__(self, subject: Subject, pack: Pack) -> None:
        self.subject, self.pack = subject, pack
        self.writer = Writer(subject)
        self._resolved: dict[tuple[int, str, int], list[tuple[int, Resolved]]] = {}
        self._all = (1 << len(pack.metas)) - 1

    def predict(self, kernel: Kernel) -> list[Prediction]:
        """Of each program, in the object's order."""
        whole = self._whole(kernel)
        return [self._one(program, kernel, whole) for program in self.subject.programs]

    # -- relocations ---------------------------------------------------------------------------------------------------------

    def resolved(self, asked: Relocation, kernel: Kernel) -> Resolved:
        """What libbpf makes of a relocation; asked once for all kernels whose types on the way are the same."""
        known = self._resolved.setdefault(_key(asked), [])
        for mask, answer in known:
            if mask & kernel.bit:
                return answer
        view = View(self.pack, kernel.number, self._all)
        assert self.subject.core is not None
        answer = self.subject.core.resolve(asked, view)
        known.append((view.same, answer))
        return answer

    def _answers(self, program: Program, kernel: Kernel) -> tuple[tuple[object, ...], Known]:
        """What is decided before the program runs, and by which code is dead."""
        exists = {}
        for each in program.relocations:
            if each.kind in EXISTENCE:
                found = self.resolved(each, kernel)
                exists[_key(each)] = found.there and bool(found.value)
        options = {name: self._option(name, kernel) for name, (kind, _) in self.subject.externs.items() if kind == "kconfig"}
        weak = {
            name: self._provides(name, kind, kernel)
            for name, (kind, weak) in self.subject.externs.items()
            if weak and kind != "kconfig"
        }
        answers: tuple[object, ...] = (*exists.values(), *options.values(), *weak.values())
        return answers, Known(exists=lambda each: exists.get(_key(each)), kconfig=options.get, symbol=weak.get)

    def _option(self, name: str, kernel: Kernel) -> int | None:
        if name == "LINUX_KERNEL_VERSION":
            return kernel.version_code
        if name == "LINUX_HAS_BPF_COOKIE":
            return int(kernel.version >= (5, 15))
        if name == "LINUX_HAS_SYSCALL_WRAPPER":
            return int(attach.wraps_syscalls(kernel))
        if not kernel.configured:
            return 0  # of a weak one; a strong one is an error
        value = kernel.option(name.removeprefix("CONFIG_")).strip('"')
        if value in ("y", "n"):
            return int(value == "y")
        if value == "m":
            return None
        try:
            return int(value, 0)
        except ValueError:
            return None

    def _provides(self, name: str, kind: str, kernel: Kernel) -> bool | None:
        """Whether the kernel has something that the object declares; None where the profile does not tell."""
        symbol = kernel.symbol(name.split("___")[0])
        if kind == "function":
            return symbol is not None and bool(symbol.btf)
        if kind == "variable":
            return symbol is not None and "V" in symbol.flags
        if not kernel.knows("symbols"):
            return None
        return True if symbol is not None and "S" in symbol.flags else None

    # -- the object as a whole -----------------------------------------------------------------------------------------------

    def _whole(self, kernel: Kernel) -> tuple[str, str] | None:
        """Why none of the object's programs can be loaded, in libbpf's words, and its class."""
        subject = self.subject
        typed = any(kind in ("function", "variable") for kind, _ in subject.externs.values())
        if not kernel.btf and (subject.code.relocations or typed):
            return _NO_BTF, "btf"
        if subject.reads_configuration and not kernel.configured:
            return "failed to open system Kconfig", "extern"
        for name, (kind, weak) in subject.externs.items():
            if weak or kind == "kconfig" or self._provides(name, kind, kernel) is not False:
                continue
            if kind == "function":
                return f"extern (func ksym) '{name}': not found in kernel or module BTFs", "kfunc"
            return f"extern '{name}' (strong): not resolved", "extern"
        return None

    # -- one program ---------------------------------------------------------------------------------------------------------

    def _one(self, program: Program, kernel: Kernel, whole: tuple[str, str] | None) -> Prediction:
        cause = self._before(program, kernel, whole) or self._type(program, kernel)
        if cause is None:
            cause = next(self._code(program, kernel), None)
        if cause is not None:
            state: State = "placeholder" if cause.kind == "placeholder" else "not loaded"
            return Prediction(program.name, program.section, kernel.name, state, cause)
        hook = attach.judge(program, kernel, self.writer)
        if hook.cause is not None:
            state = "placeholder" if hook.cause.kind == "placeholder" else "not attached"
        else:
            state = "attached" if hook.attached else "loaded"
        return Prediction(program.name, program.section, kernel.name, state, hook.cause, hook.unknown)

    def _before(self, program: Program, kernel: Kernel, whole: tuple[str, str] | None) -> Diagnosis | None:
        """What keeps libbpf from asking the kernel to load the program."""
        if program.type is None:
            words_ = f"missing BPF prog type, check ELF section name '{program.section}'"
            return self.writer.cause(kernel, program, "load", words_, kind="section")
        if whole is None and program.typed and not kernel.btf and program.kind != "freplace":
            whole = _NO_BTF, "btf"
        if whole is not None:
            return self.writer.cause(kernel, program, "load", whole[0], kind=whole[1])
        for asked in program.relocations:
            found = self.resolved(asked, kernel)
            if found.error:
                text, names = words.relocation(asked, kernel)
                return self.writer.cause(kernel, program, "load", text, kind="btf-field", btf=names)
        return None

    def _type(self, program: Program, kernel: Kernel) -> Diagnosis | None:
        """The program's type, target, attach type and flags."""
        if program.kind == "freplace" and not any(each.name == program.target for each in self.subject.code.functions.values()):
            words_ = f"no other program of this object has a function {program.target} to replace"
            return self.writer.cause(kernel, program, "load", words_, kind="target")
        missing = attach.missing_function(program, kernel)
        if missing is not None:
            error = f"failed to find kernel BTF type ID of '{missing}'"
            names = {"function": {"name": missing, "arguments": None, **_functions_like(kernel, missing)}}
            return self.writer.cause(kernel, program, "load", error, kind="symbol", code=errno.ESRCH, btf=names)
        kind = str(program.type)
        since = history.prog_type_since(kind)
        too_old = since is not None and kernel.version < since
        refused = not kernel.takes_program(kind) or attach.unknown_type(program, kernel) or attach.unknown_flag(program, kernel)
        if too_old or refused:
            return self.writer.cause(kernel, program, "load", "BPF program load failed: Invalid argument", kind="program-type")
        absent = attach.without_address(program, kernel)
        if absent is not None:
            log = f"The address of function {absent} cannot be found"
            return self.writer.cause(
                kernel,
                program,
                "load",
                "BPF program load failed: No such file or directory",
                kind="symbol",
                code=errno.ENOENT,
                log=log,
            )
        return None

    def _code(self, program: Program, kernel: Kernel) -> Iterator[Diagnosis]:
        """What the verifier does not take: first what it asks of every instruction, then of those that it gets to."""
        for name in sorted(program.statics, key=lambda each: (each not in _FIRST, each != "bpf2bpf")):
            if not kernel.has(name):
                yield self._instruction(program, kernel, name)
        answers, known = self._answers(program, kernel)
        poisoned = {name: cause for name in sorted(program.maps) if (cause := self.writer.of_map(kernel, name)) is not None}
        for demand in self.subject.demands(program, answers, known):
            cause = poisoned.get(demand.name) if demand.kind == "map" else self._demand(program, kernel, demand)
            if cause is not None:
                yield cause
        reads = self.subject.context(program, answers, known)
        for index, offset, size in reads:
            found = table_context.field(str(program.type), offset)
            if found is not None and kernel.version < found[1].since:
                log = self.writer.at(program, program.entry, index, f"invalid bpf_context access off={offset} size={size}")
                yield self.writer.cause(kernel, program, "load", _REFUSED, kind="context", code=errno.EACCES, log=log)
        beyond = attach.beyond_arguments(program, kernel, reads)
        if beyond is not None:
            index, text, names = beyond
            log = self.writer.at(program, program.entry, index, text)
            yield self.writer.cause(kernel, program, "load", _REFUSED, kind="btf-function", code=errno.EACCES, log=log, btf=names)

    def _demand(self, program: Program, kernel: Kernel, demand: Demand) -> Diagnosis | None:
        at = demand.function, demand.at
        if demand.kind == "relocation" and demand.relocation is not None:
            found = self.resolved(demand.relocation, kernel)
            insn = demand.function.insns[demand.at] if demand.function is not None else None
            moves = insn is not None and insn.code & 0x07 in (0x01, 0x02, 0x03)
            if found.value is None or (found.badly_sized and moves):
                text, names = words.relocation(demand.relocation, kernel)
                log = self.writer.at(program, *at, text)
                return self.writer.cause(kernel, program, "load", _REFUSED, kind="btf-field", log=log, btf=names)
        elif demand.kind == "helper":
            return self._helper(program, kernel, demand)
        elif demand.kind == "insn" and not kernel.has(demand.name):
            return self._instruction(program, kernel, demand.name)
        elif demand.kind == "kfunc" and not kernel.has("insn:call_kfunc"):
            return self._instruction(program, kernel, "insn:call_kfunc")
        return None

    def _helper(self, program: Program, kernel: Kernel, demand: Demand) -> Diagnosis | None:
        number = demand.number
        if number in REWRITTEN and kernel.version < (5, 5):
            number = 4 if number in (112, 113) else 45
        if kernel.may_call(number, str(program.type), program.kind, program.sleepable):
            return None
        found = history.helper(demand.number)
        name = found[0].removeprefix("bpf_") if found is not None else "unknown"
        unheard = found is None or kernel.version < found[1]
        said = (
            f"invalid func {'unknown' if unheard else name}#{demand.number}"
            if unheard
            else f"program of this type cannot use helper bpf_{name}#{demand.number}"
        )
        log = self.writer.at(program, demand.function, demand.at, said)
        return self.writer.cause(kernel, program, "load", _REFUSED, kind="helper", log=log)

    def _instruction(self, program: Program, kernel: Kernel, name: str) -> Diagnosis:
        said = _SAID.get(name) or FORMS[name.removeprefix("insn:")].words
        return self.writer.cause(kernel, program, "load", _REFUSED, kind=_CLASS.get(name, "instruction"), log=said)


_NO_BTF = "kernel BTF is missing at '/sys/kernel/btf/vmlinux', was CONFIG_DEBUG_INFO_BTF enabled?"
_REFUSED = "BPF program load failed: Invalid argument"
_SAID: Mapping[str, str] = {
    "bpf2bpf": "BPF_CALL uses reserved fields",
    "insn:callback": "invalid bpf_ld_imm64 insn",
    "insn:ksym": "unrecognized bpf_ld_imm64 insn",
    "global_data": "unrecognized bpf_ld_imm64 insn",
    "insn:tail_call_in_function": "tail_calls are not allowed in programs with bpf-to-bpf calls",
    "insn:atomic_fetch": "BPF_STX uses reserved fields",
    "insn:load_acquire": "BPF_ATOMIC uses invalid atomic opcode 100",
    "insn:jmp32": "unknown insn class 6",
    "insn:load_sign_extended": "BPF_LDX uses reserved fields",
    "insn:move_sign_extended": "BPF_MOV uses reserved fields",
    "insn:byte_swap": "unknown opcode d7",
    "insn:long_jump": "unknown opcode 06",
    "insn:may_goto": "unknown opcode e5",
    "insn:call_kfunc": "BPF_CALL uses reserved fields",
    "bounded_loops": "back-edge from insn 1 to 0",
    "insns_1m": "BPF program is too large. Processed 4097 insn",
}
"""What the verifier says where it does not know something, beside what FORMS has."""
_FIRST = ("global_data", "insn:callback", "insn:atomic_fetch", "insn:load_acquire")
"""What it looks for before it goes through the code (resolve_pseudo_ldimm64)."""
_CLASS: Mapping[str, str] = {
    "insns_1m": "verifier-size",
    "bounded_loops": "loop",
    "global_data": "global-data",
    "insn:callback": "callback",
    "insn:tail_call_in_function": "tail-call",
}


def _key(asked: Relocation) -> tuple[int, str, int]:
    """What a relocation asks for, wherever it stands."""
    return asked.type, asked.access, asked.kind


def _functions_like(kernel: Kernel, name: str) -> dict[str, list[str]]:
    """Functions of the kernel's BTF with the name in theirs; where there are none, those that are spelled nearly like it."""
    alike = [each for each in kernel.alike("names", name) if kernel.function(each) is not None]
    spelled = [] if alike else [each for each in kernel.spelled("names", name) if kernel.function(each) is not None]
    return {"alike": alike, "spelled": spelled[:GIVEN]}


def predict(subject: Subject, kernels: Sequence[Kernel]) -> list[list[Prediction]]:
    """Of each kernel, in the order given, what becomes of each program. The kernels may be of several packs."""
    judges: dict[int, Judge] = {}
    found = []
    for kernel in kernels:
        judge = judges.setdefault(id(kernel.pack), Judge(subject, kernel.pack))
        found.append(judge.predict(kernel))
    return found
