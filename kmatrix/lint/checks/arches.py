"""KM4: what differs between x86_64 and arm64."""

from __future__ import annotations

from kmatrix.lint import facts
from kmatrix.lint.checks import Finding, Iterator, Source
from kmatrix.lint.checks.reads import is_read, is_registers
from kmatrix.lint.preprocessor import ARM64_MACROS, X86_MACROS, File, Place
from kmatrix.lint.syntax import Function
from kmatrix.matrix.arch import ARCHES

_PAGE = 64 * 1024
_HOST = frozenset({"__x86_64__", "__x86_64", "__amd64__", "__i386__", "__aarch64__", "__arm__", "__arm64__"})
_SYSCALL_SYMBOLS = ("__x64_sys_", "__arm64_sys_", "__ia32_sys_", "__se_sys_", "__do_sys_", "sys_", "SyS_")


def check(source: Source) -> Iterator[Finding]:
    """The findings of KM401 to KM407."""
    for function in source.unit.functions.values():
        yield from _registers(source, function)
        yield from _register_offsets(source, function)
    yield from _user_registers(source)
    for program in source.unit.programs:
        yield from _hooks(source, program)
    yield from _ring_buffers(source)
    for file in source.files:
        yield from _host_macros(file)
        yield from _one_sided(file)


def _registers(source: Source, function: Function) -> Iterator[Finding]:
    unit = source.unit
    seen: set[Place] = set()
    for node in function.nodes:
        what = unit.access(node)
        if what is None or what[0].record.name not in ("pt_regs", "user_pt_regs") or node.place in seen:
            continue
        place, name = node.place, node.name
        seen.add(place)
        if name not in facts.X86_REGISTERS | facts.ARM64_REGISTERS | facts.USER_REGISTERS:
            continue
        if source.file(place.file).for_one_arch(place.line) or unit.from_project_macro(place):
            continue
        relocated = what[0].record.relocated or any(a.callee() == "__builtin_preserve_access_index" for a in node.ancestors())
        macro = next((m for m in unit.macros_at(place) if m.start == place.offset), None)
        if macro is not None:  # PT_REGS_PARM1(ctx) and its like: the register is the macro's
            if relocated and name in facts.USER_REGISTERS:
                yield Finding(
                    "KM402",
                    place,
                    f"{macro.name} reads {name} here, user space's name, which the kernel's BTF does not have: include vmlinux.h, or define "
                    "__VMLINUX_H__ before <bpf/bpf_tracing.h>, so that it takes the kernel's",
                )
            continue
        if relocated and name in facts.USER_REGISTERS:
            yield Finding(
                "KM402",
                place,
                f"the kernel's struct pt_regs has {_kernel_name(name)}, not {name}: use PT_REGS_PARM1_CORE() and its like",
            )
            continue
        owner = "arm64" if name in facts.ARM64_REGISTERS and name not in facts.X86_REGISTERS else "x86_64"
        yield Finding(
            "KM401",
            place,
            f"{name} is {owner}'s register: PT_REGS_PARMn_CORE(ctx), BPF_KPROBE's arguments or get_argN(ctx) are right on both arches",
        )


def _register_offsets(source: Source, function: Function) -> Iterator[Finding]:
    for node in function.nodes:
        if node.kind != "BINARY_OPERATOR" or len(node.children) != 2 or node.children[1].bare().kind != "INTEGER_LITERAL":
            continue
        base = node.children[0]
        if not is_registers(source, base) or source.flow.operator(node) != "+" or not is_read(node):
            continue
        if not source.file(node.start.file).for_one_arch(node.start.line):
            yield Finding(
                "KM401",
                node.start,
                f"{source.text(node.start, node.end)} is where one arch has the register: PT_REGS_PARMn_CORE(ctx), BPF_KPROBE's arguments or get_argN(ctx) "
                "are right on both arches",
            )


def _kernel_name(register: str) -> str:
    return "flags" if register == "eflags" else register.replace("orig_r", "orig_").removeprefix("r")


