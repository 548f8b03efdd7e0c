"""`faults.conf`, beside named.conf: which questions the server gets wrong on purpose, and how.

fault "shop.test" {                 // the name; "*.shop.test" is everything below it, "*" everything
  type MX TXT;                      // any type when it is not said
  client { 192.0.2.0/24; };         // any client when it is not said
  queries 2 4;                      // of those that match, the second to the fourth; without 4, all after
  answer servfail;                  // what is done; see `KINDS`
};

The first fault whose name, type and client match a question counts it, and acts when the number is right; a
fault whose number is not right leaves the question to the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dns.exception
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from mailstack.config.named.acl import ANY, Acl, AclTable
from mailstack.config.named.syntax import Block, Statement, Word, parse
from mailstack.config.named.values import one_block, to_number

KINDS: Final = {
    "servfail": "SERVFAIL",
    "refused": "REFUSED",
    "nxdomain": "NXDOMAIN, without a SOA",
    "formerr": "FORMERR",
    "notimp": "NOTIMP",
    "nothing": "no answer at all",
    "truncated": "the TC bit and no records, over UDP",
    "lame": "no error, no records, no authority",
    "delay": "the right answer, `delay MILLISECONDS` later",
    "records": 'other records: `records { "MX 10 elsewhere.test."; }`, under the name that was asked for',
    "bad-signature": "the right answer with signatures that do not hold",
    "expired-signature": "the right answer with signatures that have ended",
}
LONGEST_DELAY: Final = 60_000
"""Milliseconds."""
DEFAULT_TTL: Final = 60


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `name` is lower case, without final dot; with `below`, it is what lies below the name."""

    name: str
    below: bool
    types: frozenset[int]
    """Empty: all of them."""
    client: Acl
    first: int
    last: int | None
    kind: str
    delay: float
    """Seconds."""
    records: tuple[tuple[int, bytes], ...]
    """Type and data on the wire."""
    path: Path
    line: int


def load_faults(path: Path) -> tuple[Fault, ...]:
    """The faults of a file; none when there is no file. Raises `ConfigError`."""
    if not path.exists():
        return ()
    statements = parse(path)
    acls = AclTable(item for item in statements if item.keyword == "acl")
    found: list[Fault] = []
    for statement in statements:
        if statement.keyword == "fault":
            found.append(_fault(statement, acls))
        elif statement.keyword != "acl":
            raise statement.error("only acl and fault statements stand in a faults file")
    return tuple(found)


def _fault(statement: Statement, acls: AclTable) -> Fault:
    match statement.items[1:]:
        case (Word(text=name), Block() as body):
            pass
        case _:
            raise statement.error("fault takes a name and a { block }")
    types: frozenset[int] = frozenset()
    client, first, last = ANY, 1, None
    answer: Statement | None = None
    for one in body.statements:
        match one.keyword:
            case "type":
                types = frozenset(_type(one, word) for word in _words(one))
            case "client":
                client = acls.read(one, one_block(one))
            case "queries":
                first, last = _queries(one)
            case "answer":
                answer = one
            case keyword:
                raise one.error(f"unknown option '{keyword}': type, client, queries and answer are known")
    if answer is None:
        raise statement.error(f"fault '{name}': 'answer' is missing: {', '.join(KINDS)}")
    kind, delay, records = _answer(answer)
    lower = name.lower().rstrip(".")
    below = lower == "*" or lower.startswith("*.")
    return Fault(
        name=lower[2:] if below else lower,
        below=below,
        types=types,
        client=client,
        first=first,
        last=last,
        kind=kind,
        delay=delay,
        records=records,
        path=statement.path,
        line=statement.line,
    )


def _words(statement: Statement) -> Iterable[Word]:
    words = [item for item in statement.items[1:] if isinstance(item, Word)]
    if not words or len(words) != len(statement.items) - 1:
        raise statement.error(f"'{statement.keyword}' takes words")
    return words


def _type(statement: Statement, word: Word) -> int:
    try:
        return int(dns.rdatatype.from_text(word.text))
    except (dns.exception.DNSException, ValueError):
        raise statement.error(f"'{word.text}' is not a record type") from None


def _queries(statement: Statement) -> tuple[int, int | None]:
    numbers = [to_number(statement, word, 1, 1_000_000_000) for word in _words(statement)]
    if len(numbers) > 2 or numbers != sorted(numbers):
        raise statement.error("queries takes FIRST [ LAST ]")
    return numbers[0], numbers[1] if len(numbers) == 2 else None


def _answer(statement: Statement) -> tuple[str, float, tuple[tuple[int, bytes], ...]]:
    match statement.items[1:]:
        case (Word(text="delay"), Word() as number):
            return "delay", to_number(statement, number, 1, LONGEST_DELAY) / 1000, ()
        case (Word(text="records"), Block() as body):
            return "records", 0.0, tuple(_record(line) for line in body.statements)
        case (Word(text=kind),) if kind in KINDS and kind not in ("delay", "records"):
            return kind, 0.0, ()
    raise statement.error(
        f"answer takes one of {', '.join(KINDS)}; delay with milliseconds, records with {{ … }}"
    )


def _record(statement: Statement) -> tuple[int, bytes]:
    match statement.items:
        case (Word(text=text, quoted=True),) if " " in text:
            pass
        case _:
            raise statement.error('a record is "TYPE DATA" in quotes')
    kind, _, data = text.partition(" ")
    try:
        rdtype = dns.rdatatype.from_text(kind)
        return int(rdtype), dns.rdata.from_text(dns.rdataclass.IN, rdtype, data).to_wire() or b""
    except (dns.exception.DNSException, ValueError) as error:
        raise statement.error(f"'{text}' is not a record: {error}") from None
