"""The commands of POP3's TRANSACTION state (RFC 1939 §5 to §7), on one mailbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mailstack.mailbox.pop3.drop import Drop, GoneError
from mailstack.mailbox.pop3.service import Pop3Service
from mailstack.net.stream import Stream
from mailstack.wire.mime.lines import PIECE, Data, release, seek
from mailstack.wire.pop3 import Command, ServerConnection, Stuffer, Top

WRITE_TIMEOUT = 300.0


class Transaction:
    """What a session that has logged in does with its mailbox, and what it comes to."""

    def __init__(
        self, drop: Drop, conn: ServerConnection, stream: Stream, service: Pop3Service, prefix: str
    ) -> None:
        """`prefix`: what lines in the log begin with."""
        self.drop = drop
        self.received = 0
        self.sent = 0
        """Octets since the login."""
        self._conn = conn
        self._stream = stream
        self._service = service
        self._prefix = prefix
        self._counts = [0, 0, 0, 0]  # TOP: times and octets; RETR: times and octets
        self._deleted = 0
        self._size = 0
        self._last = 0
        """The highest message number that was asked for (RFC 1460: LAST)."""

    async def close(self) -> None:
        """Leave the mailbox."""
        try:
            await self.drop.measure()
            self._size = self.drop.everything()
        except OSError as error:
            self._service.log.error(f"{self._prefix}sizes not found: {error}")
        finally:
            self.drop.close()

    def summary(self) -> dict[str, str]:
        """The variables of pop3_logout_format."""
        return {
            **dict(zip("tprb", map(str, self._counts), strict=True)),
            "d": str(self._deleted),
            "m": str(len(self.drop)),
            "s": str(self._size),
            "i": str(self.received),
            "o": str(self.sent),
        }

    def _usable(self, number: int) -> bool:
        """Whether the message can be named; answers the command when not."""
        if not self.drop.exists(number):
            self._conn.error(f"There's no message {number}.")
        elif number in self.drop.deleted:
            self._conn.error("Message is deleted.")
        else:
            return True
        return False

    async def stat(self, command: Command) -> None:
        await self.drop.measure()
        self._conn.ok(f"{len(self.drop) - len(self.drop.deleted)} {self.drop.total()}")

    async def list(self, command: Command) -> None:
        drop = self.drop
        await drop.measure()
        if command.number:
            if self._usable(command.number):
                self._conn.ok(f"{command.number} {drop.size(command.number)}")
            return
        numbers = drop.numbers()
        self._conn.listing(f"{len(numbers)} messages:", (f"{n} {drop.size(n)}" for n in numbers))

    async def uidl(self, command: Command) -> None:
        drop, template = self.drop, self._service.pop3.uidl_format
        if command.number:
            if self._usable(command.number):
                self._conn.ok(f"{command.number} {drop.uidl(command.number, template)}")
            return
        self._conn.listing("", (f"{n} {drop.uidl(n, template)}" for n in drop.numbers()))

    async def retr(self, command: Command) -> None:
        if self._usable(command.number):
            self._counts[3] += await self._send(command.number, None)
            self._counts[2] += 1
            self._last = max(self._last, command.number)
            if not (self._service.pop3.no_flag_updates or self.drop.read_only):
                self.drop.seen.add(command.number)

    async def top(self, command: Command) -> None:
        if self._usable(command.number):
            self._counts[1] += await self._send(command.number, Top(command.lines))
            self._counts[0] += 1

    async def _send(self, number: int, top: Top | None) -> int:
        """Answer with a message, piece by piece; the octets sent for it."""
        drop = self.drop
        try:
            data = await drop.read(number)
        except GoneError:
            self._conn.error("Message is gone.", "SYS/TEMP")
            return 0
        except OSError as error:
            self._service.log.error(f"{self._prefix}message cannot be read: {error}")
            self._conn.error("Message cannot be read.", "SYS/TEMP")
            return 0
        if top is None:
            await drop.measure()
        self._conn.ok(f"{drop.size(number)} octets" if top is None else "")
        stuffer = Stuffer()
        settings = self._service.pop3
        no_nuls, ended = settings.no_nuls, not settings.end_of_header or _has_header_end(data)
        sent = 0
        self._write(self._conn.data_to_send())
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            if top is not None:
                piece = top.feed(piece)
            if no_nuls:
                piece = piece.replace(b"\0", b"\x80")
            piece = stuffer.feed(piece)
            sent += len(piece)
            self._write(piece)
            await self._stream.drain(WRITE_TIMEOUT)
            if not isinstance(data, bytes):
                release(data)
            if top is not None and top.done:
                break
        self._write(stuffer.end() if ended else stuffer.end_of_header())
        if not isinstance(data, bytes):
            data.close()
        return sent

    async def dele(self, command: Command) -> None:
        if self.drop.read_only:
            self._conn.error("Mailbox is read-only.", "SYS/PERM")
        elif self._usable(command.number):
            self._last = max(self._last, command.number)
            self.drop.deleted.add(command.number)
            self._conn.ok("Marked to be deleted.")

    async def rset(self, command: Command) -> None:
        self.drop.deleted.clear()
        self.drop.seen.clear()
        self._last = 0
        self._conn.ok()

    async def last_command(self, command: Command) -> None:
        if self._service.pop3.enable_last:
            self._conn.ok(str(self._last))
        else:
            self._conn.error("Unknown command: LAST")

    async def noop(self, command: Command) -> None:
        self._conn.ok()

    def _write(self, data: bytes) -> None:
        self.sent += len(data)
        self._stream.write(data)

    async def update(self) -> tuple[str, str]:
        """Enter UPDATE (RFC 1939 §6); the reply's text, and its code when that has not worked."""
        try:
            await self.drop.keep_seen()
        except OSError as error:
            self._service.log.error(f"{self._prefix}flags not stored: {error}")
        if not self.drop.deleted:
            return "Logging out.", ""
        marked = len(self.drop.deleted)
        try:
            settings = self._service.pop3
            await self.drop.finish(settings.deleted_flag if settings.flags_deleted else "")
        except OSError as error:
            self._service.log.error(f"{self._prefix}messages not deleted: {error}")
            return "Couldn't delete all messages.", "SYS/TEMP"
        self._deleted = marked
        return "Logging out, messages deleted.", ""


_Handler = Callable[[Transaction, Command], Awaitable[None]]
HANDLERS: dict[str, _Handler] = {
    "LAST": Transaction.last_command,
    "STAT": Transaction.stat,
    "LIST": Transaction.list,
    "UIDL": Transaction.uidl,
    "RETR": Transaction.retr,
    "TOP": Transaction.top,
    "DELE": Transaction.dele,
    "RSET": Transaction.rset,
    "NOOP": Transaction.noop,
}


def _has_header_end(data: Data) -> bool:
    return (
        data[:1] == b"\n"
        or data[:2] == b"\r\n"
        or seek(data, b"\n\n", 0) >= 0
        or seek(data, b"\n\r\n", 0) >= 0
    )
