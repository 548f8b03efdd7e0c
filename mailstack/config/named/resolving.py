"""What `options` and `server` say of names that are not ours: the cache, and how forwarders are asked.

Standards: BIND 9.18's named.conf(5); RFC 8767 (stale answers).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mailstack.config.named.syntax import Statement, Word
from mailstack.config.named.values import (
    BOOLEANS,
    FALSE,
    boolean,
    choice,
    duration,
    integer,
    one_word,
    to_number,
)

CACHE_SIZE: Final = 128 << 20
"""Octets, when `max-cache-size` says nothing or `default`."""
_LEAST_SIZE: Final = 2 << 20
_WEEK: Final = 604_800


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolving:
    """The values of one configuration; times in seconds."""

    max_cache_ttl: int = _WEEK
    max_ncache_ttl: int = 10_800
    min_cache_ttl: int = 0
    min_ncache_ttl: int = 0
    max_cache_size: int = CACHE_SIZE
    """Octets."""
    servfail_ttl: int = 1
    stale_cache: bool = False
    """`stale-cache-enable`: what has expired is kept."""
    stale_answers: bool = False
    """`stale-answer-enable`: and given when nothing better is to be had."""
    stale_answer_ttl: int = 30
    stale_client_timeout: float | None = None
    """Seconds that a client waits for a fresh answer when there is a stale one; None: until it is certain
    that there is none."""
    stale_refresh_time: int = 30
    """After nobody answered, how long a stale answer is given at once."""
    max_stale_ttl: int = 86_400
    prefetch_trigger: int = 2
    """An answer that is used when it has no longer than this is asked for anew; 0: it is not."""
    prefetch_eligible: int = 9
    """The shortest TTL for which that is done."""
    query_timeout: float = 10.0
    """For a question, over all servers."""
    retry_interval: float = 0.8
    """For one server, to begin with."""
    nonbackoff_tries: int = 3
    """Rounds over the servers before that is doubled from round to round."""
    recursive_clients: int = 1000
    """Clients that wait for forwarders."""
    clients_per_query: int = 100
    """Of these, for the same answer; 0: any number."""
    max_query_restarts: int = 11
    """Aliases that are followed."""
    send_cookie: bool = True
    query_source: str = ""
    """Address that IPv4 servers are asked from; '': any."""
    query_source_v6: str = ""
    trust_ad: bool = True
    """A forwarder's word that it has validated an answer (the AD bit) is passed on."""


PLAIN: Final = Resolving()

_SECONDS: Final = {
    "max-cache-ttl": _WEEK,
    "max-ncache-ttl": _WEEK,
    "min-cache-ttl": 90,
    "min-ncache-ttl": 90,
    "stale-answer-ttl": 0xFFFFFFFF,
    "stale-refresh-time": 0xFFFFFFFF,
    "max-stale-ttl": 0xFFFFFFFF,
}
_NOT_CLAMPED: Final = ("max-ncache-ttl", "min-cache-ttl", "min-ncache-ttl")


