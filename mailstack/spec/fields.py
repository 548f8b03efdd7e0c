"""The words that a spec is made of: durations, sizes, names, addresses.

Each function takes what the user wrote and returns its canonical form, or raises `ValueError` whose text says
what to write instead. What passes here is safe in every rendered format: names are restricted to characters
that mean nothing special to Postfix, Dovecot, BIND or a shell.
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

_DURATION = re.compile(r"([0-9]{1,9})([smhdw])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZE = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)\Z")
_OCTETS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_PROJECT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?\Z")
_LOCAL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]|\.(?!\.|\Z)){0,63}\Z")
_REMOTE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_+=&'~-]|\.(?!\.|\Z)){0,63}\Z")
_RELAYHOST = re.compile(r"(\[)?([^][:\s]+)(?(1)\])(?::([0-9]{1,5}))?\Z")
_PRIVATE = tuple(
    IPv4Network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
)
_LOOPBACK = IPv4Network("127.0.0.0/8")
_LOCALHOST = IPv4Network("127.0.0.0/16")
MAX_PASSWORD = 255
"""Octets of UTF-8; what every protocol that carries a password here can take (RFC 4616 §2, saslauthd)."""
MAX_DURATION = 10 * 365 * 86400


def duration(text: str) -> int:
    """`30s 5m 4h 1d 2w` as seconds."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(
            f"{quoted(text)} is not a duration; write a number and a unit, such as 30s, 5m, 4h, 1d or 2w"
        )
    seconds = int(match[1]) * _SECONDS[match[2]]
    if not 1 <= seconds <= MAX_DURATION:
        raise ValueError(f"{quoted(text)} is out of range; write something from 1s to 520w")
    return seconds


def duration_text(seconds: int) -> str:
    """The shortest way to write a number of seconds: `86400` is `1d`."""
    for unit in "wdhm":
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def size(text: str) -> int:
    """`10MiB` as octets."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(
            f"{quoted(text)} is not a size; write a whole number and a unit, such as 10MiB, 512KiB or 1GiB"
        )
    octets = int(match[1]) * _OCTETS[match[2]]
    if not 1024 <= octets <= 1 << 40:
        raise ValueError(f"{quoted(text)} is out of range; write something from 1KiB to 1024GiB")
    return octets


def project_name(text: str) -> str:
    """A name that is also a DNS label and good for containers, networks and folders."""
    if _PROJECT.match(text) is None:
        hint = slug(text)
        raise ValueError(
            f"{quoted(text)} cannot name a project; use 1 to 40 of a-z, 0-9 and '-', such as {hint or 'mail'}"
        )
    return text


def slug(text: str) -> str:
    """The nearest project name, or the empty string when nothing of `text` can be kept."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].rstrip("-")


def host_name(text: str) -> str:
    """A full host or domain name as lower-case A-labels without the final dot (RFC 1123 §2.1, RFC 5890)."""
    name = text.removesuffix(".")
    if not name.isascii():
        name = _a_labels(text, name)
    name = name.lower()
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.match(label) for label in labels):
        raise ValueError(
            f"{quoted(text)} is not a domain name; use labels of a-z, 0-9 and '-' "
            "(at most 63 each, 253 in all) joined by dots, such as example.test"
        )
    if len(labels) < 2:
        raise ValueError(f"{quoted(text)} has only one label; write a full name such as {name}.test")
    if labels[-1].isdigit():
        raise ValueError(f"{quoted(text)} looks like an IP address; write a name such as example.test")
    if labels[-1] == "arpa":
        raise ValueError(
            f"{quoted(text)} lies under .arpa, which is not for mail; write a name such as example.test"
        )
    return name


def _a_labels(text: str, name: str) -> str:
    import idna

    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(
            f"{quoted(text)} is not a valid internationalised domain name ({printable(str(error))}); "
            "write its xn-- form, or another name"
        ) from None


