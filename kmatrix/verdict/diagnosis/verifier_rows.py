"""What the verifier says of programs that it does not take, on any kernel or on old ones: its words (kernel/bpf/verifier.c), and their cause.

`{name}` in a cause is the pattern's group of that name.
"""

from __future__ import annotations

import re

from kmatrix.objects.code import CALL, PSEUDO_CALL
from kmatrix.verdict.diagnosis import contexts, hooks, insns, lacks
from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, Row, fixed, holding

_COMPLEX = fixed(
    "verifier-size",
    "the verifier gave up: the program is too complex (1,000,000 instructions on all paths; 4,096 in all before 5.2)",
    "make loops shorter, or split the program by tail calls",
)
_DEAD = fixed(
    "dead-code",
    "the program has instructions that no jump leads to, or that lead nowhere",
    "remove what cannot be reached, and let every path end in a return (a missing __builtin_unreachable() or a loop without an end makes such code)",
)


def _too_long(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """E2BIG: of bpf(2), a field that the kernel does not know, such as the attach type before 4.17; of the verifier, a program too complex."""
    if failing.log.strip():
        return _COMPLEX(failing, match)
    return hooks.too_new(failing) or hooks.named_attach_type(failing) or _COMPLEX(failing, match)


def _unreachable(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """Before 4.16 (cc8b0b92a169), functions that a program calls are instructions that no jump leads to."""
    call = holding(failing, lambda insn: insn[0] == CALL and insn[1] >> 4 == PSEUDO_CALL) if failing.version < (4, 16) else None
    if call is None or failing.lines is None or not failing.lines.calls(failing.name):
        return _DEAD(failing, match)
    return Diagnosis(
        "instruction",
        "instruction call_function (a call of a function of the program's own)",
        "make the functions __always_inline",
        "4.16",
        call,
    )


_NO_MAP = fixed(
    "map-helper",
    "this kernel's helper does not take a map of this type",
    "use another map type, or give such kernels a variant",
)

LIMITS: tuple[tuple[str, Row], ...] = (
    (r"BPF program is too large|program too large|at most 4096", _COMPLEX),
    (
        r"The sequence of \d+ jumps is too complex",
        fixed(
            "verifier-size",
            "the verifier gave up: too many branches are open at once (8,192)",
            "make branches and loops simpler, or split the program by tail calls",
        ),
    ),
    (r"back-edge from insn", insns.back_edge),
    (
        r"infinite loop detected",
        fixed("loop", "a loop of which the verifier sees no end", "bound it by a constant, or unroll it (#pragma unroll)"),
    ),
    (
        r"combined stack size of (?P<calls>\d+) calls is (?P<size>\d+)",
        fixed(
            "verifier-stack",
            "more than 512 bytes of stack: {size} together in {calls} functions that call each other",
            "keep large values in a map, such as a per-CPU array of one element",
        ),
    ),
    (
        r"the call stack of \d+ frames is too deep",
        fixed("verifier-stack", "functions that call each other more than 8 deep", "make some of them __always_inline"),
    ),
)

MEMORY: tuple[tuple[str, Row], ...] = (
    (
        r"invalid(?: indirect)? read from stack|invalid size of register fill",
        fixed(
            "stack",
            "stack is read that nothing wrote",
            "give the variable a value on every path, or clear it with __builtin_memset",
        ),
    ),
    (
        r"invalid (?:unbounded )?variable-offset|variable stack access|invalid(?: write to| \w+ to| indirect access to| \w+ access to)? stack|stack pointer (?:arithmetic|cannot be passed)|invalid stack (?:off|type)|subtraction from stack pointer",
        fixed(
            "verifier-stack",
            "an access outside the 512 bytes of stack, or at an offset that the verifier cannot bound",
            "compare the index with the array's size right before it is used, or keep the array in a map",
        ),
    ),
    (
        r"R\d+ invalid mem access '\w*(?:_or_null|NULL)\w*'|Possibly NULL pointer|R\d+ type=\w*_or_null\w* expected|prohibited, null-check it first",
        fixed("null", "a pointer that may be NULL is used unchecked", "test the pointer before it is used"),
    ),
    (
        r"R\d+ invalid mem access '(?:scalar|inv)'",
        fixed("pointer", "a number is used as a pointer", "read kernel memory by bpf_probe_read_kernel or BPF_CORE_READ"),
    ),
    (
        r"invalid access to packet|offset is outside of the packet|helper access to the packet is not allowed",
        fixed(
            "packet",
            "packet data is read without a check of its bounds",
            "compare the end of what is read with data_end first, on the same pointer; or copy it by bpf_skb_load_bytes",
        ),
    ),
    (
        r"write into \S+ forbidden|cannot write into|stores into R\d+ \w+ is not allowed|only read (?:from \w+ )?is supported|Writes through BTF pointers|write to change key",
        fixed(
            "read-only",
            "memory is written that programs may only read",
            "write to a map of your own; drop BPF_F_RDONLY_PROG or const where it is one",
        ),
    ),
    (
        r"access beyond (?:struct|the end of member|the end of struct)? ?(?P<type>\w+)",
        fixed(
            "pointer",
            "memory beyond struct {type} is read",
            "read a field that this kernel's structure has, by CO-RE (preserve_access_index)",
        ),
    ),
    (
        r"dereference of modified \w+ ptr|variable \w+ access var_off|pointer arithmetic (?:with|on|prohibited)|bitwise operator \S+ on pointer|pointer \S+ pointer prohibited|subtract pointer from scalar|pointer comparison prohibited",
        fixed(
            "pointer",
            "arithmetic on a pointer that the verifier does not allow",
            "read the field directly (ctx->field), with a constant offset",
        ),
    ),
    (
        r"unbounded (?:memory access|min value)|min value is (?:negative|outside)|max value is outside|invalid access to (?:map (?:value|key)|memory)|R\d+ unbounded|math between .* pointer and|pointer be out of bounds|tried to \w+ beyond pointer bounds|R\d+ invalid \S+ access off=|R\d+ is not a known constant",
        fixed(
            "bounds",
            "an offset or size that the verifier cannot bound",
            "compare it with a constant, or mask it with &, right before it is used; some helpers take a constant only",
        ),
    ),
    (
        r"invalid zero-sized read",
        fixed("bounds", "a size of 0 is given to a helper that reads memory", "give it the size of what it reads"),
    ),
    (r"R\d+ !read_ok", fixed("unwritten", "a register is read that nothing wrote", "give the variable a value on every path")),
    (
        r"misaligned (?:\w+ )?access",
        fixed("alignment", "an access that is not aligned", "copy the bytes by bpf_probe_read_kernel or __builtin_memcpy"),
    ),
    (
        r"invalid bpf_context access(?: off=(?P<at>\d+))?|invalid ctx access|verifier (?:narrow ctx (?:access|load) )?(?:is )?misconfigured\b(?! verifier)",
        contexts.context,
    ),
)

RULES: tuple[tuple[str, Row], ...] = (
    (
        r"Unreleased reference|would lead to reference leak|reference leak",
        fixed(
            "reference",
            "a reference is not released on every path",
            "release it (bpf_ringbuf_discard, bpf_sk_release, …) before each return",
        ),
    ),
    (
        r"reference has not been acquired before|release of unowned|release kernel function \w+ expects|arg \d+ is an unacquired reference",
        fixed("reference", "a reference is released that the program does not hold", "release what was acquired, and once"),
    ),
    (
        r"unreachable insn|last insn is not an exit|jump out of range",
        _unreachable,
    ),
    (
        r"cannot call (?:GPL|kernel function from non-GPL)|must have a GPL compatible license|GPL-compatible",
        fixed(
            "licence",
            "a helper or program type for GPL programs only",
            'declare the licence: char LICENSE[] SEC("license") = "GPL"',
        ),
    ),
    (r"cannot pass map_type \d+ into func|expected prog array map|no direct value access support for this map type", _NO_MAP),
    (r"call bpf_tail_call#12\s+kernel subsystem misconfigured verifier", _NO_MAP),
    (
        r"(?P<kind>\w+) (?:type )?programs can only use preallocated hash map|hash maps are unsafe. Switch to preallocated",
        fixed(
            "map-helper",
            "programs of this type take only preallocated hash maps on this kernel",
            "take BPF_F_NO_PREALLOC away from the map, or give such kernels another one",
        ),
    ),
    (
        r"Sleepable programs can only use (?P<maps>[\w, ]+?) maps",
        fixed(
            "sleepable",
            "a sleepable program takes only {maps} maps on this kernel",
            "use such a map, or the form of the program that does not sleep",
        ),
    ),
    (
        r"(?P<kind>tracing progs|socket filter progs|sleepable progs) cannot use (?P<what>bpf_\w+) yet",
        fixed(
            "lock",
            "{what} is not for {kind} on this kernel",
            "use an atomic operation (__sync_fetch_and_add) or a per-CPU map there",
        ),
    ),
    (
        r"bpf_spin_unlock (?:is missing|of different lock|without taking)|while holding a lock|inside bpf_spin_lock|cannot be accessed directly by|calls are not allowed while",
        fixed(
            "lock",
            "bpf_spin_lock is not used as the verifier wants: one lock, released on every path, no calls while it is held",
            "put all calls before the lock, and unlock before each return",
        ),
    ),
    (
        r"map '(?P<map>\w+)' has to have BTF in order to use (?P<what>\w+)",
        fixed(
            "object-btf",
            "{what} needs the object's BTF, and the kernel has it not for map {map}",
            "compile with -g; where the log has a BTF load error, mend the type that it names",
        ),
    ),
    (
        r"does(?:n't| not) (?:have|point to) (?:a )?(?:valid )?'?struct (?P<what>bpf_\w+)|has no valid (?P<kptr>kptr)",
        fixed(
            "kptr",
            "the map's value has no kptr, lock or timer at that place, as the kernel sees it",
            "declare it in the map's value type (__kptr, struct bpf_spin_lock, struct bpf_timer), and compile with a clang that keeps BTF type tags (15 on)",
        ),
    ),
    (
        r"Expected an initialized (?P<what>\w+) as arg|expected an? (?:initialized|uninitialized) (?P<other>\w+)|Dynptr has to be an uninitialized",
        fixed(
            "dynptr",
            "a dynptr or an iterator is used before it is made, or made twice",
            "make it first, once, and check that this worked",
        ),
    ),
    (
        r"At (?:program|\w+) (?:exit|callback return) the register R0 (?P<has>.*?) ?should have been in (?P<range>[(\[][^)\]]*[)\]])",
        fixed(
            "return-value",
            "the program returns what its type does not allow: R0 {has}, and {range} is allowed",
            "return one of the values that the hook knows",
        ),
    ),
    (
        r"R(?P<register>\d) type=(?P<type>\w+) expected=(?P<expected>[\w, ]+)",
        fixed(
            "argument",
            "a helper's argument {register} is of the wrong kind: {type}, where it takes {expected}",
            "give it a pointer of the kind that it takes; helpers for kernel objects take those that the kernel handed over, not numbers",
        ),
    ),
    (
        r"R(?P<register>\d) is of type (?P<type>\w+) but (?P<expected>\w+) is expected",
        fixed(
            "argument",
            "a helper's argument {register} is of the wrong kind: struct {type}, where it takes struct {expected}",
            "give it a pointer of that type",
        ),
    ),
    (
        r"arg#(?P<index>\d+) (?P<what>(?:expected pointer|pointer type|is|reference type|type)[^\n]*)\n(?:processed|Caller|\Z)",
        fixed(
            "argument",
            "argument {index} of a kernel function: {what}",
            "give it what the kernel handed over (a trusted pointer), of the right type",
        ),
    ),
    (r"helper call might sleep in a non-sleepable prog|helper call might sleep", lacks.helper_sleeps),
    (
        r"helper call is not allowed in (?:probe|program)",
        fixed(
            "helper-place",
            "a helper that this kernel allows in some functions only, and not in the one that the program is attached to",
            "attach to one of the functions that the kernel lists for the helper, or use another helper",
        ),
    ),
    (r"Only (?P<kinds>[\w/, ]+) programs (?:can be|are) sleepable", lacks.sleepable_type),
    (r"(?m)^(?P<function>\w+) is not sleepable$", lacks.not_sleepable_hook),
    (
        r"(?m)^(?P<function>\w+)\(\) is not modifiable$",
        fixed(
            "symbol",
            "{function}() may not be modified: fmod_ret takes security hooks and functions of ALLOW_ERROR_INJECTION",
            "use fexit to watch it, or bpf_override_return from a kprobe where the kernel allows that",
        ),
    ),
    (
        r"BPF_\w+ uses reserved fields|BPF_ARSH not supported for 32 bit ALU|unknown insn class(?: \d+)?|invalid BPF_\w+ opcode|invalid atomic operand size",
        insns.reserved,
    ),
    (r"Argument list too long", _too_long),
    (
        r"load failed: No space left on device",
        fixed(
            "verifier-size",
            "the program is too complex for the verifier: its log does not fit into 16 MiB",
            "make loops shorter, or split the program by tail calls",
        ),
    ),
)

VERIFIER: tuple[tuple[str, Row], ...] = (*LIMITS, *MEMORY, *RULES)
