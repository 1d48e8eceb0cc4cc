"""The agent's channel and QEMU's monitor, against a peer in this process."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmatrix.vm.channel import Channel, pack, unpack
from kmatrix.vm.qmp import Qmp, QmpError


@given(st.binary())
def test_bytes_survive_the_wire(data: bytes) -> None:
    assert unpack(pack(data)) == data


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    near, far = socket.socketpair()
    channel = Channel(near)
    yield channel, far
    channel.close()
    far.close()


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers())), st.data())
def test_messages_arrive_whole_however_they_are_cut(messages: list[dict[str, Any]], data: st.DataObject) -> None:
    near, far = socket.socketpair()
    channel = Channel(near)
    stream = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    got = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        far.sendall(stream[:cut])
        stream = stream[cut:]
        channel.fill()
        while (message := channel.take()) is not None:
            got.append(message)
    assert got == messages
    channel.close()
    far.close()


@given(st.lists(st.binary()), st.data())
def test_raw_bytes_stay_with_their_message_however_they_are_cut(pieces: list[bytes], data: st.DataObject) -> None:
    near, far = socket.socketpair()
    sender, channel = Channel(far), Channel(near)
    for number, piece in enumerate(pieces):
        sender.send({"number": number}, piece)
    stream, got = near.recv(1 << 20) if pieces else b"", []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        far.sendall(stream[:cut])
        stream = stream[cut:]
        channel.fill()
        while (message := channel.take()) is not None:
            got.append((message["number"], message.get("data", b"")))
    assert got == list(enumerate(pieces))
    sender.close()
    channel.close()


def test_a_message_larger_than_the_socket_goes_out_in_pieces(pair: tuple[Channel, socket.socket]) -> None:
    channel, far = pair
    text = "x" * (4 << 20)
    channel.send({"text": text})
    assert channel.sending
    received = bytearray()
    while channel.sending:
        received += far.recv(1 << 20)
        channel.flush()
    while not received.endswith(b"\n"):
        received += far.recv(1 << 20)
    assert json.loads(received) == {"text": text}


def test_the_end_is_seen_after_what_came_before_it(pair: tuple[Channel, socket.socket]) -> None:
    channel, far = pair
    far.sendall(b'{"a":1}\n{"b"')
    far.close()
    channel.fill()
    assert channel.take() == {"a": 1}
    assert channel.take() is None
    assert channel.ended
    channel.send({"to": "nobody"})
    assert not channel.sending


@pytest.mark.parametrize("line", [b"[1]\n", b"nonsense\n", b'"x"\n'])
def test_what_is_not_an_object_is_refused(pair: tuple[Channel, socket.socket], line: bytes) -> None:
    channel, far = pair
    far.sendall(line)
    channel.fill()
    with pytest.raises(ValueError, match=r"not an object|Expecting value"):
        channel.take()


class Monitor(threading.Thread):
    """QEMU's end: a greeting, then `answers` by command; an event before each."""

    def __init__(self, sock: socket.socket, answers: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.sock = sock
        self.answers = answers
        self.heard: list[str] = []
        self.fds: list[int] = []

    def run(self) -> None:
        self.sock.sendall(b'{"QMP": {}}\n')
        buffer = b""
        while True:
            data, fds, _, _ = socket.recv_fds(self.sock, 65536, 4)
            self.fds += fds
            if not data:
                return
            buffer += data
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                command = json.loads(line)["execute"]
                self.heard.append(command)
                answer = self.answers.get(command, {"return": {}})
                if answer is None:
                    self.sock.close()
                    return
                if answer != "silence":
                    self.sock.sendall(b'{"event": "X"}\n' + json.dumps(answer).encode() + b"\n")


def monitor(**answers: Any) -> tuple[Qmp, Monitor]:
    near, far = socket.socketpair()
    thread = Monitor(far, {name.replace("_", "-"): answer for name, answer in answers.items()})
    qmp = Qmp(near)
    thread.start()
    return qmp, thread


def test_commands_can_be_written_before_qemu_runs() -> None:
    near, far = socket.socketpair()
    qmp = Qmp(near)
    qmp.post([("one", {}), ("two", {"x": 1})])
    peer = Monitor(far, {"three": {"return": {"status": "fine"}}})
    peer.start()
    assert qmp.call("three") == {"status": "fine"}
    assert peer.heard == ["qmp_capabilities", "one", "two", "three"]


def test_a_refusal_says_why() -> None:
    qmp, _ = monitor(migrate={"error": {"class": "GenericError", "desc": "no such thing"}})
    with pytest.raises(QmpError, match="migrate: QEMU's monitor: no such thing"):
        qmp.call("migrate")


def test_a_refusal_of_what_was_sent_ahead_is_not_lost() -> None:
    qmp, _ = monitor(ahead={"error": {"desc": "refused"}})
    qmp.post([("ahead", {})])
    with pytest.raises(QmpError, match="refused"):
        qmp.call("now")


def test_silence_and_end_are_errors() -> None:
    qmp, _ = monitor(query="silence")
    with pytest.raises(QmpError, match="does not answer"):
        qmp.call("query", timeout=0.05)
    qmp, _ = monitor(query=None)
    with pytest.raises(QmpError, match="ended"):
        qmp.call("query")


def test_a_descriptor_can_be_given() -> None:
    qmp, peer = monitor()
    read, write = os.pipe()
    qmp.give("state", write)
    os.close(write)
    (given_fd,) = peer.fds
    os.write(given_fd, b"through")
    os.close(given_fd)
    assert os.read(read, 100) == b"through"
    os.close(read)
