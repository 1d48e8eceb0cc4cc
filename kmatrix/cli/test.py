"""`kmatrix test`: a test program over the matrix."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import click

from kmatrix.cli import guest_options, options, terminal
from kmatrix.host import paths
from kmatrix.host.errors import InputError
from kmatrix.host.validation import validate
from kmatrix.manifest.guest_test import TestCommand
from kmatrix.report import grid, junit, tests
from kmatrix.runs import guest_test, record_files
from kmatrix.runs.command import Options, spelled
from kmatrix.runs.guest_test import GuestTest
from kmatrix.verdict.suites.read import FORMATS


def _skips(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, tuple[str, ...]]:  # noqa: ARG001
    found = {}
    for text in value:
        pattern, equals, needs = text.rpartition("=")
        names = tuple(name.strip() for name in needs.split(",") if name.strip())
        if not equals or not pattern or not names:
            raise InputError(f"{text!r} is not PATTERN=FEATURE", where="--skip", fix="--skip 'TestRingbuf*=ringbuf'")
        found[pattern] = names
    return found


@click.command("test", cls=guest_options.BeforeCommand)
@click.argument("argv", metavar="-- COMMAND…", nargs=-1, required=True, type=click.UNPROCESSED)
@options.KERNELS
@options.ARCH
@click.option("--name", metavar="NAME", help="What the test is called in records and reports (default: the program's file name).")
@click.option(
    "--format",
    "suite_format",
    type=click.Choice([*FORMATS]),
    help="The format of the command's output (default: it is recognised).",
)
@click.option(
    "--skip",
    multiple=True,
    callback=_skips,
    metavar="PATTERN=FEATURE[,…]",
    help="A failure of these sub-tests does not count on a target that lacks one of the features.",
)
@click.option("--junit", "junit_file", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit's XML: a suite a target.")
@click.option("--file", "files", multiple=True, metavar="PATH[:GUEST]", help="Bring this file along.")
@click.option("--dir", "dirs", multiple=True, metavar="PATH[:GUEST]", help="Bring this folder along.")
@guest_options.guest
@click.option(
    "--kmatrix-dir",
    "directory",
    type=click.Path(path_type=Path),
    default=record_files.DEFAULT_DIRECTORY,
    show_default=True,
    help="Where records and consoles go.",
)
@click.option("--stream", is_flag=True, help="Print what the command prints, line by line, with the target before each.")
@click.option("--logs", is_flag=True, help="Print all of the output that the records keep of what failed.")
@options.ACCEL
@options.COLD
@options.KERNELS_FILE
@options.JSON
@terminal.COLOR
def command(
    argv: tuple[str, ...],
    kernels: str | None,
    arch: str,
    name: str | None,
    suite_format: str | None,
    skip: dict[str, tuple[str, ...]],
    junit_file: Path | None,
    files: tuple[str, ...],
    dirs: tuple[str, ...],
    given: Options,
    directory: Path,
    stream: bool,
    logs: bool,
    accel: str,
    cold: bool,
    kernels_file: Path | None,
    as_json: bool,
    color: str,
) -> None:
    """Run a test program in the guest of every target, and say which of its sub-tests fail where.

    `kmatrix test --kernels=5.4,6.1 -- ./pkg.{goarch}.test -test.v` is an example. {arch} (x86_64, arm64), {goarch} (amd64, arm64), {machine} (x86_64, aarch64) and {kernel} in the command stand for the target's. A
    program that is for one arch runs on the targets of that arch. Sub-tests are read from the output of Go tests, Rust's libtest, TAP
    (bats, prove, kselftest), pytest, GoogleTest and the kernel's test_progs. What the command needs is brought as by `kmatrix exec`.

    Exit status: 0 if it passed everywhere, 1 if not, 2 for wrong input, 3 where the machines failed.
    """
    room = options.room(options.load_matrix(kernels_file), accel, cold)
    targets, missing = options.select(room, kernels, arch)
    rules = validate(
        TestCommand,
        {"command": list(argv), "skip": skip},
        where="--skip",
        context={"defined": room.matrix.defined},
    )
    test = GuestTest(
        name=guest_test.check_name(name) if name is not None else guest_test.name_of(argv),
        command=argv,
        folder=Path.cwd(),
        files=files,
        dirs=dirs,
        format=suite_format,
        not_counted=lambda target: rules.not_counted(target.has),
        options=given,
        spelled=spelled(given, files, dirs),
    )
    record_files.check_directory(directory)
    records, unfit = guest_test.run_all(test, targets, room, directory, _Stream() if stream else None)
    if junit_file is not None:
        paths.write_whole(junit_file, junit.render([], records, directory))
    if as_json:
        click.echo(json.dumps({"tests": [asdict(record) for record in records], "not_run": {**missing, **unfit}}, indent=1))
    else:
        colour = terminal.coloured(color)
        click.echo(tests.render(records, {**missing, **unfit}, colour=colour, width=grid.terminal_width(), logs=logs))
        click.echo(f"\n{test.name} {tests.headline(records)}")
    for pattern in tests.unmatched(records, skip):
        click.echo(
            f"warning: --skip {pattern!r} matches no sub-test on any target; fix: correct the pattern, or leave it out", err=True
        )
    if any(record.failure == "infra" for record in records):
        raise click.exceptions.Exit(3)
    if any(record.red for record in records):
        raise click.exceptions.Exit(1)


class _Stream:
    """Whole lines as they come, each with its target: several commands print side by side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rest: dict[str, bytes] = {}

    def __call__(self, target: str, data: bytes) -> None:
        with self._lock:
            *lines, self._rest[target] = (self._rest.get(target, b"") + data).split(b"\n")
            for line in lines:
                sys.stderr.buffer.write(f"{target}  ".encode() + line + b"\n")
            sys.stderr.flush()
