"""`kmatrix lint`: the CO-RE standard over sources, generate.go and objects."""

from __future__ import annotations

from pathlib import Path

import click

from kmatrix.cli import terminal
from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.lint import output
from kmatrix.lint.engine import Options, default_paths, lint
from kmatrix.lint.fix import fix
from kmatrix.lint.rules import RULES, matching


def _codes(text: str, option: str) -> frozenset[str]:
    """The codes of a comma-separated list of codes, their beginnings, or names."""
    chosen: frozenset[str] = frozenset()
    for word in (word.strip() for word in text.split(",")):
        found = matching([word])
        if word and not found:
            known = [*RULES, *(rule.name for rule in RULES.values())]
            raise InputError(
                f"no rule {word!r}{did_you_mean(word, known)}", where=option, fix="kmatrix lint --explain all lists them"
            )
        chosen |= found
    return chosen


def _explain(text: str) -> str:
    if text == "all":
        return "\n".join(f"{rule.code}  {rule.name:<28} {rule.summary}" for rule in RULES.values())
    return "\n\n\n".join(output.explain(RULES[code]) for code in sorted(_codes(text, "--explain")))


@click.command("lint")
@click.argument("paths", metavar="[PATH]…", nargs=-1, type=click.Path(path_type=Path))
@click.option("--fix", "mend", is_flag=True, help="Mend what is marked [*], and report what is left.")
@click.option("--select", metavar="CODES", help="Only these: codes, beginnings of codes (KM2) or names, by commas.")
@click.option("--ignore", metavar="CODES", default="", help="Not these.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "sarif"]), default="text", show_default=True, help="How to print."
)
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option(
    "-I", "includes", multiple=True, metavar="DIR", type=click.Path(path_type=Path), help="Where headers are (several times)."
)
@click.option("-D", "defines", multiple=True, metavar="NAME[=VALUE]", help="A macro to define, as for clang (several times).")
@click.option(
    "--explain", metavar="CODE", help="What a rule is for, its evidence, a wrong and a right example; all lists the rules."
)
@terminal.COLOR
def command(
    paths: tuple[Path, ...],
    mend: bool,
    select: str | None,
    ignore: str,
    form: str,
    includes: tuple[Path, ...],
    defines: tuple[str, ...],
    explain: str | None,
    color: str,
) -> None:
    """The CO-RE standard as rules over C sources, generate.go files and compiled objects (default: the collectors below here).

    A folder is searched for *.bpf.c, their headers, generate.go, *.o and collector.toml, which says what each source claims.
    A finding that is wrong is suppressed in place, with the reason: /* kmatrix: noqa KM203: why */

    Exit status: 0 nothing found, 1 findings, 2 wrong input.
    """
    if explain is not None:
        click.echo(_explain(explain))
        return
    chosen = (_codes(select, "--select") if select is not None else frozenset(RULES)) - _codes(ignore, "--ignore")
    options = Options(chosen, includes, defines)
    where = list(paths) or default_paths()
    report, mended = fix(where, options) if mend else (lint(where, options), 0)
    if form == "text":
        click.echo(output.text(report, colour=terminal.coloured(color), fixed=mended))
    else:
        click.echo(output.as_json(report) if form == "json" else output.sarif(report))
    if report.findings:
        raise click.exceptions.Exit(1)
