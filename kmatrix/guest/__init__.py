"""What runs inside the VM: the agent and its modules. Standard library only; nothing here imports the rest of kmatrix.

The modules are pushed into a booted guest as one zip, so editing them never rebuilds an image. Only init.py lives in the image.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

_PACKAGE = "kmatrix_guest"
_ENTRY = f"from {_PACKAGE}.agent import main\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's first moment


def sources() -> dict[str, str]:
    """The agent's modules: the name of each in the zip, and its text."""
    here = Path(__file__).parent
    members = {
        f"{_PACKAGE}/{path.relative_to(here).as_posix()}": path.read_text(encoding="utf-8")
        for path in here.rglob("*.py")
        if path.relative_to(here).as_posix() not in ("__init__.py", "init.py")
    }
    return members | {"agent.py": _ENTRY, f"{_PACKAGE}/__init__.py": '"""The guest agent."""\n'}


def bundle(members: Mapping[str, str]) -> bytes:
    """The agent as a zip of its `sources`: put it on sys.path, then `import agent; agent.main(port)`.

    The same sources give the same bytes, whatever machine, clock and file modes.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, members[name])
    return out.getvalue()
