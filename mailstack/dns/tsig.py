"""Signed messages (TSIG, RFC 8945), through dnspython: what came is checked, what goes back is signed."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TSIG
import dns.tsig

from mailstack.config.named.acl import key_name
from mailstack.config.named.model import TsigKey
from mailstack.dns.message import FORMERR, NOTAUTH, Malformed, skip_name

# Without types in dnspython.
_sign: Any = dns.tsig.sign
_validate: Any = dns.tsig.validate
_TSIG: Any = dns.rdtypes.ANY.TSIG.TSIG
FUDGE = 300
"""Seconds that two clocks may differ."""
BADSIG, BADKEY, BADTIME = 16, 17, 18
ROOM = 160
"""Octets that a TSIG record needs at the most, but for its names."""
UNSIGNED_LIMIT = 99
"""Messages of a transfer that may follow one another without a signature (§5.3.1)."""
_SAID = {BADSIG: "bad signature", BADKEY: "unknown key", BADTIME: "bad time"}


@dataclass(frozen=True, slots=True)
class Signed:
    """A message whose signature holds."""

    message: dns.message.Message
    name: str
    """The key's, as lists compare it."""
    key: dns.tsig.Key

    @property
    def room(self) -> int:
        """Octets that the signature of an answer takes at the most."""
        return ROOM + len(self.key.name.to_wire() or b"")

    def sign(self, wire: bytes) -> bytes:
        """An answer with its signature."""
        return self._append(wire, None, self.message.mac or b"")[0]

    def sign_all(self, messages: Iterable[bytes]) -> Iterator[bytes]:
        """The messages of a transfer, each signed, together with those before it (§5.3.1)."""
        context: Any = None
        mac = self.message.mac or b""
        for wire in messages:
            signed, context = self._append(wire, context, mac, multi=True)
            yield signed

    def _append(self, wire: bytes, context: Any, mac: bytes, *, multi: bool = False) -> tuple[bytes, Any]:
        template = _record(self.key.algorithm, wire, 0)
        rdata, context = _sign(wire, self.key, template, int(time.time()), mac, context, multi)
        return _with_record(wire, self.key.name, rdata), context


@dataclass(frozen=True, slots=True)
class Refused:
    """A message whose signature does not hold: the answer, and what to say in the log."""

    wire: bytes
    reason: str


class Untrusted(Exception):  # noqa: N818 - a condition of the peer's making, not an error of ours
    """An answer whose signature does not hold, or that should have one."""


class Conversation:
    """Our side of a question to another server: signed with a key, or with none."""

    def __init__(self, key: TsigKey | None) -> None:
        self._key = None if key is None else dns.tsig.Key(key.name, key.secret, _algorithm(key.algorithm))
        self._mac = b""
        self._context: Any = None
        self._unsigned = 0

    def sign(self, wire: bytes) -> bytes:
        """The question as it goes out."""
        if self._key is None:
            return wire
        rdata, _ = _sign(wire, self._key, _record(self._key.algorithm, wire, 0), int(time.time()))
        self._mac = rdata.mac
        return _with_record(wire, self._key.name, rdata)

    def check(self, wire: bytes, *, last: bool = True) -> None:
        """Look at one message of the answer, in order (§5.3.1). Raises `Untrusted`.

        Messages in the middle of many need no signature of their own; `last` says that no other follows.
        """
        if self._key is None:
            return
        try:
            start = _tsig_position(wire)
            if start is None:
                self._without(wire, last=last)
                return
            owner, end = dns.name.from_wire(wire, start)
            length = int.from_bytes(wire[start + end + 8 : start + end + 10], "big")
            rdata = dns.rdata.from_wire(
                dns.rdataclass.ANY, dns.rdatatype.TSIG, wire, start + end + 10, length
            )
            self._context = _validate(
                wire, self._key, owner, rdata, int(time.time()), self._mac, start, self._context, True
            )
            self._unsigned = 0
        except (dns.exception.DNSException, ValueError, struct.error, Malformed) as error:
            raise Untrusted(f"its signature does not hold: {error}") from error

    def _without(self, wire: bytes, *, last: bool) -> None:
        if self._context is None or last or self._unsigned >= UNSIGNED_LIMIT:
            raise Untrusted("the answer is not signed")
        self._context.update(wire)
        self._unsigned += 1

    @property
    def settled(self) -> bool:
        """The last message that was checked had a signature, if there is a key."""
        return self._key is None or not self._unsigned


