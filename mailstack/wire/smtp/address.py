"""Envelope addresses: reading paths as Postfix does, and writing them again.

An address is kept in its internal form: a `str` `local@domain` without quotes and backslashes, the domain
without trailing dot, as the client spelled it; `""` is the null sender. `quote()` gives the wire form.

Read leniently, as Postfix reads with `strict_rfc821_envelopes = no`: the angle brackets may be missing, a
source route (`@a,@b:user@c`) is taken off (RFC 5321 appendix C), comments are dropped, a local part may have
odd dots. Refused: anything that is not one address, a domain that is not a host name or an address literal.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

_PLAIN = re.compile(r"<?([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+)@([A-Za-z0-9.-]+)>?\Z")
_TOKEN = re.compile(
    r"""
      (?P<space>[ \t]+)
    | (?P<quoted>"(?:[^"\\]|\\.)*")
    | (?P<literal>\[(?:[^\[\]\\]|\\.)*\])
    | (?P<comment>\((?:[^()\\]|\\.)*\))
    | (?P<special>[@,:;<>.])
    | (?P<atom>(?:[^ \t"\[\]()@,:;<>.\\]|\\.)+)
    """,
    re.VERBOSE | re.DOTALL,
)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
# Written as what is left out: a class up to U+10FFFF takes milliseconds to compile.
_UTF8_LABEL = re.compile(r"(?!-)[^\x00-,./:-@\[-^`{-\x7f]+\Z")
_ATOM = r"[^\x00-\x20\"(),.:;<>@\[\\\]\x7f]+"
_DOT_ATOM = re.compile(rf"{_ATOM}(?:\.{_ATOM})*\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_BACKSLASH = re.compile(r"\\(.)", re.DOTALL)
_NEEDS_BACKSLASH = re.compile(r'(["\\])')

HOSTNAME_LIMIT = 255
"""Octets of a domain at the most (RFC 5321 §4.5.3.1.2)."""


class AddressError(ValueError):
    """Octets that are not one mail address."""


def a_labels(domain: str) -> str:
    """A domain with each label outside ASCII as its A-label (`xn--…`, RFC 5890 §2.3.2.1), in lower case.

    Case and compatibility characters are folded first (UTS 46, non-transitional). Whether IDNA allows the
    characters is not looked at; a label for which there is no A-label stays as it is.
    """
    if domain.isascii():
        return domain
    from unicodedata import normalize

    folded = normalize("NFKC", normalize("NFKC", domain).lower()).replace("\u3002", ".")
    labels = []
    for label in folded.split("."):
        if not label.isascii():
            encoded = "xn--" + label.encode("punycode").decode("ascii")
            label = encoded if len(encoded) <= 63 else label
        labels.append(label)
    return ".".join(labels)


@lru_cache(maxsize=4096)
def valid_hostname(name: str) -> bool:
    """Whether `name` can be a domain: labels of letters, digits, `-` and `_`, not all digits and dots.

    Labels outside ASCII are taken as they are (SMTPUTF8, RFC 6531 §3.3). No trailing dot.
    """
    if not name or len(name.encode("utf-8", "replace")) > HOSTNAME_LIMIT:
        return False
    pattern = _LABEL if name.isascii() else _UTF8_LABEL
    labels = name.split(".")
    if not all(pattern.match(label) for label in labels):
        return False
    return not labels[-1].isdigit()


@lru_cache(maxsize=1024)
def valid_literal(domain: str) -> bool:
    """Whether `domain` is `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3)."""
    inner = domain[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            IPv6Address(inner[5:])
        else:
            IPv4Address(inner)
    except ValueError:
        return False
    return True


def valid_domain(domain: str) -> bool:
    """Whether `domain` is a host name or an address literal."""
    return (
        valid_literal(domain) if domain.startswith("[") and domain.endswith("]") else valid_hostname(domain)
    )


def split_address(address: str) -> tuple[str, str]:
    """(local part, domain) of an internal address; the domain is `""` where there is none."""
    local, at, domain = address.rpartition("@")
    return (local, domain) if at else (domain, "")


@lru_cache(maxsize=1024)
def parse_path(text: str) -> str:
    """The internal address of a path (`<a@b>`, `a@b`, `<>`). Raises `AddressError`."""
    plain = _PLAIN.match(text)
    if plain is not None and (text[0] == "<") == (text[-1] == ">") and valid_hostname(plain[2]):
        return f"{plain[1]}@{plain[2]}"
    if text == "<>":
        return ""
    if _CONTROL.search(text):
        raise AddressError(text)
    local, domain = _read(text)
    if domain is None and local and "@" not in local:  # `"a@b"` alone would read like a@b
        return local
    domain = (domain or "").removesuffix(".")
    if not local or not valid_domain(domain):
        raise AddressError(text)
    return f"{local}@{domain}"


class Allowed(NamedTuple):
    """Addresses that are refused unless somebody wants them."""

    dash: bool = False
    """`-user@domain`: an option to a program that is given it (Postfix `allow_min_user`)."""
    numeric: bool = False
    """`user@192.0.2.1`, which is read as `user@[192.0.2.1]` (`resolve_numeric_domain`)."""
    null: bool = False
    """`user@`, of this host (`resolve_null_domain`)."""


NOTHING_ODD = Allowed()


def read_path(text: str, allowed: Allowed = NOTHING_ODD) -> str:
    """What `parse_path` reads, without what is dangerous and with what is allowed. Raises `AddressError`."""
    try:
        address = parse_path(text)
    except AddressError:
        if allowed is NOTHING_ODD:
            raise
        address = _read_odd(text, allowed)
    if address[:1] == "-" and not allowed.dash:
        raise AddressError(text)
    return address


def _read_odd(text: str, allowed: Allowed) -> str:
    local, domain = _read(text)
    if local and "@" not in local and not _CONTROL.search(text):
        if allowed.null and domain == "":
            return f"{local}@"
        if allowed.numeric and domain is not None and valid_literal(f"[{domain}]"):
            return f"{local}@[{domain}]"
    raise AddressError(text)


def _read(text: str) -> tuple[str, str | None]:
    """Local part and domain of one address, quoting undone; the domain is None where there is no `@`."""
    tokens = _tokens(text)
    if tokens[:1] == ["@"] and ":" in tokens:
        tokens = tokens[tokens.index(":") + 1 :]
    if any(token in (",", ";", "<", ">") for token in tokens):
        raise AddressError(text)
    if "@" not in tokens:
        return "".join(map(_unquote, tokens)), None
    at = len(tokens) - 1 - tokens[::-1].index("@")
    if at and tokens[0] == "@":
        raise AddressError(text)  # a route that leads nowhere
    if any(token[0] == "[" for token in tokens[:at]):
        raise AddressError(text)  # a literal is a domain
    domain = "".join(tokens[at + 1 :])
    return "".join(map(_unquote, tokens[:at])), domain


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    gap = False
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise AddressError(text)
        position = found.end()
        if found.lastgroup == "space":
            gap = bool(tokens)
        elif found.lastgroup != "comment":
            if gap and found.lastgroup != "special" and tokens[-1] not in ("<", "@", ".", ":", ","):
                raise AddressError(text)  # two words side by side are not one address
            gap = False
            tokens.append(found[0])
    while tokens[:1] == ["<"] and tokens[-1:] == [">"]:
        tokens = tokens[1:-1]
    return tokens


def _unquote(token: str) -> str:
    if token[0] == '"':
        token = token[1:-1]
    return _BACKSLASH.sub(r"\1", token) if "\\" in token else token


def quote(address: str) -> str:
    """The address as it goes on the wire: a local part that is not a dot-atom is quoted (RFC 5321 §4.1.2)."""
    local, at, domain = address.rpartition("@")
    if not at:
        local, domain = domain, ""
    if _DOT_ATOM.match(local) or not address:
        return address
    quoted = _NEEDS_BACKSLASH.sub(r"\\\1", local)
    return f'"{quoted}"{at}{domain}'
