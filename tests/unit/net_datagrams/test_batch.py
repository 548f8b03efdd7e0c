"""Datagrams received and answered many at a time."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mailstack.net.datagrams import COUNT, SLOT, Batch, batch_of


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((request.param, 0))
        yield sock


def batch(server: socket.socket) -> Batch:
    made = batch_of(server)
    assert made is not None
    return made


def client(server: socket.socket) -> socket.socket:
    sock = socket.socket(server.family, socket.SOCK_DGRAM)
    sock.connect(server.getsockname())
    sock.settimeout(10)
    return sock


def test_each_client_gets_its_own_answer(server: socket.socket) -> None:
    """Some get none, and one gets an answer that has no room in the batch."""
    clients = [client(server) for _ in range(COUNT + 6)]
    datagrams = batch(server)

    def answer(data: bytes, index: int) -> bytes | None:
        number = int(data)
        assert datagrams.peer(index) == clients[number].getsockname()[:2]
        if number % 3 == 0:
            return None
        return b"x" * (SLOT + number) if number == 7 else b"to %d" % number

    for number, sock in enumerate(clients):
        sock.send(b"%d" % number)
    assert [datagrams.exchange(answer) for _ in range(3)] == [COUNT, 6, -1]
    for number, sock in enumerate(clients):
        with sock:
            if number % 3:
                wanted = b"x" * (SLOT + number) if number == 7 else b"to %d" % number
                assert sock.recv(2 * SLOT) == wanted
            else:
                sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    sock.recv(SLOT)


def test_a_datagram_is_as_long_as_it_came(server: socket.socket) -> None:
    datagrams = batch(server)
    with client(server) as sock:
        for size in (SLOT, 1, 0, SLOT + 1, 512):
            sock.send(b"y" * size)
        came: list[int] = []
        datagrams.exchange(lambda data, _: came.append(len(data)))
        assert came == [SLOT, 1, 0, SLOT, 512]


def test_an_answer_that_cannot_be_sent_does_not_stop_the_others(server: socket.socket) -> None:
    datagrams = batch(server)
    with client(server) as first, client(server) as second:
        for sock in (first, second):
            sock.send(b"question")

        def answer(data: bytes, index: int) -> bytes:
            if index == 0:
                datagrams._addresses.octets[2:4] = b"\0\0"  # the kernel sends nothing to port 0
            return b"answer"

        assert datagrams.exchange(answer) == 2
        assert second.recv(SLOT) == b"answer"
