"""What one pytest run shares: its options read, the matrix, the targets, the machine room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.progress import Quiet, Step, Terminal
from kmatrix.host.toml import nearest_above
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.libraries import Library
from kmatrix.matrix.arch import parse_arches
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import TRIED_FILE, load_matrix, lock_path, own_kernels_file
from kmatrix.matrix.selection import Matrix, asked_for
from kmatrix.plugin import options, sharding
from kmatrix.runs import spare
from kmatrix.runs.machine_room import MachineRoom, refuse_missing
from kmatrix.runs.workers.ready import pinned
from kmatrix.vm import loaders


class Run:
    """What one pytest run shares: options, matrix, targets, the machine room."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.directory = (config.invocation_params.dir / config.option.kmatrix_dir).resolve()
        self.is_worker = hasattr(config, "workerinput")
        self.told: Mapping[str, Any] = getattr(config, "workerinput", {}).get("kmatrix", {})
        """What the controller told this worker, under --dist kmatrix: `beside` (workers of this machine), and `targets`, `pins`
        and `seconds`, as far as they are not to be found here."""
        self.explicit = options.value(config, "--kernels") is not None or options.value(config, "--arch") is not None
        self.collected: dict[str, Path] = {}
        """The collectors found, by name (of xdist's controller: what its workers found)."""
        self.error: str | None = None
        """Why the run was given up when all was collected."""
        self.next_item: pytest.Item | None = None
        """What runs after the item that runs now."""
        self.chosen: sharding.Chosen | None = None
        """What this shard has, of a run in shards, once all is collected."""

    @property
    def speaks(self) -> bool:
        """Whether this process is the one of several that says what each of them finds."""
        return not self.is_worker or self.config.workerinput["workerid"] == "gw0"  # type: ignore[attr-defined]

    @cached_property
    def matrix(self) -> Matrix:
        """kernels.toml, as found from where pytest was called."""
        matrix = load_matrix(self.config.invocation_params.dir, file=self._given_file)
        return pinned(matrix, self.told["pins"]) if "pins" in self.told else matrix

    @property
    def _given_file(self) -> Path | None:
        given = options.value(self.config, "--kernels-file")
        return Path(given) if given else None

    @property
    def kernels_file(self) -> Path | None:
        """The project's own kernels.toml, by its whole path; None where there is none."""
        own = own_kernels_file(self.config.invocation_params.dir, file=self._given_file)
        return self.config.invocation_params.dir / own if own is not None else None

    @property
    def matrix_files(self) -> list[Path]:
        """The files of the project that the matrix in force was read from."""
        start = self.config.invocation_params.dir
        found = [self.kernels_file, lock_path(start, file=self._given_file), nearest_above(start, TRIED_FILE)]
        if self.kernels_file is not None:
            found.append(self.kernels_file.with_name(TRIED_FILE))
        return [start / path for path in found if path is not None and (start / path).is_file()]

    @cached_property
    def selected(self) -> tuple[Target, ...]:
        """The targets asked for, whether or not they can be had."""
        if "targets" in self.told:
            return tuple(self.matrix.target(name) for name in self.told["targets"])
        return self.room.targets(options.value(self.config, "--kernels"), self.arch)

    @property
    def asked(self) -> str | None:
        """The kernels asked for by --kernels, each of which must be had; None where it is what can be had of the default set."""
        return asked_for(options.value(self.config, "--kernels"))

    @property
    def arch(self) -> str:
        """The arches asked for, as they were written."""
        given: str | None = options.value(self.config, "--arch")
        return "all" if given is None else given

    @cached_property
    def room(self) -> MachineRoom:
        """The machine room; its progress shows in the terminal (of the one process that has it)."""
        capture = self.config.pluginmanager.getplugin("capturemanager")
        reporter = Quiet() if self.is_worker or capture is None else _Uncaptured(capture)
        return MachineRoom(
            self.matrix, accel=options.value(self.config, "--accel"), cold=options.value(self.config, "--cold"), reporter=reporter
        )

    @property
    def has_room(self) -> bool:
        """Whether the machine room was asked for."""
        return "room" in self.__dict__

    @property
    def spares(self) -> bool:
        """Whether a core is idle while a cell runs, so that the next one's machine can be restored meanwhile."""
        if "beside" in self.told:  # of this machine's workers, where others are elsewhere
            return spare.allowed(self.told["beside"])
        return spare.allowed(self.config.workerinput["workercount"] if self.is_worker else 1)  # type: ignore[attr-defined]

    @cached_property
    def unavailable(self) -> dict[str, str]:
        """The targets selected that cannot be had, and why."""
        if "targets" in self.told:
            return {}
        fetch = not self.config.getoption("collectonly")
        return self.room.unavailable(self.selected, asked=self.asked is not None, fetch=fetch)

    @property
    def targets(self) -> list[Target]:
        """The targets that run: all that were asked for by --kernels (`check_explicit` saw to them), of a bare run's what can be had."""
        if self.asked is not None:
            return list(self.selected)
        return [target for target in self.selected if str(target) not in self.unavailable]

    def check_explicit(self) -> None:
        """An explicit request is strict: what cannot be had is an error, never a silent skip."""
        parse_arches(self.arch)
        arch, targets = options.value(self.config, "--arch"), self.selected
        if not self.config.getoption("collectonly"):
            refuse_missing(targets, self.unavailable, kernels=self.asked, arch=arch)

    @cached_property
    def shard(self) -> sharding.Asked | None:
        """What --shard asks for; None for a whole run. Raises InputError."""
        return sharding.asked(self.config, self.told.get("seconds"))

    def wants(self, collector: Collector) -> bool:
        """Whether --collectors lets this one run."""
        given = options.value(self.config, "--collectors")
        return given is None or collector.name in [name.strip() for name in given.split(",")]

    @cached_property
    def libraries(self) -> tuple[Library, ...] | None:
        """What --loader says loads the objects; None where it is not given. Raises InputError."""
        given = options.value(self.config, "--loader")
        return loaders.chosen(given, where=self.spelled("--loader")) if given is not None else None

    def loaded(self, collector: Collector) -> list[Collector]:
        """The collector once for each library that is to load it, and with --stress each under load too.

        One with a loader of its own is loaded by that alone.
        """
        libraries = self.libraries or (collector.library,)
        each = list({one.name: one for one in map(collector.loaded_by, libraries)}.values())
        if options.value(self.config, "--atlas"):
            each = [one.model_copy(update={"atlas": True}) for one in each]
        if options.value(self.config, "--stress") and collector.stress is not None:
            each += [one.under_stress() for one in each]
        return each

    def check_collectors(self) -> None:
        """Raises InputError where --collectors named one that was not there."""
        given = options.value(self.config, "--collectors")
        if given is None or not self.collected:
            return
        wanted = [name.strip() for name in given.split(",") if name.strip()]
        unknown = [name for name in wanted if name not in self.collected]
        if unknown or not wanted:
            what = (
                f"unknown collector {unknown[0]!r}{did_you_mean(unknown[0], self.collected)}" if unknown else "no collector given"
            )
            raise InputError(what, where="--collectors", fix=f"collected here: {', '.join(sorted(self.collected))}")

    def spelled(self, option: str) -> str:
        """The name by which this run takes the option: another plugin may have the short one."""
        return options.spelled(self.config, option)

    def options(self) -> tuple[str, ...]:
        """The options that a reproduction needs besides kernel and arch."""
        accel, file = options.value(self.config, "--accel"), options.value(self.config, "--kernels-file")
        chosen = [f"{self.spelled('--accel')}={accel}"] if accel != "auto" else []
        chosen += [self.spelled("--cold")] if options.value(self.config, "--cold") else []
        chosen += [f"{self.spelled('--kernels-file')}={file}"] if file else []
        loader = options.value(self.config, "--loader")
        chosen += [f"{self.spelled('--loader')}={loader}"] if loader is not None else []
        chosen += [self.spelled(each) for each in ("--stress", "--atlas") if options.value(self.config, each)]
        return tuple(chosen)


class _Uncaptured(Terminal):
    """Progress that is seen although pytest captures output."""

    def __init__(self, capture: Any) -> None:
        super().__init__()
        self._capture = capture

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        """One step, drawn past the capture."""
        with self._capture.global_and_fixture_disabled(), super().step(label) as step:
            yield step
