#!/usr/bin/env python3
"""Write down what the running kernel shows to BPF programs, as one file. `kmatrix profiles add FILE` makes a profile of it.

It needs root, Python 3.6 or newer and nothing else: copy it to a host, and run `python3 collect.py OUTPUT`. It loads small programs and makes small
maps to see what the kernel takes, keeps none of them, and changes nothing.
"""

import base64
import ctypes
import errno
import gzip
import json
import os
import platform
import re
import struct
import sys
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple  # noqa: F401

SCHEMA = 1
NR_BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), -1)
MAP_CREATE, PROG_LOAD, BTF_LOAD = 0, 5, 18
TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
SYSCTLS = (
    "kernel/unprivileged_bpf_disabled", "kernel/perf_event_paranoid", "kernel/perf_event_max_stack", "kernel/kptr_restrict",
    "kernel/bpf_stats_enabled", "net/core/bpf_jit_enable", "net/core/bpf_jit_harden", "net/core/bpf_jit_limit", "debug/kprobes-optimization",
)  # fmt: skip
KINDS_AFTER = {1: 4, 3: 12, 14: 4, 17: 4}
KINDS_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attr):  # type: (int, bytes) -> int
    """bpf(2): a file descriptor; OSError with the kernel's errno."""
    buffer = ctypes.create_string_buffer(attr, len(attr))
    result = libc.syscall(ctypes.c_long(NR_BPF), ctypes.c_long(command), buffer, ctypes.c_long(len(attr)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def read(path, size=-1):  # type: (str, int) -> Optional[str]
    """What a file has; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(size).decode("utf-8", "replace")
    except OSError:
        return None


# -- types -------------------------------------------------------------------------------------------------------------------


class Functions(object):
    """The numbers of functions and types of the kernel's BTF, by kind and name: only those that are asked for."""

    def __init__(self, data):  # type: (bytes) -> None
        self.numbers = {}  # type: Dict[Tuple[int, str], int]
        self.members = {}  # type: Dict[str, List[str]]
        if len(data) < 24:
            return
        header, at, size, strings_at, strings_size = struct.unpack_from("<4xIIIII", data)
        strings = data[header + strings_at : header + strings_at + strings_size]
        wanted = {}  # type: Dict[int, str]
        for name in ("bpf_fentry_test1", "bpf_lsm_file_open", "bpf_lsm_bprm_committed_creds", "bpf_iter_task", "tcp_congestion_ops",
                     "btf_trace_sched_process_exit", "security_file_mprotect"):  # fmt: skip
            found = strings.find(b"\0" + name.encode() + b"\0")
            if found >= 0:
                wanted[found + 1] = name
        at, end, number = header + at, header + at + size, 0
        unpack = struct.Struct("<III").unpack_from
        while at < end:
            number += 1
            name_at, info, _ = unpack(data, at)
            kind, count = info >> 24 & 31, info & 0xFFFF
            if name_at in wanted:
                self.numbers.setdefault((kind, wanted[name_at]), number)
                if kind == 4 and wanted[name_at] == "tcp_congestion_ops":
                    for index in range(count):
                        (member,) = struct.unpack_from("<I", data, at + 12 + 12 * index)
                        self.members.setdefault("tcp_congestion_ops", []).append(
                            strings[member : strings.index(b"\0", member)].decode()
                        )
            at += 12 + KINDS_AFTER.get(kind, 0) + KINDS_EACH.get(kind, 0) * count


def btf():  # type: () -> Dict[str, bytes]
    """The BTF of the kernel and of each module that is loaded, by name."""
    found = {}
    folder = "/sys/kernel/btf"
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        try:
            with open(folder + "/" + name, "rb") as file:
                found[name] = file.read()
        except OSError:
            pass
    return found


# -- what bpf(2) takes -------------------------------------------------------------------------------------------------------

PROG_TYPES = 33
MAP_TYPES = 34
HELPERS = 212
ZEROS = b"".join(struct.pack("<BBhi", 0xB7, register, 0, 0) for register in range(2, 6))
RETURN_0 = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)
LICENCE = ctypes.create_string_buffer(b"GPL")
LOG = ctypes.create_string_buffer(1 << 16)


def version_code():  # type: () -> int
    """LINUX_VERSION_CODE, which kprobe programs had to name before 5.0; Debian and Ubuntu tell theirs otherwise than by uname."""
    text = read("/proc/version_signature")
    found = re.search(r"(\d+)\.(\d+)\.(\d+)\s*$", text or "") or re.search(r" Debian (\d+)\.(\d+)\.(\d+)", os.uname().version)
    found = found or re.match(r"(\d+)\.(\d+)\.?(\d+)?", os.uname().release)
    major, minor, patch = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    return major << 16 | minor << 8 | min(patch, 255)


def load(kind, insns, expected=0, btf_id=0, flags=0):  # type: (int, bytes, int, int, int) -> Tuple[bool, str, int]
    """Whether a program loads, the end of the verifier's words, and the errno."""
    code = ctypes.create_string_buffer(insns, len(insns))
    LOG[0] = b"\0"
    attr = struct.pack(
        "<IIQQIIQII16sIIIIQIIQIII", kind, len(insns) // 8, ctypes.addressof(code), ctypes.addressof(LICENCE), 1, len(LOG) - 1,
        ctypes.addressof(LOG), version_code() if kind == 2 else 0, flags, b"", 0, expected, 0, 0, 0, 0, 0, 0, 0, btf_id, 0,
    ).rstrip(b"\0")  # fmt: skip
    try:
        os.close(bpf(PROG_LOAD, attr.ljust(48, b"\0")))
    except OSError as error:
        return False, LOG.value[-2000:].decode("utf-8", "replace"), error.errno or 0
    return True, "", 0


def ways(known):  # type: (Functions) -> Iterator[Tuple[str, int, int, int, int]]
    """How to load a program: a name for it, its type, attach type, BTF id and flags. Tracing and LSM have several, which may call different helpers."""
    expected = {9: 2, 18: 10, 25: 21, 30: 36, 32: 45}
    modern = version_code() >= 0x41100
    for kind in range(1, PROG_TYPES):
        if kind in (26, 27, 28, 29):
            continue
        yield str(kind), kind, expected.get(kind, 0) if modern else 0, 0, 16 if kind == 31 else 0
    test = known.numbers.get((12, "bpf_fentry_test1"))
    for name, at in (("fentry", 24), ("fexit", 25)):
        if test:
            yield "26/" + name, 26, at, test, 0
    sleeping = known.numbers.get((12, "security_file_mprotect"))
    raw, each = known.numbers.get((8, "btf_trace_sched_process_exit")), known.numbers.get((12, "bpf_iter_task"))
    if raw:
        yield "26/tp_btf", 26, 23, raw, 0
    if each:
        yield "26/iter", 26, 28, each, 0
        yield "26/iter.s", 26, 28, each, 16
    if sleeping:
        yield "26/fmod_ret", 26, 26, sleeping, 0
    hook, sleeper = known.numbers.get((12, "bpf_lsm_file_open")), known.numbers.get((12, "bpf_lsm_bprm_committed_creds"))
    if hook:
        yield "29", 29, 27, hook, 0
    if sleeper:
        yield "29/lsm.s", 29, 27, sleeper, 16
    ops = known.numbers.get((4, "tcp_congestion_ops"))
    if ops and "ssthresh" in known.members.get("tcp_congestion_ops", []):
        yield "27", 27, known.members["tcp_congestion_ops"].index("ssthresh"), ops, 0


NOT_HERE = ("unknown func ", "program of this type cannot use helper", "helper access to", "invalid func ")


def programs(known):  # type: (Functions) -> Tuple[List[int], Dict[str, List[int]]]
    """The program types that load, and by way of loading the helpers that may be called."""
    types, helpers = [], {}  # type: List[int], Dict[str, List[int]]
    count = HELPERS
    for number in range(1, HELPERS):
        if "invalid func " in load(1, ZEROS + call(number) + RETURN_0)[1]:
            count = number
            break
    for name, kind, expected, ident, flags in ways(known):
        loaded, said, _ = load(kind, RETURN_0, expected, ident, flags)
        if not loaded and "At program exit" not in said:
            continue
        if kind not in types:
            types.append(kind)
        helpers[name] = [
            number for number in range(1, count) if may_call(load(kind, ZEROS + call(number) + RETURN_0, expected, ident, flags))
        ]
    return types, helpers


def may_call(answer):  # type: (Tuple[bool, str, int]) -> bool
    """Whether the verifier takes the call, whatever it thinks of the arguments."""
    loaded, said, _ = answer
    return loaded or (bool(said.strip()) and not any(words in said for words in NOT_HERE))


def call(number):  # type: (int) -> bytes
    """A call of a helper."""
    return struct.pack("<BBhi", 0x85, 0, 0, number)


def int_btf():  # type: () -> int
    """The descriptor of a small BTF object, which some maps have to name; -1 where the kernel takes none."""
    strings = b"\0int\0"
    types = struct.pack("<IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    blob = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings
    data = ctypes.create_string_buffer(blob, len(blob))
    try:
        return bpf(BTF_LOAD, struct.pack("<QQIII", ctypes.addressof(data), 0, len(blob), 0, 0))
    except OSError:
        return -1


def maps(known):  # type: (Functions) -> List[int]
    """The map types that can be made."""
    found = []
    page = os.sysconf("SC_PAGESIZE")
    types = int_btf()
    inner = bpf(MAP_CREATE, struct.pack("<IIIII", 2, 4, 4, 1, 0))
    for kind in range(1, MAP_TYPES):
        key, value, entries, flags = 4, 4, 1, 0
        btf_fd = key_type = value_type = 0
        if kind == 7:  # stack traces
            value = 8
        elif kind == 11:  # longest prefix
            key, value, flags = 8, 8, 1
        elif kind in (19, 21):  # storage of a cgroup
            key, value, entries = 16, 8, 0
        elif kind in (22, 23, 30):  # queue, stack, bloom filter
            key = 0
        elif kind in (24, 28, 29, 32):  # storages
            value, entries, flags = 8, 0, 1
            btf_fd, key_type, value_type, value = types, 1, 1, 4
        elif kind in (27, 31):  # ring buffers
            key, value, entries = 0, 0, page
        elif kind == 33:  # arena
            key, value, flags = 0, 0, 1 << 10
        elif kind == 26:  # struct_ops, by the type that wraps the operations
            if known.numbers.get((4, "tcp_congestion_ops")):
                found.append(kind)
            continue
        if btf_fd < 0:
            continue
        inner_fd = inner if kind in (12, 13) else 0
        attr = struct.pack("<IIIIIII16sIIII", kind, key, value, entries, flags, inner_fd, 0, b"", 0, btf_fd, key_type, value_type)
        try:
            os.close(bpf(MAP_CREATE, attr.rstrip(b"\0").ljust(24, b"\0")))
            found.append(kind)
        except OSError as error:
            if error.errno == errno.EPERM or (error.errno == errno.ENOMEM):
                found.append(kind)
    os.close(inner)
    return found


# -- hooks -------------------------------------------------------------------------------------------------------------------


def tracefs():  # type: () -> Optional[str]
    """Where tracefs is mounted."""
    return next((path for path in TRACEFS if os.path.isdir(path + "/events")), None)


def events(root):  # type: (str) -> Dict[str, List[List[Any]]]
    """The fields of each tracepoint: name, offset, size, whether signed."""
    found = {}  # type: Dict[str, List[List[Any]]]
    pattern = re.compile(r"field:[^;]*?(\w+)(?:\[[^\]]*\])?;\s*offset:(\d+);\s*size:(\d+);\s*signed:(\d)")
    for group in sorted(os.listdir(root + "/events")):
        folder = root + "/events/" + group
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            text = read(folder + "/" + name + "/format")
            if text is not None and os.path.exists(folder + "/" + name + "/id"):
                found[group + "/" + name] = [[n, int(o), int(s), int(g)] for n, o, s, g in pattern.findall(text)]
    return found


def symbols():  # type: () -> Tuple[Dict[str, int], List[str]]
    """The functions of /proc/kallsyms and how often each name is there; and the raw tracepoints."""
    found, points = {}, set()  # type: Dict[str, int], Any
    for line in (read("/proc/kallsyms") or "").splitlines():
        parts = line.split()
        if len(parts) < 3:
            continue
        if parts[1] in "tTwW":
            if len(parts) > 3 and parts[3] in ("[bpf]", "[__builtin__ftrace]"):
                continue
            found[parts[2]] = found.get(parts[2], 0) + 1
        elif parts[2].startswith("__tracepoint_"):
            points.add(parts[2][len("__tracepoint_") :])
    return found, sorted(points)


def words(text, column):  # type: (Optional[str], int) -> Optional[List[str]]
    """A column of a file's lines."""
    if text is None:
        return None
    return sorted({parts[column] for parts in (line.split() for line in text.splitlines()) if len(parts) > column})


def config(release):  # type: (str) -> Optional[Dict[str, str]]
    """The options that are set, without CONFIG_."""
    openers = (
        ("/proc/config.gz", gzip.open),
        ("/boot/config-" + release, open),
        ("/lib/modules/" + release + "/config", open),
    )  # type: Tuple[Tuple[str, Callable[..., Any]], ...]
    for path, opener in openers:
        try:
            with opener(path, "rt") as file:
                return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", file.read(), re.MULTILINE))
        except OSError:
            pass
    return None


def capture():  # type: () -> Dict[str, Any]
    """Everything."""
    uname = os.uname()
    types = btf()
    known = Functions(types.get("vmlinux", b""))
    prog_types, helpers = programs(known)
    root = tracefs()
    functions, points = symbols()
    lockdown = re.search(r"\[(\w+)\]", read("/sys/kernel/security/lockdown") or "")
    debug = "/sys/kernel/debug/kprobes/blacklist"
    return {
        "capture": SCHEMA,
        "release": uname.release,
        "version": uname.version,
        "machine": uname.machine,
        "page_size": os.sysconf("SC_PAGESIZE"),
        "config": config(uname.release),
        "sysctls": {path.replace("/", "."): (read("/proc/sys/" + path) or "").strip() for path in SYSCTLS if os.path.exists("/proc/sys/" + path)},
        "lsm": (read("/sys/kernel/security/lsm") or "").strip() or None,
        "lockdown": lockdown.group(1) if lockdown else None,
        "modules": words(read("/proc/modules"), 0),
        "prog_types": prog_types,
        "map_types": maps(known),
        "helpers": helpers,
        "functions": functions,
        "raw_tracepoints": points,
        "traceable": words(read(root + "/available_filter_functions"), 0) if root else None,
        "blacklist": words(read(debug), 1),
        "events": events(root) if root else None,
        "btf": {name: base64.b64encode(data).decode() for name, data in types.items()},
    }  # fmt: skip


def main():  # type: () -> None
    """Write the file that the first argument names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python3 collect.py OUTPUT (as root)")
    if NR_BPF < 0:
        sys.exit("collect.py: this is a machine of type %s; x86_64 and aarch64 are known" % platform.machine())
    try:
        os.close(bpf(MAP_CREATE, struct.pack("<IIIII", 2, 4, 4, 1, 0)))
    except OSError as error:
        sys.exit("collect.py: bpf(2) makes no map: %s. Run it as root" % error.strerror)
    found = capture()
    with gzip.open(sys.argv[1], "wb", 6) as file:
        file.write(json.dumps(found, separators=(",", ":")).encode())
    sys.stderr.write("%s: %s %s, %d functions\n" % (sys.argv[1], found["release"], found["machine"], len(found["functions"])))


if __name__ == "__main__":
    main()
