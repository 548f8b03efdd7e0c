"""Dovecot's `%` variables with all their modifiers (doc.dovecot.org, Config Variables), for authentication.

    %u %n %d %s %l %r %h %m %c %k %w %{user} %{auth_username} …   values
    %Lu %Un %Mu %2.3n %05Xn                                       case, hash, offset and width
    %{sha256:user} %{md5;truncate=32,format=base64:user}          digests

Modifiers apply from left to right: L lower, U upper case, E escaped with backslashes, X hexadecimal, R
reversed, M md5 in hex, D with `,dc=` for dots, T without white space at the end. N and H (numbers made by
hashing) are not known.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Mapping

LONG: Mapping[str, str] = {
    "user": "u",
    "username": "n",
    "domain": "d",
    "home": "h",
    "service": "s",
    "lip": "l",
    "rip": "r",
    "mech": "m",
    "secured": "c",
    "cert": "k",
    "password": "w",
    "lport": "a",
    "rport": "b",
    "pid": "p",
}
"""Long names of one-letter variables."""
OTHER = {"session"} | frozenset(
    f"{prefix}{name}" for prefix in ("auth_", "login_", "orig_") for name in ("user", "username", "domain")
)
"""Long names that have no letter."""
_DIGESTS = ("md5", "sha1", "sha256", "sha384", "sha512")
_VARIABLE = re.compile(r"%(?:(?:(-?\d+)\.)?(0?\d+)?([LUEXRMDT]*)(?:\{([^}]*)\}|(.))|$)", re.DOTALL)


def unknown(text: str) -> str:
    """The first variable of `text` that does not exist; empty when all do."""
    for match in _VARIABLE.finditer(text):
        if match[5] == "%":
            continue
        name = match[4].rpartition(":")[2] if match[4] is not None else LONG_BY_LETTER.get(match[5] or "", "")
        head = match[4].rpartition(":")[0].partition(";")[0] if match[4] is not None else ""
        if not name or (name not in LONG and name not in OTHER) or (head and head not in _DIGESTS):
            return match[0]
    return ""


LONG_BY_LETTER: Mapping[str, str] = {letter: name for name, letter in LONG.items()}


def expand(text: str, values: Mapping[str, str], escape: Callable[[str], str] | None = None) -> str:
    """Replace the variables by `values` (by long name); a missing one is empty. `escape`: for each value."""
    if "%" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        if match[5] == "%":
            return "%"
        offset, width, modifiers, long, letter = match.groups()
        name = LONG_BY_LETTER.get(letter or "", "") if long is None else long
        value = _value(name, values)
        for modifier in modifiers or "":
            value = _MODIFIERS[modifier](value)
        if offset:
            value = value[int(offset) :]
        if width:
            value = value.rjust(int(width), "0") if width[0] == "0" else value[: int(width)]
        return escape(value) if escape else value

    return _VARIABLE.sub(replace, text)


def user_values(user: str, prefix: str = "") -> dict[str, str]:
    """`user`, `username` and `domain` of a user name, with something before each (`auth_`, `login_`)."""
    name, _, domain = user.partition("@")
    return {f"{prefix}user": user, f"{prefix}username": name, f"{prefix}domain": domain}


def _value(name: str, values: Mapping[str, str]) -> str:
    head, colon, name = name.rpartition(":")
    value = values.get(name, "")
    if not colon:
        return value
    algorithm, *options = re.split("[;,]", head)
    chosen = dict(option.partition("=")[::2] for option in options)
    data = (chosen.get("salt", "") + value).encode("utf-8", "surrogateescape")
    for _ in range(int(chosen.get("rounds", "1") or 1)):
        data = hashlib.new(algorithm, data, usedforsecurity=False).digest()
    bits = int(chosen.get("truncate", "0") or 0)
    if bits:
        data = data[: bits // 8]
    return b64encode(data).decode() if chosen.get("format") == "base64" else data.hex()


_MODIFIERS: Mapping[str, Callable[[str], str]] = {
    "L": str.lower,
    "U": str.upper,
    "E": lambda value: re.sub(r"([\"'\\])", r"\\\1", value),
    "X": lambda value: f"{int(value):x}" if value.isascii() and value.isdecimal() else "0",
    "R": lambda value: value[::-1],
    "M": lambda value: hashlib.md5(
        value.encode("utf-8", "surrogateescape"), usedforsecurity=False
    ).hexdigest(),
    "D": lambda value: value.replace(".", ",dc="),
    "T": str.rstrip,
}