def _tsig_position(wire: bytes) -> int | None:
    """Where the TSIG record at the end of a message begins. Raises `Malformed` or `struct.error`."""
    _, _, questions, *counts = struct.unpack_from("!6H", wire)
    position, start, kind = 12, 12, 0
    for _ in range(questions):
        position = skip_name(wire, position, compressed=True) + 4
    for _ in range(sum(counts)):
        start = position
        position = skip_name(wire, position, compressed=True)
        kind, _, _, length = struct.unpack_from("!HHIH", wire, position)
        position += 10 + length
    return start if kind == dns.rdatatype.TSIG and counts[2] else None


class Keyring:
    """The keys of a configuration."""

    def __init__(self, keys: Iterable[TsigKey]) -> None:
        self._keys = {
            dns.name.from_text(key.name): dns.tsig.Key(key.name, key.secret, _algorithm(key.algorithm))
            for key in keys
        }

    def check(self, data: bytes, error: bytes) -> Signed | Refused:
        """What a signature says. `error` is an answer without records that gets its response code here.

        The message is read when its signature holds: thousands of records under long names take a second.
        """
        try:
            start = _tsig_position(data)
            if start is None:
                return Refused(_rcode(error, FORMERR), "malformed")
            owner, used = dns.name.from_wire(data, start)
            _, rdclass, _, length = struct.unpack_from("!HHIH", data, start + used)
            if rdclass != dns.rdataclass.ANY:
                return Refused(_rcode(error, FORMERR), "malformed")
            record = dns.rdata.from_wire(
                dns.rdataclass.ANY, dns.rdatatype.TSIG, data, start + used + 10, length
            )
            key = self._keys.get(owner)
            if key is None:
                return _refuse(owner, record, error, BADKEY)
            _validate(data, key, owner, record, int(time.time()), b"", start)
            message = dns.message.from_wire(
                data, keyring=self._keys, one_rr_per_rrset=True, ignore_trailing=True
            )
        except dns.tsig.BadSignature:
            return _refuse(owner, record, error, BADSIG)
        except (dns.tsig.BadAlgorithm, dns.tsig.BadKey):
            return _refuse(owner, record, error, BADKEY)
        except dns.tsig.BadTime:
            return _refuse(owner, record, error, BADTIME, key)
        except (dns.exception.DNSException, ValueError, IndexError, struct.error, Malformed):
            return Refused(_rcode(error, FORMERR), "malformed")
        return Signed(message, key_name(key.name.to_text()), key)


def _refuse(
    name: dns.name.Name, record: Any, error: bytes, code: int, key: dns.tsig.Key | None = None
) -> Refused:
    wire = _rcode(error, NOTAUTH)
    other = struct.pack("!HI", 0, int(time.time())) if code == BADTIME else b""
    template = _record(record.algorithm, wire, code, record.time_signed, other)
    if key is not None:  # signed, so that the client believes the time it is told (§5.2.3)
        template, _ = _sign(wire, key, template, record.time_signed, record.mac)
    return Refused(_with_record(wire, name, template), _SAID[code])


def _algorithm(name: str) -> dns.name.Name:
    if name == "hmac-md5":
        return dns.tsig.HMAC_MD5
    return dns.name.from_text(name)


def _record(algorithm: dns.name.Name, wire: bytes, error: int, when: int = 0, other: bytes = b"") -> Any:
    ident = int.from_bytes(wire[:2], "big")
    kind, rdclass = dns.rdatatype.TSIG, dns.rdataclass.ANY
    return _TSIG(rdclass, kind, algorithm, when, FUDGE, b"", ident, error, other)


def _with_record(wire: bytes, name: dns.name.Name, rdata: Any) -> bytes:
    data = rdata.to_wire() or b""
    count = int.from_bytes(wire[10:12], "big") + 1
    head = struct.pack("!HHIH", dns.rdatatype.TSIG, dns.rdataclass.ANY, 0, len(data))
    return wire[:10] + count.to_bytes(2, "big") + wire[12:] + (name.to_wire() or b"\0") + head + data


def _rcode(wire: bytes, rcode: int) -> bytes:
    return wire[:3] + bytes((wire[3] & 0xF0 | rcode,)) + wire[4:]
