"""The user's TOML files checked by pydantic, and pydantic's findings said as one error: file, key, fix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean


class Strict(BaseModel):
    """A frozen part of a user's file; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], data: object, *, where: str, context: Mapping[str, Any] | None = None) -> M:
    """`data` as a `model`; raises InputError naming the file (`where`), every wrong key and what to write instead.

    `context` is what validators are told (pydantic's validation context).
    """
    try:
        return model.model_validate(data, context=dict(context) if context is not None else None)
    except ValidationError as error:
        problems = [_problem(model, detail) for detail in error.errors()]
        keys, messages, fixes = zip(*problems, strict=True)
        message = "; ".join(f"{key}: {text}" for key, text in zip(keys, messages, strict=True))
        raise InputError(message, where=where, fix="; ".join(dict.fromkeys(f for f in fixes if f))) from None


def _problem(model: type[BaseModel], detail: Any) -> tuple[str, str, str]:
    """(key, what is wrong, what to do) of one of pydantic's findings."""
    location = [part for part in detail["loc"] if not str(part).startswith(("function-", "tagged-", "constrained-"))]
    key = _dotted(location)
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return key, f"unknown key{did_you_mean(str(location[-1]), known)}", f"known keys here: {', '.join(sorted(known))}"
    if kind == "missing":
        return key, "missing", f"add {key}"
    context = detail.get("ctx") or {}
    if isinstance(context.get("error"), ValueError):
        return key, str(context["error"]), str(getattr(context["error"], "fix", "")) or f"correct {key}"
    return key, str(detail["msg"]).removeprefix("Value error, "), f"correct {key} (it is {detail.get('input')!r})"


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
