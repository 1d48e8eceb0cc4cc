"""Baselines: which program of which object loads and attaches on which target, in a file under version control (docs/how-to/baseline.md).

`kmatrix run --save` writes one of a run; kmatrix.runs.comparison holds a run to one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from kmatrix import __version__
from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.validation import Strict
from kmatrix.objects.compiled import ObjectInfo
from kmatrix.runs.object_run import Outcome, State, state
from kmatrix.verdict.diagnosis import UNCLASSIFIED
from kmatrix.verdict.words import last_words

SCHEMA = "kmatrix.baseline/1"


class Found(Strict):
    """What became of one program on one target."""

    state: State
    via: str | None = None
    """How it is attached, in the guest's word."""
    kind: Annotated[str | None, Field(alias="class")] = None
    """The class of its failure (docs/diagnosis.md)."""
    cause: str | None = None
    """Why it failed, in one line."""


class Failure(Strict):
    """Why a map cannot be made, or why a target says nothing of an object."""

    kind: Annotated[str, Field(alias="class")]
    cause: str


class Kernel(Strict):
    """The kernel of a target."""

    release: str
    """What uname says of the kernel that was booted."""
    simulated: str | None = None
    """Of a simulated kernel: what it is."""


class ObjectBaseline(Strict):
    """One object on all targets that it was tried on."""

    sha256: str
    programs: dict[str, dict[str, Found]] = {}
    """By name and target."""
    maps: dict[str, dict[str, Failure]] = {}
    """Those that cannot be made, by name and target."""
    errors: dict[str, Failure] = {}
    """The targets that say nothing of the object: it did not open, or the kernel died."""
    not_whole: list[str] = []
    """The targets on which its programs do not load all together, as a loader loads them."""


class Baseline(Strict):
    """All of a baseline's file."""

    schema_version: Annotated[Literal["kmatrix.baseline/1"], Field(alias="schema")]
    kmatrix: str
    """The version that wrote it."""
    targets: dict[str, Kernel]
    objects: dict[str, ObjectBaseline]
    """By path, seen from the baseline's folder."""


def of_run(
    found: Mapping[Path, Sequence[Outcome]], infos: Iterable[ObjectInfo], releases: Mapping[str, str], folder: Path
) -> Baseline:
    """The baseline of a run. `releases` are the kernels' by target, `folder` is the one that the baseline's file stands in.

    Where the machines failed, nothing is known: those outcomes are left out.
    """
    objects: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    for info in infos:
        known = [outcome for outcome in found[info.path] if not outcome.infra]
        objects[name_of(info.path, folder)] = _object(sha256(info.data).hexdigest(), known)
        targets |= {o.target: _some(release=releases[o.target], simulated=o.simulated) for o in known}
    data = {"schema": SCHEMA, "kmatrix": __version__, "targets": targets, "objects": objects}
    return Baseline.model_validate(data)


