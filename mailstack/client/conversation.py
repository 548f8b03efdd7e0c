"""An IMAP conversation, one command at a time, over the sans-I/O engine.

Untagged responses are looked at as they come, whichever command brought them: what matters here are message
data, counts and whether something has arrived.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mailstack.client.channel import Channel
from mailstack.client.endpoints import Endpoints
from mailstack.client.errors import ClientError
from mailstack.wire.imap.client import (
    NEED_DATA,
    ClientConnection,
    Closed,
    Completed,
    Continuation,
    MessageData,
    RemoteError,
    Untagged,
    message_data,
)
from mailstack.wire.imap.encode import mailbox as encode_mailbox
from mailstack.wire.imap.tokens import BadMailboxNameError, Cursor, ParseError, decode_mailbox
from mailstack.wire.sasl import plain_initial

_STATUS_ITEM = re.compile(rb"([A-Z]+) ([0-9]+)", re.IGNORECASE)
_STRUCTURE = re.compile(
    rb"\((?:UID (\d+) )?BODYSTRUCTURE (\(.*\))(?: UID (\d+))?\)", re.IGNORECASE | re.DOTALL
)
APPENDS_AHEAD = 16
"""Messages that are sent before the first one's answer is there: the server flushes them together."""
APPEND_OCTETS = 4 << 20
"""Octets of such messages, at the most."""


@dataclass(frozen=True, slots=True)
class Selected:
    """What SELECT or EXAMINE tells of a mailbox."""

    uidvalidity: int
    uidnext: int
    messages: int


@dataclass(frozen=True, slots=True)
class ToAppend:
    """A message for APPEND: its octets with CRLF line ends, its flags, its date-time or `b""` for now."""

    message: bytes
    flags: tuple[str, ...] = ()
    date: bytes = b""


