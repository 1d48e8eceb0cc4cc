"""The real machines of a run: which of kernels.toml's are targets, what may run on them, and what records and `hosts check` say of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kmatrix.host.errors import InputError, KmatrixError
from kmatrix.host.progress import Reporter
from kmatrix.matrix.arch import parse_arches
from kmatrix.matrix.hosts import Host
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.selection import Matrix

if TYPE_CHECKING:
    from kmatrix.manifest.collector import Collector
    from kmatrix.runs.doctor import Finding
    from kmatrix.vm.boards.board import Board

NOT_THERE: Mapping[str, str] = {
    "block_io": "it reads and writes a scratch disk that every VM has",
    "module_load": "it loads and removes a module of the kernel, which others may use",
}
"""Triggers that are for VMs, and why."""


@dataclass
class RealMachines:
    """Those that this process has got to, by name."""

    matrix: Matrix
    reporter: Reporter
    _boards: dict[str, Board] = field(default_factory=dict)

    def board(self, host: Host) -> Board:
        """The machine; it is reached when it is used first."""
        from kmatrix.vm.boards.board import Board  # here, and not above: SSH takes longer to import than a run without it to start

        return self._boards.setdefault(host.name, Board(host, reporter=self.reporter, mirrors=self.matrix.mirrors))

    def targets(self, names: Sequence[str], arch: str) -> Iterator[Target]:
        """The targets that the machines named are. Raises InputError for one of an arch that --arch leaves out, InfraError for one that cannot be used."""
        for name in dict.fromkeys(names):
            target = self.board(self.matrix.hosts[name]).target()
            if target.arch not in parse_arches(arch):
                fix = f"leave --arch out, or write --arch={target.arch}"
                raise InputError(f"{name} is a machine of {target.arch}", where=f"--arch={arch}", fix=fix)
            yield target

    def refused(self, host: Host) -> InputError:
        """The error of what takes a VM."""
        what = f"{host.name} is a real machine: programs of this machine, shells and machines of another shape are for VMs"
        return InputError(what, where="--kernels", fix="name a kernel, such as --kernels=6.1")

    def account(self, target: Target) -> Mapping[str, Any] | None:
        """What a record says of the machine; None for a VM."""
        return None if target.kernel.host is None else self.board(target.kernel.host).account


def check(collector: Collector, target: Target) -> None:
    """Raises InputError where the collector takes what no real machine has; before anything runs."""
    if target.kernel.host is None or collector.trigger is None:
        return
    spec = collector.trigger.request()
    for part in spec.get("compose") or [spec]:
        kind = str(part.get("kind"))
        if kind in NOT_THERE:
            raise InputError(
                f"the trigger {kind} cannot be pulled on {target.kernel.name}, a real machine: {NOT_THERE[kind]}",
                where=f"{collector.path}: trigger",
                fix="name kernels without it, which are booted in VMs; or write a trigger of kind command",
            )


def findings(host: Host, mirrors: Mapping[str, str]) -> list[Finding]:
    """What `kmatrix hosts check` says of the machine. It is reached, and probed where its kernel is not known yet."""
    from kmatrix.runs.doctor import Finding  # here, and not above: a run of cells has no use for either
    from kmatrix.vm.boards.board import Board

    board = Board(host, mirrors=mirrors)
    try:
        target = board.target()
    except KmatrixError as error:
        return [Finding("lacks", "machine", error.message, error.fix or "")]
    finally:
        board.close()
    found = [Finding("ok", "machine", f"{target}: {target.kernel.summary}")]
    if board.changed is not None:
        found.append(Finding("ok", "machine", f"its kernel is another one than at the last run: then it was {board.changed}"))
    if host.reboot is None:
        fix = f"add reboot = a command, or empty where it starts again by itself, to {host.where}"
        found.append(Finding("note", "machine", "after a panic nothing more runs there: nothing says how it starts again", fix))
    return found
