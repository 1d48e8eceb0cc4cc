"""Compiled objects as the host reads them: ELF, BTF and CO-RE relocations."""
