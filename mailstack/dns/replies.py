"""Answers as messages: flags, the OPT record and the sizes that one configuration gives them."""

from __future__ import annotations

from mailstack.config.named import Options
from mailstack.dns.authority import Answer
from mailstack.dns.edns import Edns, with_option
from mailstack.dns.message import (
    AA,
    CD,
    EXTENDED_ERROR,
    OPCODE_MASK,
    PROHIBITED,
    QR,
    RA,
    RD,
    REFUSED,
    Query,
    render,
)
from mailstack.dns.rights import View

UDP_PLAIN = 512
"""Octets of an answer to a client without EDNS (RFC 1035 §4.2.1)."""
TCP_LIMIT = 65_535


class Replies:
    """Renders answers as the options say."""

    def __init__(self, options: Options, edns: Edns) -> None:
        self._options = options
        self._edns = edns

    def small(self, query: Query, *, tcp: bool) -> bool:
        """Whether the answer is to hold what was asked for only: named has no more for buffers this small."""
        return query.edns is not None and query.edns.payload <= UDP_PLAIN and not tcp

    def limit(self, query: Query, *, tcp: bool) -> int:
        """Octets that the answer to a query may have."""
        if tcp:
            return TCP_LIMIT
        if query.edns is None:
            return UDP_PLAIN
        limit = min(query.edns.payload, self._options.max_udp_size)
        return limit if query.known else min(limit, max(self._options.nocookie_udp_size, UDP_PLAIN))

    def flags(self, query: Query, view: View) -> int:
        """Those of every answer to a query."""
        opcode = query.flags & OPCODE_MASK
        if opcode:
            return QR | opcode
        return QR | query.flags & (RD | CD) | (RA if view.available else 0)

    def of(self, query: Query, view: View, found: Answer, limit: int, flags: int = 0) -> bytes:
        """An answer with records."""
        flags |= self.flags(query, view) | (AA if found.authoritative else 0) | found.rcode
        return render(
            query,
            flags,
            found.answer,
            found.authority,
            found.additional,
            limit=limit,
            opt_record=self._edns.record(query, 0),
            glue=found.glue,
        )

    def plain(self, query: Query, view: View, rcode: int, flags: int = 0) -> bytes:
        """An answer without records."""
        flags |= self.flags(query, view) | rcode & 0xF
        return render(query, flags, (), (), (), limit=TCP_LIMIT, opt_record=self._edns.record(query, rcode))

    def prohibited(self, query: Query, view: View) -> bytes:
        """REFUSED, because of who asks (RFC 8914 §4.19)."""
        told = with_option(query, EXTENDED_ERROR, PROHIBITED.to_bytes(2, "big"))
        return self.plain(told, view, REFUSED)

    def opt_record(self, query: Query, rcode: int) -> bytes:
        """The OPT record of an answer; nothing for a client without EDNS."""
        return self._edns.record(query, rcode)
