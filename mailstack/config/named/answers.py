"""What `options` say of answers: how often and in which order they are given, what is counted and kept still.

Standards: BIND 9.18's named.conf(5).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from mailstack.config.named.acl import NONE, Acl, AclTable
from mailstack.config.named.syntax import Block, Statement, Word
from mailstack.config.named.values import (
    BOOLEANS,
    FALSE,
    TRUE,
    boolean,
    choice,
    integer,
    one_block,
    one_text,
    one_word,
    string,
)

Order = Literal["random", "cyclic", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """One `rate-limit` block; rates are answers per second and client network, 0: no limit."""

    responses: int = 0
    referrals: int = 0
    nodata: int = 0
    nxdomains: int = 0
    errors: int = 0
    everything: int = 0
    """`all-per-second`."""
    window: int = 15
    """Seconds that are counted."""
    slip: int = 2
    """Every so many of the answers that are held back is a truncated one; 0: none."""
    qps_scale: int = 0
    """Queries per second from which on the rates are reduced; 0: never."""
    ipv4_prefix: int = 24
    ipv6_prefix: int = 56
    exempt: Acl = NONE
    log_only: bool = False
    min_table_size: int = 500
    max_table_size: int = 20_000
    """Entries: one for each client network and answer of late."""


@dataclass(frozen=True, slots=True)
class OrderRule:
    """One line of `rrset-order`; None and "" match everything. `name` is lower case, without final dot."""

    order: Order
    rdtype: int | None = None
    name: str = ""

    def covers(self, name: str, rdtype: int) -> bool:
        """Whether a set of records is meant; `name` is its owner's in the same form."""
        if self.rdtype is not None and self.rdtype != rdtype:
            return False
        if self.name.startswith("*."):
            return name.endswith(self.name[1:])
        return not self.name or name == self.name


EVERYTHING_RANDOM: Final = (OrderRule("random"),)
_RATES: Final = {
    "responses-per-second": "responses",
    "referrals-per-second": "referrals",
    "nodata-per-second": "nodata",
    "nxdomains-per-second": "nxdomains",
    "errors-per-second": "errors",
    "all-per-second": "everything",
}
_NUMBERS: Final = {
    "window": ("window", 1, 3600),
    "slip": ("slip", 0, 10),
    "qps-scale": ("qps_scale", 0, 0xFFFFFFFF),
    "ipv4-prefix-length": ("ipv4_prefix", 1, 32),
    "ipv6-prefix-length": ("ipv6_prefix", 1, 128),
    "min-table-size": ("min_table_size", 1, 0xFFFFFFFF),
    "max-table-size": ("max_table_size", 1, 0xFFFFFFFF),
}


def read_rate_limit(statement: Statement, acls: AclTable) -> RateLimit:
    """A `rate-limit` block. Raises `ConfigError`."""
    rates: dict[str, int] = {}
    values: dict[str, int] = {}
    limit = RateLimit()
    for item in one_block(statement).statements:
        keyword = item.keyword
        if keyword in _RATES:
            rates[_RATES[keyword]] = integer(item, high=1000)
        elif keyword in _NUMBERS:
            name, low, high = _NUMBERS[keyword]
            values[name] = integer(item, low=low, high=high)
        elif keyword == "exempt-clients":
            limit = replace(limit, exempt=acls.read(item, one_block(item)))
        elif keyword == "log-only":
            limit = replace(limit, log_only=boolean(item))
        else:
            raise item.error(f"unknown option '{keyword}' of rate-limit")
    general = rates.get("responses", 0)
    for name in ("referrals", "nodata", "nxdomains", "errors"):
        rates.setdefault(name, general)
    limit = replace(limit, **rates, **values)  # type: ignore[arg-type]
    if limit.max_table_size < limit.min_table_size and "max_table_size" in values:
        limit = replace(limit, min_table_size=limit.max_table_size)
    return replace(limit, max_table_size=max(limit.max_table_size, limit.min_table_size))


