"""What the columns of master.cf and max_use, max_idle mean to the workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailstack.config.postfix.main_cf import MainCf
from mailstack.config.postfix.master_cf import parse_master
from mailstack.mta.services import Workers, warnings
from mailstack.mta.smtpd.life import Life


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.mark.parametrize(
    ("main_cf", "master_cf", "wanted"),
    [
        ("", "25 inet n - n - 3 smtpd", Workers(2, 0, 0.0)),
        ("", "25 inet n - n - - smtpd", Workers(2, 0, 0.0)),
        ("", "25 inet n - n - 0 smtpd", Workers(2, 0, 0.0)),
        ("", "25 inet n - n - 100 smtpd", Workers(2, 0, 0.0)),
        ("default_process_limit = 1", "25 inet n - n - 100 smtpd", Workers(1, 0, 0.0)),
        ("", "25 inet n - n - 1 smtpd\n587 inet n - n - 2 smtpd", Workers(2, 0, 0.0)),
        ("", "qmgr unix n - n 300 1 qmgr", Workers(0, 0, 0.0)),
        ("max_use = 100\nmax_idle = 2m", "25 inet n - n - 1 smtpd", Workers(1, 100, 120.0)),
        (
            "max_use = 100",
            "25 inet n - n - 1 smtpd\n587 inet n - n - 1 smtpd -o max_use=7 -o max_idle=30",
            Workers(1, 7, 30.0),
        ),
    ],
)
def test_workers(main_cf: str, master_cf: str, wanted: Workers) -> None:
    conf = MainCf.parse(main_cf, Path("main.cf"))
    assert Workers.read(conf, parse_master(master_cf, Path("master.cf"))) == wanted


def test_what_is_asked_for_in_vain_is_said() -> None:
    services = parse_master(
        "smtp inet n - y 60 - smtpd\n"
        "2525 inet n - n - 1 postscreen\n"
        "smtpd pass - - n - - smtpd\n"
        "pickup unix n - y 60 2 pickup\n"
        "qmgr unix n - n 300 1 qmgr -v\n"
        "tlsmgr unix - - y 1000? 1 tlsmgr\n"
        "policy unix - n n - 0 spawn user=nobody argv=/usr/bin/policyd-spf\n",
        Path("/cf/master.cf"),
    )
    assert list(warnings(services)) == [
        "/cf/master.cf, line 1: smtp/inet: the wake-up time means nothing: smtpd waits for clients",
        "/cf/master.cf, line 2: 2525/inet: postscreen is not served here: nothing listens",
        "/cf/master.cf, line 3: smtpd/pass: smtpd is not served here: nothing listens",
        "/cf/master.cf, line 4: pickup/unix: the process limit means nothing: there is one pickup",
        "/cf/master.cf, line 5: qmgr/unix: -v means nothing: qmgr has no more to say",
        "/cf/master.cf, line 7: policy/unix: spawn is not served here: nothing listens",
        "/cf/master.cf: chroot means nothing here: smtp, pickup",
    ]


def test_a_worker_that_has_served_enough_tells_the_master() -> None:
    read, write = os.pipe()
    life = Life(max_use=2, pipe=write)
    assert not life.is_over(1, 0.0)
    life.served = 2
    assert life.is_over(2, 1.0)
    assert os.read(read, 100) == os.getpid().to_bytes(4, "big")
    os.close(read)
    os.close(write)


def test_an_idle_worker_ends_after_max_idle_without_a_session() -> None:
    life = Life(max_idle=10.0)
    assert not life.is_over(0, 100.0)
    assert not life.is_over(1, 109.0)  # a session
    assert not life.is_over(0, 118.9)
    life.served += 1  # one that came and went between two looks
    assert not life.is_over(0, 119.5)
    assert not life.is_over(0, 129.4)
    assert life.is_over(0, 129.5)
    assert not Life().is_over(0, 1e9)


def test_the_last_of_two_entries_counts() -> None:
    services = parse_master(
        "127.0.0.1:25 inet n - n - - smtpd\n"
        "127.0.0.1:25 inet n - n - - smtpd -o smtpd_banner=second\n"
        "cleanup unix n - n - 0 cleanup\n"
        "cleanup unix n - n - 0 cleanup\n"
        "relay unix - - n - - smtp\n"
        "relay unix - - n - - lmtp\n"
        "2525 inet n - n - - smtpd\n"
        "2525 inet n - n - - smtpd\n",
        Path("master.cf"),
    )
    assert [(one.name, one.command) for one in services] == [
        ("127.0.0.1:25", "smtpd"), ("cleanup", "cleanup"), ("relay", "lmtp"), ("2525", "smtpd"),
    ]  # fmt: skip
    assert dict(services[0].overrides) == {"smtpd_banner": "second"}
    assert list(warnings(services)) == [
        'duplicate master.cf entry for service "127.0.0.1:25" ([127.0.0.1]:25) -- using the last entry',
        'duplicate master.cf entry for service "cleanup" (public/cleanup) -- using the last entry',
        'duplicate master.cf entry for service "relay" (private/relay) -- using the last entry',
        'duplicate master.cf entry for service "2525" (2525) -- using the last entry',
    ]
