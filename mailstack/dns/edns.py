"""EDNS options on their way back: cookies, the server's identity, the client's subnet (RFC 6891)."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace

from mailstack.config.named import Options
from mailstack.dns.authority import Answer
from mailstack.dns.cookies import Cookies
from mailstack.dns.message import (
    COOKIE,
    DO,
    EXPIRE,
    EXTENDED_ERROR,
    KEEPALIVE,
    KEY_TAG,
    NSID,
    SUBNET,
    Malformed,
    Query,
    opt,
    subnet_echo,
)
from mailstack.dns.zone import SOA

ENDLESS = b"\0\0max. restarts reached"
"""What is said of aliases that come to no end (RFC 8914 §4.1), in named's words."""
_LLQ, _CLIENT_TAG, _SERVER_TAG = 1, 16, 17
_LENGTHS: dict[int, Callable[[int], bool]] = {
    _LLQ: lambda length: length == 18,
    EXPIRE: lambda length: length in (0, 4),
    KEY_TAG: lambda length: length > 0 and length % 2 == 0,
    EXTENDED_ERROR: lambda length: length >= 2,
    _CLIENT_TAG: lambda length: length == 2,
    _SERVER_TAG: lambda length: length == 2,
}
"""Octets of the options that have a fixed form, whether or not they mean anything to us (as named has it)."""
SECRET = os.urandom(16)
"""Makes cookies where no `cookie-secret` is given: they hold for as long as the process runs."""


class Edns:
    """What one configuration says to options."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._nsid = _identity(options)
        self._keepalive = round(options.tcp_advertised_timeout * 10).to_bytes(2, "big")
        self._cookies = [Cookies(secret) for secret in options.cookie_secrets or (SECRET,)]

    def read(self, query: Query, host: str, *, tcp: bool) -> Query:
        """A query with the options to send back. Raises `ValueError` or `Malformed` for such as are none."""
        edns = query.edns
        if edns is None or not edns.options or edns.version > 0:
            return query
        subnet = edns.option(SUBNET)
        if subnet is not None:
            query = replace(query, subnet=subnet_echo(subnet))
        if tcp and edns.option(KEEPALIVE) is not None:
            query = with_option(query, KEEPALIVE, self._keepalive)
        for code, is_right in _LENGTHS.items():
            found = edns.option(code)
            if found is not None and not is_right(len(found)):
                raise Malformed
        option = edns.option(COOKIE)
        if option is None or not self._options.answer_cookie:
            return query
        now = time.time()
        cookie, known = self._cookies[0].answer(option, host, now)
        known = known or any(other.answer(option, host, now)[1] for other in self._cookies[1:])
        return replace(query, cookie=cookie, known=known)

    def record(self, query: Query, rcode: int) -> bytes:
        """The OPT record of an answer; nothing for a client without EDNS."""
        edns = query.edns
        if edns is None:
            return b""
        if edns.version > 0:
            return opt(self._options.edns_udp_size, rcode, edns.flags & DO)
        options = b""
        if self._nsid and edns.option(NSID) is not None:
            options = struct.pack("!HH", NSID, len(self._nsid)) + self._nsid
        if query.cookie:
            options += struct.pack("!HH", COOKIE, len(query.cookie)) + query.cookie
        if query.subnet:
            options += struct.pack("!HH", SUBNET, len(query.subnet)) + query.subnet
        return opt(self._options.edns_udp_size, rcode, edns.flags & DO, options + query.extra)


def with_option(query: Query, code: int, data: bytes) -> Query:
    """A query that gets one more option sent back, if it has EDNS."""
    return replace(query, extra=query.extra + struct.pack("!HH", code, len(data)) + data)


def _identity(options: Options) -> bytes:
    text = options.server_id
    if text == "":
        text = socket.gethostname()
    return (text or "").encode("utf-8")[:255]


def with_expire(query: Query, found: Answer, remaining: int | None) -> Query:
    """When the zone is to be given up by its secondaries, for those who ask with its SOA (RFC 7314 §3).

    A secondary says how much is left, `remaining` seconds; None on the primary.
    """
    for owner, rrset in found.answer:
        if rrset.rdtype == SOA and found.zone is not None and owner.lower() == found.zone.origin:
            rdata = rrset.rdatas[0]
            numbers = rdata if isinstance(rdata, bytes) else rdata[2]
            left = numbers[-8:-4] if remaining is None else remaining.to_bytes(4, "big")
            return with_option(query, EXPIRE, left)
    return query
