"""Predictions in the table of `kmatrix run`: what is foreseen and what was seen look alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kmatrix.predict.judge import Prediction
from kmatrix.predict.kernel import Kernel
from kmatrix.report import objects as report
from kmatrix.runs.object_run import Outcome

NOTE = "Foreseen from profiles; nothing was booted. What the verifier thinks of the code is not known: kmatrix run shows that."


def outcomes(kernels: Sequence[Kernel], found: Sequence[Sequence[Prediction]]) -> list[Outcome]:
    """The predictions of one object, as if they had come of a run."""
    return [
        Outcome(kernel.name, programs={each.program: _program(each) for each in here})
        for kernel, here in zip(kernels, found, strict=True)
    ]


def _program(each: Prediction) -> dict[str, Any]:
    loaded = each.state not in ("not loaded", "placeholder")
    attached = {"attached": True, "not attached": False}.get(each.state)
    return {
        "section": each.section,
        "loaded": loaded,
        "attached": attached,
        "error": each.cause.headline() if each.cause is not None else None,
        "diagnosis": each.cause.plain() if each.cause is not None else None,
        "note": f"not known: {'; '.join(each.unknown)}" if each.unknown and each.state == "loaded" else None,
    }


def render(objects: Mapping[str, Sequence[Outcome]], *, colour: bool, width: int) -> str:
    """The table of one object, or of several."""
    if len(objects) == 1:
        text = report.render(next(iter(objects.values())), {}, colour=colour, width=width)
    else:
        text = report.render_many(objects, {}, colour=colour, width=width)
    return f"{text}\n\n{NOTE}"
