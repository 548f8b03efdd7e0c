"""Connections in the queue of a listening socket: who has gone before its turn costs no session."""

from __future__ import annotations

import asyncio
import socket

from mailstack.net.accept import has_gone
from mailstack.net.listen import Server, bind_tcp
from mailstack.net.loop import run
from mailstack.net.stream import PeerAddress, Stream
from mailstack.net.tasks import TaskSet

GONE = 200
LIVE = 40
HELLO = b"220 hello\r\n"


def test_who_has_gone_before_its_turn_is_passed_over_and_the_others_are_served() -> None:
    sessions = 0
    passed: list[PeerAddress] = []

    async def handler(stream: Stream) -> None:
        nonlocal sessions
        sessions += 1
        stream.write(HELLO)
        while await stream.read(30.0):
            pass

    def gone(connection: socket.socket, address: PeerAddress) -> None:
        assert has_gone(connection)
        passed.append(address)

    async def whole() -> None:
        sock = bind_tcp("127.0.0.1", 0)
        leaving: list[socket.socket] = []
        staying: list[socket.socket] = []
        for number in range(GONE + LIVE):  # they stand in the queue, in this order
            client = socket.create_connection(sock.getsockname())
            (staying if number % 6 == 5 else leaving).append(client)
        names = {client.getsockname() for client in leaving}
        for client in leaving:
            client.close()
        tasks = TaskSet(lambda name, error: errors.append(error))
        server = Server(sock, handler, tasks, name="test", gone=gone)
        await server.start()
        loop = asyncio.get_running_loop()
        for client in staying:
            client.setblocking(False)
            assert await asyncio.wait_for(loop.sock_recv(client, 100), 30) == HELLO
            client.close()
        server.stop()
        await tasks.drain(30.0)
        assert set(passed) <= names

    errors: list[BaseException] = []
    run(whole())
    assert not errors
    # The event loop takes one itself now and then, which has a session, however short.
    assert sessions + len(passed) == GONE + LIVE
    assert len(passed) > GONE // 2


def test_a_client_that_has_said_something_before_it_closed_its_side_is_served() -> None:
    ours, client = socket.socketpair()
    with ours, client:
        assert not has_gone(ours)
        client.sendall(b"QUIT\r\n")
        client.shutdown(socket.SHUT_WR)
        assert not has_gone(ours)
        assert ours.recv(100) == b"QUIT\r\n"
        assert has_gone(ours)
