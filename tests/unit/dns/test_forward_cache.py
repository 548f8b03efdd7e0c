"""The forwarder's cache: how long what is kept, how much of it, and what answers what."""

from __future__ import annotations

import tracemalloc

import pytest

from mailstack.dns import names
from mailstack.dns.cache import Cache, Entry
from mailstack.dns.message import NXDOMAIN
from mailstack.dns.ready import Ready, Shelf
from mailstack.dns.zone import AAAA, ANY, CNAME, MX, SOA, A, RRset

NOW, TXT = 1_700_000_000, 16
NAME = names.from_text("www.u.test")


def entry(name: bytes = NAME, rdtype: int = A, ttl: int = 100, *, extra: bool = False) -> Entry:
    return Entry(name, RRset(rdtype, ttl, (bytes((192, 0, 2, 1)),)), ttl, extra=extra)


def denial(rcode: int, ttl: int = 100) -> Entry:
    soa = RRset(SOA, ttl, ((b"", (names.ROOT, names.ROOT), bytes(20)),))
    return Entry(NAME, None, ttl, rcode=rcode, authority=[(names.ROOT, soa)])


def test_ttls_count_down_to_the_end() -> None:
    cache = Cache(1 << 20)
    cache.put(entry(), A, NOW)
    (found,) = cache.get(NAME, A, NOW + 40)
    assert found.remaining(NOW + 40) == 60
    assert cache.get(NAME, A, NOW + 99)
    assert not cache.get(NAME, A, NOW + 100)
    assert not cache.get(NAME, AAAA, NOW)
    assert not cache.get(NAME, A, NOW, cd=True)
    cache.put(entry(ttl=0), A, NOW + 200)
    assert not cache.get(NAME, A, NOW + 200)


def test_a_denied_name_has_no_type_and_a_denied_type_no_more_than_itself() -> None:
    cache = Cache(1 << 20)
    cache.put(entry(), A, NOW)
    cache.put(denial(0), MX, NOW)
    assert cache.get(NAME, A, NOW) and cache.get(NAME, MX, NOW) and not cache.get(NAME, TXT, NOW)
    cache.put(denial(NXDOMAIN), 0, NOW)
    for rdtype in (A, MX, TXT, ANY):
        assert [one.rcode for one in cache.get(NAME, rdtype, NOW)] == [NXDOMAIN]
    assert not cache.get(b"\1a" + NAME, A, NOW)  # RFC 8020 is not applied, as in BIND
    cache.put(entry(), A, NOW)
    assert not cache.get(NAME, TXT, NOW)


def test_an_alias_answers_every_type_and_leaves_nothing_else() -> None:
    cache = Cache(1 << 20)
    cache.put(entry(), A, NOW)
    target = RRset(CNAME, 50, ((b"", (names.from_text("web.u.test"),), b""),))
    cache.put(Entry(NAME, target, 50), CNAME, NOW)
    for rdtype in (A, MX, CNAME):
        assert [one.rrset is target for one in cache.get(NAME, rdtype, NOW)] == [True]


@pytest.mark.parametrize(("kind", "given"), [(A, True), (0, False)])
def test_stale_answers_are_kept_for_a_while_but_no_denied_name(kind: int, given: bool) -> None:
    cache = Cache(1 << 20, stale=1000)
    cache.put(entry() if kind else denial(NXDOMAIN), kind, NOW)
    assert not cache.get(NAME, A, NOW + 100)
    assert bool(cache.get(NAME, A, NOW + 100, stale=True)) is given
    assert bool(cache.get(NAME, A, NOW + 1099, stale=True)) is given
    assert not cache.get(NAME, A, NOW + 1100, stale=True)


def test_what_stood_beside_an_answer_is_no_answer() -> None:
    cache = Cache(1 << 20)
    cache.put(entry(extra=True), A, NOW)
    assert not cache.get(NAME, A, NOW) and not cache.get(NAME, ANY, NOW)
    assert cache.beside(NAME, A, NOW) is not None
    answer = entry()
    cache.put(answer, A, NOW)
    cache.put(entry(extra=True), A, NOW)
    assert cache.get(NAME, A, NOW) == [answer]


def test_a_flood_of_names_takes_no_more_than_the_limit_and_spares_what_is_used() -> None:
    limit = 2 << 20
    tracemalloc.start()
    try:
        cache = Cache(limit)
        cache.put(entry(), A, NOW)
        before, _ = tracemalloc.get_traced_memory()
        for number in range(20_000):
            name = names.from_text(f"random{number}.u.test")
            cache.put(Entry(name, RRset(A, 300, (number.to_bytes(4, "big"),)), 300), A, NOW)
            if number % 500 == 0:
                assert cache.get(NAME, A, NOW)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.octets <= limit
    assert after - before < limit * 1.1  # it counts what it takes
    assert after - before > limit * 0.5
    assert cache.get(NAME, A, NOW)
    assert not cache.get(names.from_text("random0.u.test"), A, NOW)


def ready(name: bytes, ttl: int = 100, most: int = 1) -> Ready:
    """An answer with one record, without its id."""
    wire = bytes.fromhex("8180 0001 0001 0000 0000") + name + b"\0\1\0\1"
    wire += b"\xc0\x0c\0\1\0\1" + ttl.to_bytes(4, "big") + b"\0\4\1\2\3\4"
    return Ready(wire, NOW, NOW + ttl, most)


def test_ready_answers_count_down_and_end() -> None:
    one = ready(NAME)
    tails = {passed: one.take(NOW + passed) for passed in (0, 1, 99, 100)}
    assert [None if tail is None else tail[-10:-6] for tail in tails.values()] == [
        number.to_bytes(4, "big") for number in (100, 99, 1)
    ] + [None]


def test_ready_answers_in_all_their_orders() -> None:
    shelf = Shelf(1 << 20)
    counted: list[int] = []
    for _ in range(2):
        assert shelf.answers.get(b"key") is None or shelf.answers[b"key"].take(NOW) is None
        shelf.put(b"key", ready(NAME, most=2), lambda: counted.append(1))
    assert shelf.variants(b"key", NOW + 100) == 2
    assert shelf.answers[b"key"].take(NOW + 5) is not None
    assert not counted


def test_the_shelf_has_a_limit() -> None:
    shelf = Shelf(100_000)
    counted: list[int] = []
    for number in range(1000):
        shelf.put(b"%d" % number, ready(NAME), lambda: counted.append(1))
    assert len(shelf.answers) < 200
    assert b"999" in shelf.answers and b"0" not in shelf.answers
    assert counted  # what was given is counted before it is dropped
