"""Names that are spelled nearly like one that is not there."""

from __future__ import annotations

import pytest

from kmatrix.guest.spelling import MOST, ends, nearly
from kmatrix.guest.why import strings_with

KNOWN = ("tcp_v4_connect", "tcp_v4_conn_request", "tcp_v6_connect", "migrate_misplaced_folio", "vfs_read", "vfs_readv", "do_exit")


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("tcp_v4_connekt", "tcp_v4_connect"),
        ("tcp_v4_conect", "tcp_v4_connect"),
        ("tpc_v4_connect", "tcp_v4_connect"),  # its end is right
        ("migrate_misplaced_page", "migrate_misplaced_folio"),
        ("vfs_raed", "vfs_read"),
    ],
)
def test_a_misspelt_or_renamed_function_is_found(wanted: str, first: str) -> None:
    assert nearly(wanted, KNOWN)[0] == first


@pytest.mark.parametrize("wanted", ["md_flush_request", "nowhere_to_be_found", "exit", ""])
def test_what_is_spelled_otherwise_is_not(wanted: str) -> None:
    assert nearly(wanted, KNOWN) == []


def test_the_name_itself_is_not_among_them_and_there_are_few() -> None:
    assert "vfs_read" not in nearly("vfs_read", KNOWN)
    assert len(nearly("some_function", [f"some_functio{number}" for number in range(10)])) == 3


def test_of_many_names_those_around_it_in_the_alphabet_are_compared() -> None:
    many = [f"trace_event_{number:05}" for number in range(3 * MOST)]
    assert set(nearly("trace_event_01l00", many)) <= set(many[1500:2500])
    assert set(nearly("trace_event_x0001", many)) <= set(many[-MOST:])
    assert nearly("trace_event_x0001", many)


def test_the_ends_of_short_and_long_names() -> None:
    assert ends("vfs_raed") == ("vfs_", "raed")
    assert ends("tcp_v4_connekt") == ("tcp_v4", "onnekt")


def test_the_strings_of_a_btf_by_a_part_of_them_or_an_end() -> None:
    data = b"\0tcp_v4_connect\0old_tcp_v4_connect\0tcp_v4_rcv\0a-b\0"
    assert strings_with(data, b"tcp_v4") == {"tcp_v4_connect", "old_tcp_v4_connect", "tcp_v4_rcv"}
    assert strings_with(data, b"\0tcp_v4") == {"tcp_v4_connect", "tcp_v4_rcv"}
    assert strings_with(data, b"connect\0") == {"tcp_v4_connect", "old_tcp_v4_connect"}
    assert strings_with(data, b"a-") == set()
