"""Sendmail's macros as Postfix knows them: names and values that go beside an event.

A `Lookup` gives a macro's value, or None where it has none now; then milter_macro_defaults counts, and a
macro without either is left out. Names are with their braces here, one-letter names too (`{j}`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mailstack.mta.milter.configuration import Macros
from mailstack.wire.milter import strings

Lookup = Callable[[str], "str | None"]


def general_macro(macros: Macros, name: str) -> str | None:
    """What is the same for everybody: {daemon_name}, {v}, {j}."""
    match name:
        case "{daemon_name}":
            return macros.daemon_name
        case "{v}":
            return macros.version
        case "{j}":
            return macros.host
    return None


def encoded(names: Iterable[str], lookup: Lookup, macros: Macros) -> bytes:
    """The macros of one event on the wire. Raises what `lookup` raises."""
    found: list[str] = []
    for name in names:
        full = name if name.startswith("{") else f"{{{name}}}"
        value = general_macro(macros, full)
        if value is None:
            value = lookup(full)
        if value is None:
            value = macros.defaults.get(full)
        if value is not None:
            found += (name, value)
    return strings(found)


def client_macro(name: str, *, host: str, reverse: str, address: str, port: str) -> str | None:
    """What is known of a client wherever it is asked: {_}, {client_addr}, {client_name}…"""
    match name:
        case "{_}":
            forged = "" if host.lower() == reverse.lower() else " (may be forged)"
            return f"{reverse} [{address}]{forged}"
        case "{client_addr}":
            return f"IPv6:{address}" if ":" in address else address
        case "{client_name}":
            return host
        case "{client_port}":
            return port if port.isdecimal() else "0"
        case "{client_ptr}":
            return reverse
    return None
