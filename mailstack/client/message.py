"""A stored message, decoded for people and programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage, MIMEPart
from email.parser import BytesHeaderParser, BytesParser
from email.policy import default
from email.utils import getaddresses, parsedate_to_datetime

SUMMARY_FIELDS = ("Subject", "From", "To", "Cc", "Date", "Message-ID")
"""Header fields that a `Summary` is made of."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a listing says. Dates are ISO 8601, empty when the message has none that can be read.

    `sender` is the From: field with encoded words decoded; `recipients` are the addresses of To: and Cc:.
    """

    uid: int
    subject: str
    sender: str
    recipients: tuple[str, ...]
    date: str
    message_id: str
    internal_date: str
    size: int
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part that is not the message's text; `size` in octets, decoded."""

    name: str
    content_type: str
    size: int


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message; `text` and `html` are its bodies, where it has them."""

    summary: Summary
    headers: tuple[tuple[str, str], ...]
    text: str | None
    html: str | None
    attachments: tuple[Attachment, ...]
    raw: bytes

    @property
    def uid(self) -> int:
        return self.summary.uid

    @property
    def subject(self) -> str:
        return self.summary.subject


def summary(*, uid: int, header: bytes, internal_date: str, size: int, flags: tuple[str, ...]) -> Summary:
    """Read the fields of `SUMMARY_FIELDS` out of a header."""
    fields: dict[str, str] = {}
    addressees: list[str] = []
    parsed = BytesHeaderParser(policy=default).parsebytes(header)
    for name, value in _headers(parsed):
        lower = name.lower()
        fields.setdefault(lower, value)
        if lower in ("to", "cc"):
            addressees.append(value)
    return Summary(
        uid=uid,
        subject=fields.get("subject", ""),
        sender=fields.get("from", ""),
        recipients=tuple(address for _, address in getaddresses(addressees) if address),
        date=_iso(fields.get("date", "")),
        message_id=fields.get("message-id", "").strip(),
        internal_date=_iso(internal_date),
        size=size,
        flags=flags,
    )


def message(about: Summary, raw: bytes) -> Message:
    """Decode a whole message; what cannot be decoded is shown as far as it can be, and never an error."""
    parsed = BytesParser(policy=default).parsebytes(raw)
    texts: dict[str, str] = {}
    attachments = []
    for part in _leaves(parsed):
        kind = part.get_content_type()
        name = _quietly(part.get_filename) or ""
        disposition = _quietly(part.get_content_disposition)
        if (
            kind in ("text/plain", "text/html")
            and disposition != "attachment"
            and not name
            and kind not in texts
        ):
            texts[kind] = _text(part)
        else:
            payload = part.get_payload(decode=True)
            size = len(payload) if isinstance(payload, bytes) else len(part.as_bytes())
            attachments.append(Attachment(name, kind, size))
    return Message(
        summary=about,
        headers=tuple(_headers(parsed)),
        text=texts.get("text/plain"),
        html=texts.get("text/html"),
        attachments=tuple(attachments),
        raw=raw,
    )


def _leaves(part: MIMEPart) -> Iterator[MIMEPart]:
    """The parts that hold something; a forwarded message counts as one."""
    if part.get_content_maintype() == "multipart" and part.is_multipart():
        for child in part.iter_parts():
            yield from _leaves(child)
    else:
        yield part


def _headers(parsed: EmailMessage) -> Iterator[tuple[str, str]]:
    """Names and decoded values, each on one line. The email package raises many things on bad ones."""
    for name, raw in parsed.raw_items():
        try:
            value = str(parsed.policy.header_fetch_parse(name, raw))
        except (ValueError, IndexError, AttributeError, LookupError, TypeError):
            value = str(raw)
        yield name, " ".join(value.split())


def _quietly(get: object) -> str | None:
    try:
        return get()  # type: ignore[operator,no-any-return]
    except (ValueError, IndexError, AttributeError, LookupError, TypeError):
        return None


def _text(part: MIMEPart) -> str:
    """A text part as text with `\\n` line ends, whatever its character set claims to be."""
    payload = part.get_payload(decode=True)
    octets = payload if isinstance(payload, bytes) else b""
    try:
        text = octets.decode(part.get_content_charset() or "utf-8", "replace")
    except LookupError:
        text = octets.decode("utf-8", "replace")
    return text.replace("\r\n", "\n")


def _iso(date: str) -> str:
    """ISO 8601 of an RFC 5322 date or an IMAP date-time (RFC 9051 §9), which differs only in its dashes."""
    day, dash, rest = date.strip().partition("-")
    if dash and len(day) <= 2:
        date = f"{day} {rest.replace('-', ' ', 1)}"
    try:
        return parsedate_to_datetime(date).isoformat()
    except (ValueError, TypeError, IndexError):
        return ""
