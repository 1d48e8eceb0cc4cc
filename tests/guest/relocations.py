"""Runs in a guest: has libbpf load objects, and prints what it says of their CO-RE relocations. Its own level of debug messages has every instruction.

LIBBPF_LOG_LEVEL=debug python3 relocations.py OBJECT…
"""

from __future__ import annotations

import ctypes
import sys


def main() -> None:
    """Each object, its programs all turned on. That most cannot be loaded does not matter: relocations come first."""
    libbpf = ctypes.CDLL("libbpf.so.1")
    libbpf.bpf_object__open_file.restype = ctypes.c_void_p
    libbpf.bpf_object__open_file.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    libbpf.bpf_object__next_program.restype = ctypes.c_void_p
    libbpf.bpf_object__next_program.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    libbpf.bpf_program__set_autoload.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    for each in (libbpf.bpf_object__load, libbpf.bpf_object__close):
        each.argtypes = [ctypes.c_void_p]
    for path in sys.argv[1:]:
        print(f"== {path}", file=sys.stderr, flush=True)
        opened = libbpf.bpf_object__open_file(path.encode(), None)
        if not opened:
            continue
        program = None
        while program := libbpf.bpf_object__next_program(opened, program):
            libbpf.bpf_program__set_autoload(program, True)
        libbpf.bpf_object__load(opened)
        libbpf.bpf_object__close(opened)


if __name__ == "__main__":
    main()
