"""Modules that are imported when they are first used.

What only some runs need (an HTTP client, where the kernels are in the store already) would cost every run a tenth of a second and more.
"""

from __future__ import annotations

import importlib
from typing import Any


class _Later:
    """Stands for a module. Python's own LazyLoader is not used: before 3.11.9 two threads may see a module half loaded."""

    def __init__(self, name: str) -> None:
        self.__dict__["_name"] = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)

    def __setattr__(self, attribute: str, value: object) -> None:
        setattr(importlib.import_module(self._name), attribute, value)

    def __delattr__(self, attribute: str) -> None:
        delattr(importlib.import_module(self._name), attribute)


def later(name: str) -> Any:
    """The module `name`, imported when something is asked of it; ModuleNotFoundError comes then too.

    Beside it stands an import under TYPE_CHECKING, by which types and the order of the rooms are checked.
    """
    return _Later(name)
