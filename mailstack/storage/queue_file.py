"""The queue file's own format: encode, decode, check. `docs/queue.md` is its description for people.

    MSQ1 <content octets, 15 digits> <envelope octets, 10 digits> <CRC-32 of the envelope, 8 hex digits>\n
    content       the message with CRLF line ends, not dot-stuffed
    envelope      records, one a line: a letter, a space, a value (\\ and newline escaped as \\\\ and \\n)
    status        rewritten at each deferral; may be missing or torn: it is only information

Envelope records: `T` arrival (seconds since the epoch), `S` sender, `A name=value` attribute, then for each
recipient `o` original address, `n` NOTIFY, `q` ORCPT (each only when set) and `R` address. The `R` becomes an
`X`, in place, when the recipient is done with; the CRC counts every `X` as `R`. Unknown letters are skipped,
so that records can be added. Status records: `a` attempts, `r index seconds dsn reason` for a recipient that
failed for now, and a closing line `.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from zlib import crc32

MAGIC = b"MSQ1 "
HEADER_SIZE = 41
"""Octets of the first line."""


class DamagedFile(Exception):  # noqa: N818
    """A queue file that is not as it was written; `str()` says how."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """One envelope recipient.

    `original` is the address as the client gave it when that differs (`orig_to=`); `notify` and `orcpt` are
    the DSN parameters of RCPT TO (RFC 3461 §4.1, §4.2), empty when the client gave none.
    """

    address: str
    original: str = ""
    notify: str = ""
    orcpt: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What travels beside a message's content. `arrival` is in seconds since the epoch.

    `queue_id` and `size` (octets of content) are filled in by the queue. `sender` is empty for bounces.
    `body` is `7bit` or `8bitmime` (RFC 6152); `ret` and `envid` are MAIL FROM's DSN parameters (RFC 3461
    §4.3, §4.4). The rest is for log lines, headers and policy; `attributes` takes what has no field yet.
    """

    sender: str
    recipients: tuple[Recipient, ...]
    arrival: float
    queue_id: str = ""
    size: int = 0
    client_name: str = ""
    client_address: str = ""
    helo_name: str = ""
    protocol: str = ""
    sasl_method: str = ""
    sasl_username: str = ""
    body: str = "7bit"
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


_FIELDS = (
    "client_name",
    "client_address",
    "helo_name",
    "protocol",
    "sasl_method",
    "sasl_username",
    "body",
    "ret",
    "envid",
)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a recipient was deferred last: when (seconds since the epoch), enhanced status code, text."""

    time: float
    dsn: str
    text: str


@dataclass(slots=True)
class Decoded:
    """A queue file's envelope and status as found on disk.

    `pending` maps the index of each recipient that is not done yet to its state octet's offset in the file.
    """

    envelope: Envelope
    pending: dict[int, int]
    status_offset: int
    attempts: int = 0
    reasons: dict[int, Reason] = field(default_factory=dict)


def encode_envelope(envelope: Envelope) -> bytes:
    """The envelope's records."""
    lines = [f"T {envelope.arrival:.6f}", "S " + _escape(envelope.sender)]
    for name in _FIELDS:
        value: str = getattr(envelope, name)
        if value and (name, value) != ("body", "7bit"):
            lines.append(f"A {name}={_escape(value)}")
    if envelope.smtputf8:
        lines.append("A smtputf8=yes")
    for name, value in envelope.attributes.items():
        if not name.isidentifier() or name in _FIELDS or name == "smtputf8":
            raise ValueError(f"not an attribute name: {name!r}")
        lines.append(f"A {name}={_escape(value)}")
    for recipient in envelope.recipients:
        if recipient.original:
            lines.append("o " + _escape(recipient.original))
        if recipient.notify:
            lines.append("n " + _escape(recipient.notify))
        if recipient.orcpt:
            lines.append("q " + _escape(recipient.orcpt))
        lines.append("R " + _escape(recipient.address))
    lines.append("")
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def encode_header(content_size: int, envelope: bytes) -> bytes:
    """The first line, for `content_size` octets of content and these records."""
    return b"MSQ1 %015d %010d %08x\n" % (content_size, len(envelope), crc32(envelope))


