"""The plugin's options. Light, as its entry point is: pytest and the standard library only.

Each has a long name, `--kmatrix-kernels`, that always works, and a short one, `--kernels`. Another plugin or a conftest may have an option
of the short name. So the short names are added last, when all plugins and the first conftests have added theirs, and only where they are free.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

DEFAULT_DIRECTORY = ".kmatrix"
_GROUP = "kmatrix", "eBPF collectors over a kernel × arch matrix"

_SHORT: Mapping[str, Mapping[str, Any]] = {
    "--kernels": {
        "metavar": "EXPR",
        "help": "kernels: 5.4,6.1 | '>=5.8' | 5.4..6.1 | a set of kernels.toml | store (what is on this machine) | all | a real machine of [hosts]; "
        "default: what can be had of the set default",
    },
    "--arch": {"metavar": "ARCH", "help": "x86_64, arm64 or all (default)"},
    "--collectors": {"metavar": "NAMES", "help": "run only these collectors (comma-separated names)"},
    "--loader": {
        "metavar": "NAME",
        "help": "what loads the collectors' objects, in place of what their manifests say: libbpf, cilium, or all (each cell by each)",
    },
    "--stress": {
        "action": "store_true",
        "help": "run the collectors that have a [stress] under load too, and hold them to it: items of the name openat+stress[…]",
    },
    "--atlas": {
        "action": "store_true",
        "help": "measure how hard the verifier works at each program that kmatrix loads by libbpf; the records and the HTML report have it",
    },
    "--accel": {
        "choices": ("auto", "kvm", "tcg"),
        "default": "auto",
        "help": "how VMs run; auto uses KVM where a guest was seen to boot under it",
    },
    "--cold": {"action": "store_true", "help": "boot every VM afresh instead of restoring a snapshot"},
    "--offline": {"action": "store_true", "help": "fetch nothing: what is not on this machine cannot be had"},
    "--shard": {
        "metavar": "NUMBER/COUNT",
        "help": "run only this part of the run, such as 2/4; the parts take about as long as each other, by what earlier runs took",
    },
    "--shard-durations": {
        "metavar": "DIR",
        "help": "cut shards by the records in DIR, an earlier run's --kmatrix-dir (default: by what earlier runs on this cache took)",
    },
    "--kernels-file": {
        "metavar": "FILE",
        "help": "a kernels.toml of your own (default: the nearest above the current directory)",
    },
}
"""The options that have a short name, and what argparse is told of each."""

_TAKEN = pytest.StashKey[dict[str, str]]()


def long(short: str) -> str:
    """The name that always works: --kmatrix-arch for --arch."""
    return f"--kmatrix-{short.removeprefix('--')}"


def _dest(short: str) -> str:
    return long(short).removeprefix("--").replace("-", "_")


def value(config: pytest.Config, short: str) -> Any:
    """What kmatrix's option was given as, whichever of its names was written, and whoever else has an option of the short name."""
    return getattr(config.option, _dest(short))


def given(config: pytest.Config) -> bool:
    """Whether one of kmatrix's options is given. An empty expression is given too, and wrong."""
    changed = any(
        value(config, short) != attributes.get("default") for short, attributes in _SHORT.items() if "action" not in attributes
    )
    switched = any(value(config, short) for short, attributes in _SHORT.items() if "action" in attributes)
    return changed or switched or config.option.kmatrix_dir != DEFAULT_DIRECTORY


def taken(config: pytest.Config) -> Mapping[str, str]:
    """The short names that are somebody else's in this run, and whose."""
    return config.stash.get(_TAKEN, {})


def clash(config: pytest.Config) -> str | None:
    """One line about the short names that are somebody else's; None where all are kmatrix's."""
    owners = taken(config)
    if not owners:
        return None
    whose = ", ".join(f"{short} belongs to {owner}" for short, owner in owners.items())
    return f"kmatrix: {whose}; for kmatrix, write {', '.join(long(short) for short in owners)}"


def spelled(config: pytest.Config, short: str) -> str:
    """The name by which this run takes the option."""
    return long(short) if short in taken(config) else short


def add_long(parser: pytest.Parser) -> None:
    """Add the names that nobody else has."""
    group = parser.getgroup(*_GROUP)
    for short, attributes in _SHORT.items():
        group.addoption(
            long(short), dest=_dest(short), **{**attributes, "help": f"{short}, also where another plugin has that option"}
        )
    group.addoption(
        "--kmatrix-dir", metavar="DIR", default=DEFAULT_DIRECTORY, help=f"where records and consoles go ({DEFAULT_DIRECTORY})"
    )


