"""What a loader sets before it loads an object: `[variant.contract]` of a collector.toml, and the file X.contract.toml of `kmatrix run`.

docs/contract.md explains every key. What is said here of an object is held against it in kmatrix.objects.contract.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from kmatrix.host.toml import read_toml
from kmatrix.host.validation import Strict, validate
from kmatrix.manifest.types import Names, check_features

Value = Any
"""Of a variable, a key or an entry: what its type takes."""
Count = Annotated[int, Field(gt=0, lt=1 << 32)]


def _max_entries(value: object) -> object:
    if value == "cpus" or (isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 32):
        return value
    raise ValueError(f'{value!r} is neither a number of entries, from 1 on, nor "cpus"')


MaxEntries = Annotated[Any, AfterValidator(_max_entries)]
"""A number, or "cpus": as many as the kernel may ever have CPUs."""


class InnerMap(Strict):
    """The maps that a map of maps holds."""

    type: str
    key_size: Count = 4
    value_size: Count
    max_entries: MaxEntries
    flags: int = 0


class Entry(Strict):
    """One entry that a map has before anything is attached."""

    key: Value
    value: Value


class MapTerms(Strict):
    """What the loader sets of one map."""

    max_entries: MaxEntries = None
    type: Names = ()
    """The first of these that the kernel has."""
    key_size: Count | None = None
    value_size: Count | None = None
    autocreate: bool = True
    pin: str | None = None
    inner: InnerMap | None = None
    contents: Annotated[tuple[Entry, ...], Field(strict=False)] = ()
    programs: dict[str, str] = {}
    """Of a prog array: slot → program."""

    @field_validator("type", mode="before")
    @classmethod
    def _one_type_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("programs", mode="before")
    @classmethod
    def _a_list_counts_from_0(cls, value: object) -> object:
        return {str(slot): name for slot, name in enumerate(value)} if isinstance(value, list) else value

    @field_validator("pin")
    @classmethod
    def _in_bpffs(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith("/sys/fs/bpf/") or ".." in value.split("/")):
            raise ValueError(f"{value!r}: a map is pinned under /sys/fs/bpf/")
        return value

    @field_validator("programs")
    @classmethod
    def _slots_are_numbers(cls, value: dict[str, str]) -> dict[str, str]:
        for slot in value:
            if not slot.isdecimal():
                raise ValueError(f"slot {slot!r} is not a number")
        return value


class ProgramTerms(Strict):
    """What the loader sets of one program."""

    autoload: bool | None = None
    """False: not loaded. True: loaded, although its section begins with `?`."""
    autoattach: bool | None = None
    """False: loaded and not attached. True: attached, although it stands in a prog array."""
    attach_to: Names = ()
    """Where it attaches in place of what its section says: the first of these that the kernel has."""
    type: str | None = None
    expected_attach_type: str | int | None = None

    @field_validator("attach_to", mode="before")
    @classmethod
    def _one_target_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Form(Strict):
    """One of the forms of a group: these programs, and none of the other forms'."""

    programs: Names
    """None at all, in a last form: then the group may be left out altogether."""
    needs: Names | None = None
    """The features that decide. None: what the programs attach to."""

    @model_validator(mode="before")
    @classmethod
    def _programs_alone(cls, value: object) -> object:
        if isinstance(value, str):
            return {"programs": (value,)}
        return {"programs": tuple(value)} if isinstance(value, list | tuple) else value

    @field_validator("needs")
    @classmethod
    def _features(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        return None if value is None else check_features(value, info)

    def __str__(self) -> str:
        return " + ".join(self.programs) or "none of them"


def _forms(value: object) -> tuple[object, ...] | None:
    """The forms of a group that is one of several; None of what is a form itself."""
    if isinstance(value, dict) and "forms" in value:
        if extra := value.keys() - {"forms"}:
            raise ValueError(
                f"one_of: unknown key {', '.join(map(repr, extra))} beside forms; needs stands in a form: {{programs, needs}}"
            )
        return tuple(value["forms"])
    deeper = isinstance(value, list | tuple) and value and all(isinstance(each, list | tuple | dict) for each in value)
    return tuple(value) if deeper and isinstance(value, list | tuple) else None


Group = Annotated[tuple[Form, ...], Field(strict=False)]


class Contract(Strict):
    """What a loader sets of an object before it loads it, and between load and attach."""

    variables: dict[str, Value] = {}
    """Initial values of .rodata, .data and .bss, by name or dotted path."""
    maps: dict[str, MapTerms] = {}
    programs: dict[str, ProgramTerms] = {}
    one_of: Annotated[tuple[Group, ...], Field(strict=False)] = ()
    btf: str | None = None
    """A BTF file in place of the kernel's; relative to the file that says it."""
    kconfig: str | None = None
    """Lines CONFIG_X=y, which extern variables get in place of what the kernel's configuration says."""

    @field_validator("one_of", mode="before")
    @classmethod
    def _one_group_or_several(cls, value: object) -> object:
        """`["a", "b"]` and `[["a", "b"], ["c"]]` are one group each; several are [[one_of]] tables with `forms`, or a list more deeply nested."""
        if not isinstance(value, list | tuple) or not value:
            return value
        several = [_forms(each) for each in value]
        return tuple(several) if all(each is not None for each in several) else (tuple(value),)

    @field_validator("kconfig", mode="before")
    @classmethod
    def _a_table_is_lines(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        spelled = {True: "y", False: "n"}
        return "".join(f"{name}={spelled[v] if isinstance(v, bool) else v}\n" for name, v in value.items())

    @field_validator("one_of")
    @classmethod
    def _groups(cls, value: tuple[Group, ...]) -> tuple[Group, ...]:
        seen: dict[str, int] = {}
        for number, group in enumerate(value):
            if len(group) < 2:
                raise ValueError(f"a group has two forms or more; this has one: {', '.join(map(str, group))}")
            for form in group[:-1]:
                if not form.programs:
                    raise ValueError("a form without programs always fits, so it stands last")
            for name in dict.fromkeys(name for form in group for name in form.programs):
                if seen.setdefault(name, number) != number:
                    raise ValueError(f"program {name!r} is in two groups; make one of them, whose forms list all their programs")
        return value

    @model_validator(mode="after")
    def _decided_once(self) -> Contract:
        for name in sorted(self.in_groups):
            if self.programs.get(name, ProgramTerms()).autoload is False:
                raise ValueError(f"program {name!r} is in one_of and has autoload = false too; say one of them")
        return self

    @property
    def in_groups(self) -> frozenset[str]:
        """The programs that a group decides on."""
        return frozenset(name for group in self.one_of for form in group for name in form.programs)


def parse(data: object, *, where: str) -> Contract:
    """The contract that a parsed file says; raises InputError naming the file, the key and the fix."""
    return validate(Contract, data, where=where)


def load_contract(path: Path) -> Contract:
    """The contract in a file. Raises InputError."""
    return parse(read_toml(path), where=str(path))
