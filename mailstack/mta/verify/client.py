"""smtpd's side of verify(8): ask the queue manager for an address, and wait for a probe, a little.

Questions and answers are datagrams (`service`). The socket has a name of the kernel's own choice and is
connected, so nobody but the queue manager's socket reaches it. A queue manager that is not there, or says
nothing, is a `None`: the caller defers.
"""

from __future__ import annotations

import asyncio
import os
import socket

from mailstack.mta import trigger
from mailstack.mta.verify.cache import Answer, Status
from mailstack.net.tasks import apart

PATIENCE = 5.0
"""Seconds for the queue manager to say what it knows."""
TRIES = 2
"""Times that a question is sent before the queue manager counts as gone."""
PAUSE = 0.02
"""Seconds until a question is sent again that the queue manager had no room for, or was not there for."""


class VerifyClient:
    """One process's questions. Belongs to one event loop."""

    def __init__(self, queue_directory: str) -> None:
        self._directory = os.path.join(queue_directory, "public")
        self._socket: socket.socket | None = None
        self._number = 0
        self._open: dict[str, asyncio.Queue[Answer | None]] = {}

    async def ask(self, address: str, polls: int, delay: float) -> Answer | None:
        """What is known of an address, or what a probe has found after `polls - 1` times `delay` seconds.

        `Status.TODO`: the probe takes longer. None: nobody could be asked.
        """
        return await apart(self._ask(address, polls, delay))

    async def _ask(self, address: str, polls: int, delay: float) -> Answer | None:
        self._number += 1
        number = f"{self._number:x}"
        answers = self._open[number] = asyncio.Queue()
        question = f"verify {number} {address.encode('utf-8', 'surrogateescape').hex()}".encode()
        try:
            answer = await self._first(question, answers)
            for _ in range(1, polls):
                if answer is None or answer.status is not Status.TODO:
                    break
                answer = await _next(answers, delay) or await self._first(question, answers)
            return answer
        finally:
            del self._open[number]

    async def _first(self, question: bytes, answers: asyncio.Queue[Answer | None]) -> Answer | None:
        """What the queue manager says at once."""
        for _ in range(TRIES):
            try:
                async with asyncio.timeout(PATIENCE):
                    while not self._send(question):  # noqa: ASYNC110 - nobody tells when there is room
                        await asyncio.sleep(PAUSE)
                    return await answers.get()
            except TimeoutError:
                continue
        return None

    def _send(self, question: bytes) -> bool:
        try:
            if self._socket is None:
                self._socket = trigger.connect(self._directory, named=True)
                asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read, self._socket)
            self._socket.send(question)
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        return True

    def _read(self, sock: socket.socket) -> None:
        while True:
            try:
                words = sock.recv(trigger.DATAGRAM).decode("ascii", "replace").split()
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            if len(words) == 3 and words[0] in self._open:
                self._open[words[0]].put_nowait(_decoded(words[1], words[2]))

    def close(self) -> None:
        """Let go of the socket; the next question makes another."""
        sock, self._socket = self._socket, None
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()


async def _next(answers: asyncio.Queue[Answer | None], seconds: float) -> Answer | None:
    """The next answer within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await answers.get()
    except TimeoutError:
        return None


def _decoded(status: str, text: str) -> Answer | None:
    try:
        found = Status(int(status))
        octets = bytes.fromhex(text) if text != "-" else b""
    except ValueError:
        return None
    return Answer(found, octets.decode("utf-8", "surrogateescape"))
