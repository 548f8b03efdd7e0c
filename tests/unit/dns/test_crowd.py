"""Who is answered while more questions come than can be answered."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import dns.message
import pytest

from mailstack.dns import server as server_module
from mailstack.dns.crowd import EACH, HOST, WINDOW, Crowd, is_crowded
from mailstack.dns.server import DnsServer, UdpSocket
from mailstack.net.datagrams import batch_of
from mailstack.net.log import Log
from tests.unit.dns.world import responder


def sender(host: int, port: int) -> bytes:
    return port.to_bytes(2, "big") + bytes((192, 0, 2, host))


def test_a_flood_from_one_port_leaves_room_for_others_at_its_address() -> None:
    crowd = Crowd()
    assert crowd.chosen([sender(1, 1000)] * (WINDOW // 2)) == list(range(EACH))
    assert crowd.chosen([sender(1, 1000), sender(1, 1001), sender(2, 1000)]) == [1, 2]


def test_a_flood_from_many_ports_leaves_room_for_other_addresses() -> None:
    crowd = Crowd()
    assert crowd.chosen([sender(1, port) for port in range(WINDOW // 2)]) == list(range(HOST))
    assert crowd.chosen([sender(1, WINDOW), sender(2, 1)]) == [1]


def test_everybody_begins_anew_with_the_next_window() -> None:
    crowd = Crowd()
    answered = [len(crowd.chosen([sender(1, 1)] * (WINDOW // 2))) for _ in range(4)]
    assert answered == [EACH, 0, EACH, 0]


def test_who_sends_no_questions_is_not_heard_before_the_next_window() -> None:
    crowd = Crowd()
    crowd.blame(sender(1, 1))
    assert crowd.chosen([sender(1, 1), sender(1, 2)]) == [1]


def test_the_sender_of_a_datagram_is_its_port_and_address() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with (
            socket.socket(family, socket.SOCK_DGRAM) as ours,
            socket.socket(family, socket.SOCK_DGRAM) as one,
        ):
            ours.bind((host, 0))
            one.bind((host, 0))
            batch = batch_of(ours)
            assert batch is not None
            one.sendto(b"x", ours.getsockname())
            seen: list[bytes] = []
            batch.exchange(lambda _data, index, b=batch, s=seen: s.append(b.sender(index)))  # type: ignore[misc]
            port = one.getsockname()[1].to_bytes(2, "big")
            assert [octets[:2] for octets in seen] == [port]
            assert seen[0].endswith(socket.inet_pton(family, host))


def test_a_client_is_answered_beside_a_flood_that_fills_the_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "is_crowded", lambda _sock: True)

    async def scenario() -> None:
        server = DnsServer(responder(tmp_path), Log("named", "test", os.open(os.devnull, os.O_WRONLY)))
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            ours.bind(("127.0.0.1", 0))
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
            for one in (flood, client):
                one.setblocking(False)
                one.connect(ours.getsockname())
            udp = UdpSocket(server, ours)
            wire = dns.message.make_query("rich.test", "SOA").to_wire()
            for _ in range(200):
                flood.send(wire)
            client.send(wire)
            udp._readable()
            udp._readable()
            assert client.recv(4096)[:2] == wire[:2]
            answered = 0
            while True:
                try:
                    flood.recv(4096)
                except BlockingIOError:
                    break
                answered += 1
            assert 64 <= answered <= 64 + EACH
            udp.close()

    asyncio.run(scenario())


def test_a_socket_is_crowded_when_half_of_its_buffer_is_taken() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood,
    ):
        ours.bind(("127.0.0.1", 0))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        assert not is_crowded(ours)
        for _ in range(100):
            flood.sendto(b"x" * 100, ours.getsockname())
        assert is_crowded(ours)
