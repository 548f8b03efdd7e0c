"""XCLIENT and XFORWARD: a trusted host says for which client it speaks (XCLIENT_README, XFORWARD_README).

`XCLIENT` changes who the client of this session is, `XFORWARD` only who is named in the log. Both hold
`NAME=value` words, the values in xtext; `[UNAVAILABLE]` is no value, `[TEMPUNAVAIL]` none for now.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import NamedTuple

from mailstack.wire.smtp.address import valid_hostname
from mailstack.wire.smtp.command import SyntaxRefusal, hello_name
from mailstack.wire.smtp.reply import Reply

XCLIENT = ("NAME", "ADDR", "PROTO", "HELO", "REVERSE_NAME", "PORT", "LOGIN", "DESTADDR", "DESTPORT")
XFORWARD = ("NAME", "ADDR", "PROTO", "HELO", "SOURCE", "PORT", "IDENT")
"""What EHLO offers, in Postfix's order."""

_XTEXT = re.compile(r"\+([0-9A-Fa-f]{2})?")
_LIMITS = {"NAME": 255, "ADDR": 255, "PROTO": 64, "HELO": 255, "IDENT": 255, "SOURCE": 255, "PORT": 255}


class Attribute(NamedTuple):
    """One word. `value` is None for `[UNAVAILABLE]` and `[TEMPUNAVAIL]`."""

    name: str
    value: str | None
    temporary: bool = False


def parse(verb: str, argument: str) -> list[Attribute]:
    """The attributes of XCLIENT or XFORWARD, checked. Raises `SyntaxRefusal`."""
    words = argument.split()
    if not words:
        raise SyntaxRefusal(Reply(501, "5.5.4", f"Syntax: {verb} attribute=value..."))
    return [_attribute(verb, word) for word in words]


def _attribute(verb: str, word: str) -> Attribute:
    name, equals, raw = word.partition("=")
    name = name.upper()
    if not equals:
        raise SyntaxRefusal(Reply(501, "5.5.4", "Error: attribute=value expected"))
    if len(raw) > 255:
        raise SyntaxRefusal(Reply(501, "5.5.4", "Error: attribute value too long"))
    known = XCLIENT if verb == "XCLIENT" else XFORWARD
    if name not in known:
        raise SyntaxRefusal(Reply(501, "5.5.4", f"Bad {verb} attribute name: {name}"))
    value = _decode(raw)
    if value is None:
        raise _bad(name, raw)
    if value.upper() == "[UNAVAILABLE]":
        return Attribute(name, None)
    if value.upper() == "[TEMPUNAVAIL]" and (verb == "XCLIENT" or name != "SOURCE"):
        return Attribute(name, None, temporary=True)
    return Attribute(name, (_client_value if verb == "XCLIENT" else _forward_value)(name, value))


def _client_value(name: str, value: str) -> str:
    match name:
        case "NAME" | "REVERSE_NAME":
            if not valid_hostname(value):
                raise _bad(name, value)
        case "ADDR" | "DESTADDR":
            return _address(name, value)
        case "PORT" | "DESTPORT":
            if not value.isdecimal() or int(value) > 65535:
                raise _bad(name, value)
        case "HELO":
            return hello_name(value)
        case "PROTO":
            if value.upper() not in ("SMTP", "ESMTP"):
                raise _bad(name, value)
            return value.upper()
    return value


def _forward_value(name: str, value: str) -> str:
    match name:
        case "ADDR":
            return _address(name, value)
        case "PORT":
            if not value.isdecimal() or int(value) > 65535:
                raise _bad(name, value)
        case "SOURCE":
            if value.upper() not in ("LOCAL", "REMOTE"):
                raise _bad(name, value)
            return value.upper()
        case "PROTO":
            if len(value) > _LIMITS["PROTO"]:
                raise _bad(name, value)
    return hello_name(value)


def _address(name: str, value: str) -> str:
    text = value[5:] if value[:5].upper() == "IPV6:" else value
    try:
        return str(ip_address(text))
    except ValueError:
        raise _bad(name, value) from None


def _bad(name: str, value: str) -> SyntaxRefusal:
    return SyntaxRefusal(Reply(501, "5.5.4", f"Bad {name} syntax: {hello_name(value)}"))


def _decode(text: str) -> str | None:
    """xtext (RFC 3461 §4) without its `+XX`; None where a `+` stands for nothing, or it is no UTF-8."""
    if any(found[1] is None for found in _XTEXT.finditer(text)):
        return None
    data = re.sub(rb"\+([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), text.encode())
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
