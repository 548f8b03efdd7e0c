"""Questions for a whole zone (AXFR, IXFR): who may have it, and what it is answered with."""

from __future__ import annotations

from mailstack.dns import names, transfer
from mailstack.dns.authority import Answer, Authority
from mailstack.dns.message import FORMERR, NOTAUTH, Query
from mailstack.dns.replies import Replies
from mailstack.dns.results import Transfer
from mailstack.dns.rights import View
from mailstack.dns.zone import AXFR
from mailstack.net.log import Log


class TransfersOut:
    """Transfers of the zones of `authority`."""

    def __init__(self, authority: Authority, replies: Replies, log: Log) -> None:
        self._authority = authority
        self._replies = replies
        self._log = log

    def answer(self, query: Query, view: View, host: str, *, tcp: bool) -> bytes | Transfer:
        """The answer to a question of type AXFR or IXFR."""
        zone = self._authority.zones.get(query.name.lower())
        if zone is None:
            return self._replies.plain(query, view, NOTAUTH)
        if not view.transfer.get(zone.origin, False):
            self._log.info(f"client {host}: zone transfer '{names.to_text(zone.origin)}/IN' denied")
            return self._replies.prohibited(query, view)
        if not tcp:
            if query.rdtype == AXFR:
                return self._replies.plain(query, view, FORMERR)
            # RFC 1995 §2: an answer that does not fit is the SOA alone, and the client turns to TCP.
            answer = Answer(answer=[(query.name, zone.soa)])
            return self._replies.of(query, view, answer, self._replies.limit(query, tcp=False))
        self._log.info(f"client {host}: transfer of '{names.to_text(zone.origin)}/IN': AXFR started")
        return Transfer(transfer.messages(query, zone, self._replies.opt_record(query, 0)))
