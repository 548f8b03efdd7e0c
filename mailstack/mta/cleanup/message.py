"""The last look at a new message, as cleanup(8): headers completed, recipients expanded.

`Cleanup.headers` works on the header block only, in bulk: it counts Received: headers (a message with more
than `hopcount_limit` loops), removes `message_drop_headers`, and for clients whose mail is ours to complete
adds Message-Id, Date and From, completes addresses without a domain, and applies canonical and masquerade
maps. A first line that is no header begins the body; the empty line between is put in. `Cleanup.sender` and
`Cleanup.recipients` do the same to the envelope, and expand `virtual_alias_maps`.

`Cleanup.inspector` is for configurations with header_checks and their like (`checks`); it is None in all
others, and nothing else is done to a body.

Raises `TooManyHops`, `AliasExpansionError`, `MapError`. Standards: RFC 5322 §3.6, RFC 5321 §6.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.cleanup.addresses import SENDERS
from mailstack.mta.cleanup.checks import Checks, Inspector, Origin
from mailstack.mta.cleanup.headers import (
    BLOCK,
    HEADER,
    MESSAGE_ID,
    NAMES,
    RESENT_ID,
    VALUE,
    missing_headers,
    rewrite_headers,
    shortened,
    tight,
)
from mailstack.mta.cleanup.maps import ENVELOPE_SENDER, HEADER_RECIPIENT, HEADER_SENDER, Canonical, MapError
from mailstack.mta.cleanup.recipients import Recipients
from mailstack.mta.rewrite import Rewriter
from mailstack.net.log import Log
from mailstack.storage.queue import Recipient
from mailstack.wire.smtp.command import RcptParameters

FILTER = "content_filter"
"""Envelope attribute: `transport:nexthop` that gets the message, wherever its recipients are."""
_VISIBLE = (b"to", b"cc", b"resent-to", b"resent-cc")
_OVERRIDES = frozenset(
    (
        "no_unknown_recipient_checks",
        "no_address_mappings",
        "no_header_body_checks",
        "no_milters",
    )
)


class TooManyHops(Exception):  # noqa: N818
    """More Received: headers than a message that does not loop has."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The parts of the new content in order, and its Message-ID with its brackets (`""`: none)."""

    parts: list[bytes]
    message_id: str
    resent_id: str = ""
    """Resent-Message-Id."""
    warnings: tuple[str, ...] = ()
    """For the log: maps that headers could not be taken through."""