def local_part(text: str, what: str = "user") -> str:
    """The name of a user or alias, before the '@' (a small part of RFC 5321 §4.1.2's Dot-string)."""
    if "@" in text:
        raise ValueError(
            f"{quoted(text)} is an address; write only the part before the @: {_before_at(text)}"
        )
    if _LOCAL.match(text) is None:
        lower = text.lower()
        if lower != text and _LOCAL.match(lower):
            raise ValueError(
                f"{quoted(text)} has capital letters, which mail readers do not tell apart; write {lower}"
            )
        raise ValueError(
            f"{quoted(text)} cannot name a {what}; use 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "beginning with a letter, digit or '_', with no dot at the end or beside another"
        )
    return text


def _before_at(text: str) -> str:
    name = text.partition("@")[0].lower()
    return name if _LOCAL.match(name) else "such as anna"


def target(text: str) -> str:
    """Where an alias or a catch-all leads: a name of the same domain, or `local@domain`."""
    if "@" not in text:
        return local_part(text)
    local, _, domain = text.rpartition("@")
    if _REMOTE.match(local) is None:
        raise ValueError(
            f"{quoted(text)} is not an address that can be used here; write user or user@domain, "
            "where user is made of letters, digits and . _ - + = & ' ~"
        )
    return f"{local}@{host_name(domain)}"


def ipv4_address(text: str) -> IPv4Address:
    """A unicast IPv4 address."""
    try:
        address = IPv4Address(text)
    except AddressValueError:
        kind = "an IPv6 address: only IPv4 is used here" if _is_ipv6(text) else "not an IPv4 address"
        raise ValueError(f"{quoted(text)} is {kind}; write four numbers such as 192.0.2.10") from None
    if address.is_multicast or address == IPv4Address("255.255.255.255"):
        raise ValueError(f"{quoted(text)} is a multicast or broadcast address; write a host's address")
    return address


def published_address6(text: str) -> IPv6Address:
    """An address for an AAAA record."""
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise ValueError(f"{quoted(text)} is not an IPv6 address; write one such as 2001:db8::25") from None
    if "%" in text or address.ipv4_mapped is not None:
        raise ValueError(f"{quoted(text)} means nothing to others; write one such as 2001:db8::25")
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        raise ValueError(f"{quoted(text)} is no address that others can reach; write a host's address")
    return address


def selector(text: str) -> str:
    """A DKIM selector (RFC 6376 §3.1): labels of a host name, in lower case."""
    name = text.lower()
    if len(name) > 120 or not all(_LABEL.match(label) for label in name.split(".")):
        raise ValueError(
            f"{quoted(text)} is not a DKIM selector; use a-z, 0-9 and '-', such as mail or 2024-11"
        )
    return name


def faults(text: str) -> str:
    """The content of a faults file, or the path of one: a path has no `{`."""
    if "{" not in text:
        return file_path(text)
    if any(unicodedata.category(char) == "Cc" and char not in "\n\t" for char in text):
        raise ValueError("holds a control character; write faults as in docs/dns.md")
    return text if text.endswith("\n") else text + "\n"


def published_address(text: str) -> IPv4Address:
    """An address for an A record."""
    if _is_ipv6(text):
        raise ValueError(f"{quoted(text)} is an IPv6 address; write address6: {text}")
    address = ipv4_address(text)
    if address.is_unspecified:
        raise ValueError(f"{quoted(text)} is no address that others can reach; write a host's address")
    return address


def network(text: str) -> str:
    """An element of Postfix's mynetworks; IPv6 comes back in brackets, as Postfix wants it."""
    bare = re.sub(r"\A\[([0-9A-Fa-f:.]+)\](/[0-9]{1,3})?\Z", r"\1\2", text)
    try:
        if ":" in bare:
            net = IPv6Network(bare)
            return f"[{net.network_address}]/{net.prefixlen}"
        return str(IPv4Network(bare))
    except ValueError as error:
        if "has host bits set" in str(error):
            wide = (IPv6Network if ":" in bare else IPv4Network)(bare, strict=False)
            raise ValueError(f"{quoted(text)} has bits set after its prefix; write {wide}") from None
        raise ValueError(
            f"{quoted(text)} is not a network; write one such as 10.0.0.0/8 or fd00::/8"
        ) from None


