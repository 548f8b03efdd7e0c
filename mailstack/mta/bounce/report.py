"""A delivery status notification as a message (RFC 3462, RFC 3464; RFC 6533 for SMTPUTF8), in Postfix's form.

Three parts: an explanation, the fields per message and per recipient, and the original or its headers. Pure:
what to say comes in, CRLF octets go out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailstack.mta.bounce.templates import Template
from mailstack.mta.cleanup import mail_date
from mailstack.storage.queue import Envelope
from mailstack.wire.smtp import quote

WIDTH = 79
INDENT = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One recipient of a report.

    `action` as in RFC 3464 §2.3.3; `original` is what the explanation names as expanded, `orcpt` is
    `type;address` (RFC 3464 §2.3.1); `diagnostic` is `type; text`; `until`: when it will be given up, in
    seconds since the epoch, 0: not to be told.
    """

    address: str
    original: str
    orcpt: str
    action: str
    status: str
    text: str
    remote_mta: str
    diagnostic: str
    notify: str
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Site:
    """What every report of this host has in common. `utf8`: smtputf8_enable."""

    host: str
    mail_name: str
    author: str
    """Whom it is from: `Mail Delivery System <…>`."""
    utf8: bool


@dataclass(frozen=True, slots=True)
class Notification:
    """Everything that one report is made of. `original` ends in CRLF."""

    template: Template
    text: str
    """The explanation before the recipients; a postmaster's copy has none."""
    subject: str
    recipient: str
    auto_submitted: str
    queue_id: str
    """Its own."""
    now: float
    envelope: Envelope
    """The original's."""
    sender: str
    """The original's, as it is shown: `<>` has a name."""
    lines: Sequence[Line]
    original: bytes
    headers_only: bool
    thread: str = ""
    """The original's Message-ID, to refer to (enable_threaded_bounces)."""


def message_id(queue_id: str, stamp: str, host: str) -> str:
    """`stamp`: the time, as `20261122154906`; `""` where queue ids never repeat."""
    return f"{stamp}.{queue_id}@{host}" if stamp else f"{queue_id}@{host}"


def compose(site: Site, note: Notification, stamp: str) -> list[bytes]:
    """The notification's content in parts."""
    envelope = note.envelope
    # RFC 6533: a message that was sent with SMTPUTF8 is reported with the types for it.
    world = "global" if envelope.smtputf8 else ""
    eight_bit = site.utf8 or bool(world) or envelope.body == "8bitmime"
    encoding = "Content-Transfer-Encoding: 8bit\n" if eight_bit else ""
    charset = note.template.charset
    if charset.lower() == "us-ascii" and (site.utf8 or world):
        charset = "utf-8"
    thread = f"References: {note.thread}\nIn-Reply-To: {note.thread}\n" if note.thread else ""
    boundary = f"{envelope.queue_id}.{int(note.now)}/{site.host}"
    if note.headers_only:
        kind = "message/global-headers" if world else "text/rfc822-headers"
    else:
        kind = "message/global" if world else "message/rfc822"
    date = mail_date(note.now)
    head = (
        f"Received: by {site.host} ({site.mail_name})\n\tid {note.queue_id}; {date}\n"
        f"Date: {date}\n"
        f"From: {note.template.author or site.author}\n"
        f"Subject: {note.subject}\n"
        f"To: {quote(note.recipient)}\n"
        f"{thread}"
        f"Auto-Submitted: {note.auto_submitted}\n"
        "MIME-Version: 1.0\n"
        "Content-Type: multipart/report; report-type=delivery-status;\n"
        f'\tboundary="{boundary}"\n'
        f"{encoding}"
        f"Message-Id: <{message_id(note.queue_id, stamp, site.host)}>\n\n"
        "This is a MIME-encapsulated message.\n\n"
        f"--{boundary}\n"
        "Content-Description: Notification\n"
        f"Content-Type: text/plain; charset={charset}\n{encoding}\n"
    )
    rest = (
        f"{_explain(note.lines)}\n"
        f"--{boundary}\n"
        "Content-Description: Delivery report\n"
        f"Content-Type: message/{world and 'global-'}delivery-status\n{encoding if world else ''}\n"
        f"{_status(site, note)}\n"
        f"--{boundary}\n"
        f"Content-Description: {note.template.original}{' Headers' if note.headers_only else ''}\n"
        f"Content-Type: {kind}\n{encoding}\n"
        f"Return-Path: <{quote(note.sender)}>\n"
    )
    text = note.text.replace("\n", "\r\n").encode("utf-8", "surrogateescape")
    return [_crlf(head) + text + _crlf(rest), note.original, _crlf(f"\n--{boundary}--\n")]


def _explain(lines: Sequence[Line]) -> str:
    """A paragraph per recipient."""
    paragraphs = []
    for line in lines:
        name = f"<{quote(line.address)}>"
        if line.original and line.original != line.address:
            name += f" (expanded from <{quote(line.original)}>)"
        paragraphs.append("\n" + fold(f"{name}: {line.text}", WIDTH, INDENT))
    return "".join(paragraphs)


def _status(site: Site, note: Notification) -> str:
    """The fields of message/delivery-status (RFC 3464 §2)."""
    envelope, name = note.envelope, site.mail_name
    fields = [f"Reporting-MTA: dns; {site.host}"]
    if envelope.envid:
        fields.append(f"Original-Envelope-Id: {envelope.envid}")
    fields += [
        f"X-{name}-Queue-ID: {envelope.queue_id}",
        f"X-{name}-Sender: {address_type(note.sender)}; {quote(note.sender)}",
        f"Arrival-Date: {mail_date(envelope.arrival)}",
    ]
    for line in note.lines:
        fields += [
            f"\nFinal-Recipient: {address_type(line.address)}; {quote(line.address)}",
            f"Original-Recipient: {line.orcpt}",
            f"Action: {line.action}",
            f"Status: {line.status}",
        ]
        if line.remote_mta:
            fields.append(f"Remote-MTA: dns; {line.remote_mta}")
        fields.append(fold(f"Diagnostic-Code: {line.diagnostic}", WIDTH, INDENT).rstrip("\n"))
        if line.until:
            fields.append(f"Will-Retry-Until: {mail_date(line.until)}")
    return "\n".join(fields) + "\n"


def address_type(address: str) -> str:
    """The type of an address in a report (RFC 3464 §2.1.2, RFC 6533 §3)."""
    return "rfc822" if address.isascii() else "utf-8"


def fold(text: str, width: int, indent: int) -> str:
    """Break at spaces so that lines stay within `width`; following lines are indented."""
    lines: list[str] = []
    line = ""
    for word in text.replace("\r", "").replace("\n", " ").split(" "):
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = " " * indent + word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    return "\n".join(lines) + "\n"


def _crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("utf-8", "replace")
