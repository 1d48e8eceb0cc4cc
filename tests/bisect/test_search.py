"""The search itself, the line of kernels, the state, and git: no guest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmatrix import bisect, config
from kmatrix.bisect import Mark, Outcome, State, narrow
from kmatrix.errors import InfraError, InputError


@given(st.integers(2, 200), st.data())
def test_it_finds_the_change(count: int, data: st.DataObject) -> None:
    """Whichever kernel is the first changed one, and whichever cannot be tried: found in logarithmic time, or narrowed to the untried."""
    change = data.draw(st.integers(1, count - 1))
    dead = data.draw(st.sets(st.integers(1, count - 2), max_size=count // 4)) if count > 2 else set()
    marks: list[Mark | None] = ["good", *[None] * (count - 2), "bad"]
    tried = 0
    while (at := narrow(marks)).next is not None:
        assert marks[at.next] is None
        marks[at.next] = "skip" if at.next in dead else "bad" if at.next >= change else "good"
        tried += 1
    assert at.good < change <= at.bad
    assert all(marks[between] == "skip" for between in range(at.good + 1, at.bad))
    assert tried <= count.bit_length() + len(dead)


def test_nothing_between() -> None:
    assert narrow(["good", "bad"]) == bisect.Narrowed(0, 1, None)


def outcome(name: str, behaviour: str | None = "full", failure: str | None = None, skipped: str | None = None) -> Outcome:
    return Outcome(name, name, behaviour, failure, skipped=skipped)


@pytest.mark.parametrize(
    ("other", "mark"),
    [
        (outcome("b"), "good"),
        (outcome("b", "partial"), "bad"),
        (outcome("b", "full", "wrong-data"), "bad"),
        (outcome("b", None, "kernel"), "bad"),
        (outcome("b", None, None, "does not boot"), "skip"),
    ],
)
def test_what_counts_as_changed(other: Outcome, mark: str) -> None:
    assert other.mark(outcome("a")) == mark


def test_the_line_of_kernels() -> None:
    matrix = config.load_matrix()

    def names(good: str, bad: str) -> list[str]:
        return [kernel.name for kernel in bisect.line(matrix, matrix.kernel(good), matrix.kernel(bad))]

    assert names("5.4", "6.12") == ["5.4", "5.10", "5.15", "6.1", "6.6", "6.12"]
    assert names("6.12", "5.4") == ["6.12", "6.6", "6.1", "5.15", "5.10", "5.4"]
    assert names("4.9-sim", "5.10") == ["4.9-sim", "4.14", "4.14-sim", "5.4", "5.4-sim", "5.10"]
    with pytest.raises(InputError, match="same version"):
        names("6.1", "6.1-nobtf")


def test_state_is_of_one_question(tmp_path: Path) -> None:
    state = State.load(tmp_path / "a/state.json", {"good": "5.4", "bad": "6.1"})
    state.keep("5.4", outcome("5.4"))
    assert State.load(state.path, state.question).outcomes == {"5.4": outcome("5.4")}
    with pytest.raises(InputError, match="other bad") as caught:
        State.load(state.path, {"good": "5.4", "bad": "6.12"})
    assert "--reset" in str(caught.value.fix)
    state.path.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        State.load(state.path, state.question)


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, list[str]]:
    """Thirty commits; returns them from the oldest to the newest."""
    tree = tmp_path / "tree"
    stream = b""
    for number in range(30):
        text = str(number).encode()
        stream += b"commit refs/heads/main\nmark :%d\ncommitter t <t@example.org> %d +0000\n" % (number + 1, 10**9 + number)
        stream += b"data %d\nnumber %s\n" % (len(text) + 7, text) + (b"from :%d\n" % number if number else b"")
        stream += b"M 644 inline number\ndata %d\n%s\n" % (len(text), text)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", tree], check=True)
    subprocess.run(["git", "-C", tree, "fast-import", "--quiet"], input=stream, check=True)
    listed = subprocess.run(["git", "-C", tree, "rev-list", "--reverse", "main"], check=True, capture_output=True, text=True)
    return tree, listed.stdout.split()


def walk(clone: bisect._Clone, commits: list[str], change: int, dead: set[int]) -> int:
    clone.start(commits[-1], commits[0])
    tried = 0
    while (commit := clone.current()) is not None:
        clone.checkout(commit)
        number = int((clone.source / "number").read_text())
        clone.mark("skip" if number in dead else "bad" if number >= change else "good", commit)
        tried += 1
        assert tried < 30
    return tried


@pytest.mark.parametrize("change", [1, 17, 29])
def test_commits(repository: tuple[Path, list[str]], tmp_path: Path, change: int) -> None:
    tree, commits = repository
    before = sorted(tree.rglob("*"))
    clone = bisect._Clone(tmp_path / "work", tree)
    assert walk(clone, commits, change, set()) <= 5
    assert clone.first_bad() == commits[change]
    assert clone.skipped() == []
    assert sorted(tree.rglob("*")) == before


def test_commits_that_cannot_be_built(repository: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = repository
    clone = bisect._Clone(tmp_path / "work", tree)
    walk(clone, commits, 15, {13, 14, 15})
    assert clone.first_bad() == commits[16]
    assert set(clone.skipped()) == {commits[13], commits[14], commits[15]}


def test_commits_interrupted(repository: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Killed wherever it was: in the clone, in a checkout, between two files of `git bisect`. The next run begins git's part anew."""
    tree, commits = repository
    half = tmp_path / "work/source.half/.git"
    half.mkdir(parents=True)
    (half / "HEAD").write_text("")
    clone = bisect._Clone(tmp_path / "work", tree)
    clone.start(commits[-1], commits[0])
    commit = clone.current()
    assert commit is not None
    clone.mark("bad", commit)
    git = clone.source / ".git"
    (git / "index.lock").touch()
    (git / "BISECT_LOG").unlink()
    (git / "BISECT_TERMS").write_text("")
    again = bisect._Clone(tmp_path / "work", tree)
    assert walk(again, commits, 3, set()) <= 5
    assert again.first_bad() == commits[3]


def test_one_process_a_search(tmp_path: Path) -> None:
    with bisect._alone(tmp_path / "work", fresh=True):
        (tmp_path / "work/source").mkdir()
        with pytest.raises(InfraError, match="another process"), bisect._alone(tmp_path / "work", fresh=True):
            pass
        assert (tmp_path / "work/source").exists()
    with bisect._alone(tmp_path / "work", fresh=False):
        assert (tmp_path / "work/source").exists()
    with bisect._alone(tmp_path / "work", fresh=True):
        assert not (tmp_path / "work/source").exists()


def test_ends_the_wrong_way_round(repository: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = repository
    with pytest.raises(InputError, match="git says"):
        bisect._Clone(tmp_path / "work", tree).start(commits[0], commits[-1])
    with pytest.raises(InputError, match="no commit 'nosuch'"):
        bisect._commit(tree, "nosuch", "--bad")
    with pytest.raises(InputError, match="no git tree"):
        bisect._commit(tmp_path, "HEAD", "--bad")
