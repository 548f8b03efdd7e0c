"""cidr: tables: `network/prefix value` lines, tried in order until one holds the address (cidr_table(5)).

A pattern without a prefix is one address; an IPv6 address may stand in brackets; `!` turns a pattern round,
for addresses of its own family; `if` … `endif` encloses lines that are tried only when it holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from mailstack.storage.tables.text import Warn, logical_lines

_END = re.compile(r"endif(?![^\s])\s*(.*)", re.IGNORECASE | re.DOTALL)
_IF = re.compile(r"if\s+", re.IGNORECASE)


class _Rule(NamedTuple):
    version: int
    network: int
    mask: int
    negated: bool
    value: str | None
    """None: an `if` line, which goes to `end` when it does not hold."""
    line: int
    end: int = 0


def parse_cidr(text: str, path: str, warn: Warn) -> Callable[[str], str | None]:
    """The lookup of a cidr: file."""
    rules: list[_Rule] = []
    opened: list[int] = []
    for line, logical in logical_lines(text, path, warn):
        logical = logical.strip()
        try:
            ending = _END.match(logical)
            if ending:
                if ending[1]:
                    raise ValueError("garbage after ENDIF")
                if not opened:
                    raise ValueError("ENDIF without IF")
                index = opened.pop()
                rules[index] = rules[index]._replace(end=len(rules))
                continue
            condition = _IF.match(logical)
            rule = _rule(logical[condition.end() :] if condition else logical, line, bool(condition))
        except ValueError as error:
            warn(f"cidr map {path}, line {line}: {error}: skipping this rule")
            continue
        if condition:
            opened.append(len(rules))
        rules.append(rule)
    for index in reversed(opened):
        warn(f"cidr map {path}, line {rules[index].line}: IF has no matching ENDIF")
        rules[index] = rules[index]._replace(end=len(rules))
    return lambda key: _lookup(rules, key)


def _lookup(rules: list[_Rule], key: str) -> str | None:
    try:
        address = ip_address(key)
    except ValueError:
        return None
    version, number = address.version, int(address)
    index, count = 0, len(rules)
    while index < count:
        rule = rules[index]
        hit = rule.version == version and ((number & rule.mask) == rule.network) != rule.negated
        if hit and rule.value is not None:
            return rule.value
        index = rule.end if rule.value is None and not hit else index + 1
    return None


def _rule(text: str, line: int, condition: bool) -> _Rule:
    """Raises `ValueError` with Postfix's words."""
    bare = text.lstrip("!")
    negated = (len(text) - len(bare)) % 2 == 1
    words = [bare.strip()] if condition else bare.split(None, 1)
    pattern = words[0] if words else ""
    if len(words) < 2 and not condition:
        raise ValueError("no lookup result")
    literal = pattern
    if literal.startswith("["):
        literal, bracket, behind = literal[1:].partition("]")
        if not bracket or (behind and not behind.startswith("/")):
            raise ValueError(f"missing ']' character after \"[{literal}\"")
        literal += behind
    network, slash, length = literal.partition("/")
    address = _address(network)
    if address is None:
        raise ValueError(
            f'bad network value in "{pattern}"' if slash else f'bad address pattern: "{pattern}"'
        )
    bits = address.max_prefixlen
    if slash:
        if not (length.isdecimal() and length.isascii() and int(length) <= bits):
            raise ValueError(f'bad mask length in "{pattern}"')
        proper = ip_network(f"{network}/{length}", strict=False)
        if proper.network_address != address:
            raise ValueError(
                f'non-null host address bits in "{pattern}", perhaps you should use "{proper}" instead'
            )
    mask = ((1 << bits) - 1) ^ ((1 << (bits - int(length or bits))) - 1)
    return _Rule(address.version, int(address), mask, negated, None if condition else words[1].strip(), line)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None
