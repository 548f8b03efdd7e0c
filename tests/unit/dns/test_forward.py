"""Names that are not ours: forwarded, cached, joined to our aliases; what upstream servers do wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.config.named import Locality
from mailstack.dns.forward import Forwarder
from mailstack.dns.message import Malformed
from mailstack.dns.received import read
from mailstack.dns.responder import Responder
from mailstack.dns.results import Pending
from mailstack.net.clock import ManualClock
from mailstack.net.log import Log
from tests.unit.dns.world import configuration, zones
from tests.unit.net_resolver.test_resolver import FakeServer, running

Reply = Callable[[dns.message.Message], dns.message.Message | None]


def upstream(query: dns.message.Message) -> dns.message.Message:
    """A resolver that knows www.elsewhere.example and big.example."""
    response = dns.message.make_response(query, recursion_available=True)
    name = query.question[0].name.to_text().lower()
    if name == "www.elsewhere.example.":
        response.answer.append(dns.rrset.from_text(name, 300, "IN", "CNAME", "web.elsewhere.example."))
        response.answer.append(dns.rrset.from_text("web.elsewhere.example.", 100, "IN", "A", "198.51.100.1"))
    elif name == "web.elsewhere.example.":
        response.answer.append(dns.rrset.from_text(name, 100, "IN", "A", "198.51.100.1"))
    elif name == "big.example.":
        response.answer.append(
            dns.rrset.from_text(name, 300, "IN", "TXT", *[f'"{"x" * 200}{i}"' for i in range(9)])
        )
    else:
        response.set_rcode(dns.rcode.NXDOMAIN)
        soa = dns.rrset.from_text("example.", 60, "IN", "SOA", "a.example. b.example. 1 2 3 4 30")
        response.authority.append(soa)
    return response


def serve(
    tmp_path: Path,
    servers: list[FakeServer],
    questions: list[dns.message.Message],
    *,
    options: str = "",
    clock: ManualClock | None = None,
    host: str = "192.0.2.99",
    tcp: bool = False,
) -> list[dns.message.Message]:
    """Ask our server each question in turn while the upstream servers run."""

    async def go() -> list[dns.message.Message]:
        answers = []
        async with asyncio.timeout(20):
            contexts = [running(server) for server in servers]
            addresses = [await context.__aenter__() for context in contexts]
            listed = " ".join(f"{address} port {port};" for address, port in addresses)
            text = f"recursion yes; allow-recursion {{ 192.0.2.0/24; }}; forwarders {{ {listed} }}; {options}"
            conf = configuration(tmp_path, text)
            forwarder = Forwarder(conf.options.resolving, conf.peers, conf.keys, clock=clock)
            server = Responder(conf, zones(), Locality(), forwarder, Log("named", "test", 2))
            for question in questions:
                wire = server.respond(question.to_wire(), host, 1, tcp=tcp)
                if isinstance(wire, Pending):
                    wire = await server.complete(wire)
                assert isinstance(wire, bytes)
                answers.append(dns.message.from_wire(wire))
                if clock is not None:
                    clock.advance(10)
            await forwarder.close()
            for context in contexts:
                await context.__aexit__(None, None, None)
        return answers

    return asyncio.run(go())  # fmt: skip


def query(name: str, rdtype: str = "A", *, rd: bool = True, payload: int = 1232) -> dns.message.Message:
    message = dns.message.make_query(name, rdtype, use_edns=0, payload=payload)
    if not rd:
        message.flags &= ~dns.flags.RD
    return message


def test_forwarded_answer_and_its_cache(tmp_path: Path) -> None:
    server, clock = FakeServer(upstream), ManualClock()
    asked = query("WWW.elsewhere.example")
    first, second, *_, last = serve(tmp_path, [server], [asked] * 12, clock=clock)
    assert [rrset.ttl for rrset in first.answer] == [300, 100]
    assert [rrset.ttl for rrset in second.answer] == [290, 90]
    assert [rrset.ttl for rrset in last.answer] == [190, 90]  # only what has expired is asked for anew
    assert server.asked == {"WWW.elsewhere.example. A": 1, "web.elsewhere.example. A": 2}
    assert first.flags & dns.flags.RA
    assert not first.flags & dns.flags.AA
    assert first.question[0].name.to_text() == "WWW.elsewhere.example."
    assert first.edns == 0


def test_negative_answers_are_kept_for_the_soas_minimum(tmp_path: Path) -> None:
    server, clock = FakeServer(upstream), ManualClock()
    answers = serve(tmp_path, [server], [query("none.example")] * 5, clock=clock)
    assert {answer.rcode() for answer in answers} == {dns.rcode.NXDOMAIN}
    assert server.asked.total() == 2  # thirty seconds, ten of them after each question


@pytest.mark.parametrize(
    ("asked", "host"), [(query("www.elsewhere.example", rd=False), "192.0.2.99"), (query("www.elsewhere.example"), "203.0.113.1")]
)  # fmt: skip
def test_refused_without_rd_or_right(tmp_path: Path, asked: dns.message.Message, host: str) -> None:
    server = FakeServer(upstream)
    (answer,) = serve(tmp_path, [server], [asked], host=host)
    assert answer.rcode() == dns.rcode.REFUSED
    assert server.asked.total() == 0


def test_alias_of_ours_is_joined_to_the_forwarders_answer(tmp_path: Path) -> None:
    (answer,) = serve(tmp_path, [FakeServer(upstream)], [query("out.rich.test")])
    assert [rrset.name.to_text() for rrset in answer.answer] == [
        "out.rich.test.",
        "www.elsewhere.example.",
        "web.elsewhere.example.",
    ]
    assert answer.flags & dns.flags.AA


def test_below_a_delegation_the_forwarders_are_asked(tmp_path: Path) -> None:
    server = FakeServer(upstream)
    recursive, plain = serve(
        tmp_path, [server], [query("x.sub.rich.test"), query("x.sub.rich.test", rd=False)]
    )
    assert server.asked["x.sub.rich.test. A"] == 1
    assert recursive.rcode() == dns.rcode.NXDOMAIN
    assert plain.authority[0].name.to_text() == "sub.rich.test."


def test_zone_type_forward_has_servers_of_its_own(tmp_path: Path) -> None:
    server = FakeServer(upstream)

    async def go() -> None:
        async with running(server) as (host, port):
            extra = f'zone "elsewhere.example" {{ type forward; forwarders {{ {host} port {port}; }}; }};'
            conf = configuration(tmp_path, "recursion yes; allow-recursion { any; };", extra)
            ours = Responder(conf, zones(), Locality(), Forwarder(), Log("named", "test", 2))
            pending = ours.respond(query("www.elsewhere.example").to_wire(), "192.0.2.1", 1, tcp=False)
            assert isinstance(pending, Pending)
            assert dns.message.from_wire(await ours.complete(pending)).answer
            other = ours.respond(query("www.example").to_wire(), "192.0.2.1", 1, tcp=False)
            assert isinstance(other, bytes)
            assert dns.message.from_wire(other).rcode() == dns.rcode.REFUSED

    asyncio.run(go())


def failing(message: dns.message.Message) -> dns.message.Message:
    response = dns.message.make_response(message)
    response.set_rcode(dns.rcode.SERVFAIL)
    return response


def test_second_forwarder_when_the_first_fails(tmp_path: Path) -> None:
    (answer,) = serve(tmp_path, [FakeServer(failing), FakeServer(upstream)], [query("www.elsewhere.example")])
    assert answer.rcode() == dns.rcode.NOERROR


def test_servfail_when_all_fail(tmp_path: Path) -> None:
    (answer, alias) = serve(
        tmp_path, [FakeServer(failing)], [query("www.elsewhere.example"), query("out.rich.test")]
    )
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert alias.rcode() == dns.rcode.SERVFAIL
    assert len(alias.answer) == 1


def test_large_answers_by_tcp_from_above_and_truncated_below(tmp_path: Path) -> None:
    server = FakeServer(upstream)
    (small,) = serve(tmp_path, [server], [query("big.example", "TXT")])
    assert server.tcp == 1
    assert small.flags & dns.flags.TC
    assert not small.answer
    (whole,) = serve(tmp_path, [FakeServer(upstream)], [query("big.example", "TXT")], tcp=True)
    assert len(whole.answer[0]) == 9


def test_forged_answers_are_ignored(tmp_path: Path) -> None:
    server = FakeServer(upstream)
    server.noise = [
        lambda wire: bytes([wire[0] ^ 1]) + wire[1:],
        lambda wire: wire.replace(b"elsewhere", b"elsewhera"),
        lambda wire: wire[:11],
    ]
    (answer,) = serve(tmp_path, [server], [query("www.elsewhere.example")])
    assert answer.answer


@given(st.binary(min_size=33, max_size=300))
def test_walker_reads_or_refuses(data: bytes) -> None:
    try:
        read(data)
    except Malformed:
        return
