"""Which server is asked, what is taken for its answer, and who waits for it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import dns.flags
import dns.message
import dns.rrset
import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.named import Locality
from mailstack.config.named.resolving import Resolving
from mailstack.dns import names
from mailstack.dns.forward import Forwarder
from mailstack.dns.message import Malformed
from mailstack.dns.received import judge, matches, read
from mailstack.dns.responder import Responder
from mailstack.dns.results import Pending
from mailstack.dns.upstreams import PENALTY, Upstreams
from mailstack.dns.zone import IN, MX, A
from mailstack.net.log import Log
from tests.unit.dns.test_forward import upstream
from tests.unit.dns.world import configuration
from tests.unit.net_resolver.test_resolver import FakeServer, running

ONE, TWO = ("192.0.2.1", 53), ("192.0.2.2", 53)
WWW = names.from_text("www.elsewhere.example")


def test_the_fastest_is_asked_and_a_dead_one_gets_its_chance_again() -> None:
    known = Upstreams(Resolving())
    now = 0.0
    for server, seconds in ((ONE, 0.010), (TWO, 0.050)):
        one = known.of(server)
        assert one is not None
        for _ in range(20):
            one.answered(seconds)
    assert [one.address for one in known.order((TWO, ONE), now)] == [ONE, TWO]
    first = known.of(ONE)
    assert first is not None
    for _ in range(3):
        first.silent()
    assert first.srtt > 3 * PENALTY
    assert known.order((ONE, TWO), now)[0].address == TWO
    while known.order((ONE, TWO), now)[0].address == TWO:
        now += 1
    assert 60 < now < 600  # seconds


def test_patience_grows_with_the_server_and_with_each_round() -> None:
    one = Upstreams(Resolving()).of(ONE)
    assert one is not None
    assert [one.patience(0.8, shift) for shift in (0, 1, 2, 6)] == [0.8, 1.6, 3.2, 9.0]
    one.srtt = 2.0
    assert one.patience(0.8, 0) == 2.2


def wires(answer: str = "www.elsewhere.example. 300 IN A 198.51.100.1") -> tuple[bytes, bytes]:
    """A question, and a right answer."""
    query = dns.message.make_query("www.elsewhere.example", "A", use_edns=0)
    response = dns.message.make_response(query)
    name, ttl, rdclass, rdtype, data = answer.split(None, 4)
    response.answer.append(dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data))
    return query.to_wire(), response.to_wire()


def test_only_an_answer_to_the_question_is_one() -> None:
    asked, right = wires()
    assert matches(asked, right)
    assert matches(asked, right.replace(b"elsewhere", b"ELSEwhere"))
    for wrong in (
        bytes([right[0] ^ 1]) + right[1:],
        right.replace(b"elsewhere", b"elsewhera"),
        right.replace(b"\0\1\0\1", b"\0\x1c\0\1", 1),
        right[:2] + bytes([right[2] & 0x7F]) + right[3:],
        right[:2] + bytes([right[2] | 0x28]) + right[3:],
        right[:11],
    ):
        assert not matches(asked, wrong)


@pytest.mark.parametrize(
    ("line", "judged"),
    [
        ("www.elsewhere.example. 300 IN A 198.51.100.1", A),
        ("WWW.elsewhere.example. 300 IN CNAME web.test.", 5),
        ("elsewhere.example. 300 IN DNAME web.test.", 39),
        ("other.example. 300 IN A 198.51.100.1", None),
        ("www.elsewhere.example. 300 IN MX 1 web.test.", None),
    ],
)
def test_what_an_answer_is_to_the_question(line: str, judged: int | None) -> None:
    verdict = judge(read(wires(line)[1]), WWW, A)
    assert (None if verdict is None else verdict.entries[0][1]) == judged


@pytest.mark.parametrize("cut", [1, 4, 11])
def test_half_a_message_is_none(cut: int) -> None:
    with pytest.raises(Malformed):
        read(wires()[1][:-cut])


async def _asked(resolving: Resolving, server: FakeServer, hosts: list[str], name: bytes) -> list[int]:
    """How many entries each of the hosts gets that ask the same at the same time."""
    forwarder = Forwarder(resolving)
    async with running(server) as address:
        asking = (forwarder.ask(name, A, [address], host, cd=False) for host in hosts)
        found = await asyncio.gather(*asking)
    await forwarder.close()
    return [0 if outcome is None else len(outcome.entries) for outcome in found]


def test_the_same_question_is_asked_once_and_by_so_many_at_the_most() -> None:
    server = FakeServer(upstream)
    found = asyncio.run(_asked(Resolving(clients_per_query=5), server, ["192.0.2.9"] * 8, WWW))
    assert sorted(found) == [0, 0, 0, 1, 1, 1, 1, 1]
    assert server.asked.total() == 1


def test_who_asks_most_gives_way_when_too_many_wait() -> None:
    hosts = ["192.0.2.9"] * 4 + ["192.0.2.8"]
    found = asyncio.run(_asked(Resolving(recursive_clients=4), FakeServer(upstream), hosts, WWW))
    assert found == [0, 1, 1, 1, 1]


def test_who_is_turned_away_leaves_no_failure_behind(tmp_path: Path) -> None:
    async def go() -> tuple[list[int], bool]:
        async with running(FakeServer(upstream)) as (host, port):
            options = f"forwarders {{ {host} port {port}; }}; allow-recursion {{ any; }}; recursion yes;"
            conf = configuration(tmp_path, f"{options} max-clients-per-query 1;")
            forwarder = Forwarder(conf.options.resolving)
            log = Log("named", "test", os.open(os.devnull, os.O_WRONLY))
            ours = Responder(conf, (), Locality(), forwarder, log)
            wire = dns.message.make_query("www.elsewhere.example", "A").to_wire()
            pending = [ours.respond(wire, "192.0.2.9", 1, tcp=False) for _ in range(2)]
            asked = [ours.complete(one) for one in pending if isinstance(one, Pending)]
            found = [data[3] & 0xF for data in await asyncio.gather(*asked)]
            failed = forwarder.failed_lately(WWW, A, cd=False)
            await forwarder.close()
            return found, failed

    assert asyncio.run(go()) == ([0, 2], False)


def test_a_server_without_edns_is_asked_without() -> None:
    def old(query: dns.message.Message) -> dns.message.Message:
        if query.edns < 0:
            return upstream(query)
        response = dns.message.make_response(query)
        response.use_edns(False)
        response.set_rcode(dns.rcode.FORMERR)
        return response

    server = FakeServer(old)
    assert asyncio.run(_asked(Resolving(), server, ["192.0.2.9"], WWW)) == [1]
    assert server.asked.total() == 2


def test_too_short_a_time_is_named_failure() -> None:
    async def go() -> tuple[int, bool]:
        forwarder = Forwarder(Resolving(query_timeout=0.2, retry_interval=0.05))
        async with running(FakeServer(lambda _: None)) as address:
            outcome = await forwarder.ask(WWW, MX, [address], "192.0.2.9", cd=False)
        await forwarder.close()
        assert outcome is not None
        return len(outcome.entries), outcome.timed_out

    assert asyncio.run(go()) == (0, True)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("max-cache-size 16m;", "max_cache_size", 16 << 20),
        ("max-cache-size 1;", "max_cache_size", 2 << 20),
        ("min-cache-ttl 1m;", "min_cache_ttl", 60),
        ("prefetch 4;", "prefetch_eligible", 10),
        ("prefetch 30 60;", "prefetch_trigger", 10),
        ("stale-answer-client-timeout 1800;", "stale_client_timeout", 1.8),
        ("stale-answer-client-timeout off;", "stale_client_timeout", None),
        ("stale-answer-ttl 0;", "stale_answer_ttl", 1),
        ("servfail-ttl 100;", "servfail_ttl", 30),
        ("resolver-query-timeout 12;", "query_timeout", 12.0),
        ("resolver-query-timeout 99000;", "query_timeout", 30.0),
        ("query-source address 127.0.0.1;", "query_source", "127.0.0.1"),
        ("dnssec-validation no;", "trust_ad", False),
        ("recursive-clients 7;", "recursive_clients", 7),
    ],
)
def test_options(tmp_path: Path, text: str, field: str, value: object) -> None:
    assert getattr(configuration(tmp_path, text).options.resolving, field) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min-cache-ttl 91;", "at most 90 seconds"),
        ("max-cache-size lots;", "takes octets, a percentage"),
        ("query-source ::1;", "takes an IPv4 address"),
        ("query-source address * port 5353;", "answers to one port can be forged"),
        ("stale-answer-client-timeout soon;", "is not a number"),
        ("dual-stack-servers { 192.0.2.1; };", "'dual-stack-servers' is not supported"),
        ("max-query-restarts 0;", "is not a number from 1"),
    ],
)
def test_options_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configuration(tmp_path, text)


def test_it_is_a_question_of_class_in() -> None:
    one = Upstreams(Resolving(send_cookie=False)).of(ONE)
    assert one is not None
    wire = one.wire(WWW, A, cd=True, edns=False)
    assert (
        wire[2:4] == bytes((1, 0x10))
        and wire[-2:] == IN.to_bytes(2, "big")
        and len(wire) == 12 + len(WWW) + 4
    )
    assert dns.message.from_wire(one.wire(WWW, A, cd=False, edns=True)).ednsflags == dns.flags.DO


def test_a_flood_leaves_no_more_questions_than_may_wait() -> None:
    async def go() -> tuple[int, int]:
        server = FakeServer(lambda _: None)
        forwarder = Forwarder(Resolving(recursive_clients=10, query_timeout=30.0))
        async with running(server) as address:
            flood = [
                asyncio.create_task(
                    forwarder.ask(names.from_text(f"r{number}.test"), A, [address], "192.0.2.9", cd=False)
                )
                for number in range(200)
            ]
            async with asyncio.timeout(60):
                await asyncio.gather(*flood[10:])
                while forwarder.underway > 10:  # noqa: ASYNC110 - what is cancelled ends in the next rounds
                    await asyncio.sleep(0)
            waiting, underway = [task for task in flood if not task.done()], forwarder.underway
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await forwarder.close()
        return len(waiting), underway

    assert asyncio.run(go()) == (10, 10)
