"""What standard output is: how wide, and whether in colours."""

from __future__ import annotations

import os
import sys

import click


def _tell(ctx: click.Context, _: click.Parameter, choice: str) -> str:
    """click takes escape sequences out of what goes elsewhere than to a terminal, unless it is told."""
    ctx.color = {"auto": None, "always": True, "never": False}[choice]
    return choice


COLOR = click.option(
    "--color",
    "--colour",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    callback=_tell,
    help="Colours; auto: on a terminal, where NO_COLOR is not set.",
)


def coloured(choice: str) -> bool:
    """Whether to write colours to standard output: as --color says; by itself on a terminal, unless $NO_COLOR is set (no-color.org)."""
    if choice == "auto":
        return not os.environ.get("NO_COLOR") and sys.stdout.isatty()
    return choice == "always"
