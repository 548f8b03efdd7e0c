"""The last look at a new message, as cleanup(8): headers completed, recipients expanded.

`Cleanup.headers` works on the header block only, in bulk: it counts Received: headers (a message with more
than `hopcount_limit` loops), removes `message_drop_headers`, and for clients whose mail is ours to complete
adds Message-Id, Date and From and completes addresses without a domain. A first line that is no header begins
the body; the empty line between is put in. `Cleanup.recipients` replaces recipients by what
`virtual_alias_maps` makes of them, recursively, each result once.

Raises `TooManyHops` and `AliasExpansionError`. Standards: RFC 5322 §3.6, RFC 5321 §6.3.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps, OpenTable
from mailstack.mta.rewrite import Rewriter
from mailstack.storage.queue import Recipient
from mailstack.wire.smtp.address import AddressError, parse_path, quote

_BLOCK = re.compile(rb"(?:[!-9;-~]+[ \t]*+:[^\r]*+\r\n(?:[ \t][^\r]*+\r\n)*+)*+")
_VALUE = rb"[ \t]*:[^\r]*\r\n(?:[ \t][^\r]*\r\n)*"
_NAMES = re.compile(rb"^([!-9;-~]+)[ \t]*:", re.MULTILINE)
_MESSAGE_ID = re.compile(rb"^(?:resent-)?message-id[ \t]*:([^\r]*(?:\r\n[ \t][^\r]*)*)", re.I | re.M)
_ADDRESSES = re.compile(
    rb"^((?:resent-)?(?:from|sender|to|cc|bcc|reply-to)[ \t]*:)([^\r]*(?:\r\n[ \t][^\r]*)*)\r\n", re.I | re.M
)
_BARE_IN_BRACKETS = re.compile(rb"<[ \t]*([A-Za-z0-9_.+=-]+)[ \t]*>")
_BARE = re.compile(rb"[A-Za-z0-9_.+=-]+\Z")
_SPLIT_ADDRESSES = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^\s,"])+')


class TooManyHops(Exception):  # noqa: N818
    """More Received: headers than a message that does not loop has."""


class AliasExpansionError(Exception):
    """virtual_alias_maps make too many addresses of one, go too deep, or yield what is no address."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The parts of the new content in order, and its Message-ID with its brackets (`""`: none)."""

    parts: list[bytes]
    message_id: str


