"""`kmatrix …`: the verbs for a person. Thin: each verb's own module here only parses, calls and prints.

Exit status: 0 all well; 1 something of the user's did not pass (a program did not load, the host lacks something); 2 wrong input;
3 the machine room failed.
"""

from __future__ import annotations

import sys

import click

from kmatrix import __version__
from kmatrix.cli import bisect, doctor, features, gc, guest, lint, lock, prepare, report, run
from kmatrix.cli.images import group as images
from kmatrix.cli.kernels import group as kernels
from kmatrix.fetch import download
from kmatrix.host.errors import InputError, KmatrixError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kmatrix")
@click.option("--offline", is_flag=True, help="Fetch nothing: what is not on this machine cannot be had ($KMATRIX_OFFLINE).")
def cli(offline: bool) -> None:
    """Does my eBPF collector degrade the way I promised, on every kernel and arch I promised it for?

    The matrix itself runs under pytest: `pytest --kernels=5.4,6.1 --arch=arm64` where your collectors are.
    """
    if offline:
        download.go_offline()


cli.add_command(run.command)
cli.add_command(report.command)
cli.add_command(guest.shell)
cli.add_command(guest.execute)
cli.add_command(bisect.command)
cli.add_command(prepare.command)
kernels.add_command(lock.command)
kernels.add_command(gc.command)
cli.add_command(kernels)
cli.add_command(images)
cli.add_command(features.command)
cli.add_command(lint.command)
cli.add_command(doctor.command)


def main() -> None:
    """The console script."""
    try:
        # Not standalone: click then returns an Exit's code, and errors are ours to say.
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except KmatrixError as error:
        click.echo(f"kmatrix: {error}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 3)
