"""Plays a written dialogue against a listening server.

    # a comment
    c -> USER zs                 the client sends this line and CRLF
    c => USER zs\\n               the client sends exactly this (escapes as in a Python string)
    c <- +OK                     the server answers with exactly this line
    c <~ \\+OK .* ready           … with a line that matches this
    c tls                        the client shakes hands
    c shut                       the client closes its side
    c closed                     the server closes

`d` in place of `c` is a second client; a client connects when it is first named. What a group `(?P<name>…)`
has matched stands for `${name}` in the lines that follow.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from mailstack.net.stream import Stream

TIMEOUT = 10.0
_KEPT = re.compile(r"\$\{(\w+)\}")
Connect = Callable[[], Awaitable[Stream]]


async def play(
    path: Path, connect: Connect, *, bytewise: bool = False, tls: ssl.SSLContext | None = None
) -> None:
    """Play the dialogue in `path`; `AssertionError` names the line that went another way."""
    clients: dict[str, _Client] = {}
    kept: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        who, _, rest = line.partition(" ")
        if who not in clients:
            clients[who] = _Client(await connect(), bytewise)
        client = clients[who]
        what, _, text = rest.partition(" ")
        text = _KEPT.sub(lambda found: kept[found[1]], text)
        try:
            kept.update(await _act(client, what, text, tls))
        except (AssertionError, TimeoutError, OSError) as error:
            raise AssertionError(f"{path.name}:{number}: {line}\n{type(error).__name__}: {error}") from error
    for client in clients.values():
        client.stream.close()


async def _act(client: _Client, what: str, text: str, tls: ssl.SSLContext | None) -> dict[str, str]:
    """What is to be kept of it."""
    match what:
        case "->":
            await client.send(text.encode() + b"\r\n")
        case "=>":
            await client.send(
                text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1")
            )
        case "<-":
            line = await client.line()
            assert line == text, f"the server said {line!r}"
        case "<~":
            line = await client.line()
            found = re.fullmatch(text, line)
            assert found, f"the server said {line!r}"
            return found.groupdict()
        case "tls":
            assert tls is not None
            await client.stream.start_tls(tls, TIMEOUT, server_side=False, server_hostname="localhost")
        case "shut":
            assert client.stream.transport is not None
            client.stream.transport.write_eof()
        case "closed":
            rest = await client.rest()
            assert rest == b"", f"the server said {rest!r}"
        case _:
            raise AssertionError("no such action")
    return {}


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").split("\n")


class _Client:
    def __init__(self, stream: Stream, bytewise: bool) -> None:
        self.stream = stream
        self._bytewise = bytewise
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        for piece in [data[at : at + 1] for at in range(len(data))] if self._bytewise else [data]:
            self.stream.write(piece)
            await asyncio.sleep(0)  # lets the server see the piece by itself

    async def line(self) -> str:
        while b"\r\n" not in self._buffer:
            data = await self.stream.read(TIMEOUT)
            assert data, f"the server closed after {self._buffer!r}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line.decode()

    async def rest(self) -> bytes:
        while data := await self.stream.read(TIMEOUT):
            self._buffer += data
        return self._buffer