class Conversation:
    """One logged-in connection. Every method raises `ClientError` when the server says no or goes away."""

    def __init__(self, channel: Channel) -> None:
        self.arrived = False
        """The server has told of new messages (EXISTS) since this was last set to False."""
        self._channel = channel
        self._connection = ClientConnection()

    @classmethod
    def open(cls, endpoints: Endpoints, user: str) -> Conversation:
        """Connect, with TLS verified where the stack has it, and log in."""
        wanted = ("imaps", "imap") if endpoints.tls else ("imap",)
        protocol, _ = endpoints.port(*wanted)
        conversation = cls(Channel(endpoints, protocol))
        try:
            conversation._begin(endpoints, user)
        except BaseException:
            conversation.close()
            raise
        return conversation

    def _begin(self, endpoints: Endpoints, user: str) -> None:
        greeting = self._next()
        if not isinstance(greeting, Untagged) or greeting.name != "OK":
            raise ClientError("protocol", f"{self._channel.where} does not greet as an IMAP server")
        if endpoints.tls and not self._channel.secured:
            self.run(b"STARTTLS")
            self._channel.start_tls()
            try:
                self._connection.tls_started()
            except RemoteError as error:
                raise self._nonsense(error) from None
        if not self._connection.capabilities:
            self.run(b"CAPABILITY")
        initial = binascii.b2a_base64(plain_initial(user, endpoints.password(user)), newline=False)
        what = f"log in as {user}"
        if "SASL-IR" in self._connection.capabilities:
            self.run(b"AUTHENTICATE PLAIN " + initial, what=what)
        else:
            self.run(b"AUTHENTICATE PLAIN", answer=initial, what=what)
        if "IDLE" not in self._connection.capabilities:
            self.run(b"CAPABILITY")

    # ---- commands

    def run(self, command: bytes, *, answer: bytes = b"", what: str = "") -> list[Untagged]:
        """Send a command and wait for its end; `answer` is for a continuation request."""
        tag = self._connection.command(command)
        untagged = []
        while True:
            event = self._next()
            if isinstance(event, Untagged):
                untagged.append(event)
            elif isinstance(event, Continuation):
                self._connection.answer(answer)
            elif event.tag == tag:
                if event.status != "OK":
                    name = what or " ".join(command.decode("utf-8", "replace").split()[:2])
                    raise ClientError("refused", f"{name}: {event.status} {event.text}")
                return untagged

    def select(self, command: bytes) -> Selected:
        """SELECT or EXAMINE."""
        events = self.run(command)
        codes = dict(event.code for event in events if event.code is not None)
        counts = [event.number or 0 for event in events if event.name == "EXISTS"]
        try:
            return Selected(codes["UIDVALIDITY"], codes["UIDNEXT"], counts[-1] if counts else 0)
        except KeyError:
            raise ClientError("protocol", f"{self._channel.where} gives no UIDVALIDITY and UIDNEXT") from None

    def status(self, mailbox: bytes, items: Sequence[str]) -> dict[str, int]:
        """STATUS of a mailbox: item -> number."""
        found: dict[str, int] = {}
        for event in self.run(b"STATUS %b (%b)" % (mailbox, " ".join(items).encode())):
            if event.name == "STATUS":
                for name, value in _STATUS_ITEM.findall(event.text.rpartition(b"(")[2]):
                    found[name.decode().upper()] = int(value)
        return found

    def fetch(self, uids: bytes, items: bytes) -> list[MessageData]:
        """UID FETCH; messages that are not there are no error, and neither is news of others."""
        return list(self.fetching(uids, items))

    def fetching(self, uids: bytes, items: bytes) -> Iterator[MessageData]:
        """The same, each as it comes; nothing else may be asked before the last one."""
        wanted = items.strip(b"()").split(b" ")
        complete = next((name for name in (b"RFC822.SIZE", b"INTERNALDATE") if name in wanted), b"")
        for event in self._running(b"UID FETCH %b %b" % (uids, items)):
            if event.name != "FETCH":
                continue
            try:
                data = message_data(event)
            except RemoteError as error:
                raise self._nonsense(error) from None
            # A message whose flags somebody else changes meanwhile is told of with UID and FLAGS alone.
            told_only = complete and b" %b " % complete not in b" " + event.text.upper().replace(b"(", b" ")
            if data.uid and not told_only:
                yield data

    def _running(self, command: bytes) -> Iterator[Untagged]:
        """Untagged responses of a command as they come. Messages that others have removed are no error."""
        tag = self._connection.command(command)
        while True:
            event = self._next()
            if isinstance(event, Untagged):
                yield event
            elif isinstance(event, Completed) and event.tag == tag:
                if event.status != "OK" and "[EXPUNGEISSUED]" not in event.text.upper():
                    name = " ".join(command.decode("utf-8", "replace").split()[:2])
                    raise ClientError("refused", f"{name}: {event.status} {event.text}")
                return

    def described(self, uids: bytes) -> Iterator[tuple[int, bytes, tuple[bytes, ...]]]:
        """BODYSTRUCTURE of messages, as the server sends it: UID, text, literals (a NUL each in it)."""
        for event in self._running(b"UID FETCH %b (UID BODYSTRUCTURE)" % uids):
            found = _STRUCTURE.fullmatch(event.text) if event.name == "FETCH" else None
            if found is not None:
                yield int(found[1] or found[3]), found[2], event.literals

    def uids(self, first: int = 1) -> list[int]:
        """UID SEARCH: every message with this UID or a higher one, ascending."""
        found: list[int] = []
        for event in self.run(b"UID SEARCH UID %d:*" % first):
            if event.name == "SEARCH":
                found += [int(word) for word in event.text.split() if word.isdigit()]
        return sorted(uid for uid in found if uid >= first)

    def mailboxes(self) -> tuple[list[str], str]:
        """The names of all mailboxes that can be selected, INBOX first, and what separates their levels."""
        names: list[str] = []
        separator = ""
        for event in self.run(b'LIST "" *'):
            if event.name != "LIST":
                continue
            try:
                attributes, separator_now, name = _listed(event)
            except (ParseError, BadMailboxNameError, ValueError) as error:
                raise ClientError("protocol", f"{self._channel.where}: bad LIST data: {error}") from None
            separator = separator_now or separator
            if not {"\\noselect", "\\nonexistent"} & attributes:
                names.append(name)
        return sorted(set(names), key=lambda name: (name.upper() != "INBOX", name)), separator

    def create(self, mailbox: str) -> None:
        """Make a mailbox and subscribe to it; one that is there already is no error."""
        name = encode_mailbox(mailbox)
        try:
            self.run(b"CREATE " + name)
        except ClientError as error:
            if error.code != "refused" or "ALREADYEXISTS" not in str(error).upper():
                raise
        self.run(b"SUBSCRIBE " + name)

    def append(self, mailbox: str, messages: Iterable[ToAppend]) -> Iterator[str]:
        """APPEND each message: why it was refused, or `""`, in their order.

        With LITERAL+ several are under way at once; they stand in the mailbox in their order all the same.
        """
        name = encode_mailbox(mailbox)
        waiting: list[tuple[bytes, int]] = []
        for one in messages:
            flags = b"(" + " ".join(one.flags).encode() + b") " if one.flags else b""
            date = b'"' + one.date + b'" ' if one.date else b""
            line = b"APPEND %b %b%b" % (name, flags, date)
            tag, sent = self._connection.append(line.rstrip(b" "), one.message)
            waiting.append((tag, len(one.message)))
            if not sent:
                yield self._answered(waiting.pop(0)[0], one.message)
                continue
            self._channel.send(self._connection.data_to_send())
            while len(waiting) >= APPENDS_AHEAD or sum(size for _, size in waiting) > APPEND_OCTETS:
                yield self._answered(waiting.pop(0)[0])
        for tag, _ in waiting:
            yield self._answered(tag)

    def _answered(self, tag: bytes, literal: bytes | None = None) -> str:
        while True:
            event = self._next()
            if isinstance(event, Continuation) and literal is not None:
                self._connection.literal(literal)
            elif isinstance(event, Completed) and event.tag == tag:
                return "" if event.status == "OK" else f"{event.status} {event.text}"

    def idle(self, deadline: float) -> bool:
        """Wait until the server tells of something new; False when `deadline` (monotonic) passes first."""
        if "IDLE" not in self._connection.capabilities:
            raise ClientError("not-offered", f"{self._channel.where} does not offer IDLE")
        tag = self._connection.command(b"IDLE")
        try:
            while not self.arrived:
                event = self._next(deadline)
                if isinstance(event, Completed):
                    raise ClientError("refused", f"IDLE: {event.status} {event.text}")
        except TimeoutError:
            pass
        self._connection.answer(b"DONE")
        while not (isinstance(event := self._next(), Completed) and event.tag == tag):
            pass
        return self.arrived

    def log_out(self) -> None:
        """Say good-bye; a server that has gone already is not an error."""
        self._connection.command(b"LOGOUT")
        try:
            self._channel.send(self._connection.data_to_send())
        except ClientError:
            pass

    def close(self) -> None:
        """Close at once."""
        self._channel.close()

    # ---- octets

    def _next(self, deadline: float | None = None) -> Untagged | Completed | Continuation:
        """Send what waits, and take the next response. Raises `TimeoutError` when `deadline` passes."""
        self._channel.send(self._connection.data_to_send())
        while True:
            try:
                event = self._connection.next_event()
            except RemoteError as error:
                raise self._nonsense(error) from None
            if event is NEED_DATA:
                self._connection.receive_data(self._channel.receive(deadline))
            elif isinstance(event, Closed):
                raise self._gone("closed the connection")
            else:
                if isinstance(event, Untagged):
                    self._notice(event)
                return event

    def _notice(self, event: Untagged) -> None:
        if event.name == "EXISTS":
            self.arrived = True
        elif event.name == "BYE":
            raise self._gone(f"says BYE {event.text.decode('utf-8', 'replace')}")

    def _gone(self, how: str) -> ClientError:
        return ClientError("connection-lost", f"{self._channel.where} {how}", unreachable=True)

    def _nonsense(self, error: RemoteError) -> ClientError:
        return ClientError("protocol", f"{self._channel.where}: {error}")


def _listed(event: Untagged) -> tuple[set[str], str, str]:
    """Attributes in lower case, separator, name. Raises `ParseError`, `BadMailboxNameError`."""
    cursor = Cursor(event.text, event.literals)
    attributes = {flag.lower() for flag in cursor.flag_list()}
    cursor.space()
    separator = cursor.nstring() or b""
    cursor.space()
    raw = cursor.astring()
    return attributes, separator.decode("ascii"), decode_mailbox(raw)
