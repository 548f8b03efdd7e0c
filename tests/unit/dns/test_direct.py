"""Answers made by form are those that are made in the long way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import dns.flags
import dns.message
import pytest

from mailstack.dns.authority import Authority
from mailstack.dns.direct import Direct
from mailstack.dns.message import AA, QR, RD, opt, parse, render
from mailstack.dns.zonefile import LARGE, load_zone

HEAD = "$TTL 3600\n@ SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\n@ NS Other.Deep\n"
LINES = "".join(f"host{number} A 10.0.{number >> 8}.{number & 255}\n" for number in range(5000))
ODD = """\
ns A 192.0.2.1
ns AAAA 2001:db8::1
other.deep A 192.0.2.2
six AAAA 2001:db8::6
own 77 A 192.0.2.7
alias CNAME host1
two A 192.0.2.3
two A 192.0.2.4
Mixed A 192.0.2.5
text TXT "some text"
mx MX 10 host1
sub NS ns.sub
ns.sub A 192.0.2.8
below.sub A 192.0.2.9
gone DNAME elsewhere.test.
x.empty A 192.0.2.10
"""
NAMES = [
    *("host1", "host22", "host33", "host44", "host333", "host444", "HOST55", "host66.sub", "x.host77"),
    *("ns", "other.deep", "deep", "y.deep", "six", "own", "alias", "two", "mixed", "Mixed", "text", "mx", "sub"),
    *("ns.sub", "below.sub", "z.gone", "gone", "empty", "x.empty", "y.empty", "z.empty", "none", "nope", "no.such", "@"),
]  # fmt: skip


@pytest.fixture(scope="module", params=["plain", "wild"])
def authority(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Authority:
    path = tmp_path_factory.mktemp("direct") / "zone"
    path.write_text(
        HEAD + LINES + ODD + ("*.empty TXT wild\n* A 192.0.2.99\n" if request.param == "wild" else "")
    )
    assert path.stat().st_size > LARGE
    zone, _ = load_zone("direct.test", str(path))
    return Authority([zone])


def queries() -> Iterator[bytes]:
    """Each twice, so that what the first one leaves behind answers another, of another name, and itself."""
    for rdtype, recursion, edns in product(("A", "AAAA", "TXT", "MX"), (True, False), (None, False, True)):
        for name in NAMES * 2:
            text = "direct.test" if name == "@" else f"{name}.direct.test"
            flags = dns.flags.RD if recursion else 0
            query = dns.message.make_query(text, rdtype, flags=flags, use_edns=edns is not None)
            if edns:
                query.want_dnssec(True)
            yield query.to_wire()


def long_way(authority: Authority, data: bytes, direct: Direct) -> bytes:
    query = parse(data)
    found = authority.answer(
        query.name, query.rdtype, recursive=bool(query.flags & RD), tcp=False, do=query.do
    )
    assert found is not None
    flags = QR | (AA if found.authoritative else 0) | query.flags & RD | found.rcode
    record = b"" if query.edns is None else opt(1232, 0, query.edns.flags)
    sections = found.answer, found.authority, found.additional
    wire = render(query, flags, *sections, limit=1232, opt_record=record, glue=found.glue)
    direct.learn(data, query, found, wire)
    return wire


def test_the_same_answers(authority: Authority) -> None:
    direct, seen = Direct(authority), defaultdict[bytes, int](int)
    made = 0
    for data in queries():
        answer = direct.answer(data, seen)
        wanted = long_way(authority, data, direct)
        assert answer is None or answer == wanted, dns.message.from_wire(data).question[0]
        made += answer is not None
    assert made > 200
    assert sum(seen.values()) == made


def test_changed_zones_are_forgotten(authority: Authority) -> None:
    direct, seen = Direct(authority), defaultdict[bytes, int](int)
    data = dns.message.make_query("host1.direct.test", "A").to_wire()
    wanted = long_way(authority, data, direct)
    assert direct.answer(data, seen) == wanted
    direct.clear()
    assert direct.answer(data, seen) is None


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"\0",
        b"\5host1",
        b"\xc0\x0c\0\1\0\1",
        b"\x46" + b"h" * 0x46 + b"\6direct\4test\0\0\1\0\1",
        b"\5host1\6direct\4test\0",
        b"\5host1\6direct\4test\0\0\1\0\1\0",
        b"\4h\0st\6direct\4test\0\0\1\0\1",
    ],
)
def test_what_is_malformed_takes_the_long_way(authority: Authority, question: bytes) -> None:
    direct, seen = Direct(authority), defaultdict[bytes, int](int)
    for name in ("host1", "nope"):
        long_way(authority, dns.message.make_query(f"{name}.direct.test", "A").to_wire(), direct)
    head = dns.message.make_query("host1.direct.test", "A").to_wire()[:12]
    assert direct.answer(head + question, seen) is None
