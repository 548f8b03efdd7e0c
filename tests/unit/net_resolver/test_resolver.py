"""The stub resolver against small servers on the loopback that answer from a table."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from mailstack.net.clock import ManualClock
from mailstack.net.resolver import NoSuchDomain, NullMX, Resolver, ResolveTemporary

SOA = "example. 60 IN SOA ns.example. root.example. 1 3600 600 86400 7"
TABLE = {
    ("example.", "MX"): ["example. 300 IN MX 20 b.example.", "example. 300 IN MX 10 a.example."],
    ("null.example.", "MX"): ["null.example. 300 IN MX 0 ."],
    ("odd.example.", "MX"): [r"odd.example. 300 IN MX 0 a\010b.example."],
    ("a.example.", "A"): ["a.example. 300 IN A 192.0.2.1"],
    ("a.example.", "AAAA"): ["a.example. 300 IN AAAA 2001:db8::1"],
    ("b.example.", "A"): ["b.example. 300 IN A 192.0.2.2"],
    ("www.example.", "A"): [
        "www.example. 300 IN CNAME web.example.",
        "web.example. 300 IN CNAME a.example.",
        "a.example. 300 IN A 192.0.2.1",
    ],
    ("far.example.", "A"): ["far.example. 300 IN CNAME a.example."],
    ("loop.example.", "A"): ["loop.example. 300 IN CNAME pool.example."],
    ("pool.example.", "A"): ["pool.example. 300 IN CNAME loop.example."],
    ("1.2.0.192.in-addr.arpa.", "PTR"): ["1.2.0.192.in-addr.arpa. 300 IN PTR a.example."],
    ("3.2.0.192.in-addr.arpa.", "PTR"): ["3.2.0.192.in-addr.arpa. 300 IN PTR a.example."],
    ("4.2.0.192.in-addr.arpa.", "PTR"): [r"4.2.0.192.in-addr.arpa. 300 IN PTR evil\010.example."],
    ("big.example.", "A"): [f"big.example. 300 IN A 192.0.2.{i}" for i in range(1, 250)],
}
NAMES = {name for name, _ in TABLE}
Answer = Callable[[dns.message.Message], dns.message.Message | None]


def answer(query: dns.message.Message) -> dns.message.Message:
    """What an honest server says."""
    response = dns.message.make_response(query)
    question = query.question[0]
    records = TABLE.get((question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)), [])
    for text in records:
        owner, ttl, _, kind, data = text.split(" ", 4)
        name = dns.name.from_text(owner)
        rrset = response.find_rrset(
            response.answer, name, question.rdclass, dns.rdatatype.from_text(kind), create=True
        )
        for rdata in dns.rrset.from_text(name, int(ttl), "IN", kind, data):
            rrset.add(rdata, int(ttl))
    if not records:
        owner, ttl, _, kind, data = SOA.split(" ", 4)
        response.authority.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
        if question.name.to_text().lower() not in NAMES:
            response.set_rcode(dns.rcode.NXDOMAIN)
    return response


class FakeServer(asyncio.DatagramProtocol):
    """Answers over UDP and TCP on one port; counts the questions of each kind."""

    def __init__(self, reply: Answer = answer) -> None:
        self.reply = reply
        self.asked: Counter[str] = Counter()
        self.tcp = 0
        self.noise: list[Callable[[bytes], bytes]] = []
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        self.asked[f"{question.name} {dns.rdatatype.to_text(question.rdtype)}"] += 1
        response = self.reply(query)
        if response is None:
            return
        wire = response.to_wire(max_size=65535)
        if len(wire) > max(512, query.payload):
            cut = dns.message.make_response(query)
            cut.flags |= dns.flags.TC
            wire = cut.to_wire()
        for make in self.noise:
            self.transport.sendto(make(wire), addr)
        self.transport.sendto(wire, addr)

    async def tcp_session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tcp += 1
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        response = self.reply(dns.message.from_wire(await reader.readexactly(length)))
        assert response is not None
        wire = response.to_wire(max_size=65535)
        writer.write(struct.pack("!H", len(wire)) + wire)
        writer.close()


@asynccontextmanager
async def running(server: FakeServer) -> AsyncIterator[tuple[str, int]]:
    loop = asyncio.get_running_loop()
    while True:
        tcp = await asyncio.start_server(server.tcp_session, "127.0.0.1", 0)
        port = tcp.sockets[0].getsockname()[1]
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", port))
        except OSError:  # somebody has the port for UDP: take another
            tcp.close()
        else:
            break
    try:
        yield ("127.0.0.1", port)
    finally:
        transport.close()
        tcp.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def ask(
    question: Callable[[Resolver], Awaitable[Any]], server: FakeServer | None = None, try_timeout: float = 10
) -> Any:
    async def go() -> Any:
        async with running(server or FakeServer()) as address:
            resolver = Resolver([address], try_timeout=try_timeout, attempts=1)
            try:
                return await question(resolver)
            finally:
                await resolver.close()

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (lambda r: r.mx("example"), [(10, "a.example"), (20, "b.example")]),
        (lambda r: r.mx("EXAMPLE."), [(10, "a.example"), (20, "b.example")]),
        (lambda r: r.mx("a.example"), [(0, "a.example")]),
        (lambda r: r.mx("null.example"), NullMX),
        (lambda r: r.mx("odd.example"), NoSuchDomain),
        (lambda r: r.mx("none.example"), NoSuchDomain),
        (lambda r: r.mx("a..b"), NoSuchDomain),
        (lambda r: r.mx("x" * 64 + ".example"), NoSuchDomain),
        (lambda r: r.addresses("a.example"), ["192.0.2.1", "2001:db8::1"]),
        (lambda r: r.addresses("b.example"), ["192.0.2.2"]),
        (lambda r: r.addresses("example"), []),
        (lambda r: r.addresses("www.example"), ["192.0.2.1"]),
        (lambda r: r.addresses("far.example"), ["192.0.2.1"]),
        (lambda r: r.addresses("none.example"), NoSuchDomain),
        (lambda r: r.addresses("192.0.2.77"), ["192.0.2.77"]),
        (lambda r: r.addresses("LOCALHOST"), ["127.0.0.1", "::1"]),
        (lambda r: r.mx("loop.example"), [(0, "loop.example")]),
        (lambda r: r.ptr("192.0.2.1"), "a.example"),
        (lambda r: r.ptr("192.0.2.9"), None),
        (lambda r: r.ptr("192.0.2.4"), None),
        (lambda r: r.ptr("127.0.0.1"), "localhost"),
        (lambda r: r.verified_ptr("192.0.2.1"), "a.example"),
        (lambda r: r.verified_ptr("192.0.2.3"), None),
        (lambda r: r.verified_ptr("192.0.2.9"), None),
        (lambda r: r.verified_ptr("::1"), "localhost"),
        (lambda r: r.ptr("mail"), ValueError),
    ],
)
def test_lookups(question: Callable[[Resolver], Awaitable[Any]], expected: Any) -> None:
    if isinstance(expected, type):
        with pytest.raises(expected):
            ask(question)
    else:
        assert ask(question) == expected


def test_alias_loop_is_a_temporary_failure() -> None:
    with pytest.raises(ResolveTemporary, match="too many aliases"):
        ask(lambda r: r._lookup("loop.example", "A", None))


def refusing(query: dns.message.Message) -> dns.message.Message:
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.REFUSED)
    return response


def without_edns(query: dns.message.Message) -> dns.message.Message:
    """An old server: FORMERR to anything with an OPT record."""
    if query.edns >= 0:
        response = dns.message.Message(query.id)
        response.flags |= dns.flags.QR
        response.set_rcode(dns.rcode.FORMERR)
        return response
    return answer(query)


@pytest.mark.parametrize(
    ("reply", "reason"), [(refusing, "REFUSED"), (lambda query: None, "no answer from 127.0.0.1")]
)
def test_no_usable_answer_is_temporary_and_says_why(reply: Answer, reason: str) -> None:
    with pytest.raises(ResolveTemporary, match=reason):
        ask(lambda r: r.mx("example"), FakeServer(reply), 0.2 if reason.startswith("no answer") else 10)


def test_server_without_edns_is_asked_again_plainly() -> None:
    assert ask(lambda r: r.ptr("192.0.2.1"), FakeServer(without_edns)) == "a.example"


def test_next_server_is_asked_when_the_first_fails() -> None:
    async def go() -> None:
        async with running(FakeServer(refusing)) as bad, running(FakeServer()) as good:
            resolver = Resolver([bad, good])
            assert await resolver.ptr("192.0.2.1") == "a.example"

    run(go())


def test_closed_port_fails_at_once() -> None:
    async def go() -> None:
        async with running(FakeServer()) as address:
            pass
        resolver = Resolver([address], timeout=30, try_timeout=30)
        async with asyncio.timeout(5):
            with pytest.raises(ResolveTemporary, match=r"127\.0\.0\.1"):
                await resolver.mx("example")

    run(go())


def test_forged_answers_are_ignored() -> None:
    def other_id(wire: bytes) -> bytes:
        return bytes([wire[0] ^ 0xFF]) + wire[1:]

    def other_question(wire: bytes) -> bytes:
        return wire.replace(b"\x07example", b"\x07exbmple")

    server = FakeServer()
    server.noise = [other_id, other_question, lambda wire: wire[:9], lambda wire: b"", lambda wire: wire[:-3]]
    assert ask(lambda r: r.mx("example"), server) == [(10, "a.example"), (20, "b.example")]


def test_truncated_answer_is_fetched_over_tcp() -> None:
    server = FakeServer()
    assert len(ask(lambda r: r.addresses("big.example"), server)) == 249
    assert server.tcp == 1


def test_cache_and_sharing_of_questions() -> None:
    async def go() -> None:
        server, clock = FakeServer(), ManualClock()
        async with running(server) as address:
            resolver = Resolver([address], clock=clock, max_ttl=50)
            await asyncio.gather(*(resolver.mx("example") for _ in range(20)))
            await resolver.mx("example.")
            assert server.asked["example. MX"] == 1
            clock.advance(51)
            await resolver.mx("example")
            assert server.asked["example. MX"] == 2
            for _ in range(2):
                with pytest.raises(NoSuchDomain):
                    await resolver.mx("none.example")
            assert server.asked["none.example. MX"] == 1
            resolver.forget()
            await resolver.mx("example")
            assert server.asked["example. MX"] == 3

    run(go())


def test_cache_is_bounded() -> None:
    async def go() -> None:
        server = FakeServer()
        async with running(server) as address:
            resolver = Resolver([address], cache_size=3)
            for i in range(10):
                await resolver.ptr("192.0.2.1")
                with pytest.raises(NoSuchDomain):
                    await resolver.mx(f"n{i}.example")
            assert len(resolver._cache) <= 3

    run(go())


def test_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# made by hand\nsearch example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions timeout:1\n"
    )
    assert Resolver.system(path).nameservers == (("192.0.2.53", 53), ("2001:db8::53", 53))
    assert Resolver.system(tmp_path / "absent").nameservers == (("127.0.0.1", 53),)


# ---- DNSSEC


def validating(query: dns.message.Message) -> dns.message.Message:
    """As `answer`, with what is not below b.example marked as validated, for who asks for that."""
    response = answer(query)
    if query.ednsflags & dns.flags.DO and not query.question[0].name.is_subdomain(
        dns.name.from_text("b.example")
    ):
        response.flags |= dns.flags.AD
    return response


@pytest.mark.parametrize(
    ("name", "kind", "dnssec", "expected"),
    [
        ("a.example", "A", True, ((0, "192.0.2.1"),)),
        ("www.example", "A", True, ((0, "192.0.2.1"),)),
        ("far.example", "A", True, ((0, "192.0.2.1"),)),
        ("a.example", "TXT", True, ()),
    ],
)
def test_an_answer_says_whose_it_is_and_whether_it_was_validated(
    name: str, kind: Any, dnssec: bool, expected: tuple[tuple[int, str], ...]
) -> None:
    found = ask(lambda r: r.ask(name, kind, dnssec=dnssec), FakeServer(validating))
    assert (found.records, found.name, found.secure) == (expected, "a.example", True)


def test_what_was_not_validated_is_not_secure() -> None:
    assert not ask(lambda r: r.ask("b.example", "A", dnssec=True), FakeServer(validating)).secure
    assert not ask(lambda r: r.ask("a.example", "A"), FakeServer(validating)).secure
    with pytest.raises(NoSuchDomain) as missing:
        ask(lambda r: r.ask("nobody.example", "A", dnssec=True), FakeServer(validating))
    assert missing.value.secure
