"""What one client may do in a while, in how long, and what holds when there is little of everything."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from mailstack.mta.smtpd.anvil import Anvil, Event, Table
from mailstack.mta.smtpd.capacity import Capacity, Load, group_is_full, memory_is_scarce
from mailstack.mta.smtpd.deadline import Deadline
from mailstack.net.clock import ManualClock
from tests.unit.mta_smtpd.serving import TLS_CF, Smtpd, make_certificate, settings_of
from tests.unit.mta_smtpd.test_session import Client, session

ENVELOPE = ("MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>")


def in_a_child(table: Table, work: list[str]) -> None:
    """Do something to the table in another process, which then is gone."""
    pid = os.fork()
    if not pid:
        anvil = Anvil(table)
        for client in work:
            anvil.connect(client, 60.0)
        os._exit(0)
    os.waitpid(pid, 0)


def test_rates_begin_anew_when_the_time_is_over() -> None:
    clock = ManualClock()
    anvil = Anvil(Table(64), clock.monotonic)
    assert [anvil.add("smtp:192.0.2.1", Event.MESSAGE, 60.0) for _ in range(3)] == [1, 2, 3]
    assert anvil.add("smtp:192.0.2.1", Event.RECIPIENT, 60.0) == 1
    assert anvil.add("smtp:192.0.2.2", Event.MESSAGE, 60.0) == 1
    assert anvil.add("submission:192.0.2.1", Event.MESSAGE, 60.0) == 1
    clock.advance(60.0)
    assert anvil.add("smtp:192.0.2.1", Event.MESSAGE, 60.0) == 4
    clock.advance(0.1)
    assert anvil.add("smtp:192.0.2.1", Event.MESSAGE, 60.0) == 1


def test_processes_count_together_and_the_dead_do_not_count() -> None:
    table = Table(64)
    here = Anvil(table)
    assert here.connect("smtp:192.0.2.1", 60.0) == (1, 1)
    in_a_child(table, ["smtp:192.0.2.1"] * 3)
    assert here.connect("smtp:192.0.2.1", 60.0) == (5, 5)
    in_a_child(table, [])
    Anvil(table).join()  # this process has a column already: nothing is looked at
    assert here.connect("smtp:192.0.2.1", 60.0) == (6, 6)
    here.disconnect("smtp:192.0.2.1")
    in_a_child(table, ["smtp:192.0.2.7"])  # begins, and clears the columns of the dead
    assert here.connect("smtp:192.0.2.1", 60.0) == (3, 7)
    for _ in range(4):
        here.disconnect("smtp:192.0.2.1")
    assert here.connect("smtp:192.0.2.1", 60.0) == (1, 8)


def test_a_full_table_limits_nobody_and_forgets_the_oldest() -> None:
    clock = ManualClock()
    anvil = Anvil(Table(8), clock.monotonic)
    for number in range(8):
        clock.advance(1.0)
        assert anvil.connect(f"smtp:192.0.2.{number}", 60.0) == (1, 1)
    assert anvil.connect("smtp:198.51.100.1", 60.0) == (0, 0)
    anvil.disconnect("smtp:192.0.2.3")
    assert anvil.connect("smtp:198.51.100.1", 60.0) == (1, 1)


def test_limits_of_one_client(tmp_path: Path) -> None:
    extra = (
        "smtpd_client_message_rate_limit = 2\nsmtpd_client_recipient_rate_limit = 3\n"
        "smtpd_client_connection_count_limit = 2\nsmtpd_client_connection_rate_limit = 3\n"
    )

    async def check(smtpd: Smtpd, client: Client) -> None:
        assert await client.say(*ENVELOPE, ENVELOPE[1], ENVELOPE[1]) == "250 2.1.5 Ok"
        assert await client.say(ENVELOPE[1]) == "450 4.7.1 Error: too many recipients from 127.0.0.1"
        assert await client.say("RSET", ENVELOPE[0]) == "250 2.1.0 Ok"
        assert await client.say("RSET", ENVELOPE[0]) == "450 4.7.1 Error: too much mail from 127.0.0.1"
        second = Client(await smtpd.connect())
        assert (await second.reply()).startswith("220 ")
        refusal = "421 4.7.0 mail.dgtlinux.com Error: too many connections from 127.0.0.1"
        assert await Client(await smtpd.connect()).reply() == refusal
        assert await second.say("QUIT") == "221 2.0.0 Bye"
        assert await second.reply() == "<closed>"
        assert await Client(await smtpd.connect()).reply() == refusal
        for words in (
            "Recipient address rate limit exceeded: 4 from localhost[127.0.0.1] for service smtp",
            "Message delivery request rate limit exceeded: 3 from localhost[127.0.0.1] for service smtp",
            "Connection concurrency limit exceeded: 3 from localhost[127.0.0.1] for service smtp",
            "Connection rate limit exceeded: 4 from localhost[127.0.0.1] for service smtp",
        ):
            assert f"smtpd: warning: {words}" in smtpd.log()

    session(tmp_path, check, extra)


def test_tls_and_auth_rates(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    extra = TLS_CF.format(dir=tmp_path) + "smtpd_client_new_tls_session_rate_limit = 1\n"

    async def check(smtpd: Smtpd, client: Client) -> None:
        smtpd.shared.anvil.add("smtp:127.0.0.1", Event.TLS, 60.0)
        refusal = "454 4.7.0 Error: too many new TLS sessions from 127.0.0.1"
        assert await client.say("EHLO x", "STARTTLS") == refusal
        assert await client.say("NOOP") == "250 2.0.0 Ok"

    session(tmp_path, check, extra)


def test_no_limit_costs_nothing(tmp_path: Path) -> None:
    assert settings_of(tmp_path, "smtpd_client_connection_count_limit = 0\n").event_limits is None


def test_a_deadline_is_for_the_whole_request() -> None:
    deadline = Deadline(10.0, 500)
    assert deadline.left(100.0, 0) == 10.0
    assert deadline.left(104.0, 0) == 6.0
    deadline.met()
    assert deadline.left(105.0, 0) == 10.0
    assert deadline.left(113.0, 1500) == 5.0  # three seconds won
    assert deadline.left(113.5, 1_000_000) == 10.0  # never more than the time-out
    with pytest.raises(TimeoutError):
        deadline.left(123.5, 0)


def test_stress_shortens_what_main_cf_says(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "smtpd_soft_error_limit = 5\n")
    stressed = settings.stressed
    assert stressed is not None
    assert (settings.timeout, settings.hard_errors, settings.request_deadline) == (300.0, 20, False)
    assert (stressed.timeout, stressed.hard_errors, stressed.request_deadline) == (10.0, 1, True)
    assert (stressed.junk_commands, stressed.tls_timeout, stressed.soft_errors) == (1, 10.0, 5)


def test_sessions_begin_under_stress_and_are_turned_away(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        smtpd.shared.capacity = Capacity(2)
        stressed = Client(await smtpd.connect())
        assert (await stressed.reply()).startswith("220 ")
        assert await stressed.say("XX") == "500 5.5.2 Error: command not recognized"
        assert await stressed.reply() == "421 4.7.0 mail.dgtlinux.com Error: too many errors"
        assert await client.say("XX", "XX", "NOOP") == "250 2.0.0 Ok"
        third = Client(await smtpd.connect())
        assert (await third.reply()).startswith("220 ")
        fourth = Client(await smtpd.connect())
        refusal = "421 4.3.2 mail.dgtlinux.com Service unavailable - try again later"
        assert [await fourth.reply(), await fourth.reply()] == [refusal, "<closed>"]
        assert any("too many sessions (2): turning clients away" in line for line in smtpd.log())

    session(tmp_path, check)


def test_silent_and_slow_sessions_make_room_under_stress(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say("EHLO x", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", "DATA")
        silent, other = Client(await smtpd.connect()), Client(await smtpd.connect())
        await silent.reply()
        await other.reply()
        smtpd.shared.capacity = Capacity(3)
        late = Client(await smtpd.connect())
        assert (await late.reply()).startswith("421 4.3.2 ")

        async def drip() -> None:
            for _ in range(100):
                client.stream.write(b"x")
                await asyncio.sleep(0.02)

        dripping = asyncio.get_running_loop().create_task(drip())
        timeout = "421 4.4.2 mail.dgtlinux.com Error: timeout exceeded"
        assert await silent.reply() == timeout
        assert await client.reply() == timeout, "an octet from time to time is not enough"
        dripping.cancel()
        assert (await Client(await smtpd.connect()).reply()).startswith("220 ")

    session(tmp_path, check, "smtpd_timeout = ${stress?{1}:{300}}s\n")


def test_capacity(tmp_path: Path) -> None:
    capacity = Capacity(10)
    loads = [capacity.load(sessions, 0.0) for sessions in (0, 7, 8, 9, 10)]
    assert loads == [Load.LIGHT, Load.LIGHT, Load.STRESS, Load.STRESS, Load.FULL]
    handshakes = Capacity(10, descriptors=100)
    assert [handshakes.load(0, 0.0, number) for number in (99, 100)] == [Load.LIGHT, Load.FULL]
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4000000 kB\nMemFree: 1 kB\nMemAvailable: 20000 kB\n")
    little = Capacity(10, meminfo=meminfo)
    assert little.load(0, 0.0) is Load.FULL
    meminfo.write_text("MemTotal: 4000000 kB\nMemAvailable: 2000000 kB\n")
    assert little.load(0, 0.5) is Load.FULL  # not looked at again so soon
    assert little.load(0, 1.5) is Load.LIGHT
    assert not memory_is_scarce(tmp_path / "absent")


def test_a_control_group_is_full_when_it_has_no_cache_to_give(tmp_path: Path) -> None:
    assert not group_is_full(tmp_path)
    (tmp_path / "memory.max").write_text("104857600\n")
    (tmp_path / "memory.current").write_text("104000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\nactive_file 9000000\ninactive_file 9000000\n")
    assert not group_is_full(tmp_path)
    (tmp_path / "memory.stat").write_text("anon 1\nactive_file 1\ninactive_file 1\n")
    assert group_is_full(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert not group_is_full(tmp_path)
