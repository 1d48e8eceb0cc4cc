"""[features.NAME] of kernels.toml and collector.toml: a project's own name for several features, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from kmatrix.host.errors import InputError
from kmatrix.host.validation import Strict
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.parameters import BadName, Definition, Definitions, check

_NAME = re.compile(r"[a-z][a-z0-9_]*")
Names = Annotated[tuple[str, ...], Field(strict=False)]


class DefinitionModel(Strict):
    """One table [features.NAME]."""

    any: Names = ()
    all: Names = ()

    @model_validator(mode="after")
    def _one_of_them(self) -> DefinitionModel:
        if bool(self.any) == bool(self.all):
            raise ValueError('write any = ["…"] or all = ["…"], with at least one feature')
        return self


def define(tables: Mapping[str, DefinitionModel], earlier: Definitions, where: str) -> dict[str, Definition]:
    """`earlier` and the definitions of `tables`, which replace those of the same name.

    Raises InputError for a name that is taken or malformed, for a part that is no feature, and for a circle.
    """
    own = {name: Definition(name, model.any or model.all, bool(model.any)) for name, model in tables.items()}
    defined = {**earlier, **own}
    for name, definition in own.items():
        place = f"{where}: features.{name}"
        if name in FEATURES:
            raise InputError(f"{name!r} is a feature of kmatrix's own", where=place, fix="give it another name")
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot name a feature", where=place, fix="use small letters, digits and _")
        for part in definition.parts:
            try:
                check(part, defined)
            except BadName as error:
                raise InputError(str(error), where=place, fix=error.fix) from None
    for name in own:
        if (circle := _circle(name, defined, ())) is not None:
            raise InputError(
                f"the definition is circular: {' → '.join(circle)}",
                where=f"{where}: features.{name}",
                fix="take one of the names out",
            )
    return defined


def _circle(name: str, defined: Definitions, way: tuple[str, ...]) -> tuple[str, ...] | None:
    if name in way:
        return (*way[way.index(name) :], name)
    for part in defined[name].parts if name in defined else ():
        if (found := _circle(part, defined, (*way, name))) is not None:
            return found
    return None
