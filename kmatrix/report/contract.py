"""What `kmatrix run` says of an object as its loader sees it: which forms ran, what does not load as a whole, which programs may be forms."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence

from kmatrix.runs.object_run import Outcome

_FORMS = {
    "fentry": "entry", "kprobe": "entry", "fexit": "return", "kretprobe": "return", "tp_btf": "tracepoint", "raw_tp": "tracepoint",
    "raw_tracepoint": "tracepoint",
}  # fmt: skip
"""Kinds of section of which a loader takes one: those with the same word stand at the same place."""


_COLUMNS = 110
"""Of the lines for a contract file, which are there to be copied."""


def paragraphs(outcomes: Sequence[Outcome], *, file: str | None = None) -> Iterator[str]:
    """One paragraph each. Of one object among many `file` is its contract: it is named in place of options, which are for one object
    alone, and a group of which the first form ran everywhere has no paragraph."""
    yield from _which_ran(outcomes, brief=file is not None)
    yield from _not_whole(outcomes)
    yield from _may_be_forms(outcomes, file)


def _which_ran(outcomes: Sequence[Outcome], *, brief: bool) -> Iterator[str]:
    """Of each group: the form that ran, and on which targets; why not the others."""
    groups: dict[str, dict[str, list[str]]] = {}
    for outcome in outcomes:
        for group in outcome.one_of:
            title = ", ".join(_form(form) for form in group["forms"])
            ran = "no form can run" if group["ran"] is None else _form(group["ran"])
            why = f" ({'; '.join(group['why'])})" if group["why"] else ""
            groups.setdefault(title, {}).setdefault(f"{ran}{why}", []).append(outcome.target)
    for title, ways in groups.items():
        if brief and set(ways) == {title.split(", ")[0]}:
            continue
        yield "\n".join([f"one of {title}:", *(f"    {', '.join(targets)}: {way}" for way, targets in ways.items())])


def _form(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{names[0]} + {len(names) - 1} more"
    return " + ".join(names) or "none of them"


def _not_whole(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Where a real loader fails, what would have to be off for it to load."""
    ways: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.error is None and not outcome.together and (way := _loads_without(outcome)):
            ways.setdefault(way, []).append(outcome.target)
    for way, targets in ways.items():
        yield f"the object does not load as a whole on {', '.join(targets)}: {way}"


def _loads_without(outcome: Outcome) -> str | None:
    """What the object loads without; None where nothing of it loads, which is said already."""
    if not any(program["loaded"] for program in outcome.programs.values()):
        return None
    off = [name for name, program in outcome.programs.items() if not program["loaded"] and not program.get("off")]
    maps = [name for name, found in outcome.maps.items() if found.get("error")]
    parts = [f"with these programs off: {', '.join(off)}"] if off else []
    parts += [f"without these maps: {', '.join(maps)}"] if maps else []
    return f"it loads {' and '.join(parts)}" if parts else "its programs load one by one, and not all of them together"


def _may_be_forms(outcomes: Sequence[Outcome], file: str | None) -> Iterator[str]:
    """Programs that stand at one place by different means, where one of them failed and another is good: a loader may take one of them."""
    pairs: dict[tuple[str, ...], str] = {}
    for outcome in outcomes:
        places: dict[tuple[str, str], list[str]] = {}
        for name, program in outcome.programs.items():
            kind, _, target = str(program.get("section") or "").lstrip("?").partition("/")
            if (when := _FORMS.get(kind.removesuffix(".s").removesuffix(".w"))) is not None and target and not program.get("off"):
                places.setdefault((when, target), []).append(name)
        for (_, target), names in places.items():
            bad = [name for name in names if outcome.programs[name].get("error")]
            kinds = {str(outcome.programs[name]["section"]).partition("/")[0] for name in names}
            if len(kinds) > 1 and bad and len(bad) < len(names):
                pairs[tuple(names)] = target
    if pairs:
        listed = "; ".join(f"{' and '.join(names)} ({target})" for names, target in list(pairs.items())[:3])
        more = f"; and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        same = f"{listed}{more} stand at the same place: if the loader takes one of them, say so"
        if file is None:
            options = " ".join(f"--one-of {','.join(names)}" for names in pairs)
            yield f"{same}: {options}"
        else:
            yield "\n".join(
                [f"{same} at the top of {file}, beside the object:", *(f"    {line}" for line in one_of_lines([*pairs]))]
            )


def one_of_lines(groups: Sequence[Sequence[str]]) -> list[str]:
    """The lines of TOML that make a contract take one program of each group (kmatrix.manifest.contract.Contract.one_of)."""
    # A group may be seen with fewer programs on another target, and a program is in one group alone.
    whole = [group for group in groups if not any(set(group) < set(other) for other in groups)]
    forms = [f"[{', '.join(map(json.dumps, group))}]" for group in whole]
    if len(forms) == 1:
        return [f"one_of = {forms[0]}"]
    text = " ".join(f"{{ forms = {each} }},".replace(" ", _GLUE) for each in forms)
    lines = textwrap.wrap(text, _COLUMNS - 2, break_long_words=False, break_on_hyphens=False)
    return ["one_of = [", *(f"  {line.replace(_GLUE, ' ')}" for line in lines), "]"]


_GLUE = "\x00"
"""Stands for a space at which no line may end."""
