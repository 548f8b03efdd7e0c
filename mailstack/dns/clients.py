"""What the log says of clients and their questions, in named's words.

client @0x7f1fee30f098 192.0.2.1#4242 (mail.example.com): query: mail.example.com IN A +E(0)K (192.0.2.53)
"""

from __future__ import annotations

import dns.rdataclass

from mailstack.dns import names
from mailstack.dns.message import CD, COOKIE, RD, SUBNET, Query
from mailstack.dns.statistics import type_name
from mailstack.dns.tsig import Signed
from mailstack.net.log import Log

_MARK = f"@{id(object):#x}"
"""named has the address of its own data about the client there: of no use, but expected by who reads logs."""


def who(host: str, port: int, key: str | None = None) -> str:
    """A client, as lines begin; `key` is the name of the one that its message was signed with."""
    return f"client {_MARK} {host}#{port}" + (f"/key {key}" if key is not None else "")


class ClientLog:
    """Lines about clients. With `queries`, each question is one."""

    def __init__(self, log: Log, *, queries: bool) -> None:
        self._queries = log.category("queries") if queries else None
        self._security = log.category("security")
        self._errors = log.category("query-errors")
        self._limits = log.category("rate-limit")

    def who(self, host: str, port: int, query: Query | None = None, signed: Signed | None = None) -> str:
        """A client, as lines begin; with what it asked for, if it is a query."""
        about = f" ({names.to_text(query.name)})" if query is not None and query.question else ""
        return who(host, port, signed.name if signed is not None else None) + about

    def query(
        self, query: Query, host: str, port: int, local: str, *, tcp: bool, signed: Signed | None
    ) -> None:
        """A question, if they are logged: recursion wanted, Signed, EDNS version, TCP, DNSSEC, Checking
        disabled, and a cookie that is Valid or just a client's (K)."""
        if self._queries is None or not query.question:
            return
        marks = ("+" if query.flags & RD else "-") + ("S" if signed is not None else "")
        marks += f"E({query.edns.version})" if query.edns is not None else ""
        marks += ("T" if tcp else "") + ("D" if query.do else "") + ("C" if query.flags & CD else "")
        if query.edns is not None and query.edns.option(COOKIE) is not None:
            marks += "V" if query.known else "K"
        text = f"{_rdclass(query)} {type_name(query.rdtype)} {marks} ({local})"
        subnet = query.edns.option(SUBNET) if query.edns is not None else None
        if subnet is not None:
            text += f" [ECS {_subnet(subnet)}]"
        who = self.who(host, port, query, signed)
        self._queries.info(f"{who}: query: {names.to_text(query.name)} {text}")

    def denied(self, query: Query, who: str, *, cache: str = "") -> None:
        """A question that the client may not ask. `cache` is the list that keeps it from others' names."""
        asked = f"{names.to_text(query.name)}/{type_name(query.rdtype)}/{_rdclass(query)}"
        if cache:
            self._security.info(f"{who}: query (cache) '{asked}' denied ({cache} did not match)")
        else:
            self._security.info(f"{who}: query '{asked}' denied")

    def failed(self, query: Query, who: str, rcode: str) -> None:
        """A question that is answered with an error."""
        asked = f"{names.to_text(query.name)}/{_rdclass(query)}/{type_name(query.rdtype)}"
        self._errors.info(f"{who}: query failed ({rcode}) for {asked} at responder.py")

    def limited(self, who: str, text: str, *, error: bool) -> None:
        """An answer that is not given."""
        (self._errors if error else self._limits).info(f"{who}: {text}")


def _rdclass(query: Query) -> str:
    return dns.rdataclass.to_text(dns.rdataclass.RdataClass.make(query.rdclass))


def _subnet(option: bytes) -> str:
    import ipaddress

    family, prefix, scope, address = option[:2], option[2], option[3], option[4:]
    size = 4 if family == b"\0\1" else 16
    host = ipaddress.ip_address(address[:size].ljust(size, b"\0")) if family != b"\0\0" else 0
    return f"{host}/{prefix}/{scope}"
