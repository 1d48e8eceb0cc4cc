"""`kmatrix completion`: the script that has a shell complete kmatrix's verbs, options, kernels, targets and collectors."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_KMATRIX_COMPLETE"
_HOW = {
    "bash": "# Have it in every shell: echo 'eval \"$(kmatrix completion bash)\"' >> ~/.bashrc",
    "zsh": "# Have it in every shell: echo 'eval \"$(kmatrix completion zsh)\"' >> ~/.zshrc",
    "fish": "# Have it in every shell: kmatrix completion fish > ~/.config/fish/completions/kmatrix.fish",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(_HOW)))
def command(shell: str) -> None:
    """Print the script with which SHELL completes kmatrix: `eval "$(kmatrix completion bash)"`."""
    from kmatrix.cli import cli

    found = get_completion_class(shell)
    assert found is not None, "click has a class for each of the three"
    click.echo(_HOW[shell])
    click.echo(found(cli, {}, "kmatrix", _VARIABLE).source())