def read_order(statement: Statement) -> tuple[OrderRule, ...]:
    """`rrset-order { [ class C ] [ type T ] [ name "N" ] order O; … }`. Raises `ConfigError`."""
    import dns.exception
    import dns.rdatatype

    rules: list[OrderRule] = []
    for item in one_block(statement).statements:
        words = [entry for entry in item.items if isinstance(entry, Word)]
        given: dict[str, str] = {}
        while len(words) >= 2 and words[0].text.lower() in ("class", "type", "name", "order"):
            given[words[0].text.lower()] = words[1].text
            words = words[2:]
        order = given.get("order", "").lower()
        if words or any(isinstance(entry, Block) for entry in item.items) or not order:
            raise item.error("a line of rrset-order is [ class C ] [ type T ] [ name NAME ] order ORDER")
        if order not in ("fixed", "random", "cyclic", "none"):
            raise item.error(f"'order' takes one of fixed, random, cyclic, none, not '{order}'")
        if given.get("class", "any").upper() not in ("IN", "ANY"):
            continue  # the order of records of a class that has no zones
        try:
            rdtype = dns.rdatatype.from_text(given.get("type", "ANY"))
        except (dns.exception.DNSException, ValueError):
            raise item.error(f"unknown type '{given['type']}'") from None
        name = given.get("name", "*").lower().rstrip(".")
        # Without another wish, records stand as they do in the zone file.
        chosen: Order = "none" if order == "fixed" else order  # type: ignore[assignment]
        any_type = rdtype == dns.rdatatype.ANY
        rules.append(OrderRule(chosen, None if any_type else int(rdtype), "" if name == "*" else name))
    return tuple(rules)


def answering(found: Mapping[str, Sequence[Statement]], acls: AclTable, directory: str) -> dict[str, Any]:
    """Values of `Options` by name, from the statements of an `options` block by keyword."""
    one = {keyword: statements[0] for keyword, statements in found.items()}
    values: dict[str, Any] = {
        "cookie_secrets": tuple(_secret(statement) for statement in found.get("cookie-secret", ()))
    }
    if "minimal-responses" in one:
        values["minimal_responses"] = _minimal(one["minimal-responses"])
    for keyword in ("version", "hostname", "server-id"):
        if keyword in one:
            values[keyword.replace("-", "_")] = _said(one[keyword])
    if "rate-limit" in one:
        values["rate_limit"] = read_rate_limit(one["rate-limit"], acls)
    if "rrset-order" in one:
        values["rrset_order"] = read_order(one["rrset-order"])
    path = string(one["statistics-file"]) if "statistics-file" in one else "named.stats"
    values["statistics_file"] = os.path.join(directory, path)
    if "pid-file" in one and one_text(one["pid-file"]).lower() != "none":
        values["pid_file"] = os.path.join(directory, string(one["pid-file"]))
    for keyword in ("allow-query-on", "allow-recursion-on", "allow-query-cache-on"):
        if keyword in one:
            values[keyword.replace("-", "_")] = acls.read(one[keyword], one_block(one[keyword]))
    for keyword in ("empty-server", "empty-contact"):
        if keyword in one:
            values[keyword.replace("-", "_")] = _name(one[keyword])
    if "zero-no-soa-ttl" in one:
        values["zero_no_soa_ttl"] = boolean(one["zero-no-soa-ttl"])
    return values


def zone_statistics(statement: Statement) -> bool:
    """Whether a zone's questions are counted apart: `full`, `terse`, `none`, `yes` or `no`."""
    text = choice(statement, ("full", "terse", "none", *BOOLEANS))
    return text == "full" or text in TRUE


def _minimal(statement: Statement) -> str:
    text = choice(statement, ("no-auth", "no-auth-recursive", *BOOLEANS))
    return "yes" if text in TRUE else "no" if text in FALSE else text


def _said(statement: Statement) -> str | None:
    word = one_word(statement)
    if word.quoted:
        return word.text
    choices = {"version": ("none",), "hostname": ("none",), "server-id": ("none", "hostname")}
    return None if choice(statement, choices[statement.keyword]) == "none" else ""


def _secret(statement: Statement) -> bytes:
    text = string(statement)
    if len(text) != 32 or not all(digit in "0123456789abcdefABCDEF" for digit in text):
        raise statement.error("cookie-secret takes 32 hexadecimal digits in quotes")
    return bytes.fromhex(text)


def _name(statement: Statement) -> str:
    text = one_text(statement).rstrip(".")
    if len(text) > 253 or not all(0 < len(label) < 64 for label in text.split(".")):
        raise statement.error(f"'{text}' is not a domain name")
    return text
