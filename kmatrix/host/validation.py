"""The user's TOML files checked by pydantic, and pydantic's findings said as one error: file, key, fix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean


class Strict(BaseModel):
    """A frozen part of a user's file; unknown keys are refused."""

    # What checks a model is built when the first one is checked: what was read before (kmatrix.host.parsed) is not checked again.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Wrong(ValueError):
    """What a validator raises: what is wrong with a value, and what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


M = TypeVar("M", bound=BaseModel)
_Place = tuple[str | int, ...]
"""A way into the file's data: keys and indexes."""


def validate(model: type[M], data: object, *, where: str, context: Mapping[str, Any] | None = None) -> M:
    """`data` as a `model`; raises InputError naming the file (`where`), every wrong key and what to write instead.

    `context` is what validators are told (pydantic's validation context).
    """
    try:
        return model.model_validate(data, context=dict(context) if context is not None else None)
    except ValidationError as error:
        findings = _by_place(error.errors(), data)
        problems = [_problem(model, place, details, data) for place, details in findings.items()]
        message = "; ".join(f"{key}: {text}" for key, text, _ in problems)
        raise InputError(message, where=where, fix="; ".join(dict.fromkeys(fix for *_, fix in problems))) from None


def _by_place(details: Iterable[Any], data: object) -> dict[_Place, list[Any]]:
    """The findings by where they are in the file, and only those that are not another one's echo.

    pydantic says several things of one mistake: of a union, what is wrong with each branch; of a list whose entry is wrong, that it has
    too few right ones; of a misspelt key, that the right one is missing.
    """
    found: dict[_Place, list[Any]] = {}
    for detail in details:
        found.setdefault(_place(detail, data), []).append(detail)
    above = {place[:length] for place in found for length in range(len(place))}
    meant = {
        (*place[:-1], name)
        for place, (first, *_) in found.items()
        if first["type"] == "extra_forbidden"
        for missing, (other, *_) in found.items()
        if other["type"] == "missing" and missing[:-1] == place[:-1]
        for name in [missing[-1]]
        if did_you_mean(str(place[-1]), [str(name)])
    }
    return {place: each for place, each in found.items() if (place == () or place not in above) and place not in meant}


def _place(detail: Any, data: object) -> _Place:
    """Where a finding is in the file: pydantic's `loc` without the names that it gives the branches of a union."""
    place: list[str | int] = []
    location = detail["loc"]
    for position, part in enumerate(location):
        inside = isinstance(data, dict) and part in data
        inside = inside or (isinstance(data, list | tuple) and isinstance(part, int) and part < len(data))
        if inside:
            data = data[part]  # type: ignore[index]
        if inside or (detail["type"] == "missing" and position == len(location) - 1):
            place.append(part)
    return tuple(place)


def _problem(model: type[BaseModel], place: _Place, details: Sequence[Any], data: object) -> tuple[str, str, str]:
    """(key, what is wrong, what to do) of what pydantic found at one place of the file."""
    key, shown, first = _dotted(place), f"{_dotted(place)}{_entries(place, data)}", details[0]
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, place[:-1])
        return shown, f"unknown key{did_you_mean(str(place[-1]), known)}", f"known keys here: {', '.join(sorted(known))}"
    if first["type"] == "missing":
        return shown, "missing", f"add {key}"
    own = next((error for each in details if isinstance(error := (each.get("ctx") or {}).get("error"), ValueError)), None)
    if own is not None:
        return shown, str(own), str(getattr(own, "fix", "")) or f"correct {key}"
    said = list(dict.fromkeys(_words(each) for each in details))
    written = first.get("input")
    it_is = f"; it is {written!r}" if isinstance(written, str | int | float | bool) and first["type"] != "literal_error" else ""
    return shown, f"{', or '.join(said)}{it_is}", f"correct {key}"


_KINDS: Mapping[str, str] = {
    "string_type": "must be a text in quotes",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "tuple_type": "must be a list in brackets",
    "list_type": "must be a list in brackets",
}
"""pydantic's name of what is wrong with a value → what it has to be, in TOML's words."""


def _words(detail: Any) -> str:
    """What is wrong with a value, in a few words."""
    kind, context = detail["type"], detail.get("ctx") or {}
    if kind == "tuple_type" and isinstance(detail["input"], dict):
        return f"is a table, and a list of tables is wanted: write [[{detail['loc'][-1]}]], with two brackets"
    if kind in _KINDS:
        return _KINDS[kind]
    if kind == "too_short":
        return (
            "must have at least one entry"
            if context.get("min_length") == 1
            else f"has fewer than {context.get('min_length')} entries"
        )
    if kind == "literal_error":
        known = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
        near = did_you_mean(detail["input"], known) if isinstance(detail["input"], str) else ""
        return f"unknown value {detail['input']!r}{near}; it must be {context['expected']}"
    return str(detail["msg"]).replace("Input should", "must").replace("String should", "must")


def _entries(place: _Place, data: Any) -> str:
    """` ('open', 'pid')`: the names of the entries of lists on the way, so that nobody has to count them; or nothing."""
    names = []
    for part in place[:-1]:
        data = data[part]
        if isinstance(part, int) and isinstance(data, dict) and isinstance(name := data.get("name"), str):
            names.append(repr(name))
    return f" ({', '.join(names)})" if names else ""


def _dotted(location: Iterable[object]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f'."{part}"' if "." in str(part) else f".{part}"
    return text.removeprefix(".") or "(top level)"


def _keys_at(model: type[BaseModel], location: Iterable[object]) -> list[str]:
    """The keys of the model that `location` leads to from `model`, as they are written in the file."""
    current: Any = model
    for part in location:
        field = getattr(current, "model_fields", {}).get(str(part)) or _by_alias(current, str(part))
        if field is not None:
            current = field.annotation
        current = _inner_model(current)
    return [field.alias or name for name, field in getattr(current, "model_fields", {}).items()]


def _by_alias(model: Any, alias: str) -> Any:
    return next((field for field in getattr(model, "model_fields", {}).values() if field.alias == alias), None)


def _inner_model(annotation: Any) -> Any:
    """The pydantic model inside an annotation such as tuple[M, ...], dict[str, M] or M | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        inner = _inner_model(argument)
        if inner is not None:
            return inner
    return None