DIST = "kmatrix"
"""The value of pytest-xdist's --dist that has kmatrix distribute."""


def add_dist(parser: pytest.Parser) -> None:
    """Have pytest-xdist's --dist take `kmatrix`, once xdist has added it. (It has no public way; its scheduler's hook is public.)"""
    for group in parser._groups:
        for option in group.options:
            if "--dist" in option.names():
                choices = option.attrs().get("choices")
                if choices is not None and DIST not in choices:
                    choices.append(DIST)


_RESTARTS = "16"
"""How often workers that died are started again, where workers are elsewhere and nothing else is said."""


def add_workers_here(config: pytest.Config) -> None:
    """Under --dist kmatrix, `-n 2` adds two workers here to those that --tx names. (By itself, xdist takes the one or the other.)"""
    option = config.option
    if not option.tx:
        return
    if (
        option.maxworkerrestart is None
    ):  # xdist has a limit for -n alone: one that dies whenever it starts must not be started for ever
        option.maxworkerrestart = _RESTARTS
    if count := option.numprocesses:
        if isinstance(count, str):
            count = config.hook.pytest_xdist_auto_num_workers(config=config)
        count = min(count, option.maxprocesses or count)
        option.tx, option.numprocesses = [f"{count}*popen", *option.tx], None


def add_short(config: pytest.Config, parser: pytest.Parser) -> None:
    """Add the short names that are still free, and note whose the others are."""
    group, others = parser.getgroup(*_GROUP), _names(parser)
    config.stash[_TAKEN] = {short: _owner(config, short) for short in _SHORT if short in others}
    for short, attributes in _SHORT.items():
        if short not in others:
            group.addoption(short, dest=_dest(short), **attributes)


def set_free(config: pytest.Config) -> None:
    """Give the short names up, now that the command line has been read: a conftest further down may still add an option of that name.

    (pytest has no public way. Its older releases, 8.0 for one, look for clashes only while they read the command line.)
    """
    actions = getattr(getattr(config._parser, "optparser", None), "_option_string_actions", {})
    for short in _SHORT:
        if short in actions and actions[short].dest == _dest(short):
            del actions[short]


def look_past(config: pytest.Config, parser: pytest.Parser, args: Iterable[str]) -> None:
    """Keep `5.4` of `--kernels 5.4` from being taken for a path while the short names are not added yet.

    pytest looks for the first conftests where the paths of the command line are.
    """
    free = {short for short, attributes in _SHORT.items() if "action" not in attributes} - _names(parser)
    args = list(args)
    if free.intersection(args):
        in_full = parser.parse_known_args([*_in_full(args, free)], namespace=copy.copy(config.option))
        config.known_args_namespace.file_or_dir = in_full.file_or_dir


def _in_full(args: Iterable[str], free: set[str]) -> Iterator[str]:
    rest = iter(args)
    for word in rest:
        if word == "--":
            yield word
            break
        yield long(word) if word in free else word
    yield from rest


def _names(parser: pytest.Parser) -> set[str]:
    """Every option that has been added so far. (pytest has no public way to ask.)"""
    groups = [*parser._groups, parser._anonymous]
    return {name for group in groups for option in group.options for name in option.names()}


def _owner(config: pytest.Config, name: str) -> str:
    """Who added the option: the plugin, or the conftest's path. It is the one whose pytest_addoption, or whose file, has the name in it."""
    hooks = [
        hook for hook in config.pluginmanager.hook.pytest_addoption.get_hookimpls() if not hook.plugin_name.startswith("kmatrix")
    ]
    hooks.reverse()
    for mentions in (_in_code, _in_file):
        for hook in hooks:
            if mentions(hook, name):
                path = Path(hook.plugin_name)
                return str(path) if path.name == "conftest.py" else f"the plugin {hook.plugin_name}"
    return "another plugin"


def _in_code(hook: Any, name: str) -> bool:
    code = getattr(hook.function, "__code__", None)
    return code is not None and name in _constants(code)


def _constants(code: CodeType) -> Iterator[object]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _constants(constant)
        elif isinstance(constant, tuple):
            yield from constant
        else:
            yield constant


def _in_file(hook: Any, name: str) -> bool:
    try:
        text = Path(hook.plugin.__file__).read_text(encoding="utf-8")
    except (AttributeError, TypeError, OSError, ValueError):
        return False
    return f'"{name}"' in text or f"'{name}'" in text