class Cleanup:
    """Cleaning under one configuration."""

    def __init__(self, conf: MainCf, rewriter: Rewriter, open_table: OpenTable) -> None:
        self._rewriter = rewriter
        self._host = conf.str("myhostname")
        self._hop_limit = conf.int("hopcount_limit")
        self._always_add = conf.bool("always_add_missing_headers")
        self._remote_domain = conf.str("remote_header_rewrite_domain")
        self._undisclosed = conf.str("undisclosed_recipients_header")
        self._null_name = conf.str("empty_address_recipient")
        names = [name.lower().encode() for name in conf.list("message_drop_headers")]
        self._drop_names = frozenset(names)
        self._drop = re.compile(rb"^(?:" + b"|".join(map(re.escape, names)) + rb")" + _VALUE, re.I | re.M)
        self._expansion_limit = conf.int("virtual_alias_expansion_limit")
        self._recursion_limit = conf.int("virtual_alias_recursion_limit")
        self._length_limit = conf.int("virtual_alias_address_length_limit")
        self._propagate = "virtual" in conf.list("propagate_unmatched_extensions")
        self._duplicates = conf.int("duplicate_filter_limit")
        self._bcc = conf.str("always_bcc")
        self._keep_original = conf.bool("enable_original_recipient")
        self.aliases = AddressMaps(
            conf.list("virtual_alias_maps"),
            open_table,
            delimiters=rewriter.delimiters,
            is_local=rewriter.is_local,
        )

    # ---- headers

    def headers(
        self,
        head: bytes,
        *,
        received: bytes,
        queue_id: str,
        sender: str,
        local: bool,
        now: float,
        full_name: str = "",
    ) -> Cleaned:
        """Clean the beginning of a message: all of it, or a first part that holds every header.

        `head` has CRLF line ends; `received` is the new Received: header; `local`: the client's headers are
        completed; `full_name`: the sender's, for a From: that is missing. Raises `TooManyHops`.
        """
        end = _BLOCK.match(head).end()  # type: ignore[union-attr]  # matches the empty string
        block = head[:end]
        names = [name.lower() for name in _NAMES.findall(block)]
        present = frozenset(names)
        if names.count(b"received") + 1 >= self._hop_limit:  # with ours; Postfix counts the same
            raise TooManyHops(f"{names.count(b'received')} Received: headers")
        if not present.isdisjoint(self._drop_names):
            block = self._drop.sub(b"", block)
        if local or self._remote_domain:
            block = self._complete_addresses(block, b"" if local else self._remote_domain.encode())
        extra = b""
        if local or self._always_add or self._remote_domain:
            extra = self._missing(present, queue_id, sender, now, full_name)
        if self._undisclosed and present.isdisjoint((b"to", b"cc", b"resent-to", b"resent-cc")):
            extra += self._undisclosed.encode() + b"\r\n"
        separator = b"" if head[end : end + 2] == b"\r\n" else b"\r\n"
        found = _MESSAGE_ID.search(block + extra)
        message_id = found[1].strip().decode("utf-8", "replace") if found else ""
        parts = [received, block, extra + separator if extra or separator else b"", head[end:]]
        return Cleaned([part for part in parts if part], message_id)

    def _missing(
        self, present: frozenset[bytes], queue_id: str, sender: str, now: float, full_name: str
    ) -> bytes:
        """Message-Id, Date and From where they are not there; Resent- ones for a resent message."""
        resent = "Resent-" if any(name.startswith(b"resent-") for name in present) else ""
        lines = ""
        if f"{resent}message-id".lower().encode() not in present:
            stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(now))
            lines += f"{resent}Message-Id: <{stamp}.{queue_id}@{self._host}>\r\n"
        if f"{resent}date".lower().encode() not in present:
            lines += f"{resent}Date: {mail_date(now)}\r\n"
        if f"{resent}from".lower().encode() not in present:
            address = quote(sender) if sender else f"{self._null_name} (Mail Delivery System)"
            if full_name and sender:
                address = f"{_phrase(full_name)} <{address}>"
            lines += f"{resent}From: {address}\r\n"
        return lines.encode()

    def _complete_addresses(self, block: bytes, domain: bytes) -> bytes:
        """`From: root` and `To: Root <root>` get the domain that an envelope address would get."""

        def complete(user: bytes) -> bytes:
            if domain:
                return user + b"@" + domain
            return self._rewriter.complete(user.decode()).encode()

        def header(found: re.Match[bytes]) -> bytes:
            value = _BARE_IN_BRACKETS.sub(lambda bare: b"<" + complete(bare[1]) + b">", found[2])
            if not any(mark in value for mark in b'"(<:;'):
                parts = value.split(b",")
                stripped = [part.strip() for part in parts]
                if any(_BARE.match(part) for part in stripped):
                    value = b" " + b", ".join(
                        complete(part) if _BARE.match(part) else part for part in stripped if part
                    )
            return found[1] + value + b"\r\n"

        return _ADDRESSES.sub(header, block)

    # ---- recipients

    def recipients(self, addresses: Iterable[tuple[str, str]]) -> tuple[Recipient, ...]:
        """Envelope recipients of (completed address, address as given): aliases expanded, each result once.

        Raises `AliasExpansionError` and what a table raises.
        """
        found: dict[str, Recipient] = {}
        if self._bcc:
            addresses = [*addresses, (self._rewriter.complete(self._bcc), self._bcc)]
        for address, given in addresses:
            for result in self.expand(address) if self.aliases else (address,):
                key = result.lower()
                if key in found and (not self._duplicates or len(found) <= self._duplicates):
                    continue
                original = given if self._keep_original and result != given else ""
                found[key] = Recipient(result, original)
        return tuple(found.values())

    def expand(self, address: str) -> list[str]:
        """What the virtual aliases make of one completed address; itself where no alias is known."""
        results: list[str] = []
        seen: set[str] = set()
        pending = [(address, 0)]
        while pending:
            current, depth = pending.pop()
            key = current.lower()
            found = None if key in seen else self.aliases.find(current)
            if found is None:
                if current not in results:
                    results.append(current)
                continue
            seen.add(key)
            if depth >= self._recursion_limit:
                raise AliasExpansionError(f"unreasonable virtual_alias_maps map nesting for {address}")
            targets = self._targets(found.value, found.extension)
            pending += [(target, depth + 1) for target in reversed(targets)]
            if len(results) + len(pending) > self._expansion_limit:
                raise AliasExpansionError(f"unreasonable virtual_alias_maps map expansion size for {address}")
        return results

    def _targets(self, value: str, extension: str) -> list[str]:
        targets = []
        for word in _SPLIT_ADDRESSES.findall(value):
            try:
                target = parse_path(word)
            except AddressError:
                raise AliasExpansionError(f"bad address in virtual_alias_maps: {word[:100]}") from None
            if not target or len(target) > self._length_limit:
                raise AliasExpansionError(f"bad address in virtual_alias_maps: {word[:100]}")
            if target.startswith("@"):
                raise AliasExpansionError(f"bad address in virtual_alias_maps: {word[:100]}")
            if extension and self._propagate:
                local, at, domain = target.rpartition("@")
                target = f"{local}{extension}@{domain}" if at else target + extension
            targets.append(self._rewriter.complete(target))
        return targets


_PHRASE = re.compile(r'[^\x00-\x1f"(),.:;<>@\[\\\]\x7f]+\Z')


def _phrase(name: str) -> str:
    """A display name, in quotes where it needs them (RFC 5322 §3.2.5)."""
    if _PHRASE.match(name):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


_date: tuple[int, str] = (-1, "")


def mail_date(now: float) -> str:
    """`Sun, 22 Nov 2026 12:05:06 +0000 (UTC)` in local time (RFC 5322 §3.3)."""
    global _date
    second = int(now)
    if _date[0] != second:
        local = time.localtime(second)
        day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[local.tm_wday]
        month = _MONTHS[local.tm_mon - 1]
        minutes = (local.tm_gmtoff or 0) // 60
        sign = "-" if minutes < 0 else "+"
        zone = f"{sign}{abs(minutes) // 60:02d}{abs(minutes) % 60:02d}"
        text = f"{day}, {local.tm_mday} {month} {local.tm_year} {local.tm_hour:02d}:{local.tm_min:02d}"
        _date = (second, f"{text}:{local.tm_sec:02d} {zone} ({local.tm_zone})")
    return _date[1]


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


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

    `comments` go in parentheses on lines of their own; `recipient` is empty when there are several.
    """
    address = f"IPv6:{client_address}" if ":" in client_address else client_address
    lines = [f"Received: from {helo or client_name} ({client_name} [{address}])"]
    lines += [f"\t({comment})" for comment in comments]
    lines.append(f"\tby {host} ({mail_name}) with {protocol} id {queue_id}")
    if recipient:
        lines.append(f"\tfor <{quote(recipient)}>; {mail_date(now)}")
    else:
        lines[-1] += ";"
        lines.append(f"\t{mail_date(now)}")
    return ("\r\n".join(lines) + "\r\n").encode("utf-8", "replace")