def decode_header(data: bytes) -> tuple[int, int, int]:
    """`(content octets, envelope octets, CRC)` of a first line. Raises `DamagedFile`."""
    if len(data) < HEADER_SIZE:
        raise DamagedFile(f"only {len(data)} octets long")
    if data[:5] != MAGIC or data[HEADER_SIZE - 1] != 10:
        raise DamagedFile("it does not begin as a queue file does")
    try:
        return int(data[5:20]), int(data[21:31]), int(data[32:40], 16)
    except ValueError:
        raise DamagedFile("the numbers of its first line are unreadable") from None


def decode(queue_id: str, content_size: int, crc: int, records: bytes, status: bytes) -> Decoded:
    """Read an envelope and its status. Raises `DamagedFile`."""
    if crc32(records) != crc and crc32(records.replace(b"\nX ", b"\nR ")) != crc:
        raise DamagedFile("the envelope's checksum is wrong")
    offset = HEADER_SIZE + content_size
    arrival, sender = 0.0, ""
    known: dict[str, str] = {}
    attributes: dict[str, str] = {}
    recipients: list[Recipient] = []
    pending: dict[int, int] = {}
    original = notify = orcpt = ""
    for line in records.split(b"\n"):
        text = line[2:].decode("utf-8", "surrogateescape")
        if "\\" in text:
            text = _unescape(text)
        match line[:2]:
            case b"R " | b"X ":
                if line[0] == 82:
                    pending[len(recipients)] = offset
                recipients.append(Recipient(text, original, notify, orcpt))
                original = notify = orcpt = ""
            case b"A ":
                name, _, value = text.partition("=")
                (known if name in _FIELDS or name == "smtputf8" else attributes)[name] = value
            case b"S ":
                sender = text
            case b"T ":
                arrival = float(text)
            case b"o ":
                original = text
            case b"n ":
                notify = text
            case b"q ":
                orcpt = text
        offset += len(line) + 1
    envelope = Envelope(
        sender,
        tuple(recipients),
        arrival,
        queue_id,
        content_size,
        smtputf8=known.pop("smtputf8", "") == "yes",
        attributes=attributes,
        **known,
    )
    decoded = Decoded(envelope, pending, HEADER_SIZE + content_size + len(records))
    if status:
        _decode_status(decoded, status)
    return decoded


def encode_status(attempts: int, reasons: Mapping[int, Reason]) -> bytes:
    """The status records of a message that has been tried `attempts` times."""
    lines = [f"a {attempts}"]
    lines += [
        f"r {index} {reason.time:.3f} {reason.dsn} {_escape(reason.text)}"
        for index, reason in reasons.items()
    ]
    lines.append(".\n")
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _decode_status(decoded: Decoded, status: bytes) -> None:
    """Take over the status records; a section without its closing line is left aside."""
    if not status.endswith(b"\n.\n"):
        return
    attempts, reasons = 0, {}
    try:
        for line in status.decode("utf-8", "surrogateescape").split("\n")[:-2]:
            if line.startswith("a "):
                attempts = int(line[2:])
            elif line.startswith("r "):
                _, index, seconds, dsn, text = line.split(" ", 4)
                reasons[int(index)] = Reason(float(seconds), dsn, _unescape(text))
    except ValueError:
        return
    decoded.attempts, decoded.reasons = attempts, reasons


def _escape(text: str) -> str:
    if "\n" in text or "\\" in text:
        return text.replace("\\", "\\\\").replace("\n", "\\n")
    return text


def _unescape(text: str) -> str:
    return "\\".join(part.replace("\\n", "\n") for part in text.split("\\\\"))