def name_of(path: Path, folder: Path) -> str:
    """What a baseline calls an object: its path, seen from the baseline's folder."""
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def _object(digest: str, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    programs: dict[str, dict[str, Any]] = {}
    maps: dict[str, dict[str, Any]] = {}
    errors: dict[str, Any] = {}
    not_whole = []
    for outcome in outcomes:
        if outcome.error is not None:
            errors[outcome.target] = _why({"error": outcome.error, "diagnosis": outcome.diagnosis})
            continue
        if not outcome.together:
            not_whole.append(outcome.target)
        for name, report in outcome.programs.items():
            why = _why(report) if report.get("error") else {}
            programs.setdefault(name, {})[outcome.target] = _some(state=state(report), via=report.get("via"), **why)
        for name, report in outcome.maps.items():
            if report.get("error"):
                maps.setdefault(name, {})[outcome.target] = _why(report)
    return {"sha256": digest, "programs": programs, "maps": maps, "errors": errors, "not_whole": sorted(not_whole)}


def _why(report: Mapping[str, Any]) -> dict[str, str]:
    diagnosis = report.get("diagnosis")
    if diagnosis is not None:
        return {"class": diagnosis["kind"], "cause": steady(diagnosis["headline"])}
    error, reason = str(report["error"]), last_words(report.get("log") or "")
    return {"class": UNCLASSIFIED, "cause": steady(f"{error}: {reason}" if reason and reason not in error else error)}


def _some(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


_ADDRESS = re.compile(r"\b(0x)?[0-9a-f]{12,16}\b")


def steady(text: str) -> str:
    """One line of it, without addresses: those differ from boot to boot."""
    return _ADDRESS.sub("…", " ".join(text.split()))


# -- the file ----------------------------------------------------------------------------------------------------------------


def read(path: Path) -> Baseline:
    """The baseline at `path`; raises InputError where there is none, or one that this version does not read."""
    fix = "name a baseline, or make one: kmatrix run … --save FILE"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), fix=fix) from None
    except ValueError as error:
        raise InputError(f"not a baseline: this is not JSON ({error})", where=str(path), fix=fix) from None
    if not _is_one(data):
        raise InputError(f'not a baseline: it has no "schema": "{SCHEMA}"', where=str(path), fix=fix)
    if data["schema"] != SCHEMA:
        version = f"schema {data['schema']!r} is of another version of kmatrix; this one reads {SCHEMA!r}"
        raise InputError(version, where=str(path), fix=f"make a new one: kmatrix run … --save {path}")
    try:
        return Baseline.model_validate(data)
    except ValidationError as error:
        first, *more = error.errors()
        key = " > ".join(map(str, first["loc"]))
        also = f" (and {len(more)} more like it)" if more else ""
        fix = f"take the file as it was saved, or make a new one: kmatrix run … --save {path}"
        raise InputError(f"not a whole baseline: {key}: {first['msg']}{also}", where=str(path), fix=fix) from None


def check_writable(path: Path) -> Baseline | None:
    """The baseline that is at `path` already; None where there is none that this version reads.

    Raises InputError where it could not be written, or would overwrite what is no baseline.
    """
    if not path.parent.is_dir():
        raise InputError("there is no such folder", where=str(path.parent), fix="make it, or name a file in another folder")
    if not os.access(path.parent, os.W_OK):
        raise InputError("this folder may not be written to", where=str(path.parent), fix="name a file in another folder")
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        data = None
    if not _is_one(data):
        fix = "name another file, or remove this one"
        raise InputError("this file is no baseline, and is not overwritten", where=str(path), fix=fix)
    return read(path) if data["schema"] == SCHEMA else None


def _is_one(data: object) -> bool:
    """Whether it is a baseline, of whichever version."""
    return isinstance(data, dict) and str(data.get("schema", "")).startswith(SCHEMA.partition("/")[0] + "/")


def write(baseline: Baseline, path: Path) -> None:
    """Put the baseline at `path`: sorted, and a line for each program on each target, so that a diff shows what changed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text(baseline), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InfraError(f"the baseline cannot be written: {error.strerror}", where=str(path), fix="name another file") from None


def text(baseline: Baseline) -> str:
    """The file's text."""
    return _lines(baseline.model_dump(by_alias=True, exclude_defaults=True), 0) + "\n"


_FIRST = ("schema", "kmatrix", "targets", "sha256", "errors", "not_whole", "maps")


def _lines(value: Any, depth: int) -> str:
    """JSON in which whatever holds no further objects is one line."""
    if not isinstance(value, dict) or not value or (depth > 1 and not any(isinstance(each, dict) for each in value.values())):
        return json.dumps(value, ensure_ascii=False)
    inner = ",\n".join(
        f"{' ' * (depth + 1)}{json.dumps(key, ensure_ascii=False)}: {_lines(each, depth + 1)}"
        for key, each in sorted(value.items(), key=_order)
    )
    return f"{{\n{inner}\n{' ' * depth}}}"


def _order(item: tuple[str, Any]) -> tuple[int, list[tuple[int, str]]]:
    """What describes before what it describes; kernels by number, so that 5.4 comes before 5.10."""
    pieces = re.split(r"(\d+)", item[0])
    numbered = [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]
    return _FIRST.index(item[0]) if item[0] in _FIRST else len(_FIRST), numbered
