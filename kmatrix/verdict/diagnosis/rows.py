"""The table: what the verifier and libbpf say of a program, and the cause that it has.

The first pattern that matches, and whose row knows a cause, is it. So what is told exactly stands before what is told in general.
"""

from __future__ import annotations

from kmatrix.verdict.diagnosis import hooks, insns, lacks, stack
from kmatrix.verdict.diagnosis.cause import Row, fixed
from kmatrix.verdict.diagnosis.cilium_rows import CILIUM
from kmatrix.verdict.diagnosis.verifier_rows import VERIFIER

_MISSING: tuple[tuple[str, Row], ...] = (
    (
        r"failed to resolve CO-RE relocation <\w+> \[\d+\] (?P<kind>struct|union|enum64|enum|typedef|int) (?P<type>\w+)(?:\.(?P<member>[\w.\[\]]+)|::(?P<enumerator>\w+))?",
        lacks.relocation,
    ),
    (r"kernel BTF is missing|failed to find valid kernel BTF|Error loading vmlinux BTF", lacks.no_kernel_btf),
    (r"failed to find kernel BTF type ID of '(?P<function>\w+)'", lacks.no_btf_function),
    (
        r"[Tt]he address of function (?P<function>\S+) cannot be found",
        fixed(
            "symbol",
            "btf:func/{function} is in this kernel's types and has no address: the compiler put it into its callers",
            "attach to another function on such kernels, or make the program optional",
        ),
    ),
    (r"extern \(func ksym\) '(?P<function>\w+)'[^\n]*not found", lacks.kfunc),
    (r"kfunc '(?P<function>\w+)' is referenced but wasn't resolved", lacks.kfunc),
    (
        r"extern \(var ksym\) '(?P<variable>\w+)'[^\n]*not found|failed to find the address for kernel symbol '(?P<other>\w+)'",
        lacks.kernel_variable,
    ),
    (
        r"extern \(func ksym\) '(?P<function>\w+)': func_proto \[\d+\] incompatible",
        fixed(
            "kfunc",
            "kernel function {function} has another signature on this kernel than the object declares",
            "declare it as this kernel has it (bpftool btf dump), with its structures defined and not only declared, or give such kernels a variant",
        ),
    ),
    (
        r"metadata kfuncs require device-bound program",
        fixed(
            "kfunc-type",
            "kernel functions for the metadata of XDP are for programs that are bound to a device",
            "load the program with BPF_F_XDP_DEV_BOUND_ONLY and an interface, by its own loader",
        ),
    ),
    (r"calling kernel function (?P<function>\w+) is not allowed", lacks.kfunc_type),
    (r"func '(?P<function>\w+)' doesn't have (?P<index>\d+)-th argument", lacks.argument),
    (r"(?:invalid|unknown) func \S+#(?P<number>\d+)", lacks.helper),
    (r"program of this type cannot use helper \S+#(?P<number>\d+)", lacks.helper),
    (r"BPF_(?:STX|XADD) uses reserved fields|BPF_ATOMIC uses invalid atomic opcode (?P<code>[0-9a-f]+)", insns.atomic),
    (
        r"number of funcs in func_info doesn't match number of subprogs|unrecognized bpf_ld_imm64 insn|invalid bpf_ld_imm64 insn|invalid BPF_LD_IMM insn",
        insns.wide_load,
    ),
    (
        r"kernel doesn't support global data",
        fixed(
            "global-data",
            "global variables (.data, .rodata, .bss)",
            "keep values in a map on such kernels, or let the loader replace constants",
            "5.2",
        ),
    ),
    (
        r"MEMLOCK may be too low",
        fixed(
            "memlock",
            "no more memory may be locked (RLIMIT_MEMLOCK counts before 5.11)",
            "raise RLIMIT_MEMLOCK before the object is loaded (rlimit.RemoveMemlock in Go)",
        ),
    ),
    (
        r"attach program FD is not set",
        lambda failing, _: hooks.placeholder(failing, failing.section),
    ),
    (
        r"missing BPF prog type, check ELF section name '(?P<section>[^']+)'",
        fixed(
            "section",
            "libbpf does not know what kind of program section {section} is for",
            "name the section as libbpf does, or let the loader set the type",
        ),
    ),
    (
        r"failed to open system Kconfig",
        fixed(
            "extern",
            "the object reads the kernel's configuration (CONFIG_… externs), and the guest has neither /proc/config.gz nor /boot/config-…",
            "declare the variable __weak, and use what it then has (0)",
        ),
    ),
    (
        r"func (?P<function>bpf_\w+)#\d+ (?:not supported for program type|supported only for)",
        fixed(
            "helper-type",
            "helper {function} is not for programs of this type on this kernel",
            "use another helper, or another kind of program",
        ),
    ),
    (r"unknown opcode (?:0x)?(?P<code>[0-9a-f]{2})\b", insns.opcode),
    (r"Arg#\d+ type PTR in (?P<function>\w+)\(\) is not supported yet", lacks.global_pointer),
    (r"Global function (?P<function>\w+)\(\) doesn't return scalar", lacks.global_void),
    (r"callbacks are not allowed in non-JITed|JIT is required for calling kernel function", insns.interpreted),
    (r"tail_calls are not allowed in (?:non-JITed )?programs with bpf-to-bpf calls", insns.tail_call),
    (
        r"invalid (?:indirect )?(?:read from|access to) stack (?:R\d+ )?off (?P<base>-?\d+)\+(?P<first>\d+) size (?P<size>\d+)",
        stack.unwritten,
    ),
    (r"-524|ENOTSUPP", hooks.no_trampoline),
    (r"-524|ENOTSUPP", insns.no_jit),
)

ROWS: tuple[tuple[str, Row], ...] = (*CILIUM, *_MISSING, *VERIFIER)