def subnet(text: str) -> IPv4Network:
    """The stack's own network: big enough for the services, small enough to number every address.

    Containers have theirs in a private network, processes in 127.0.0.0/8.
    """
    example = "write auto, or a private network such as 172.28.5.0/24 (for processes: 127.5.6.0/24)"
    try:
        net = IPv4Network(text)
    except ValueError as error:
        if "has host bits set" in str(error):
            raise ValueError(
                f"{quoted(text)} has bits set after its prefix; write {IPv4Network(text, strict=False)}"
            ) from None
        raise ValueError(f"{quoted(text)} is not an IPv4 network; {example}") from None
    if net.subnet_of(_LOCALHOST):
        raise ValueError(f"{quoted(text)} is where this machine's own services are; {example}")
    if not any(net.subnet_of(private) for private in (*_PRIVATE, _LOOPBACK)):
        raise ValueError(f"{quoted(text)} is not private (10/8, 172.16/12, 192.168/16, 100.64/10); {example}")
    if not 24 <= net.prefixlen <= 29:
        raise ValueError(f"{quoted(text)} must have a prefix from /24 to /29; {example}")
    return net


def endpoint(text: str) -> str:
    """A resolver's address, with `:port` when it is not 53, as `192.0.2.1:53` or `[2001:db8::1]:53`."""
    bad = ValueError(
        f"{quoted(text)} is not a resolver's address; write one such as 9.9.9.9 or 192.0.2.1:5353"
    )
    match = re.fullmatch(r"\[([^]]*)\](?::([0-9]{1,5}))?|([^:]*)(?::([0-9]{1,5}))?", text)
    if match is None and not _is_ipv6(text):
        raise bad
    host = text if match is None else match[1] or match[3] or ""
    port = 53 if match is None else int(match[2] or match[4] or 53)
    if not 1 <= port <= 65535:
        raise bad
    if _is_ipv6(host) and "%" not in host:
        return f"[{IPv6Address(host)}]:{port}"
    try:
        return f"{IPv4Address(host)}:{port}"
    except AddressValueError:
        raise bad from None


def relayhost(text: str) -> str:
    """Postfix's relayhost: `[host]:port`, `host:port` (by its MX), `[192.0.2.1]`."""
    match = _RELAYHOST.match(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is not a next hop; write [relay.example.net]:587, or null for none")
    bracket, host, port = match[1], match[2], match[3]
    try:
        name = str(IPv4Address(host))
    except AddressValueError:
        name = host_name(host)
    else:
        bracket = "["  # an address has no MX to look up: Postfix wants it in brackets
    if port is not None and not 1 <= int(port) <= 65535:
        raise ValueError(f"{quoted(text)} has no port between 1 and 65535; write [relay.example.net]:587")
    return (f"[{name}]" if bracket else name) + (f":{int(port)}" if port else "")


def password(text: str) -> str:
    """A password: any text that a person can type (control characters cannot be sent by some protocols)."""
    if not text:
        raise ValueError(
            "an empty password lets nobody in; write one, or leave the key out to have one generated"
        )
    if any(unicodedata.category(char) in ("Cc", "Cs") or char in "\u2028\u2029" for char in text):
        raise ValueError(
            "a password cannot hold control characters such as a line break; write printable ones"
        )
    if len(text.encode()) > MAX_PASSWORD:
        raise ValueError(f"a password can have at most {MAX_PASSWORD} octets of UTF-8; write a shorter one")
    return text


def variable(text: str) -> str:
    """The name of an environment variable."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", text) is None:
        raise ValueError(
            f"{quoted(text)} is not the name of an environment variable; write one such as MAIL_PASSWORD"
        )
    return text


def file_path(text: str) -> str:
    """A path, relative to the spec's folder or absolute."""
    if not text or any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise ValueError(f"{quoted(text)} is not the path of a file; write one such as secrets/anna.txt")
    return text


def quoted(text: str) -> str:
    """`text` for a message: short, on one line, in quotes."""
    shown = printable(text)
    return f"'{shown if len(shown) <= 60 else shown[:57] + '...'}'"


def printable(text: str) -> str:
    """`text` with what a terminal would act upon made visible."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True
