"""`kmatrix …`: the verbs for a person. Thin: each verb's own module here only parses, calls and prints.

Exit status: 0 all well; 1 something of the user's did not pass (a program did not load, the host lacks something); 2 wrong input;
3 the machine room failed.
"""

from __future__ import annotations

import importlib
import sys

import click

from kmatrix import __version__
from kmatrix.host import garbage
from kmatrix.host.errors import InputError, KmatrixError

VERBS: dict[str, tuple[str, str]] = {
    "run": (
        "run:command",
        "Load every program of compiled BPF objects on every target, and attach it where its section says how.",
    ),
    "init": (
        "init:command",
        "Write a collector.toml from compiled objects: a proposal that passes as it stands, or says what only you know.",
    ),
    "report": (
        "report:command",
        "The report of the records in DIRECTORY (a run's --kmatrix-dir; default: .kmatrix), also long after the run.",
    ),
    "shell": (
        "guest:shell",
        "A shell in the VM of KERNEL: pristine, thrown away afterwards; bpftool, python3 and libbpf are there.",
    ),
    "exec": (
        "execute:execute",
        "Run a command in the VM of TARGET and exit with its status: `kmatrix exec 5.4-arm64 -- ./pkg.test -test.v`.",
    ),
    "test": (
        "test:command",
        "Run a test program in the guest of every target, and say which of its sub-tests fail where.",
    ),
    "bisect": (
        "bisect:command",
        "Find the first kernel, from --good on towards --bad, on which COLLECTOR behaves otherwise than on the good one.",
    ),
    "prepare": ("prepare:command", "Fetch kernels, build guest images and make every target's snapshot, side by side."),
    "kernels": ("kernel_group:group", "The kernels on this machine: list, fetch, import, build, remove, verify."),
    "cache": ("cache:group", "The cache of kernels, guest images and snapshots, as a CI keeps it between runs."),
    "images": ("images:group", "The guest images on this machine: build, list, remove."),
    "features": (
        "features:command",
        "The features, and what each kernel is declared to have; of a TARGET, declared and probed in its guest side by side.",
    ),
    "needs": (
        "needs:command",
        "What compiled objects need of a kernel, and since which release there is such a thing.",
    ),
    "predict": (
        "predict:command",
        "Say of every program of compiled objects whether it will load and attach, on each kernel of which there is a profile.",
    ),
    "min": ("oldest:command", "The oldest kernel that each program needs, on each arch, and what sets it."),
    "programs": (
        "programs:command",
        "What compiled objects hold: programs with sections, types and sizes, maps, and what each program refers to.",
    ),
    "profiles": (
        "profiles:group",
        "Profiles of kernels: what each has for BPF programs, in a small file.",
    ),
    "atlas": (
        "atlas:command",
        "How close the programs of compiled objects are to the verifier's limits, on every target.",
    ),
    "lint": (
        "lint:command",
        "The CO-RE standard as rules over C sources, generate.go files and compiled objects (default: the collectors below here).",
    ),
    "doctor": ("doctor:command", "What this host lacks, and the command that mends it."),
    "hosts": ("hosts:group", "The machines that a run works on beside this one: what each has, and what it lacks."),
    "completion": (
        "completion:command",
        'Print the script with which SHELL completes kmatrix: `eval "$(kmatrix completion bash)"`.',
    ),
}
"""The verbs, in the order of the help: where each stands (module:name), and its line of the help, so that no verb pays for another's imports."""


class Verbs(click.Group):
    """A group whose verbs are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The verbs, in the order of the table."""
        return [*VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The verb of that name, imported now."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        with garbage.paused():
            found: click.Command = getattr(importlib.import_module(f"kmatrix.cli.{module}"), name)
        garbage.keep()
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; an unknown verb is told with the nearest ones."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from kmatrix.host.nearest import did_you_mean

            raise click.UsageError(f"there is no verb {args[0]!r}{did_you_mean(args[0], VERBS)}", error.ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The table, as help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kmatrix")
@click.option("--offline", is_flag=True, help="Fetch nothing: what is not on this machine cannot be had ($KMATRIX_OFFLINE).")
def cli(offline: bool) -> None:
    """Does my eBPF collector degrade the way I promised, on every kernel and arch I promised it for?

    The matrix itself runs under pytest: `pytest --kernels=5.4,6.1 --arch=arm64` where your collectors are.
    """
    if offline:
        from kmatrix.fetch import network

        network.go_offline()


def _as_json(message: str, where: str | None = None, fix: str | None = None) -> None:
    """The error on standard output too, where JSON was asked for: whoever reads that finds it there."""
    words = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb not in ("exec", "shell") and ("--json" in words or "--format=json" in words):
        import json

        click.echo(json.dumps({"error": {"message": message, "where": where, "fix": fix}}, indent=1))


def main() -> None:
    """The console script."""
    garbage.keep_at_exit()
    try:
        # Not standalone: click then returns an Exit's code, and errors are ours to say.
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        _as_json(error.format_message())
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("kmatrix: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except KmatrixError as error:
        click.echo(f"kmatrix: {error}", err=True)
        _as_json(error.message, error.where, error.fix)
        sys.exit(2 if isinstance(error, InputError) else 3)
