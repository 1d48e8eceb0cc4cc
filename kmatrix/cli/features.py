"""`kmatrix features`: the features, what each kernel is declared to have, and what a target really has."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from kmatrix.cli import complete, options
from kmatrix.guest.facts import FACTS
from kmatrix.host.errors import InputError
from kmatrix.host.paths import scratch_console
from kmatrix.matrix.arch import ARCHES, host_arch, parse_arch, parse_arches
from kmatrix.matrix.features import FEATURES, UNDATED, Feature
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.parameters import KINDS, BadName, check, feature, leaves
from kmatrix.matrix.selection import Matrix
from kmatrix.report import grid
from kmatrix.runs.machine_room import Finding, MachineRoom
from kmatrix.verdict.judge import feature_mismatches


@click.command("features")
@click.argument("what", nargs=-1, metavar="[TARGET] [FEATURE]...", shell_complete=complete.targets)
@options.ARCH
@options.ACCEL
@options.COLD
@options.KERNELS_FILE
@options.JSON
def command(what: tuple[str, ...], arch: str, accel: str, cold: bool, kernels_file: Path | None, as_json: bool) -> None:
    """The features, and what each kernel is declared to have; of a TARGET, declared and probed in its guest side by side.

    \b
    kmatrix features                                   all kernels, as declared
    kmatrix features 6.1                               one, also probed (without an arch: this machine's)
    kmatrix features 6.1-arm64 helper:bpf_loop map:bloom_filter
    kmatrix features helper:bpf_loop                   one feature, on all kernels, as declared
    kmatrix features pi4                               a real machine ([hosts.pi4]), probed there
    kmatrix features insn:                             all names of a kind

    The tables leave out distributions' kernels (--json has them). Exit status 1 where declared and probed disagree.
    """
    matrix = options.load_matrix(kernels_file)
    room = options.room(matrix, accel, cold)
    target = _target(room, what[0], arch) if what and not _is_feature(what[0], matrix) else None
    names = what[1:] if target is not None else what
    names = tuple(each for name in names for each in _of_kind(name))
    for name in names:
        try:
            check(name, matrix.defined)
        except BadName as error:
            raise InputError(str(error), where="FEATURE", fix=error.fix) from None
    if target is not None:
        asked = leaves(names, matrix.defined) if names else tuple(FEATURES)
        _compare(target.knowing(matrix.defined), names, _findings(room, target, asked), as_json)
    else:
        _declared(matrix, names, arch, as_json)


def _is_feature(text: str, matrix: Matrix) -> bool:
    """Whether it is meant as a feature: no kernel's name is without a digit or has a colon."""
    return (
        ":" in text
        or text in FEATURES
        or text in matrix.defined
        or (text not in {*matrix.kernels, *matrix.hosts} and not re.search(r"\d", text))
    )


def _of_kind(name: str) -> list[str]:
    """All names of a kind that has a table (`insn:`); elsewhere the name itself."""
    kind, _, parameter = name.partition(":")
    return [f"{kind}:{each}" for each in FACTS[kind]] if not parameter and f"{kind}:" == name and kind in FACTS else [name]


def _target(room: MachineRoom, text: str, arch: str) -> Target:
    """The target meant; a kernel without an arch is that of --arch, else of this machine. A real machine is asked who it is."""
    matrix = room.matrix
    if text in matrix.hosts:
        return next(iter(room.targets(text, arch)))
    is_kernel = matrix.find(text) is not None
    if not is_kernel and (matrix.as_target(text) is not None or text.rpartition("-")[0] in matrix.kernels):
        return matrix.target(text)
    chosen = (host_arch() or ARCHES[0]) if arch == "all" else parse_arch(arch)
    return Target(matrix.kernel(text, where="TARGET"), chosen)


# -- all kernels -------------------------------------------------------------------------------------------------------------


def _declared(matrix: Matrix, names: Sequence[str], arch: str, as_json: bool) -> None:
    targets = [Target(kernel, each, defined=matrix.defined) for each in parse_arches(arch) for kernel in matrix.kernels.values()]
    if as_json:
        if names:
            click.echo(json.dumps({str(t): {name: t.has(name) for name in names} for t in targets}, indent=1))
        else:
            click.echo(json.dumps({str(t): sorted(t.features) for t in targets}, indent=1))
        return
    width = grid.terminal_width()
    known = [feature(name) for name in leaves(names, matrix.defined)] if names else list(FEATURES.values())
    rows = [[each.name, _since(each), each.title] for each in known]
    click.echo(grid.prose(rows, width, heads=["feature", "since", "what it is"]))
    click.echo()
    ours = [target for target in targets if target.kernel.distribution is None]
    click.echo(grid.prose(_by_kernel(ours, names), width, heads=["kernel", "arch", "status", "declared to lack"]))
    if not names:
        click.echo("\nWith a parameter, for example helper:bpf_loop (docs/features.md):")
        click.echo(textwrap.fill(", ".join(KINDS), width, initial_indent="  ", subsequent_indent="  "))


def _by_kernel(targets: Sequence[Target], names: Sequence[str]) -> list[list[str]]:
    """One row a kernel, or one an arch where they differ."""
    rows: dict[str, list[tuple[Target, tuple[str, str]]]] = {}
    for target in targets:
        rows.setdefault(target.kernel.name, []).append((target, (target.kernel.status(target.arch), _lacks(target, names))))
    found = []
    for name, members in rows.items():
        shown = f"~{name}" if members[0][0].simulated is not None else name
        if len({row for _, row in members}) == 1:
            arches = "both" if len(members) > 1 else members[0][0].arch
            found.append([shown, arches, *members[0][1]])
        else:
            found += [[shown, target.arch, *row] for target, row in members]
    return found


def _lacks(target: Target, names: Sequence[str]) -> str:
    """What the target is declared to lack; `?` after what nothing declares."""
    words = [name if has is False else f"{name} (?)" for name in names or FEATURES if (has := target.has(name)) is not True]
    return ", ".join(words) or "-"


def _since(known: Feature) -> str:
    if known.since == UNDATED:
        return "-"
    if isinstance(known.since, tuple):
        return ".".join(map(str, known.since))
    return ", ".join(f"{'.'.join(map(str, version))} {arch}" for arch, version in known.since.items())


# -- one target --------------------------------------------------------------------------------------------------------------


def _findings(room: MachineRoom, target: Target, names: Sequence[str]) -> dict[str, Finding]:
    """What the target's guest says of each of the features."""
    found = dict(room.found(target, [name for name in names if ":" in name]))
    plain = [name for name in names if ":" not in name]
    if plain:
        with scratch_console(f"features-{target}") as console, room.machine(target, console) as (_, probe):
            found |= {name: Finding(probe["features"].get(name), probe.get("why", {}).get(name, "")) for name in plain}
    return {name: found[name] for name in names}


def _account(target: Target) -> dict[str, object] | None:
    return target.simulated.account(target.arch) if target.simulated is not None else None


def _compare(target: Target, names: Sequence[str], findings: Mapping[str, Finding], as_json: bool) -> None:
    probed = {name: finding.there for name, finding in findings.items()}
    wrong = feature_mismatches(target, probed, findings)
    own = {
        name: target.defined[name].there(lambda part: _evaluate(part, target, probed)) for name in names if name in target.defined
    }
    if as_json:
        declared = {name: target.has(name) for name in findings} if names else sorted(target.features)
        answer = {"declared": declared, "probed": probed | own, "mismatches": wrong, "simulated": _account(target)}
        click.echo(json.dumps(answer, indent=1))
    else:
        words = {True: "✓", False: "·", None: "?"}
        rows = []
        for name, finding in findings.items():
            declared_ = target.has(name)
            differs = "≠" if None not in (finding.there, declared_) and finding.there != declared_ else ""
            said = "-" if declared_ is None else words[declared_]
            rows.append([name, said, words[finding.there], differs, finding.why or feature(name).probe])
        rows += [[name, "", words[there], "", _spelled(name, target)] for name, there in own.items()]
        heads = ["feature", "declared", "probed", "", "how the guest knows"]
        click.echo(grid.prose(rows, grid.terminal_width(), heads=heads))
        if any(target.has(name) is None for name in findings):
            click.echo("- : nothing declares it; cells go by what is probed")
        if target.simulated is not None:
            click.echo(f"{target} is simulated: {target.simulated}")
        for sentence in wrong:
            click.echo(f"{target}: {sentence}")
    if wrong:
        if not as_json:
            table = "hosts" if target.kernel.host is not None else "kernels"
            click.echo(f'fix: correct features in {target.kernel.declared_in}, {table}."{target.kernel.name}"')
        raise click.exceptions.Exit(1)


def _evaluate(name: str, target: Target, probed: Mapping[str, bool | None]) -> bool | None:
    if name in target.defined:
        return target.defined[name].there(lambda part: _evaluate(part, target, probed))
    return probed.get(name)


def _spelled(name: str, target: Target) -> str:
    definition = target.defined[name]
    return f"{'any' if definition.any else 'all'} of {', '.join(definition.parts)}"
