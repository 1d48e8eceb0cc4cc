"""A compiled BPF object taken apart: its programs, maps, symbols and type information, as its ELF file has them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from kmatrix.host.errors import InputError
from kmatrix.matrix.arch import ARCHES, INFO, Arch
from kmatrix.objects.compiled import ObjectInfo
from kmatrix.objects.min_core_btf import roots

_SHF_EXECINSTR = 0x4
_BTF_MAGIC = b"\x9f\xeb"
# Members of struct pt_regs that only one arch has: an object that reads them was compiled for that arch.
_REGISTER_NAMES: Mapping[Arch, tuple[bytes, ...]] = {
    "x86_64": (b"orig_ax", b"orig_rax"),
    "arm64": (b"user_pt_regs",),
}


def read(path: Path, data: bytes) -> ObjectInfo:
    """What the object `data`, which was read from `path`, holds; raises InputError where it is not a (whole, little-endian) BPF object."""
    rebuild = "compile it with clang -target bpf -g -O2"
    if path.suffix in (".c", ".h", ".go", ".rs") and not data.startswith(b"\x7fELF"):
        raise InputError("this is source code, not a compiled object", where=str(path), fix=rebuild)
    try:
        elf = ELFFile(BytesIO(data))
        if elf["e_machine"] != "EM_BPF":
            raise InputError(f"this is a program for {elf.get_machine_arch()}, not a BPF object", where=str(path), fix=rebuild)
        if not elf.little_endian:
            raise InputError(
                "the object is big-endian; x86_64 and arm64 kernels are little-endian", where=str(path), fix="use -target bpfel"
            )
        sections = dict(enumerate(elf.iter_sections()))
        for section in sections.values():
            if section["sh_type"] != "SHT_NOBITS" and section["sh_offset"] + section["sh_size"] > len(data):
                raise ELFError(f"section {section.name!r} runs past the end of the file")
        functions: dict[str, str] = {}
        maps: set[str] = set()
        symbols: dict[str, tuple[str, int]] = {}
        for table in sections.values():
            if not isinstance(table, SymbolTableSection):
                continue
            for symbol in table.iter_symbols():
                home = sections.get(symbol["st_shndx"]) if isinstance(symbol["st_shndx"], int) else None
                if home is None or not symbol.name:
                    continue
                if home["sh_flags"] & _SHF_EXECINSTR and symbol["st_info"]["type"] == "STT_FUNC" and home.name != ".text":
                    functions[symbol.name] = home.name
                elif symbol["st_info"]["type"] == "STT_OBJECT":
                    symbols[symbol.name] = (home.name, symbol["st_value"])
                    if home.name in (".maps", "maps"):
                        maps.add(symbol.name)
        btf, btf_ext, legacy = (
            next((s.data() for s in sections.values() if s.name == name), b"") for name in (".BTF", ".BTF.ext", "maps")
        )
    except (ELFError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"not a whole ELF file ({str(error) or type(error).__name__})", where=str(path), fix=rebuild) from None
    has_btf = btf.startswith(_BTF_MAGIC)
    compiled_for, because = _compiled_for(path, btf)
    uses_core = _has_relocations(btf_ext)
    return ObjectInfo(
        path,
        data,
        functions,
        frozenset(maps),
        has_btf,
        uses_core,
        compiled_for,
        because,
        symbols,
        btf,
        roots(btf, btf_ext) if uses_core else (),
        legacy,
    )


def _has_relocations(btf_ext: bytes) -> bool:
    """Whether .BTF.ext has CO-RE relocations: struct btf_ext_header (kernel, Documentation/bpf/btf.rst), where core_relo_len is the last field."""
    if not btf_ext.startswith(_BTF_MAGIC) or len(btf_ext) < 32:
        return False
    header_length: int = struct.unpack_from("<I", btf_ext, 4)[0]
    core_relo_length: int = struct.unpack_from("<I", btf_ext, 28)[0]
    return header_length >= 32 and core_relo_length > 0


def _compiled_for(path: Path, btf: bytes) -> tuple[Arch | None, str]:
    """The arch, and what tells it."""
    for arch in ARCHES:
        names = (INFO[arch].bpf2go, *INFO[arch].aliases)
        if any(f"_{name}_bpfel" in path.name or path.name.endswith(f"_bpfel_{name}.o") for name in names):
            return arch, "its name says so"
    by_register = {
        arch: name.decode() for arch in ARCHES for name in reversed(_REGISTER_NAMES[arch]) if b"\0" + name + b"\0" in btf
    }
    if len(by_register) != 1:
        return None, ""
    [(arch, name)] = by_register.items()
    return arch, f"its type information has {arch}'s registers ({name})"