class Cleanup:
    """Cleaning under one configuration."""

    def __init__(self, conf: MainCf, rewriter: Rewriter, open_table: OpenTable) -> None:
        self._rewriter = rewriter
        self._host = conf.str("myhostname")
        self._long_ids = conf.bool("enable_long_queue_ids")
        self._hop_limit = conf.int("hopcount_limit")
        self._header_limit = conf.size("header_size_limit")
        self._token_limit = conf.int("header_address_token_limit")
        self._always_add = conf.bool("always_add_missing_headers")
        self._obsolete_from = conf.str("header_from_format") == "obsolete"
        self._remote_domain = conf.str("remote_header_rewrite_domain")
        self._undisclosed = conf.str("undisclosed_recipients_header")
        if self._undisclosed and not HEADER.match(self._undisclosed):
            raise conf.error("undisclosed_recipients_header", 'need "headername: headervalue"')
        names = [name.lower().rstrip(":").encode() for name in conf.list("message_drop_headers")]
        self._drop_names = frozenset(names)
        self._drop = re.compile(rb"^(?:" + b"|".join(map(re.escape, names)) + rb")" + VALUE, re.I | re.M)
        overrides = _overrides(conf)
        mapping = "no_address_mappings" not in overrides
        canonical = Canonical.load(conf, rewriter, open_table) if mapping else None
        self._canonical = canonical
        self._header_maps = canonical if canonical is not None and canonical.headers else None
        self._recipients = Recipients(conf, rewriter, open_table, canonical, mapping=mapping)
        self.aliases = self._recipients.aliases
        self.expand = self._recipients.expand
        self.redirected = self._recipients.redirected
        self.add_copies = self._recipients.add_copies
        self.checks = Checks.load(conf, open_table, tables="no_header_body_checks" not in overrides)
        """None: nobody looks at headers and bodies."""
        self.filter = _filter(conf)
        """content_filter: the value of the attribute `FILTER`, or `""`."""

    # ---- headers

    def inspector(self, queue_id: str, origin: Origin, log: Log) -> Inspector | None:
        """Who looks at a message from outside on its way in; None where nothing is to be looked at."""
        return Inspector(self.checks, queue_id, origin, log) if self.checks is not None else None

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
        inspector: Inspector | None = None,
    ) -> Cleaned:
        """Clean the beginning of a message: all of it, or a first part that holds every header.

        `head` has CRLF line ends; `received` is the new Received: header; `local`: the client's headers are
        completed; `full_name`: the sender's, for a From: that is missing. With an `inspector` the caller
        gives it the rest of the content. Raises `TooManyHops`, `MapError`, what a table raises.
        """
        if inspector is not None:
            head = inspector.stripped(head)
        end = BLOCK.match(head).end()  # type: ignore[union-attr]  # matches the empty string
        block = tight(head[:end])
        if len(block) > self._header_limit:
            block = shortened(block, self._header_limit)
        if inspector is not None:
            block, received = inspector.headers(received + block), b""
        names = [name.lower() for name in NAMES.findall(block)]
        present = frozenset(names)
        if names.count(b"received") + bool(received) >= self._hop_limit:  # with ours; Postfix counts the same
            raise TooManyHops(f"{names.count(b'received')} Received: headers")
        ours = local or bool(self._remote_domain)
        warnings: list[str] = []
        if ours:
            block = self._rewrite(block, local, warnings)
        if not present.isdisjoint(self._drop_names):
            block = self._drop.sub(b"", block)
        extra = b""
        if ours or self._always_add:
            extra = missing_headers(
                present,
                queue_id=queue_id,
                long_ids=self._long_ids,
                host=self._host,
                sender=sender,
                full_name=full_name,
                now=now,
                obsolete=self._obsolete_from,
            ).encode("utf-8", "surrogateescape")
            if self._undisclosed and present.isdisjoint(_VISIBLE):
                extra += self._undisclosed.encode() + b"\r\n"
        rest = head[end:]
        if rest[:2] != b"\r\n":
            rest = b"\r\n" + rest
        if inspector is not None:
            rest = inspector.body(rest)
        parts = [part for part in (received, block, extra, rest) if part]
        seen = block + extra
        resent = b"resent-message-id" in present or (b"Resent-Message-Id" in extra)
        return Cleaned(
            parts, _first(MESSAGE_ID, seen), _first(RESENT_ID, seen) if resent else "", tuple(warnings)
        )

    def _rewrite(self, block: bytes, local: bool, warnings: list[str]) -> bytes:
        """Addresses of headers completed, as a local client's or as remote_header_rewrite_domain says."""
        canonical = self._header_maps
        complete: Callable[[str], str] = self._rewriter.complete
        if not local:
            domain, rewriter = self._remote_domain, self._rewriter

            def complete(address: str) -> str:
                return rewriter.complete_in(address, domain)

        if canonical is None:
            return rewrite_headers(
                block, lambda _, address: complete(address), self._token_limit, complete=True
            )

        def change(name: bytes, address: str) -> str:
            kind = HEADER_SENDER if name in SENDERS else HEADER_RECIPIENT
            try:
                return canonical.apply(kind, complete(address))
            except MapError as error:
                warnings.append(str(error))
                return error.address

        return rewrite_headers(block, change, self._token_limit)

    # ---- the envelope

    def sender(self, address: str) -> str:
        """The envelope sender that a completed address becomes. Raises `MapError`, what a table raises."""
        return address if self._canonical is None else self._canonical.apply(ENVELOPE_SENDER, address)

    def recipients(
        self,
        addresses: Iterable[tuple[str, str]],
        dsn: Mapping[str, RcptParameters] | None = None,
        replaced: list[str] | None = None,
        *,
        copies_for: str | None = None,
    ) -> tuple[Recipient, ...]:
        """Envelope recipients of (completed address, address as given): maps applied, each result once.

        `dsn`: the parameters of those that have some, by the address as it was given; what an alias makes of
        such an address inherits them, without SUCCESS: instead the address goes to `replaced`, in the form of
        `dsn.REPLACED`. `copies_for`: the sender of mail from outside, of which always_bcc and its like get a
        copy; None: our own mail. Raises `AliasExpansionError`, `MapError` and what a table raises.
        """
        return self._recipients.expanded(addresses, dsn, replaced, copies_for)


def _first(pattern: re.Pattern[bytes], block: bytes) -> str:
    found = pattern.search(block)
    return found[1].strip().replace(b"\r\n", b"\n").decode("utf-8", "replace") if found else ""


def _overrides(conf: MainCf) -> frozenset[str]:
    words = frozenset(conf.list("receive_override_options"))
    if words - _OVERRIDES:
        unknown = ", ".join(sorted(words - _OVERRIDES))
        raise conf.error("receive_override_options", f"unknown receive override option: {unknown}")
    return words


def _filter(conf: MainCf) -> str:
    value = conf.str("content_filter").strip()
    if value and ":" not in value:
        return f"{value}:"
    return value
