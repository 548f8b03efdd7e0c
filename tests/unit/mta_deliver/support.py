"""A scripted SMTP or LMTP server, a resolver that knows what it is told, and requests to deliver."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mailstack.config.postfix import MainCf
from mailstack.mta.deliver.request import Request, Result, Target
from mailstack.net.dns_exchange import RecordType
from mailstack.net.log import Log
from mailstack.net.resolver import Answer, NoSuchDomain, Resolver
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Envelope, Queue, Recipient

QUIET = Log("postfix/smtp", "mail", -1)
CONTENT = b"Subject: x\r\n\r\n.dot\r\nbody\r\n"


@dataclass
class Peer:
    """A server: replies by verb (or by `VERB argument`), extensions, and what it has been sent."""

    lmtp: bool = False
    extensions: tuple[str, ...] = (
        "PIPELINING",
        "8BITMIME",
        "SMTPUTF8",
        "SIZE 1000000",
        "ENHANCEDSTATUSCODES",
    )
    replies: dict[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    hang_up_after: str = ""
    """The connection is dropped when this verb has come (`.`: the dot)."""
    farewell: str = ""
    """Said at once after the first connection's first message, which ends it."""
    commands: list[str] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _sessions: set[asyncio.Task[None]] = field(default_factory=set)

    def reply(self, line: str, default: str) -> str:
        verb = line.split(" ", 1)[0].upper().partition(":")[0]
        return self.replies.get(line, self.replies.get(verb, default))

    async def ended(self) -> None:
        """Wait for clients to leave; those that do not are thrown out."""
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=0.5)
        self.drop_connections()
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=0.5)

    def drop_connections(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        task = asyncio.current_task()
        assert task is not None
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)
        try:
            await self._session(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        goodbye = False

        def say(text: str) -> None:
            nonlocal goodbye
            writer.write(text.encode() + b"\r\n")
            goodbye = text.startswith("421")

        def say_end() -> None:
            """The replies to content."""
            for number in range(accepted if self.lmtp else 1):
                say(self.replies.get(f"END {number}", self.reply("END", "250 2.0.0 Ok: queued as X")))

        say(self.replies.get("GREETING", "220 peer.test ESMTP"))
        accepted = 0
        sender = False
        while not goodbye and (line := (await reader.readuntil(b"\r\n")).decode().rstrip("\r\n")):
            self.commands.append(line)
            verb = line.split(" ", 1)[0].upper()
            # What cannot be left unread: the replies before it would be lost with it.
            chunk = await reader.readexactly(int(line.split()[1])) if verb == "BDAT" else b""
            if self.hang_up_after == verb:
                return
            match verb:
                case "EHLO" | "LHLO":
                    lines = ["peer.test", *self.extensions]
                    text = "\r\n".join(f"250-{word}" for word in lines[:-1]) + f"\r\n250 {lines[-1]}"
                    say(self.reply(line, text))
                case "MAIL":
                    text = self.reply(line, "503 5.5.1 nested MAIL command" if sender else "250 2.1.0 Ok")
                    sender = sender or text.startswith("2")
                    accepted = 0
                    say(text)
                case "RSET":
                    sender = False
                    accepted = 0
                    say(self.reply(line, "250 2.0.0 Ok"))
                case "RCPT":
                    text = self.reply(line, "250 2.1.5 Ok" if sender else "503 5.5.1 need MAIL command")
                    accepted += text.startswith("2")
                    say(text)
                case "BDAT":
                    if not accepted:
                        say("503 5.5.1 no valid recipients" if sender else "503 5.5.1 need RCPT command")
                        continue
                    self.contents.append(chunk)
                    say_end()
                    sender = False
                case "DATA":
                    text = self.reply(line, "354 go ahead" if accepted else "554 5.5.1 no valid recipients")
                    say(text)
                    if text.startswith("354"):
                        self.contents.append(await _content(reader))
                        if self.hang_up_after == ".":
                            return
                        say_end()
                        sender = False
                        if self.farewell and self.connections == 1:
                            say(self.farewell)
                            return
                case "STARTTLS":
                    say(self.reply(line, "220 2.0.0 Ready"))
                    assert self.tls is not None
                    await writer.start_tls(self.tls)
                case "QUIT":
                    say("221 2.0.0 Bye")
                    return
                case _:
                    say(self.reply(line, "250 2.0.0 Ok"))


async def _content(reader: asyncio.StreamReader) -> bytes:
    lines = []
    while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
        lines.append(line[1:] if line.startswith(b".") else line)
    return b"".join(lines)


@asynccontextmanager
async def listening(*peers: Peer, addresses: Iterable[str] = ()) -> AsyncIterator[None]:
    """Serve the peers: all on one port, each on its own loopback address (127.0.0.1 onwards)."""
    hosts = list(addresses) or [f"127.0.0.{n}" for n in range(1, len(peers) + 1)]
    servers = []
    port = 0
    for peer, host in zip(peers, hosts, strict=True):
        server = await asyncio.start_server(peer.serve, host, port)
        port = peer.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield
    finally:
        for server in servers:
            server.close()
        for peer in peers:
            await peer.ended()
        for server in servers:
            await server.wait_closed()


class Names(Resolver):
    """A resolver over two dictionaries; a value that is an exception is raised."""

    def __init__(
        self, mx: dict[str, list[tuple[int, str]] | Exception], hosts: dict[str, list[str] | Exception]
    ) -> None:
        super().__init__([("127.0.0.1", 9)])
        self.answers: dict[tuple[str, str], Answer] = {}
        """For `ask`."""
        self._mx = mx
        self._hosts = hosts

    async def mx(self, domain: str, *, timeout: float | None = None) -> list[tuple[int, str]]:
        found = self._mx.get(domain, [(0, domain)])
        if isinstance(found, Exception):
            raise found
        return found

    async def ask(
        self, name: str, rdtype: RecordType, *, dnssec: bool = False, timeout: float | None = None
    ) -> Answer:
        found = self.answers.get((name, rdtype))
        if found is None:
            return Answer((), name, False, 60)
        return found

    async def addresses(self, host: str, *, timeout: float | None = None) -> list[str]:
        found = self._hosts.get(host, NoSuchDomain(f"no address of {host}"))
        if isinstance(found, Exception):
            raise found
        return found


def configuration(text: str = "") -> MainCf:
    return MainCf.parse(
        "compatibility_level = 3.6\nmyhostname = mail.x.test\nmydomain = x.test\n" + text, Path("main.cf")
    )


async def request(
    queue: Queue,
    nexthop: str,
    *recipients: str,
    content: bytes = CONTENT,
    smtputf8: bool = False,
    body: str = "7bit",
    sender: str = "zs@x.test",
) -> Request:
    """A queued message, read back, as the queue manager hands it out."""
    commit = GroupCommit()
    envelope = Envelope(
        sender, tuple(map(Recipient, recipients)), 1_700_000_000.0, body=body, smtputf8=smtputf8
    )
    queue_id = await queue.enqueue(envelope, (content,), commit)
    commit.close()
    message = queue.read("incoming", queue_id)
    return Request(message, nexthop, [Target(n, address) for n, address in enumerate(recipients)], 0.0)


def summary(results: Iterable[Result]) -> list[tuple[str, str, str, str]]:
    """(address, kind of outcome, dsn, text) in the request's order."""
    return [
        (r.target.address, type(r.outcome).__name__, r.outcome.dsn, r.outcome.text)
        for r in sorted(results, key=lambda result: result.target.index)
    ]
