"""smtpd asks a queue manager that this test plays."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailstack.mta import trigger
from mailstack.mta.verify import client as client_module
from mailstack.mta.verify.cache import Answer, Status
from mailstack.mta.verify.client import VerifyClient
from tests.unit.mta_smtpd.serving import running

TODO, OK, NO = (
    b"3 " + b"wait".hex().encode(),
    b"0 " + b"250 Ok".hex().encode(),
    b"2 " + b"550 no".hex().encode(),
)
Answerer = Callable[[str], list[bytes]]


@contextmanager
def queue_manager(directory: Path, answer: Answerer) -> Iterator[list[str]]:
    """Answer questions for the time of the block; the addresses asked for so far."""
    asked: list[str] = []
    sock = trigger.bind(str(directory / "public"))
    loop = asyncio.get_running_loop()

    def read() -> None:
        data, peer = sock.recvfrom(4096)
        word, number, address = data.decode().split()
        assert word == "verify"
        asked.append(bytes.fromhex(address).decode())
        for text in answer(asked[-1]):
            sock.sendto(number.encode() + b" " + text, peer)

    loop.add_reader(sock.fileno(), read)
    try:
        yield asked
    finally:
        loop.remove_reader(sock.fileno())
        sock.close()


def ask(directory: Path, answer: Answerer, polls: int = 3, delay: float = 0.01) -> tuple[Answer | None, int]:
    """The client's answer, and how often it has asked."""

    async def main() -> tuple[Answer | None, int]:
        with queue_manager(directory, answer) as asked:
            client = VerifyClient(str(directory))
            try:
                return await client.ask("grün@x.test", polls, delay), len(asked)
            finally:
                client.close()

    return asyncio.run(main())


def test_what_is_known_is_asked_once(tmp_path: Path) -> None:
    assert ask(tmp_path, lambda address: [OK] if address == "grün@x.test" else []) == (
        Answer(Status.OK, "250 Ok"),
        1,
    )


def test_a_probe_that_is_under_way_is_waited_for(tmp_path: Path) -> None:
    assert ask(tmp_path, lambda _: [TODO, NO], delay=5) == (Answer(Status.BOUNCE, "550 no"), 1)
    assert ask(tmp_path, lambda _: [TODO]) == (Answer(Status.TODO, "wait"), 3)
    assert ask(tmp_path, lambda _: [TODO], polls=1) == (Answer(Status.TODO, "wait"), 1)


def test_nobody_there_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PATIENCE", 0.03)
    assert ask(tmp_path, lambda _: []) == (None, 2)
    assert ask(tmp_path, lambda _: [b"-1 -"])[0] is None

    async def alone() -> Answer | None:
        return await VerifyClient(str(tmp_path / "nowhere")).ask("a@x.test", 3, 0.01)

    assert asyncio.run(alone()) is None


def test_only_the_queue_manager_is_heard(tmp_path: Path) -> None:
    """A datagram from somebody else does not reach the client's socket."""

    async def main() -> None:
        with queue_manager(tmp_path, lambda _: []):
            sock = trigger.connect(str(tmp_path / "public"), named=True)
            with sock, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger, pytest.raises(OSError):
                stranger.sendto(b"1 0 -", sock.getsockname())

    asyncio.run(main())


RESTRICTED = "smtpd_recipient_restrictions = reject_unverified_recipient, permit_mynetworks, reject\n"


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ([OK], b"250 2.1.5 Ok"),
        ([NO], b"550 5.1.1 <a@relay.test>: Recipient address rejected: undeliverable address: 550 no"),
        (
            [TODO, b"1 " + b"450 busy".hex().encode()],
            b"450 4.1.1 <a@relay.test>: Recipient address rejected: unverified address: 450 busy",
        ),
        ([b"-1 -"], b"450 4.1.1 <a@relay.test>: Recipient address rejected: address verification problem"),
    ],
)
def test_what_clients_are_told(tmp_path: Path, answer: list[bytes], reply: bytes) -> None:
    extra = (
        RESTRICTED
        + "mynetworks = 127.0.0.0/8\nunverified_recipient_reject_code = 550\nsmtpd_relay_restrictions =\n"
        + "smtpd_reject_unlisted_recipient = no\n"
    )

    async def main() -> bytes:
        async with running(tmp_path, extra) as smtpd:
            with queue_manager(tmp_path / "queue", lambda _: answer):
                stream = await smtpd.connect()
                said = await stream.read(5)
                for command in (b"EHLO x", b"MAIL FROM:<b@y.test>", b"RCPT TO:<a@relay.test>"):
                    stream.write(command + b"\r\n")
                    said = await stream.read(10)
                smtpd.settings.compiler.close()
                return said.rstrip()

    assert asyncio.run(main()) == reply
