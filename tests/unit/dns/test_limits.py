"""Response-rate limiting and the order of records, with a clock of the test's own."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from mailstack.config.errors import ConfigError
from mailstack.dns.responder import Responder
from tests.unit.dns.world import ask, responder


class Time:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def limited(tmp_path: Path, words: str, options: str = "") -> tuple[Responder, Time, Path]:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    server = responder(tmp_path, f"recursion no; rate-limit {{ {words} }}; {options}", log_fd=fd)
    clock = Time()
    assert server._limits is not None
    server._limits.clock = clock
    return server, clock, path


def burst(server: Responder, count: int, name: str = "mail.rich.test", kind: str = "A", host: str = "192.0.2.9",
          **words: object) -> str:  # fmt: skip
    """What became of each query: `a`nswered, `t`runcated, `.` dropped."""
    found = ""
    for _ in range(count):
        query = dns.message.make_query(name, kind, **words)  # type: ignore[arg-type]
        wire = server.respond(query.to_wire(), host, 4242, tcp=False)
        if wire is None:
            found += "."
            continue
        assert isinstance(wire, bytes)
        response = dns.message.from_wire(wire)
        assert response.id == query.id
        found += "t" if response.flags & dns.flags.TC else "a"
        if response.flags & dns.flags.TC:
            assert not response.answer
            assert (response.edns, response.question) == (query.edns, query.question)
    return found


def test_answers_are_paid_from_an_account(tmp_path: Path) -> None:
    server, clock, log = limited(tmp_path, "responses-per-second 3; window 5;")
    assert burst(server, 10) == "aaat.t.t.t"
    clock.now += 1  # three were earned, and seven are owed
    assert burst(server, 2) == ".t"
    clock.now += 6  # longer than the window
    assert burst(server, 5, use_edns=0) == "aaat."
    text = log.read_text()
    assert text.count(": limit responses to 192.0.2.0/24 for mail.rich.test IN A  (") == 1
    assert ": client @0x" in text
    assert (
        " 192.0.2.9#4242 (mail.rich.test): rate limit slip response to 192.0.2.0/24 for mail.rich.test IN A  ("
        in text
    )
    clock.now += 61
    burst(server, 1, host="198.51.100.1")
    assert log.read_text().count(": stop limiting responses to 192.0.2.0/24 for mail.rich.test IN A  (") == 1


@pytest.mark.parametrize(
    ("words", "name", "kind", "expected", "line"),
    [
        ("responses-per-second 2; slip 0;", "mail.rich.test", "A", "aa....", "limit responses to"),
        ("responses-per-second 2; slip 1;", "mail.rich.test", "A", "aatttt", "limit responses to"),
        ("responses-per-second 2; slip 3;", "mail.rich.test", "A", "aat..t", "limit responses to"),
        ("responses-per-second 2; log-only yes;", "mail.rich.test", "A", "aaaaaa", "would limit responses to"),
        ("nxdomains-per-second 1;", "nowhere.rich.test", "A", "at.t.t", "limit NXDOMAIN responses to 192.0.2.0/24 for rich.test  ("),
        ("nodata-per-second 1;", "mail.rich.test", "CAA", "at.t.t", "limit NODATA responses to 192.0.2.0/24 for mail.rich.test IN  ("),
        ("referrals-per-second 1;", "x.sub.rich.test", "A", "at.t.t", "limit referral responses to 192.0.2.0/24 for sub.rich.test IN  ("),
        ("errors-per-second 1;", "elsewhere.example", "A", "a.....", "limit REFUSED error responses to 192.0.2.0/24"),
        ("all-per-second 4;", "mail.rich.test", "A", "aaaa..", "limit all responses to 192.0.2.0/24"),
        ("nxdomains-per-second 1;", "mail.rich.test", "A", "aaaaaa", ""),
        ("responses-per-second 1; errors-per-second 0;", "elsewhere.example", "A", "aaaaaa", ""),
        ("responses-per-second 1; exempt-clients { 192.0.2.0/24; };", "mail.rich.test", "A", "aaaaaa", ""),
        ("responses-per-second 4; qps-scale 1;", "mail.rich.test", "A", "aaaat.", "limit responses to"),
    ],
)  # fmt: skip
def test_each_kind_of_answer_has_its_limit(
    tmp_path: Path, words: str, name: str, kind: str, expected: str, line: str
) -> None:
    server, _, log = limited(tmp_path, words)
    assert burst(server, 6, name, kind) == expected
    assert (line in log.read_text()) if line else ("limit" not in log.read_text())


def test_names_that_are_not_there_and_wildcards_share_an_account(tmp_path: Path) -> None:
    server, _, _ = limited(tmp_path, "responses-per-second 3; slip 0;")
    assert "".join(burst(server, 1, f"n{number}.rich.test") for number in range(6)) == "aaa..."
    assert "".join(burst(server, 1, f"n{number}.wild.rich.test") for number in range(6)) == "aaa..."
    assert "".join(burst(server, 1, f"h{number}.rich.test") for number in range(1, 7)) == "aaaaaa"


def test_networks_are_limited_apart(tmp_path: Path) -> None:
    server, _, _ = limited(
        tmp_path, "responses-per-second 1; slip 0; ipv4-prefix-length 28; ipv6-prefix-length 64;"
    )
    hosts = ("192.0.2.1", "192.0.2.15", "192.0.2.16", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    assert "".join(burst(server, 1, host=host) for host in hosts) == "a.aa.a"


def test_those_who_are_where_they_say_are_not_limited(tmp_path: Path) -> None:
    server, _, _ = limited(tmp_path, "responses-per-second 1; slip 1;")
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
    query = dns.message.make_query("mail.rich.test", "A", use_edns=0, options=[cookie])
    first = ask(server, query)
    slipped = ask(server, query)
    assert (slipped.rcode(), slipped.answer) == (dns.rcode.BADCOOKIE, [])
    query.use_edns(
        0, options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, first.options[0].to_wire())]
    )
    assert all(ask(server, query).answer for _ in range(5))
    assert all(ask(server, dns.message.make_query("mail.rich.test", "A"), tcp=True).answer for _ in range(5))


def test_load_makes_the_limits_smaller(tmp_path: Path) -> None:
    server, clock, _ = limited(tmp_path, "responses-per-second 10; qps-scale 100; slip 0;")
    for _ in range(20):
        burst(server, 20, "rich.test", host="198.51.100.7")
        clock.now += 1
    for _ in range(4):
        burst(server, 2000, "rich.test", host="198.51.100.7")
        clock.now += 15
    assert burst(server, 20).count("a") < 10


def test_the_table_is_bounded(tmp_path: Path) -> None:
    server, _, _ = limited(
        tmp_path, "responses-per-second 1; slip 0; max-table-size 100; min-table-size 100;"
    )
    assert server._limits is not None
    limiter = server._limits._limiter
    for number in range(1000):
        burst(server, 1, host=f"10.{number % 250}.{number // 250}.1")
        assert len(limiter._accounts) <= 100
        assert len(limiter._networks) <= 100


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("responses-per-second many;", "'many' is not a number from 0 to 1000"),
        ("window 0;", "'0' is not a number from 1 to 3600"),
        ("slip 11;", "'11' is not a number from 0 to 10"),
        ("often 3;", "unknown option 'often' of rate-limit"),
        ("exempt-clients { nobody; };", "undefined acl 'nobody'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, words: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        limited(tmp_path, words)


# ---- the order of records


def orders(server: Responder, name: str, kind: str, count: int, **words: object) -> list[str]:
    found = []
    for _ in range(count):
        query = dns.message.make_query(name, kind, **words)  # type: ignore[arg-type]
        wire = server.respond(query.to_wire(), "192.0.2.9", 1, tcp=False)
        assert isinstance(wire, bytes)
        response = dns.message.from_wire(wire, one_rr_per_rrset=True)
        found.append(" ".join(str(rrset[0]).split()[0] for rrset in response.answer))
    return found


COOKIE = [dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")]


@pytest.mark.parametrize("words", [{}, {"use_edns": 0, "options": COOKIE}])
def test_order(tmp_path: Path, words: dict[str, object]) -> None:
    still = responder(tmp_path, "recursion no; rrset-order { order fixed; };")
    assert set(orders(still, "rich.test", "MX", 20, **words)) == {"10 20 30"}
    cyclic = responder(tmp_path, "recursion no; rrset-order { order cyclic; };")
    found = orders(cyclic, "rich.test", "MX", 9, **words)
    assert sorted(set(found)) == ["10 20 30", "20 30 10", "30 10 20"]
    assert all(a != b for a, b in itertools.pairwise(found))
    anyhow = responder(tmp_path, "recursion no;")
    # Six orders, each a sixth of the time: that one of them is missing in 300 is less likely than 1e-22.
    assert len(Counter(orders(anyhow, "rich.test", "MX", 300, **words))) == 6
    firsts = set()
    for _ in range(400):
        query = dns.message.make_query("many.rich.test", "MX", **words)  # type: ignore[arg-type]
        wire = anyhow.respond(query.to_wire(), "192.0.2.9", 1, tcp=False)
        assert isinstance(wire, bytes)
        firsts.add(dns.message.from_wire(wire, one_rr_per_rrset=True).answer[0].to_text())
    assert len(firsts) == 10


def test_order_by_type_and_name(tmp_path: Path) -> None:
    rules = 'type MX name "rich.test" order cyclic; class IN type A name "*.rich.test" order random;'
    server = responder(tmp_path, f"recursion no; rrset-order {{ {rules} }};")
    assert len(set(orders(server, "rich.test", "MX", 6))) == 3
    assert len(set(orders(server, "many.rich.test", "MX", 6))) == 1
    assert len(set(orders(server, "rich.test", "NS", 6))) == 1


def test_a_change_of_the_zone_is_seen_in_every_order(tmp_path: Path) -> None:
    server = responder(tmp_path, "recursion no;")
    orders(server, "rich.test", "MX", 50)
    server.forget_prepared()
    assert not server.prepared("192.0.2.9")
    assert len(orders(server, "rich.test", "MX", 1)[0].split()) == 3
