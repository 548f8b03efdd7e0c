"""An IMAP conversation, one command at a time, over the sans-I/O engine.

Untagged responses are looked at as they come, whichever command brought them: what matters here are message
data, counts and whether something has arrived.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence

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
from mailstack.wire.sasl import plain_initial

_STATUS_ITEM = re.compile(rb"([A-Z]+) ([0-9]+)", re.IGNORECASE)


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

    def select(self, command: bytes) -> tuple[int, int]:
        """SELECT or EXAMINE; UIDVALIDITY and UIDNEXT."""
        codes = dict(event.code for event in self.run(command) if event.code is not None)
        try:
            return codes["UIDVALIDITY"], codes["UIDNEXT"]
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
        events = self.run(b"UID FETCH %b %b" % (uids, items))
        try:
            found = [message_data(event) for event in events if event.name == "FETCH"]
        except RemoteError as error:
            raise self._nonsense(error) from None
        return [data for data in found if data.uid]

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
