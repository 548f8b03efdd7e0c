"""Transfers as they come in, message by message; and when a secondary zone is looked after."""

from __future__ import annotations

from collections.abc import Iterable

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.config.named.peers import Transfers
from mailstack.dns import names
from mailstack.dns.backup import lines
from mailstack.dns.incoming import BadTransfer, Incoming, read_name
from mailstack.dns.message import Malformed
from mailstack.dns.secondary import Timers
from mailstack.dns.zone import MX, RRSIG, A, Zone

ORIGIN = names.from_text("t")
SOA = "t. 60 SOA ns.t. h.t. {} 300 100 1000 60"
REST = [
    "t. 60 NS ns.t.",
    "ns.t. 60 A 192.0.2.1",
    "ns.t. 60 RRSIG A 13 2 60 20300101000000 20200101000000 1 t. AAAA",
    "MX.t. 70 MX 1 ns.t.",
    "a.b.t. 60 TYPE65400 \\# 2 0102",
]


def message(records: Iterable[str]) -> bytes:
    """A transfer's message, its names compressed."""
    answer = dns.message.Message(7)
    answer.flags = 0x8400
    for text in records:
        owner, ttl, kind, data = text.split(" ", 3)
        answer.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
    return answer.to_wire(max_size=65535)


def whole(serial: int = 5) -> Zone:
    incoming = Incoming(ORIGIN, None)
    assert incoming.feed(message([SOA.format(serial), *REST, SOA.format(serial)]))
    return incoming.result()


def test_a_whole_zone_however_it_is_cut() -> None:
    records = [SOA.format(5), *REST, SOA.format(5)]
    for size in range(1, len(records) + 1):
        incoming = Incoming(ORIGIN, None)
        parts = [records[at : at + size] for at in range(0, len(records), size)]
        assert [incoming.feed(message(part)) for part in parts] == [False] * (len(parts) - 1) + [True]
        zone = incoming.result()
        assert list(lines(zone)) == list(lines(whole()))
        assert (zone.serial, incoming.messages, incoming.records) == (5, len(parts), len(records))
    text = "".join(lines(whole()))
    assert "MX.t. 70 IN MX 1 ns.t.\n" in text
    assert "ns.t. 60 IN RRSIG A 13 2 60 20300101000000 20200101000000 1 t. AAAA\n" in text
    signature = whole().nodes[names.from_text("ns.t")].rrsets[A].signature
    assert signature is not None and signature.rdtype == RRSIG


def test_steps_and_what_else_answers_them() -> None:
    base = whole()
    steps = [
        SOA.format(7), SOA.format(5), "mx.t. 70 MX 1 NS.t.", SOA.format(6), "x.t. 60 AAAA ::1",
        SOA.format(6), "x.t. 60 AAAA ::1", SOA.format(7), "y.t. 60 A 192.0.2.9", SOA.format(7),
    ]  # fmt: skip
    incoming = Incoming(ORIGIN, base)
    for record in steps[:-1]:
        assert not incoming.feed(message([record]))
    assert incoming.feed(message(steps[-1:]))
    zone = incoming.result()
    assert incoming.incremental and zone.serial == 7
    assert [(one.before, one.after) for one in incoming.entries()] == [(5, 6), (6, 7)]
    assert names.from_text("y.t") in zone.nodes and names.from_text("mx.t") not in zone.nodes
    assert MX in base.nodes[names.from_text("mx.t")].rrsets, "the one in service is as it was"
    nothing = Incoming(ORIGIN, base)
    assert nothing.feed(message([SOA.format(5)])) and nothing.current
    instead = Incoming(ORIGIN, base)
    assert instead.feed(message([SOA.format(8), *REST, SOA.format(8)]))
    assert not instead.incremental and instead.result().serial == 8


def test_more_records_than_the_zone_may_have() -> None:
    records = [SOA.format(5), *REST, SOA.format(5)]
    exact = Incoming(ORIGIN, None, max_records=6)
    assert exact.feed(message(records)) and exact.result().serial == 5
    fewer = Incoming(ORIGIN, None, max_records=5)
    fewer.feed(message(records))
    with pytest.raises(BadTransfer, match="too many records"):
        fewer.result()
    endless = Incoming(ORIGIN, None, max_records=5)
    with pytest.raises(BadTransfer, match="too many records"):
        for number in range(100):
            endless.feed(message([SOA.format(5)] if not number else [f"h{number}.t. 60 A 192.0.2.1"]))


@given(st.binary(max_size=300), st.integers(0, 400), st.booleans())
def test_any_octets(noise: bytes, position: int, step: bool) -> None:
    """They are a transfer, or said not to be one; nothing else is raised."""
    good = message([SOA.format(7), *REST])
    incoming = Incoming(ORIGIN, whole() if step else None)
    try:
        incoming.feed(good[:position] + noise + good[position + len(noise) :])
        incoming.feed(noise)
        incoming.result()
    except BadTransfer:
        pass


@pytest.mark.parametrize(
    "wire", [b"\xc0\x00", b"\1a\xc0\x02", b"\x40", b"\5ab", b"\x3f" + b"a" * 63 + b"\xc0\x00", b"\xc0"]
)
def test_names_that_are_none(wire: bytes) -> None:
    with pytest.raises((Malformed, IndexError)):
        read_name(wire, 0, {})


def test_times() -> None:
    timers = Timers(Transfers(min_refresh=200, max_refresh=250, min_retry=50), 1000.0)
    assert timers.wait(1000.0) == 0
    waits = []
    for _ in range(12):
        timers.failed(1000.0, 0.0)
        waits.append(timers.wait(1000.0))
    assert waits[:3] == [60, 120, 240] and waits[-1] == 6 * 3600
    timers.loaded(whole(), 1000.0)
    timers.refreshed(1000.0, 0.0)
    assert (timers.refresh_at, timers.expire_at) == (1250, 2000)
    timers.refreshed(1000.0, 1.0)
    assert timers.refresh_at == 1187.5, "up to a quarter earlier"
    timers.failed(1200.0, 0.0)
    assert (timers.refresh_at, timers.expire_at) == (1300, 2000), "the end does not move"
    assert timers.wait(1290.0) == 10
    timers.failed(1990.0, 0.0)
    assert timers.wait(1990.0) == 10, "the end comes first"
    timers.expired()
    timers.failed(2000.0, 0.0)
    assert timers.wait(2000.0) == 60