def _user_registers(source: Source) -> Iterator[Finding]:
    for struct in source.unit.registers:
        record = source.unit.record(struct.cursor.type)
        if record is None or record.name != "pt_regs" or not record.relocated:
            continue  # read directly, only the layout counts
        member = next((m for m in struct.children if m.kind == "FIELD_DECL" and m.name in facts.USER_REGISTERS), None)
        if member is not None:
            yield Finding(
                "KM402",
                member.place,
                f"{member.name} is user space's name of the register: the kernel's BTF has {_kernel_name(member.name)}, and the relocation fails on x86_64",
            )


def _hooks(source: Source, program: Function) -> Iterator[Finding]:
    place = program.node.start
    section = program.section.removeprefix("?")
    where = source.file(place.file)
    # Only for one arch on purpose: inside #ifdef, or by the manifest.
    if where.for_one_arch(place.line) or (
        source.claims and all(len(c.arches_of(program.name)) < len(ARCHES) for c in source.claims)
    ):
        return
    kind, _, target = section.partition("/")
    call = ""
    if kind in ("tracepoint", "tp") and target.startswith(("syscalls/sys_enter_", "syscalls/sys_exit_")):
        call = target.split("_", 2)[2]
    elif kind in ("ksyscall", "kretsyscall"):
        call = target
    if call in facts.X86_ONLY_SYSCALLS:
        instead = facts.SYSCALL_INSTEAD.get(call)
        todo = f"use {instead}" if instead else "use another hook"
        yield Finding(
            "KM403",
            place,
            f'arm64 has no system call {call}, and so no such hook: {todo}, or say arches = ["x86_64"] on the program in collector.toml',
        )
    elif kind in ("kprobe", "kretprobe") and target.startswith(_SYSCALL_SYMBOLS):
        if source.loaded_by_go:
            return  # cilium/ebpf's link.Kprobe tries the arch's prefix itself
        prefix = next(p for p in _SYSCALL_SYMBOLS if target.startswith(p))
        name = target.removeprefix(prefix)
        ret = "kretsyscall" if kind == "kretprobe" else "ksyscall"
        yield Finding(
            "KM404",
            place,
            f'{target} has another name on other kernels and arches: SEC("{ret}/{name}") finds it, and tracepoint/syscalls/sys_enter_{name} needs no symbol',
        )


def _ring_buffers(source: Source) -> Iterator[Finding]:
    for each in source.unit.maps:
        size = each.max_entries
        if each.type == facts.RINGBUF and size and (size % _PAGE or size & (size - 1)):
            yield Finding(
                "KM405",
                each.entries_place,
                f"{size} bytes of ring buffer: a power of two and a multiple of 64 KiB ({_PAGE}) works on every arm64 page size",
            )


def _host_macros(file: File) -> Iterator[Finding]:
    for condition in file.conditions:
        names = {name for name, _ in condition.names}
        if names & (X86_MACROS | ARM64_MACROS | {"__bpf__", "__BPF__", "__KERNEL__"}):
            continue
        first = next(((name, place) for name, place in condition.names if name in _HOST), None)
        if first is not None:
            yield Finding(
                "KM406",
                first[1],
                f"clang -target bpf never defines {first[0]}: ask for __TARGET_ARCH_x86 or __TARGET_ARCH_arm64 (ARCH_X86_64, ARCH_ARM64)",
            )


def _one_sided(file: File) -> Iterator[Finding]:
    mentioned = {name for condition in file.conditions for name, _ in condition.names}
    for condition in file.conditions:
        names = {name for name, _ in condition.names}
        if condition.has_else or condition.form[0] == "ifndef" or len(names) != 1 or "!" in condition.form:
            continue
        for mine, other, lacks in ((X86_MACROS, ARM64_MACROS, "arm64"), (ARM64_MACROS, X86_MACROS, "x86_64")):
            if not names & mine or mentioned & other:
                continue
            first, last, _ = condition.branches[0]
            if not any(first < end and start < last for start, end in file.bodies) or any(
                first < line < last for line in file.identifiers.get("SEC", ())
            ):
                continue  # whole programs for one arch: the manifest says so
            yield Finding(
                "KM407", condition.names[0][1], f"there is nothing here for {lacks}: give it its branch, an #else, or an #error"
            )
