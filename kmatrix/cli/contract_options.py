"""The options of `kmatrix run` that say what the object's loader sets, and the contract files beside objects."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kmatrix.host.errors import InputError
from kmatrix.host.later import later
from kmatrix.manifest.contract_file import CONTRACT_SUFFIX, beside
from kmatrix.objects.compiled import ObjectInfo
from kmatrix.objects.values import Text

if TYPE_CHECKING:
    from kmatrix.manifest import contract as manifest
    from kmatrix.objects import contract as terms
else:  # most objects have no contract
    manifest, terms = later("kmatrix.manifest.contract"), later("kmatrix.objects.contract")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Given:
    """The options as they were given."""

    contract: Path | None = None
    set: tuple[str, ...] = ()
    max_entries: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    attach_to: tuple[str, ...] = ()

    @property
    def of_an_object(self) -> bool:
        """Whether there is any that names something inside an object."""
        return bool(self.set or self.max_entries or self.one_of or self.without or self.attach_to)


def options(command: F) -> F:
    """Add the options to a command, which gets them as one argument, `given`."""

    @functools.wraps(command)
    def with_given(
        *args: Any,
        contract: Path | None,
        set_: tuple[str, ...],
        max_entries: tuple[str, ...],
        one_of: tuple[str, ...],
        without: tuple[str, ...],
        attach_to: tuple[str, ...],
        **others: Any,
    ) -> Any:
        return command(*args, given=Given(contract, set_, max_entries, one_of, without, attach_to), **others)

    wrapped: Any = with_given
    for option in reversed(
        [
            click.option(
                "--contract",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help=f"What the loader sets before it loads, or a folder with an X{CONTRACT_SUFFIX} for each object X (default: beside the object).",
            ),
            click.option(
                "--set", "set_", multiple=True, metavar="NAME=VALUE", help="Initial value of a variable, as the loader sets it."
            ),
            click.option("--max-entries", multiple=True, metavar="MAP=N", help="Size of a map; `cpus` is the number of CPUs."),
            click.option(
                "--one-of",
                multiple=True,
                metavar="A,B",
                help="Load the first of these programs that the kernel can run, and not the others. A+C,B: forms of several programs. A,: none of them, where A cannot run.",
            ),
            click.option("--without", multiple=True, metavar="PROGRAM", help="Do not load this program."),
            click.option(
                "--attach-to", multiple=True, metavar="PROGRAM=TARGET", help="Attach there, and not where its section says."
            ),
        ]
    ):
        wrapped = option(wrapped)
    found: F = wrapped
    return found


def contracts(infos: Sequence[ObjectInfo], given: Given) -> dict[Path, terms.Terms]:
    """The contract of each object that has one, by the object's path, checked against it. Raises InputError."""
    if given.of_an_object and len(infos) > 1:
        raise InputError(
            "--set, --max-entries, --one-of, --without and --attach-to are about one object, and there are several",
            where="kmatrix run",
            fix=f"write an X{CONTRACT_SUFFIX} beside each object X, or run one object",
        )
    if given.contract is not None and not given.contract.is_dir() and len(infos) > 1:
        raise InputError(
            "a contract file is about one object, and there are several",
            where=f"--contract={given.contract}",
            fix=f"give the folder that has an X{CONTRACT_SUFFIX} for each object X",
        )
    found = {}
    for info in infos:
        path, folder = _file(info, given.contract), info.path.parent
        contract = None
        if path is not None:
            contract, folder = manifest.load_contract(path), path.parent
            found[info.path] = terms.resolve(contract, info, where=str(path), folder=folder)
        if given.of_an_object:
            found[info.path] = terms.resolve(
                _with_options(contract or manifest.Contract(), given), info, where="the options", folder=folder
            )
    return found


def _file(info: ObjectInfo, given: Path | None) -> Path | None:
    if given is not None and not given.is_dir():
        return given
    path = beside(info.path, given)
    return path if path.is_file() else None


def _with_options(contract: manifest.Contract, given: Given) -> manifest.Contract:
    data = contract.model_dump(exclude_unset=True)
    groups: list[dict[str, Any]] = [{"forms": [form.model_dump() for form in group]} for group in contract.one_of]
    groups += [{"forms": [tuple(p for p in form.split("+") if p) for form in text.split(",")]} for text in given.one_of]
    if groups:
        data["one_of"] = groups
    variables = dict(data.get("variables", {}))
    for name, value in _pairs("--set", "NAME=VALUE", given.set):
        variables[name] = Text(value)
    maps, programs = dict(data.get("maps", {})), dict(data.get("programs", {}))
    for name, value in _pairs("--max-entries", "MAP=N", given.max_entries):
        number = int(value) if value.isdecimal() else value
        maps[name] = {**maps.get(name, {}), "max_entries": number}
    for name in given.without:
        programs[name] = {**programs.get(name, {}), "autoload": False}
    for name, value in _pairs("--attach-to", "PROGRAM=TARGET", given.attach_to):
        programs[name] = {**programs.get(name, {}), "attach_to": value}
    merged: Mapping[str, object] = data | {"variables": variables, "maps": maps, "programs": programs}
    return manifest.parse(merged, where="the options")


def _pairs(option: str, form: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InputError(f"{text!r} is not {form}", where=option, fix=f"write {option} {form}")
        found.append((name, value))
    return found
