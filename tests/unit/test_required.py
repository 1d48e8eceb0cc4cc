"""$KMATRIX_REQUIRE: in CI, what has to be here is not skipped over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import conftest
from kmatrix import kernels

SKIPPED, FAILED = pytest.skip.Exception, pytest.fail.Exception


@pytest.fixture
def nothing_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "availability", lambda *_, **__: "cannot be had")
    monkeypatch.delenv(conftest.REQUIRE, raising=False)


@pytest.mark.usefixtures("nothing_had")
def test_a_kernel_is_skipped_or_failed_for(need: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(target: str) -> type[BaseException]:
        with pytest.raises((SKIPPED, FAILED), match=f"{target} cannot be had") as ended:
            need(target)
        return ended.type

    assert ends("6.1-arm64") is SKIPPED
    monkeypatch.setenv(conftest.REQUIRE, "debian")
    assert ends("6.1-arm64") is FAILED
    assert ends("5.4-sim-arm64") is FAILED  # a 6.1, really
    assert ends("5.4-arm64") is SKIPPED


def test_so_is_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(conftest.REQUIRE, raising=False)
    conftest.need_programs("sh")
    with pytest.raises(SKIPPED, match="no-such-tool not installed: apt-get install tools"):
        conftest.need_programs("sh", "no-such-tool", apt="tools")
    monkeypatch.setenv(conftest.REQUIRE, "debian")
    with pytest.raises(FAILED, match="no-such-tool"):
        conftest.need_programs("sh", "no-such-tool")