def resolving(one: Mapping[str, Statement]) -> Resolving:
    """The values of an `options` block, whose statements come by keyword. Raises `ConfigError`."""
    values: dict[str, Any] = {}
    for keyword, most in _SECONDS.items():
        if keyword in one:
            seconds = duration(one[keyword])
            if keyword in _NOT_CLAMPED and seconds > most:
                raise one[keyword].error(f"'{keyword}' is at most {most} seconds, not {seconds}")
            values[keyword.replace("-", "_")] = seconds
    if "stale_answer_ttl" in values:
        values["stale_answer_ttl"] = max(values["stale_answer_ttl"], 1)
    for keyword, field in (
        ("stale-cache-enable", "stale_cache"),
        ("stale-answer-enable", "stale_answers"),
        ("send-cookie", "send_cookie"),
    ):
        if keyword in one:
            values[field] = boolean(one[keyword])
    if "servfail-ttl" in one:
        values["servfail_ttl"] = min(duration(one["servfail-ttl"]), 30)
    if "recursive-clients" in one:
        values["recursive_clients"] = integer(one["recursive-clients"]) or 1000
    if "max-query-restarts" in one:
        values["max_query_restarts"] = integer(one["max-query-restarts"], low=1, high=255)
    if "max-clients-per-query" in one:
        values["clients_per_query"] = integer(one["max-clients-per-query"])
    if "resolver-nonbackoff-tries" in one:
        values["nonbackoff_tries"] = integer(one["resolver-nonbackoff-tries"], low=1)
    if "resolver-retry-interval" in one:
        values["retry_interval"] = min(integer(one["resolver-retry-interval"]) or 800, 2000) / 1000
    if "resolver-query-timeout" in one:
        values["query_timeout"] = _query_timeout(one["resolver-query-timeout"])
    if "max-cache-size" in one:
        values["max_cache_size"] = _size(one["max-cache-size"])
    if "stale-answer-client-timeout" in one:
        values["stale_client_timeout"] = _client_timeout(one["stale-answer-client-timeout"])
    if "prefetch" in one:
        values["prefetch_trigger"], values["prefetch_eligible"] = _prefetch(one["prefetch"])
    for keyword in ("query-source", "query-source-v6"):
        if keyword in one:
            values[keyword.replace("-", "_")] = query_source(one[keyword])
    if "dnssec-validation" in one:
        values["trust_ad"] = choice(one["dnssec-validation"], ("auto", *BOOLEANS)) not in FALSE
    return Resolving(**values)


def query_source(statement: Statement) -> str:
    """`[ address ] ( ADDRESS | * ) [ port * ]`; '' for any. A fixed port is refused: answers could be forged
    (RFC 5452 §9.2)."""
    import ipaddress

    words = [item.text for item in statement.items[1:] if isinstance(item, Word)]
    if len(words) != len(statement.items) - 1 or not words:
        raise statement.error(f"'{statement.keyword}' takes an address or *")
    host = "*"
    while words:
        if words[0] in ("address", "port") and len(words) > 1:
            keyword, value, words = words[0], words[1], words[2:]
        else:
            keyword, value, words = "address", words[0], words[1:]
        if keyword == "port":
            if value != "*":
                raise statement.error(
                    f"'{statement.keyword}' with a port is not supported: answers to one port can be forged"
                )
        else:
            host = value
    if host == "*":
        return ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    version = 6 if statement.keyword.endswith("-v6") else 4
    if address is None or address.version != version:
        raise statement.error(f"'{statement.keyword}' takes an IPv{version} address, not '{host}'")
    return str(address)


def _query_timeout(statement: Statement) -> float:
    """Milliseconds; up to 300 they are seconds, and 0 is the default, as in named."""
    value = integer(statement)
    milliseconds = value * 1000 if value <= 300 else value
    return min(max(milliseconds, 10_000), 30_000) / 1000


def _client_timeout(statement: Statement) -> float | None:
    text = one_word(statement).text.lower()
    if text in ("off", "disabled"):
        return None
    return integer(statement) / 1000


def _prefetch(statement: Statement) -> tuple[int, int]:
    """`prefetch TRIGGER [ ELIGIBLE ]`."""
    match statement.items[1:]:
        case (Word() as first,):
            trigger, eligible = to_number(statement, first, 0, 0xFFFFFFFF), 9
        case (Word() as first, Word() as second):
            trigger = to_number(statement, first, 0, 0xFFFFFFFF)
            eligible = to_number(statement, second, 0, 0xFFFFFFFF)
        case _:
            raise statement.error("'prefetch' takes a number of seconds, and the shortest TTL")
    trigger = min(trigger, 10)  # as named has it, here and below
    return trigger, max(eligible, trigger + 6)


def _size(statement: Statement) -> int:
    """Octets, `N%` of the machine's memory, `default` or `unlimited`."""
    text = one_word(statement).text.lower()
    if text == "default":
        return CACHE_SIZE
    if text == "unlimited":
        return 1 << 62
    if text.endswith("%") and text[:-1].isdecimal():
        share = min(int(text[:-1]), 100)
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * share // 100 or 1 << 62
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    digits, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if not (digits.isascii() and digits.isdecimal()):
        raise statement.error(
            f"'{statement.keyword}' takes octets, a percentage, 'default' or 'unlimited', not '{text}'"
        )
    octets = int(digits) * unit
    return 1 << 62 if octets == 0 else max(octets, _LEAST_SIZE)
