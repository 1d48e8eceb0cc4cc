"""Whether a kernel in the store is the one that kernels.toml means by its name.

The store is shared by all projects of a user, and a name is each project's own word: "5.4" may be Debian's here, and an image by digest
there. What kernels.toml says exactly is compared with what the store's manifest says that the kernel was made from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from kmatrix.host.errors import InfraError, InputError, without_credentials
from kmatrix.kernels import trust
from kmatrix.kernels.entry import KernelEntry, StagedKernel
from kmatrix.kernels.layout import check_series
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Kernel, SourceSpec

GIVEN = ("import", "build")
"""The kinds that a person gives by hand: good for any name of which kernels.toml does not say exactly what it is."""


def find(kernel: Kernel, arch: Arch, store: KernelStore, *, whole: bool = True) -> KernelEntry | None:
    """The store's entry of that name that kernels.toml means; else one that was stored beside another project's (see `beside`).

    `whole` as in KernelStore.find.
    """
    entry = store.find(kernel.name, arch, whole=whole)
    if entry is None or differs(kernel, arch, entry) is None:
        return entry
    ours = [beside(kernel, spec) for spec in kernel.sources_for(arch)]
    for name, each in store.refs():
        if each == arch and is_beside(name, kernel.name):
            with contextlib.suppress(InfraError):  # a damaged one
                other = store.find(name, arch, whole=whole)
                if other is not None and (name in ours or differs(kernel, arch, other) is None):
                    return other
    return None


def differs(kernel: Kernel, arch: Arch, entry: KernelEntry | StagedKernel) -> str | None:
    """What of `entry` is not as kernels.toml says; None where it is the kernel meant."""
    try:
        check_series(kernel, entry.release)
    except InputError as error:
        return error.message
    kind, specs = entry.source.get("kind"), kernel.sources_for(arch)
    said = [_differs(spec, arch, entry.source) for spec in specs if spec.kind == kind]
    if kind in GIVEN and (said or not any(map(_is_exact, specs))):
        return None
    if specs and not said:
        return f"it is of a source of kind {kind}, and {kernel.declared_in} gives {', '.join(dict.fromkeys(s.kind for s in specs))}"
    return None if not said or None in said else f"{said[0]}, and {kernel.declared_in} says otherwise"


def _is_exact(spec: SourceSpec) -> bool:
    return any(spec.options.get(option) for option in ("sha256", "commit", "version")) or "@sha256:" in spec.options.get("ref", "")


def _differs(spec: SourceSpec, arch: Arch, source: Mapping[str, Any]) -> str | None:
    """What of an entry's `source` is not what `spec` asks for by name or digest. What either does not say is not compared."""
    options = spec.options
    artifacts = source.get("artifacts", [source])
    digests = {str(file["sha256"]) for file in artifacts if "sha256" in file}
    for option in ("version", "commit", "suite"):
        had, wanted = source.get(option), options.get(option)
        if option == "version" and spec.kind == "debian" and had is not None and is_version(str(had), wanted):
            continue
        # A tree calls its first release 5.4.0, and everybody else 5.4.
        if had is not None and wanted is not None and wanted not in (had, str(had).removesuffix(".0")):
            return f"it is of {option} {had}"
    if wanted := set(options.get("sha256", ())):
        return None if wanted <= digests else f"it was made from files with sha256 {', '.join(sorted(digests)) or '(not known)'}"
    if (ref := options.get("ref")) is not None:
        digest = re.search(r"@sha256:([0-9a-f]{64})$", ref)
        if digest is not None:
            return None if digest[1] in digests else f"it is {source.get('ref')}, of sha256 {', '.join(sorted(digests)[:1])}"
        if "@" not in str(source.get("ref", "@")) and source["ref"] != ref and "commit" not in options:
            return f"it is {source['ref']}"
    if spec.kind in ("package", "tarball") and "url" in options:
        had = [without_credentials(str(file["url"])) for file in artifacts]
        wanted = [without_credentials(trust.expand(url, arch)) for url in options["url"]]
        # A tarball's address may be the folder that it is looked for in.
        if (spec.kind == "package" and had != wanted) or not all(url.startswith(wanted[0]) for url in had[:1]):
            return f"it was made from {', '.join(had)}"
    return None


def beside(kernel: Kernel, spec: SourceSpec) -> str:
    """The name in the store for what `spec` gets where the kernel's own name is another project's there: both stay."""
    text = json.dumps([spec.kind, kernel.version, sorted(spec.options.items())])
    return f"{kernel.name}.{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def is_beside(name: str, kernel: str) -> bool:
    """Whether a name of the store is one that `beside`, or a lock, gave `kernel`."""
    return re.fullmatch(rf"{re.escape(kernel)}\.[0-9a-f]{{12}}", name) is not None


def is_version(found: str, wanted: str | None) -> bool:
    """Whether a package's version ("6.1.172-1") is the one wanted: that, or upstream's ("6.1.172"). None wants any."""
    return wanted is None or found == wanted or re.split("[-~]", found)[0] == wanted
