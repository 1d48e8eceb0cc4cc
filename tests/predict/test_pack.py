"""Files of profiles: what goes in comes out, and what is none, or not whole, is refused in words."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from kmatrix.host.errors import InputError
from kmatrix.predict import collect, pack, profile, select, store
from kmatrix.predict.encode import Encoder
from kmatrix.predict.pack import Pack
from kmatrix.predict.types import View, parse
from tests.predict.kernels import kernel

META = {"name": "a"}


def test_a_line_that_two_profiles_share_stands_once(tmp_path: Path) -> None:
    one = {"types": {"sx": ["S4{a:0iint;,}"], "sy": ["S8{}", "S9{}"]}, "config": {"HZ": ["250"]}}
    two = {"types": {"sx": ["S4{a:0iint;,}"], "sy": ["S8{}"]}, "config": {"HZ": ["100"]}}
    path = tmp_path / "two.kmp"
    pack.write(path, *pack.merged([({"name": "one"}, one), ({"name": "two"}, two)]))
    found = Pack(path)
    assert [meta["name"] for meta in found.metas] == ["one", "two"]
    assert found.get("types", "sx") == ((3, "S4{a:0iint;,}"),)
    assert found.get("types", "sy") == ((3, "S8{}"), (1, "1~S9{}"))
    assert found.get("types", "sz") == found.get("events", "none/such") == ()
    assert dict(found.lines("config")) == {"HZ": ((1, "250"), (2, "100"))}
    assert pack.contents(found, 0)["types"] == one["types"]


def test_many_blocks(tmp_path: Path) -> None:
    lines = {f"name{number:06}": [f"{number}" * 40] for number in range(9000)}
    path = tmp_path / "many.kmp"
    pack.write(path, *pack.merged([(META, {"names": lines})]))
    found = Pack(path)
    assert all(found.get("names", name) == ((1, values[0]),) for name, values in lines.items())
    assert found.get("names", "a") == found.get("names", "zz") == found.get("names", "name000000a") == ()


def test_what_is_no_file_of_profiles(tmp_path: Path) -> None:
    path = tmp_path / "it.kmp"
    pack.write(path, *pack.merged([(META, {"types": {"sx": ["S4{}"]}})]))
    good = path.read_bytes()
    for data, words in (
        (b"", "not a file of kernel profiles"),
        (b"\x7fELF" + good[4:], "not a file of kernel profiles"),
        (good[:-1], "damaged"),
        (good[:60] + bytes([good[60] ^ 1]) + good[61:], "damaged"),
        (good[:4] + b"\x09\x00" + good[6:], "schema 9, and this kmatrix reads schema 1: a newer kmatrix wrote it"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=words) as error:
            Pack(path)
        assert error.value.where == str(path)
        assert error.value.fix
    with pytest.raises(InputError, match="No such file"):
        Pack(tmp_path / "none.kmp")


def test_a_capture_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "capture.json.gz"
    for data, words in (
        (b"{", "not a whole capture"),
        (gzip.compress(b"{}")[:-3], "not a whole capture"),
        (gzip.compress(b'{"some": 1}'), "not a whole capture"),
        (json.dumps({"capture": collect.SCHEMA + 1}).encode(), "has schema 2"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=words):
            profile.read_capture(path)
    with pytest.raises(InputError, match="is damaged"):
        profile.of_capture({"machine": "riscv64"}, "it")


def test_a_btf_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "it.btf"
    for data in (b"", b"\x7fELF" * 20, b"\xeb\x9f" + bytes(60)):
        path.write_bytes(data)
        with pytest.raises(InputError, match="the BTF cannot be read"):
            profile.of_btf(path, "5.4.0", "x86_64")


def test_types_come_out_as_they_went_in(tmp_path: Path) -> None:
    on = kernel(
        tmp_path,
        "typedef unsigned long u64; enum big { HUGE = 1ull << 40 }; enum minus { LESS = -2, MORE };"
        "struct deep { union { int a; struct { char b; u64 c : 5; }; }; const volatile char *names[3][2]; int (*call)(struct deep *, ...); void *none; };"
        "struct deep d; enum big b; enum minus m;",
    )
    view = View(on.pack, 0, 1)
    ((_, deep),) = view.named("s", "deep")
    assert view.size(deep) == 8 + 48 + 8 + 8
    assert [name for name, *_ in deep.members] == ["", "names", "call", "none"]
    union = deep.members[0][3]
    assert (union.kind, union.members[0][0], union.members[1][3].members[1][1:3]) == ("U", "a", (8, 5))
    assert view.named("e", "minus")[0][1].values == (("LESS", -2), ("MORE", -1))
    (big,) = [node for letter in "eE" for _, node in view.named(letter, "big")]  # clang writes enum64 from 16 on
    assert big.values[0][0] == "HUGE"
    assert big.kind == "N" or big.values[0][1] == 1 << 40
    function = view.bare(view.bare(deep.members[2][3]).inner or deep)
    assert [part.kind for *_, part in function.members] == ["*", "."]


@pytest.mark.parametrize("text", ["", "Q", "S4{", "S4{a:0", "[x]v", "*"])
def test_a_line_that_is_no_type(text: str) -> None:
    with pytest.raises((ValueError, IndexError, AssertionError)):
        parse(text)


def test_every_type_of_the_shipped_profiles_can_be_read() -> None:
    here = store.opened(store.SHIPPED)
    count = 0
    for number, (name, values) in enumerate(here.lines("types")):
        if number % 25 == 0:
            for _, value in values:
                (text,) = pack.ordered([value])
                _, bar, rest = text.partition("|")
                parse(rest if bar else text)
                count += 1
        assert name[0] in "suetifEwxa"
    assert count > 1000


def test_the_shipped_profiles() -> None:
    names = [each.name for each in store.kernels() if each.pack.path == store.SHIPPED]
    assert names == [
        f"{version}-{arch}" for version in ("4.14", "5.4", "5.10", "5.15", "6.1", "6.12", "6.18") for arch in ("x86_64", "arm64")
    ]
    assert store.SHIPPED.stat().st_size < 14 * 400_000
    known = {each.name: each for each in store.kernels()}
    assert not known["4.14-x86_64"].btf
    assert known["5.4-arm64"].has("helper:bpf_ringbuf_output") is False
    assert known["6.1-x86_64"].may_call(130, "kprobe", "kprobe", sleepable=False)


def test_profiles_are_chosen_as_kernels_are() -> None:
    def names(expression: str | None, arch: str = "x86_64") -> list[str]:
        return [each.name for each in select.kernels(expression, arch)]

    assert names("5.4,6.1") == ["5.4-x86_64", "6.1-x86_64"]
    assert names(">=6.12") == ["6.12-x86_64", "6.18-x86_64"]
    assert names("<=5") == names("4.14..5") == names("<6") == ["4.14-x86_64", "5.4-x86_64", "5.10-x86_64", "5.15-x86_64"]
    assert names("5.4..5.15", "arm64") == ["5.4-arm64", "5.10-arm64", "5.15-arm64"]
    assert names("6.1-x86_64", "all") == ["6.1-x86_64"]
    assert len(names(None, "all")) == len(names("all", "all")) >= 14
    with pytest.raises(InputError, match=r"no profile '6\.11'"):
        names("6.11")
    with pytest.raises(InputError, match="no profile is in '>=99'"):
        names(">=99")


def test_of_a_btf_file_and_a_table_of_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_PROFILES", str(tmp_path / "own.kmp"))
    made = kernel(tmp_path, "struct sock { int a; }; struct sock s;", "vendor", "4.18.0-305.el8")
    btf = tmp_path / "vendor.btf"
    store.add([profile.of_btf(btf, "4.18.0-305.el8", "x86_64", "rhel8", {"helper:bpf_ringbuf_output": True, "map:ringbuf": True})])
    found = store.named("rhel8-x86_64")
    assert found.version == made.version == (4, 18)
    assert found.takes_map("ringbuf")
    assert not made.takes_map("ringbuf")
    assert found.probes("vfs_open") is None
    store.add([profile.of_btf(btf, "4.18.0-348.el8", "x86_64", "rhel8")])
    assert [each.meta["release"] for each in store.kernels() if each.meta["kernel"] == "rhel8"] == ["4.18.0-348.el8"]
    store.remove("rhel8-x86_64")
    with pytest.raises(InputError, match="no profile 'rhel8-x86_64' of its own"):
        store.remove("rhel8-x86_64")


def test_btf_that_is_cut_short() -> None:
    with pytest.raises(ValueError, match="cut short"):
        Encoder(b"\x9f\xeb\x01\x00" + (24).to_bytes(4, "little") + b"\x00" * 4 + (99).to_bytes(4, "little") * 3)
