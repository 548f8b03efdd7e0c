"""The header block: where it ends, what is added, dropped, and how its addresses are rewritten.

Everything works on the block in bulk; a header is taken apart only when one of its addresses is not plainly
`user@domain.with.dots` already, or canonical maps are to see it. Standards: RFC 5322 §3.6, RFC 5321 §4.4.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence

from mailstack.mta.cleanup.addresses import RECIPIENTS, SENDERS, fold, parse, rewrite, write
from mailstack.wire.mime.dates import write_date
from mailstack.wire.smtp.address import quote

BLOCK = re.compile(rb"(?:[!-9;-~]+[ \t]*+:[^\r]*+\r\n(?:[ \t][^\r]*+\r\n)*+)*+")
"""Headers from the first octet on, as many as there are."""
MOST = 1024 * 1024
"""Octets of a message in which its header block is looked for; what is beyond them is body."""
VALUE = rb"[ \t]*:[^\r]*\r\n(?:[ \t][^\r]*\r\n)*"
"""What a header has behind its name."""
NAMES = re.compile(rb"^([!-9;-~]+)[ \t]*:", re.MULTILINE)
MESSAGE_ID = re.compile(rb"^message-id[ \t]*:([^\r]*(?:\r\n[ \t][^\r]*)*)", re.I | re.M)
RESENT_ID = re.compile(rb"^resent-message-id[ \t]*:([^\r]*(?:\r\n[ \t][^\r]*)*)", re.I | re.M)
HEADER = re.compile(r"[!-9;-~]+[ \t]*:")
"""The beginning of a header, in text that an administrator gives."""

_ADDRESSES = re.compile(
    rb"^(" + b"|".join(sorted(SENDERS | RECIPIENTS)) + rb")[ \t]*:([^\r]*(?:\r\n[ \t][^\r]*)*)\r\n",
    re.I | re.M,
)
_ATOM = rb"[A-Za-z0-9_+=~$&'*/?^`{}#-]+"
_PLAIN = rb"(?:" + _ATOM + rb"(?:\." + _ATOM + rb")*@[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+)"
_MAILBOX = rb"[ \t\r\n]*(?:" + _PLAIN + rb'|(?:"[^"\\]*"|[^"\\<>@,;:()%!|\[\]]*)<' + _PLAIN + rb">)[ \t\r\n]*"
_COMPLETE = re.compile(_MAILBOX + rb"(?:," + _MAILBOX + rb")*\Z")
"""A value in which nothing is left to complete."""


def whole(head: bytes) -> bool:
    """Whether the header block ends within the beginning of a message: what follows is no header."""
    end = BLOCK.match(head).end()  # type: ignore[union-attr]  # matches the empty string
    return head.find(b"\r\n", end) >= 0 or _BEGUN.match(head, end) is None


_BEGUN = re.compile(rb"[ \t]|[!-9;-~]{0,1000}[ \t]*(?::|\Z)")
_SPACED = re.compile(rb"^([!-9;-~]+)[ \t]+:", re.MULTILINE)


def tight(block: bytes) -> bytes:
    """The block without white space between a header's name and its colon (RFC 5322 §4.5.8), as Postfix."""
    return _SPACED.sub(rb"\1:", block) if b" :" in block or b"\t:" in block else block


def rewrite_headers(
    block: bytes, change: Callable[[bytes, str], str], limit: int, *, complete: bool = False
) -> bytes:
    """The header block with `change(name, address)` applied to each address of its address headers.

    `name` is in lower case; the address is in internal form. A header in which nothing changes stays as it
    is, octet for octet. `complete`: addresses that have a user and a domain with a dot do not change, and
    need not be looked at. `limit` is header_address_token_limit.
    """

    def header(found: re.Match[bytes]) -> bytes:
        if complete and _COMPLETE.match(found[2]):
            return found[0]
        name = found[1].lower()
        value = found[2].decode("utf-8", "surrogateescape").replace("\r\n", "\n")
        new = rewrite(value, lambda address: change(name, address), limit)
        return found[0] if new is None else fold(found[1].decode(), new)

    return _ADDRESSES.sub(header, block)


def shortened(block: bytes, limit: int) -> bytes:
    """The block, each header cut at its first line end at or behind `limit` octets (header_size_limit)."""
    starts = [found.start() for found in NAMES.finditer(block)] + [len(block)]
    kept = []
    for start, end in itertools.pairwise(starts):
        if end - start > limit:
            cut = block.find(b"\r\n", start + limit - 2, end)
            end = end if cut < 0 else cut + 2
        kept.append(block[start:end])
    return b"".join(kept)


def missing_headers(
    present: frozenset[bytes],
    *,
    queue_id: str,
    long_ids: bool,
    host: str,
    sender: str,
    full_name: str,
    now: float,
    obsolete: bool = False,
) -> str:
    """Message-Id, Date and From where they are not there; Resent- ones for a resent message.

    `obsolete`: header_from_format says so.
    """
    resent = "Resent-" if any(name.startswith(b"resent-") for name in present) else ""
    lines = ""
    if f"{resent}message-id".lower().encode() not in present:
        stamp = "" if long_ids else time.strftime("%Y%m%d%H%M%S.", time.gmtime(now))
        lines += f"{resent}Message-Id: <{stamp}{queue_id}@{host}>\r\n"
    if f"{resent}date".lower().encode() not in present:
        lines += f"{resent}Date: {mail_date(now)}\r\n"
    if f"{resent}from".lower().encode() not in present:
        lines += f"{resent}From: {author(full_name, sender or 'MAILER-DAEMON', obsolete)}\r\n"
    return lines


def author(name: str, address: str, obsolete: bool) -> str:
    """The value of a From: header of ours, as header_from_format wants it: `Name <address>`, or, `obsolete`,
    `address (Name)` (RFC 822). `name` may be empty."""
    address = quote(address)
    if not name:
        return address
    if obsolete:
        return f"{address} {write(parse(f'({name})'))}"
    phrase = name if _PHRASE.match(name) else '"' + _QUOTE.sub(r"\\\1", name) + '"'
    return f"{phrase} <{address}>"


_PHRASE = re.compile(r"[A-Za-z0-9 !#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]*\Z")
_QUOTE = re.compile(r'(["\\])')


def mail_date(now: float) -> str:
    """`Sun, 22 Nov 2026 12:05:06 +0000 (UTC)` in local time (RFC 5322 §3.3)."""
    return write_date(now, zone_name=True)


def received_header(
    *,
    helo: str,
    client_name: str,
    client_address: str,
    comments: Sequence[str],
    host: str,
    mail_name: str,
    protocol: str,
    queue_id: str,
    recipient: str,
    now: float,
) -> bytes:
    """The Received: header of a message just taken, in Postfix's form (RFC 5321 §4.4).

    `comments` go in parentheses on lines of their own; `recipient` is empty when there are several,
    `queue_id` where nothing is queued.
    """
    address = f"IPv6:{client_address}" if ":" in client_address else client_address
    lines = [f"Received: from {helo or client_name} ({client_name} [{address}])"]
    lines += [f"\t({comment})" for comment in comments]
    lines.append(f"\tby {host} ({mail_name}) with {protocol}{f' id {queue_id}' if queue_id else ''}")
    if recipient:
        lines.append(f"\tfor <{quote(recipient)}>; {mail_date(now)}")
    else:
        lines[-1] += ";"
        lines.append(f"\t{mail_date(now)}")
    return ("\r\n".join(lines) + "\r\n").encode("utf-8", "replace")
