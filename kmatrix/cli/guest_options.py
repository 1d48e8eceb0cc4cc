"""The options of the verbs that run a command in a guest: what its machine and its surroundings are like."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kmatrix.host.errors import InputError
from kmatrix.matrix.circumstances import LEAST_MIB
from kmatrix.runs.command import Options
from kmatrix.runs.machine_room import Shape

F = TypeVar("F", bound=Callable[..., Any])


class BeforeCommand(click.Command):
    """A verb whose arguments end with a command: what follows the command's first word is the command's, whatever it looks like.

    Options of the verb stand before that, also behind the verb's own first argument where it has one.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `--` in front of the command."""
        takes = {name for param in self.params if isinstance(param, click.Option) and not param.is_flag for name in param.opts}
        own = sum(isinstance(param, click.Argument) and param.nargs == 1 for param in self.params)
        at = positional = 0
        while at < len(args) and args[at] != "--":
            word = args[at]
            if word.startswith("-") and word != "-":
                at += 2 if word in takes else 1
                continue
            positional += 1
            if positional == own + 1:
                args = [*args[:at], "--", *args[at:]]
                break
            at += 1
        return super().parse_args(ctx, args)


def _pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:  # noqa: ARG001
    pairs = {}
    for text in value:
        name, equals, setting = text.partition("=")
        if not equals and param.name == "env":
            if name not in os.environ:
                raise InputError(f"this host has no variable {name}", where="--env", fix=f"--env {name}=VALUE")
            setting = os.environ[name]
        elif not equals or not name:
            raise InputError(f"{text!r} is not NAME=VALUE", where=f"--{param.name}")
        pairs[name] = setting
    return pairs


def _caps(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:  # noqa: ARG001
    return None if value is None else tuple(name for name in value.split(",") if name and name != "none")


_OPTIONS = (
    click.option(
        "--env", multiple=True, callback=_pairs, metavar="NAME[=VALUE]", help="A variable for the command (the host's value)."
    ),
    click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True, help="Seconds for it."
    ),
    click.option(
        "--memory", type=click.IntRange(min=LEAST_MIB), metavar="MIB", help="The VM's memory. Half of it is the limit of /tmp."
    ),
    click.option("--cpus", type=click.IntRange(min=1, max=64), metavar="N", help="The VM's CPUs."),
    click.option("--cmdline", multiple=True, metavar="PARAMETER", help="A kernel parameter: the VM boots with it."),
    click.option("--sysctl", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="Set a sysctl before the command starts."),
    click.option("--user", metavar="NAME|UID[:GID]", help="Run it as this user of the guest (default: root)."),
    click.option("--cap", "caps", callback=_caps, metavar="CAP,…|none", help="Leave it these capabilities only, such as cap_bpf."),
    click.option("--cores", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Put core dumps in this folder."),
)


def guest(function: F) -> F:
    """Give a verb these options; it is called with `given`, a kmatrix.runs.command.Options without files."""

    @functools.wraps(function)
    def called(**named: Any) -> Any:
        memory, cpus, cmdline = named.pop("memory"), named.pop("cpus"), named.pop("cmdline")
        own = {name: named.pop(name) for name in ("env", "timeout", "sysctl", "user", "caps", "cores")}
        return function(given=Options(shape=Shape(memory, cpus, cmdline), **own), **named)

    decorated: Any = called
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]
