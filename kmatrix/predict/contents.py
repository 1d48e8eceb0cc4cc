"""What an object holds, as data."""

from __future__ import annotations

from typing import Any

from kmatrix.objects.needs import needs
from kmatrix.predict.subject import Subject

Contents = dict[str, Any]


def of(subject: Subject) -> Contents:
    """Programs, with sizes in instructions; maps, with sizes in bytes; and what each program always needs, by feature."""
    info, asked = subject.code.info, needs(subject.code)
    definitions = info.definitions
    return {
        "object": str(subject.path),
        "bytes": len(info.data),
        "compiled_for": info.compiled_for,
        "btf": info.has_btf,
        "programs": [
            {
                "name": program.name,
                "section": program.section,
                "type": program.type,
                "attach_type": program.attach,
                "insns": len(program.entry.insns),
                "functions": [function.name for function in program.functions],
                "relocations": len(program.relocations),
                "maps": sorted(program.maps),
                "needs": [need.name for need in asked[program.name] if not need.optional],
                "optional": [need.name for need in asked[program.name] if need.optional],
            }
            for program in subject.programs
        ],
        "maps": [
            {
                "name": name,
                "type": definitions[name].type if name in definitions else "",
                "max_entries": shape.get("max_entries", 0),
                "key_size": shape.get("key_size", 0),
                "value_size": shape.get("value_size", 0),
                "flags": shape.get("map_flags", 0),
            }
            for name, shape in sorted(subject.map_shapes.items())
        ],
    }
