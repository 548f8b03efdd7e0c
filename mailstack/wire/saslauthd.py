"""The protocol of Cyrus `saslauthd`: four counted strings up, one counted string down, then it closes.

A counted string is its length as two octets in network order, then its octets. The request is login,
password, service and realm; the reply begins with `OK` or `NO`, and a reason may follow after a space
(saslauthd/saslauthd-main.c and lib/checkpw.c of cyrus-sasl 2.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

FIELD_LIMIT = 1024
"""Octets of one field at the most."""


class SaslauthdError(Exception):
    """Octets that are no request or reply, or a field that does not fit."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question. An empty `realm` means that the login says it all."""

    login: str
    password: str = field(repr=False)
    service: str = ""
    realm: str = ""

    @property
    def user(self) -> str:
        """The login with its realm: `user@realm`, unless the login has an `@` of its own."""
        return f"{self.login}@{self.realm}" if self.realm and "@" not in self.login else self.login


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer, and the words after it."""

    ok: bool
    reason: str = ""


def encode_request(login: str, password: str, service: str, realm: str) -> bytes:
    """The octets of one question. Raises `SaslauthdError` when a field is over `FIELD_LIMIT` octets."""
    return b"".join(_counted(text.encode()) for text in (login, password, service, realm))


def decode_request(buffer: bytes) -> Request | None:
    """The question in `buffer`, or None while it is not whole. Raises `SaslauthdError`."""
    fields: list[str] = []
    position = 0
    for _ in range(4):
        found = _read(buffer, position, FIELD_LIMIT)
        if found is None:
            return None
        text, position = found
        fields.append(text)
    if position != len(buffer):
        raise SaslauthdError("octets after the request")
    return Request(*fields)


def encode_reply(ok: bool, reason: str = "") -> bytes:
    """The octets of one answer; a long reason is cut."""
    text = ("OK" if ok else "NO") + (f" {reason}" if reason else "")
    return _counted(text.encode()[:FIELD_LIMIT])


def decode_reply(buffer: bytes) -> Reply | None:
    """The answer in `buffer`, or None while it is not whole. Raises `SaslauthdError`."""
    found = _read(buffer, 0, 0xFFFF)
    if found is None:
        return None
    word, _, reason = found[0].partition(" ")
    if word not in ("OK", "NO"):
        raise SaslauthdError("the reply is neither OK nor NO")
    return Reply(word == "OK", reason)


def _counted(data: bytes) -> bytes:
    if len(data) > FIELD_LIMIT:
        raise SaslauthdError(f"a field is over {FIELD_LIMIT} octets")
    return struct.pack("!H", len(data)) + data


def _read(buffer: bytes, position: int, limit: int) -> tuple[str, int] | None:
    if len(buffer) < position + 2:
        return None
    end = position + 2 + int.from_bytes(buffer[position : position + 2], "big")
    if end - position - 2 > limit:
        raise SaslauthdError(f"a field is over {limit} octets")
    if len(buffer) < end:
        return None
    data = buffer[position + 2 : end]
    # The C library counts a closing NUL in the reply of some versions.
    data = data.rstrip(b"\0")
    try:
        return data.decode(), end
    except UnicodeDecodeError:
        raise SaslauthdError("a field is not UTF-8") from None
