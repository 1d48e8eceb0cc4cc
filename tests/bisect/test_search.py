"""The search itself, the line of kernels, the state, and git: no guest."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.progress import Quiet
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.load import load_matrix
from kmatrix.runs import bisect, bisect_commits
from kmatrix.runs.bisect import Mark, Outcome, State, narrow, points


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
    matrix = load_matrix()

    def names(good: str, bad: str) -> list[str]:
        return [kernel.name for kernel in bisect.line(matrix, matrix.kernel(good), matrix.kernel(bad))]

    assert names("5.4", "6.12") == ["5.4", "5.10", "5.15", "6.1", "6.6", "6.12"]
    assert names("6.12", "5.4") == ["6.12", "6.6", "6.1", "5.15", "5.10", "5.4"]
    assert names("4.9-sim", "5.10") == ["4.9-sim", "4.14", "4.14-sim", "4.19", "5.4", "5.4-sim", "5.10"]
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


def attempts(state: State, says: dict[str, Outcome]) -> tuple[Callable[[str], Outcome], list[str]]:
    asked: list[str] = []

    def attempt(name: str) -> Outcome:
        asked.append(name)
        return state.keep(name, says[name])

    return attempt, asked


@pytest.mark.parametrize("passing", [True, False])
def test_an_end_is_tried_again(tmp_path: Path, passing: bool) -> None:
    """What the error says would be of no use otherwise: whatever kept it, a build that failed too."""
    path, question = tmp_path / "state.json", {"good": "5.4", "bad": "6.1"}
    dead = Outcome("6.1", "6.1", skipped="gcc is not installed", passing=passing)
    for _ in range(2):
        state = State.load(path, question)
        attempt, asked = attempts(state, {"5.4": outcome("5.4"), "6.1": dead})
        with pytest.raises(InfraError, match="gcc is not installed"):
            bisect.ends_of(state, ("5.4", "6.1"), attempt)
        assert "6.1" in asked
    state = State.load(path, question)
    attempt, asked = attempts(state, {"6.1": outcome("6.1", "partial")})
    assert bisect.ends_of(state, ("5.4", "6.1"), attempt)[1].behaviour == "partial"
    assert asked == ["6.1"]


def test_what_was_passed_over_for_a_passing_reason_is_tried_again(tmp_path: Path) -> None:
    state = State.load(tmp_path / "state.json", {})
    state.keep("a", outcome("a", skipped="does not build"))
    state.keep("b", Outcome("b", "b", skipped="no network", passing=True))
    assert set(state.outcomes) == {"a", "b"}  # not twice in one run
    assert set(State.load(state.path, {}).outcomes) == {"a"}


MANIFEST = """
schema = 1
[collector]
name = "x"
[[variant]]
name = "only"
behaviour = "full"
object = {object}
[[program]]
name = "p"
hook = "kprobe/x"
"""
LOADER = """
schema = 1
[collector]
name = "x"
[loader]
command = ["./agent"]
files = { agent = "build/agent-{goarch}", cat = "deb:coreutils/bin/cat", lib = { x86_64 = "lib.so" } }
[[variant]]
name = "only"
behaviour = "full"
[[program]]
name = "p"
hook = "kprobe/x"
"""


@pytest.mark.parametrize(
    ("manifest", "file"),
    [
        (MANIFEST.format(object='"build/x"'), "build/x_x86_bpfel.o"),
        (MANIFEST.format(object='"build/x-{arch}.o"'), "build/x-x86_64.o"),
        (MANIFEST.format(object='{ x86_64 = "build/one.o", arm64 = "build/two.o" }'), "build/one.o"),
        (LOADER, "build/agent-amd64"),
        (LOADER, "lib.so"),
    ],
)
def test_a_rebuilt_collector_is_another_question(tmp_path: Path, manifest: str, file: str) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "collector.toml").write_text(manifest)

    def asked() -> str:
        search = bisect.Search(load_collector(tmp_path), "x86_64", tmp_path, "auto", False, Quiet(), print)
        return str(search.question()["collector"])

    (tmp_path / file).write_text("1")
    first = asked()
    (tmp_path / "build/two.o").write_text("of the other arch")
    assert asked() == first
    (tmp_path / file).write_text("2")
    assert asked() != first


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


def walk(clone: bisect_commits._Clone, commits: list[str], change: int, dead: set[int]) -> int:
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
    clone = bisect_commits._Clone(tmp_path / "work", tree)
    assert walk(clone, commits, change, set()) <= 5
    assert clone.first_bad() == commits[change]
    assert clone.skipped() == []
    assert sorted(tree.rglob("*")) == before


def test_commits_that_cannot_be_built(repository: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = repository
    clone = bisect_commits._Clone(tmp_path / "work", tree)
    walk(clone, commits, 15, {13, 14, 15})
    assert clone.first_bad() == commits[16]
    assert set(clone.skipped()) == {commits[13], commits[14], commits[15]}


def test_commits_interrupted(repository: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Killed wherever it was: in the clone, in a checkout, between two files of `git bisect`. The next run begins git's part anew."""
    tree, commits = repository
    half = tmp_path / "work/source.half/.git"
    half.mkdir(parents=True)
    (half / "HEAD").write_text("")
    clone = bisect_commits._Clone(tmp_path / "work", tree)
    clone.start(commits[-1], commits[0])
    commit = clone.current()
    assert commit is not None
    clone.mark("bad", commit)
    git = clone.source / ".git"
    (git / "index.lock").touch()
    (git / "BISECT_LOG").unlink()
    (git / "BISECT_TERMS").write_text("")
    again = bisect_commits._Clone(tmp_path / "work", tree)
    assert walk(again, commits, 3, set()) <= 5
    assert again.first_bad() == commits[3]


