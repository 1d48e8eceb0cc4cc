"""The boards of these tests: one VM for all of them, of 6.12-x86_64; by hand, others: KMATRIX_BOARDS=6.12-x86_64,5.10-arm64."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from conftest import need_programs
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.load import load_matrix
from kmatrix.vm import VmSpec
from kmatrix.vm.guest_image import ImageStore
from tests.boards.vm_board import VmBoard

BOARDS = os.environ.get("KMATRIX_BOARDS", "6.12-x86_64").split(",")


@pytest.fixture(scope="session", params=BOARDS)
def board(
    request: pytest.FixtureRequest, need: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VmBoard]:
    """A machine that runs, and that only SSH leads to."""
    need_programs("ssh-keygen", apt="openssh-client")
    need(request.param)
    target = load_matrix().target(request.param)
    kernel, image = KernelStore().find(target.kernel.name, target.arch), ImageStore().find(target.arch)
    assert kernel is not None
    if image is None:
        pytest.skip(f"no guest image for {target.arch}: kmatrix images build --arch {target.arch}")
    board = VmBoard(VmSpec(kernel, image), tmp_path_factory.mktemp("board"), name=f"vmboard{BOARDS.index(request.param)}")
    try:
        yield board
    finally:
        board.close()
