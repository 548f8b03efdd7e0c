"""What one client may do, counted over all smtpd processes of one master, also when one of them is killed."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_mta import MTA, Sinks, wait_for

LIMITS = """\
smtpd_client_event_limit_exceptions =
smtpd_client_connection_count_limit = 6
smtpd_client_message_rate_limit = 12
smtpd_peername_lookup = no
"""


@pytest.fixture
def mta(tmp_path: Path) -> Iterator[MTA]:
    sinks = Sinks()
    mta = MTA(tmp_path, sinks)
    with (mta.config / "main.cf").open("a") as file:
        file.write(LIMITS)
    mta.start()
    yield mta
    mta.stop()
    sinks.close()


def knock(port: int) -> tuple[socket.socket, bytes]:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        return sock, sock.recv(200)
    except OSError:
        sock.close()
        raise


def test_connections_are_counted_together(mta: MTA) -> None:
    socks, greetings = zip(*(knock(mta.port) for _ in range(12)), strict=True)
    assert sum(greeting.startswith(b"220 ") for greeting in greetings) == 6
    refused = {greeting for greeting in greetings if not greeting.startswith(b"220 ")}
    assert refused == {b"421 4.7.0 mail.x.test Error: too many connections from 127.0.0.1\r\n"}
    welcome = [sock for sock, greeting in zip(socks, greetings, strict=True) if greeting.startswith(b"220 ")]
    for sock in socks:
        if sock not in welcome:
            sock.close()
    with knock(mta.port)[0] as late:
        assert late.recv(200) == b""
    # The connections of a process that is killed do not count any more when another has taken its place.
    for pid in mta.children("smtpd"):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: six_are_welcome(mta.port), "the dead are forgotten")
    for sock in welcome:
        sock.close()


def six_are_welcome(port: int) -> bool:
    """Whether six clients at once are greeted."""
    found: list[tuple[socket.socket, bytes]] = []
    try:
        for _ in range(6):
            found.append(knock(port))  # noqa: PERF401  # what there is when one fails is closed below
    except OSError:
        return False  # a process is being replaced
    finally:
        for sock, _ in found:
            sock.close()
    return all(greeting.startswith(b"220 ") for _, greeting in found)


def test_messages_are_counted_together(mta: MTA) -> None:
    replies = []
    for _ in range(7):
        with smtplib.SMTP("127.0.0.1", mta.port, timeout=10) as client:
            client.ehlo("x")
            for _ in range(2):
                replies.append(client.mail("a@x.test")[0])
                client.rset()
    assert replies == [250] * 12 + [450] * 2
    with smtplib.SMTP("127.0.0.1", mta.other, timeout=10) as client:
        client.ehlo("x")
        assert client.mail("a@x.test")[0] == 250  # another service counts for itself