def test_one_process_a_search(tmp_path: Path) -> None:
    with bisect_commits._alone(tmp_path / "work", fresh=True):
        (tmp_path / "work/source").mkdir()
        with pytest.raises(InfraError, match="another process"), bisect_commits._alone(tmp_path / "work", fresh=True):
            pass
        assert (tmp_path / "work/source").exists()
    with bisect_commits._alone(tmp_path / "work", fresh=False):
        assert (tmp_path / "work/source").exists()
    with bisect_commits._alone(tmp_path / "work", fresh=True):
        assert not (tmp_path / "work/source").exists()


def test_ends_of_two_branches(repository: tuple[Path, list[str]], tmp_path: Path) -> None:
    """git would begin, ask for the merge base, and ask again and again."""
    tree, commits = repository
    stream = b"commit refs/heads/stable\nmark :1\ncommitter t <t@example.org> 2000000000 +0000\ndata 3\nfix\n"
    stream += b"from %s\nM 644 inline fix\ndata 1\n1\n" % commits[10].encode()
    stream += b"commit refs/heads/other\ncommitter t <t@example.org> 2000000000 +0000\ndata 5\nother\nM 644 inline x\ndata 1\n1\n"
    subprocess.run(["git", "-C", tree, "fast-import", "--quiet"], input=stream, check=True)
    with pytest.raises(InputError, match="no ancestor") as caught:
        bisect_commits._Clone(tmp_path / "work", tree).start(commits[-1], "refs/remotes/origin/stable")
    assert f"--good {commits[10][:12]}" in str(caught.value.fix)
    with pytest.raises(InputError, match="no ancestor") as caught:
        bisect_commits._check_ancestry(tree, "other", "main")
    assert "one history" in str(caught.value.fix)


def test_git_that_does_not_go_on(repository: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = repository
    clone = bisect_commits._Clone(tmp_path / "work", tree)
    clone.start(commits[-1], commits[0])
    (clone.source / ".git/BISECT_TERMS").write_text("old\nnew\n")
    with pytest.raises(InfraError, match="git bisect bad failed"):
        clone.mark("bad", commits[15])


def test_ends_the_wrong_way_round(repository: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = repository
    with pytest.raises(InputError, match="no ancestor") as caught:
        bisect_commits._Clone(tmp_path / "work", tree).start(commits[0], commits[-1])
    assert "exchange the two" in str(caught.value.fix)
    with pytest.raises(InputError, match="no commit 'nosuch'"):
        bisect_commits._commit(tree, "nosuch", "--bad")
    with pytest.raises(InputError, match="no git tree"):
        bisect_commits._commit(tmp_path, "HEAD", "--bad")


@pytest.mark.parametrize(
    ("good", "bad", "line"),
    [
        ("6.1.170", "6.1.180", ["6.1.170", "6.1.172", "6.1.176", "6.1.180"]),
        (
            "6.1.180",
            "6.1.99",
            ["6.1.180", "6.1.176", "6.1.172", "6.1.170", "6.1.99"],
        ),  # by number, and an end that nobody lists any more
    ],
)
def test_point_releases_between_the_ends(good: str, bad: str, line: list[str]) -> None:
    had = ["6.1.170", "6.1.172", "6.1.176", "6.1.180", "6.1.192"]
    assert [kernel.name for kernel in points(load_matrix(), good, bad, had)] == line


def test_one_point_release_is_no_line() -> None:
    with pytest.raises(InputError, match="are the same release"):
        points(load_matrix(), "6.1.170", "6.1.170", [])
