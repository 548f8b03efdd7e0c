"""Send a message over submission (RFC 6409): STARTTLS verified against the stack's CA, then AUTH PLAIN."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailstack.client.channel import Channel
from mailstack.client.endpoints import Endpoints
from mailstack.client.errors import ClientError
from mailstack.wire.sasl import plain_initial
from mailstack.wire.smtp.client import CONTENT, GREETING, ClientConnection, RemoteError, Response
from mailstack.wire.smtp.events import Closed
from mailstack.wire.smtp.reply import Reply

_QUEUED = re.compile(r"queued as (\S+)")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message ready to go: `octets` with CRLF line ends."""

    octets: bytes
    subject: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the server said. `refused`: recipient and reply, where some were refused and others accepted."""

    reply: str
    queue_id: str | None
    tls: str | None
    refused: tuple[tuple[str, str], ...]


def compose(
    *,
    sender: str,
    recipients: Sequence[str],
    subject: str,
    text: str,
    attachments: Sequence[tuple[str, bytes]] = (),
) -> Outgoing:
    """A MIME message with a text and files (name, content). Raises `ClientError` for an impossible header."""
    from email.message import EmailMessage
    from email.policy import SMTP, SMTPUTF8
    from email.utils import formatdate, make_msgid
    from mimetypes import guess_type

    utf8 = not all(address.isascii() for address in (sender, *recipients))
    # Seven bits, so that it passes any later hop; only addresses may need more (RFC 6531).
    message = EmailMessage(policy=(SMTPUTF8 if utf8 else SMTP).clone(cte_type="7bit"))
    for value in (sender, subject, *recipients):
        if "\r" in value or "\n" in value or "\0" in value:
            raise ClientError("bad-message", f"the message cannot be made: a line break in {value!r}")
    try:
        message["From"] = sender
        message["To"] = ", ".join(recipients)
        message["Subject"] = subject
        message["Date"] = formatdate(localtime=True)
        message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2].encode("idna").decode() or None)
        message.set_content(text if text.endswith("\n") else text + "\n")
        for name, content in attachments:
            guessed, encoding = guess_type(name)
            kind = guessed if guessed is not None and encoding is None else "application/octet-stream"
            maintype, _, subtype = kind.partition("/")
            message.add_attachment(content, maintype=maintype, subtype=subtype, filename=name)
        octets = message.as_bytes()
    except (ValueError, UnicodeError) as error:
        raise ClientError("bad-message", f"the message cannot be made: {error}") from None
    return Outgoing(octets, subject, message["Message-ID"])


def stored(octets: bytes) -> Outgoing:
    """A message as it was written to a file; line ends become CRLF, nothing else changes."""
    from email.parser import BytesHeaderParser
    from email.policy import default

    crlf = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
    if not crlf.endswith(b"\r\n"):
        crlf += b"\r\n"
    headers = BytesHeaderParser(policy=default).parsebytes(crlf)
    return Outgoing(crlf, str(headers.get("Subject", "")), str(headers.get("Message-ID", "")))


def send(endpoints: Endpoints, sender: str, recipients: Sequence[str], message: bytes) -> Receipt:
    """Hand a message (CRLF line ends) to the MTA as the first user.

    Raises `ClientError` with the server's reply when it takes it for no recipient.
    """
    protocol, _ = endpoints.port("submission", "submissions", "smtp")
    with Channel(endpoints, protocol) as channel:
        session = _Session(channel)
        session.expect(GREETING)
        session.hello()
        if endpoints.tls and not channel.secured:
            session.start_tls()
        if session.connection.auth_mechanisms:
            session.log_in(endpoints.user, endpoints.password(endpoints.user))
        return session.transfer(sender, recipients, message)


class _Session:
    """One SMTP conversation: commands one by one, each reply looked at."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.connection = ClientConnection()

    def response(self) -> Response:
        """The next reply."""
        self.channel.send(self.connection.data_to_send())
        while True:
            try:
                event = self.connection.next_event()
            except RemoteError as error:
                raise ClientError("protocol", f"{self.channel.where}: {error}") from None
            if isinstance(event, Response):
                return event
            if isinstance(event, Closed):
                raise ClientError(
                    "connection-lost", f"{self.channel.where} closed the connection", unreachable=True
                )
            self.connection.receive_data(self.channel.receive())

    def expect(self, what: str) -> Reply:
        """The reply, if it is positive. Raises `ClientError` with the server's words."""
        reply = self.response().reply
        if not reply.positive:
            raise refusal(what, reply)
        return reply

    def hello(self) -> None:
        self.connection.hello(f"[{self.channel.local_address}]")
        self.expect("EHLO")

    def start_tls(self) -> None:
        if "STARTTLS" not in self.connection.extensions:
            raise ClientError("tls", f"{self.channel.where} does not offer STARTTLS")
        self.connection.starttls()
        self.expect("STARTTLS")
        self.channel.start_tls()
        self.connection.tls_started()
        self.hello()

    def log_in(self, user: str, password: str) -> None:
        if "PLAIN" in self.connection.auth_mechanisms:
            self.connection.auth("PLAIN", plain_initial(user, password))
        else:
            self.connection.auth("LOGIN", user.encode())
            self.expect(f"AUTH as {user}")
            self.connection.auth_response(password.encode())
        self.expect(f"AUTH as {user}")

    def transfer(self, sender: str, recipients: Sequence[str], message: bytes) -> Receipt:
        utf8 = not all(address.isascii() for address in (sender, *recipients))
        body = "" if message.isascii() else "8BITMIME"
        self.connection.mail(sender, size=len(message), body=body, smtputf8=utf8)
        self.expect(f"sender {sender}")
        refused: list[tuple[str, Reply]] = []
        for recipient in recipients:
            self.connection.rcpt(recipient)
            reply = self.response().reply
            if not reply.positive:
                refused.append((recipient, reply))
        if len(refused) == len(recipients):
            raise refusal(f"recipient {refused[0][0]}", refused[0][1])
        self.connection.data()
        self.expect("DATA")
        self.connection.content([message])
        done = self.expect(CONTENT)
        self.connection.quit()
        self.channel.send(self.connection.data_to_send())
        found = _QUEUED.search(done.text)
        return Receipt(
            reply=str(done),
            queue_id=found[1] if found else None,
            tls=self.channel.tls,
            refused=tuple((recipient, str(reply)) for recipient, reply in refused),
        )


def refusal(what: str, reply: Reply) -> ClientError:
    """The server's no, in its own words."""
    hint = "the server may take it later" if reply.transient else ""
    return ClientError("refused", f"{what}: {reply}", hint=hint)
