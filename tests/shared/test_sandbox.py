"""Messages between a process and its sandbox: whole, in time, and never waited for in vain."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from headmap.sandbox import Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = socket.socketpair()
    with one, other:
        yield Channel(one), Channel(other)


def test_a_message_arrives_as_it_was_sent(ends: tuple[Channel, Channel]) -> None:
    body = bytes(range(256)) * 8192  # more than a socket holds
    sending = threading.Thread(target=ends[0].send, args=({"page": "Straße"}, body))
    sending.start()
    assert ends[1].receive() == ({"page": "Straße"}, body)
    sending.join()


def test_a_body_can_be_received_in_parts(ends: tuple[Channel, Channel]) -> None:
    ends[0].send({}, b"abcdef")
    head, length = ends[1].receive_head()
    parts = [bytearray(2), bytearray(length - 2)]
    for part in parts:
        ends[1].receive_into(memoryview(part))
    assert (head, parts) == ({}, [b"ab", b"cdef"])


def test_an_end_that_closes_within_a_message_is_told(ends: tuple[Channel, Channel]) -> None:
    ends[0].send({}, b"abcdef")
    ends[0].close()
    _, length = ends[1].receive_head()
    with pytest.raises(EOFError):
        ends[1].receive_into(memoryview(bytearray(length + 1)))


def test_a_thread_that_waits_can_be_woken(ends: tuple[Channel, Channel]) -> None:
    threading.Timer(0.05, ends[0].wake).start()
    with pytest.raises((EOFError, OSError)):
        ends[0].receive()


def test_nothing_is_waited_for_past_the_deadline() -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(TimeoutError):
        Channel(one, seconds=0.05).receive()
