"""images/image.toml, as it has to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from kmatrix.host.validation import Strict

Names = Annotated[tuple[str, ...], Field(strict=False)]


class RecipeFile(Strict):
    """images/image.toml. Paths in it have no leading slash; globs are fnmatch's, in which `*` crosses slashes."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    suite: str
    components: Names
    source_date_epoch: int
    uuid: str
    packages: Names
    remove: Names
    keep: Names
    directories: Names
    applets: Names
    symlinks: Mapping[str, str]
    modes: Mapping[str, str]
