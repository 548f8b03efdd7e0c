"""Guessing costs time; nobody is kept out for ever; nothing grows without bound."""

from __future__ import annotations

from mailstack.mailbox.auth import guard
from mailstack.mailbox.auth.guard import Guard

BAD, GOOD = "192.0.2.66", "192.0.2.1"


def test_an_address_waits_longer_each_time_and_a_success_ends_it() -> None:
    watch = Guard()
    waits = []
    for number in range(6):
        waits.append(watch.delay(BAD, 2.0, 10.0))
        watch.failed(None, BAD, b"%d" % number, 10.0)
    assert waits == [0.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert watch.delay(GOOD, 2.0, 10.0) == 0.0
    assert watch.delay(BAD, 2.0, 10.0 + guard.FORGET + 1) == 0.0
    watch.succeeded("zs", BAD)
    assert watch.delay(BAD, 2.0, 10.0) == 0.0


def test_the_same_wrong_password_again_counts_once() -> None:
    watch = Guard()
    for _ in range(50):
        watch.failed("zs", BAD, b"old", 10.0)
    assert watch.delay(BAD, 2.0, 10.0) == 2.0
    assert not watch.locked("zs", GOOD, 10.0)


def test_a_network_of_ipv6_is_one_address() -> None:
    watch = Guard()
    watch.failed(None, "2001:db8:1:2::1", b"1", 0.0)
    assert watch.delay("2001:db8:1:ffff::9", 2.0, 0.0) == 2.0
    assert watch.delay("2001:db8:2::1", 2.0, 0.0) == 0.0


def test_a_user_is_locked_for_new_addresses_and_for_a_while() -> None:
    watch = Guard()
    watch.succeeded("zs", GOOD)
    locked = [
        watch.failed("zs", f"192.0.2.{10 + n}", b"%d" % n, float(n)) for n in range(guard.USER_FAILURES)
    ]
    assert locked == [False] * (guard.USER_FAILURES - 1) + [True]
    now = float(guard.USER_FAILURES)
    assert watch.locked("zs", "192.0.2.99", now)
    assert not watch.locked("zs", GOOD, now)
    assert not watch.locked("joe", "192.0.2.99", now)
    for number in range(100):  # what comes meanwhile does not make it longer
        watch.failed("zs", BAD, b"more%d" % number, now)
    assert not watch.locked("zs", "192.0.2.99", now + guard.LOCK_TIME)


def test_failures_far_apart_lock_nobody() -> None:
    watch = Guard()
    for number in range(100):
        assert not watch.failed("zs", BAD, b"%d" % number, number * 61.0)


def test_attempts_that_wait_are_few() -> None:
    watch = Guard()
    watch.failed(None, BAD, b"1", 0.0)
    entered = [watch.enter(BAD) for _ in range(guard.WAITING_LIMIT + 1)]
    assert entered == [True] * guard.WAITING_LIMIT + [False]
    watch.leave(BAD)
    assert watch.enter(BAD)


def test_what_is_remembered_is_bounded() -> None:
    watch = Guard()
    for number in range(guard.LIMIT + 1000):
        watch.failed(None, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", b"x", 0.0)
    assert len(watch) == guard.LIMIT
