"""lmtp(8): per-recipient outcomes, reuse of connections, and every way in which a server can fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mailstack.mta.deliver.lmtp import LMTPAgent, split_host_port
from mailstack.net.clock import SystemClock
from mailstack.storage.queue import Queue
from tests.unit.mta_deliver.support import CONTENT, Names, Peer, configuration, listening, request, summary

Test = Callable[[LMTPAgent, Queue, str], Awaitable[None]]


def run(tmp_path: Path, peer: Peer, test: Test, conf: str = "") -> None:
    async def main() -> None:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        agent = LMTPAgent(configuration(conf), queue, Names({}, {"box.test": ["127.0.0.1"]}), SystemClock())
        async with listening(peer):
            await test(agent, queue, f"inet:127.0.0.1:{peer.port}")
            await agent.close()

    asyncio.run(main())


def test_delivery_and_reuse(tmp_path: Path) -> None:
    peer = Peer(lmtp=True, extensions=("PIPELINING", "8BITMIME"))

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        first = await agent.deliver(await request(queue, nexthop, "a@x.test"))
        second = await agent.deliver(await request(queue, nexthop, "b c@x.test", body="8bitmime"))
        assert summary(first) == [("a@x.test", "Sent", "2.0.0", "250 2.0.0 Ok: queued as X")]
        assert first[0].relay == f"127.0.0.1[127.0.0.1]:{peer.port}"
        assert (first[0].uses, second[0].uses) == (1, 2)

    run(tmp_path, peer, test)
    assert peer.connections == 1
    assert peer.contents == [CONTENT, CONTENT]
    assert peer.commands[:4] == [
        "LHLO mail.x.test",
        "MAIL FROM:<zs@x.test>",
        "RCPT TO:<a@x.test>",
        "DATA",
    ]
    assert 'RCPT TO:<"b c"@x.test>' in peer.commands
    assert peer.commands[-1] == "QUIT"


@pytest.mark.parametrize("pipelining", [True, False])
def test_recipients_have_replies_of_their_own(tmp_path: Path, pipelining: bool) -> None:
    peer = Peer(
        lmtp=True,
        extensions=("PIPELINING", "ENHANCEDSTATUSCODES") if pipelining else ("ENHANCEDSTATUSCODES",),
        replies={
            "RCPT TO:<unknown@x.test>": "550 5.1.1 User unknown",
            "RCPT TO:<busy@x.test>": "450 4.2.0 Busy",
            "END 1": "452 4.2.2 Full",
            "END 2": "552 5.2.2 Too full",
        },
    )

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        host = "host 127.0.0.1[127.0.0.1] said:"
        names = [f"{name}@x.test" for name in ("good", "unknown", "full", "busy", "over")]
        results = await agent.deliver(await request(queue, nexthop, *names))
        assert summary(results) == [
            ("good@x.test", "Sent", "2.0.0", "250 2.0.0 Ok: queued as X"),
            (
                "unknown@x.test",
                "Bounced",
                "5.1.1",
                f"{host} 550 5.1.1 User unknown (in reply to RCPT TO command)",
            ),
            ("full@x.test", "Deferred", "4.2.2", f"{host} 452 4.2.2 Full (in reply to end of DATA command)"),
            ("busy@x.test", "Deferred", "4.2.0", f"{host} 450 4.2.0 Busy (in reply to RCPT TO command)"),
            (
                "over@x.test",
                "Bounced",
                "5.2.2",
                f"{host} 552 5.2.2 Too full (in reply to end of DATA command)",
            ),
        ]
        refused = next(r for r in results if r.target.address == "unknown@x.test")
        assert (refused.remote_mta, refused.diagnostic) == ("127.0.0.1", "smtp; 550 5.1.1 User unknown")
        again = await agent.deliver(await request(queue, nexthop, "good@x.test"))
        assert again[0].uses == 2

    run(tmp_path, peer, test)


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize(
    ("replies", "kind", "dsn", "text"),
    [
        (
            {"MAIL": "451 4.3.0 Later"},
            "Deferred",
            "4.3.0",
            "said: 451 4.3.0 Later (in reply to MAIL FROM command)",
        ),
        ({"MAIL": "550 5.7.1 No"}, "Bounced", "5.7.1", "said: 550 5.7.1 No (in reply to MAIL FROM command)"),
        (
            {"DATA": "451 4.3.0 Later"},
            "Deferred",
            "4.3.0",
            "said: 451 4.3.0 Later (in reply to DATA command)",
        ),
        ({"RCPT": "550 No"}, "Bounced", "5.0.0", "said: 550 No (in reply to RCPT TO command)"),
        (
            {"RCPT": "550 No", "DATA": "354 odd"},
            "Bounced",
            "5.0.0",
            "said: 550 No (in reply to RCPT TO command)",
        ),
        ({"GREETING": "554 5.3.2 Go away"}, "Deferred", "4.0.0", "refused to talk to me: 554 5.3.2 Go away"),
        ({"GREETING": "421 4.3.2 Busy"}, "Deferred", "4.3.2", "refused to talk to me: 421 4.3.2 Busy"),
        ({"GREETING": "hello"}, "Deferred", "4.5.0", "protocol error from 127.0.0.1[127.0.0.1]"),
        ({"LHLO": "500 5.5.1 What?"}, "Deferred", "4.0.0", "refused to talk to me: 500 5.5.1 What?"),
    ],
)
def test_refusals(
    tmp_path: Path, pipelining: bool, replies: dict[str, str], kind: str, dsn: str, text: str
) -> None:
    peer = Peer(lmtp=True, extensions=("PIPELINING", "X") if pipelining else ("X",), replies=dict(replies))

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        results = await agent.deliver(await request(queue, nexthop, "a@x.test", "b@x.test"))
        assert [(r.target.address, type(r.outcome).__name__, r.outcome.dsn) for r in results] == [
            ("a@x.test", kind, dsn),
            ("b@x.test", kind, dsn),
        ]
        assert text in results[0].outcome.text
        if "GREETING" not in replies and "LHLO" not in replies:
            # The connection is still good.
            peer.replies.clear()
            assert summary(await agent.deliver(await request(queue, nexthop, "a@x.test")))[0][1] == "Sent"

    run(tmp_path, peer, test)


@pytest.mark.parametrize(
    ("verb", "doing"),
    [
        ("LHLO", "performing the LHLO handshake"),
        ("MAIL", "sending MAIL FROM"),
        ("RCPT", "sending RCPT TO"),
        ("DATA", "sending DATA command"),
        (".", "sending end of data -- message may be sent more than once"),
    ],
)
def test_lost_connections_defer(tmp_path: Path, verb: str, doing: str) -> None:
    peer = Peer(lmtp=True, hang_up_after=verb)

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        results = await agent.deliver(await request(queue, nexthop, "a@x.test"))
        assert summary(results) == [
            ("a@x.test", "Deferred", "4.4.2", f"lost connection with 127.0.0.1[127.0.0.1] while {doing}")
        ]

    run(tmp_path, peer, test)


def test_a_cached_connection_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    peer = Peer(lmtp=True)

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        await agent.deliver(await request(queue, nexthop, "a@x.test"))
        peer.drop_connections()
        results = await agent.deliver(await request(queue, nexthop, "b@x.test"))
        assert summary(results)[0][1] == "Sent"
        assert peer.connections == 2

    run(tmp_path, peer, test)


@pytest.mark.parametrize("wait", [True, False])
def test_a_server_that_says_goodbye_costs_nothing(tmp_path: Path, wait: bool) -> None:
    peer = Peer(lmtp=True, farewell="421 4.3.2 Server shutting down")

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        await agent.deliver(await request(queue, nexthop, "a@x.test"))
        if wait:
            await peer.ended()
        results = await agent.deliver(await request(queue, nexthop, "b@x.test"))
        assert summary(results)[0][1] == "Sent"
        assert peer.connections == 2

    run(tmp_path, peer, test)


def test_nobody_listens(tmp_path: Path) -> None:
    peer = Peer(lmtp=True)

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        results = await agent.deliver(await request(queue, f"inet:127.0.0.2:{peer.port}", "a@x.test"))
        where = f"127.0.0.2[127.0.0.2]:{peer.port}"
        assert summary(results) == [
            ("a@x.test", "Deferred", "4.4.1", f"connect to {where}: Connection refused")
        ]
        assert results[0].relay == "none"
        for nexthop_, dsn in ((f"unix:{tmp_path}/none", "4.4.1"), ("inet:nowhere.test:24", "5.4.4")):
            results = await agent.deliver(await request(queue, nexthop_, "a@x.test"))
            assert results[0].outcome.dsn == dsn

    run(tmp_path, peer, test)


def test_large_messages_are_streamed(tmp_path: Path) -> None:
    peer = Peer(lmtp=True)
    content = b"Subject: x\r\n\r\n" + b".dots and text\r\n" * 50_000

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        for names in (["a@x.test"], ["b@x.test", "c@x.test"]):
            results = await agent.deliver(await request(queue, nexthop, *names, content=content))
            assert {type(r.outcome).__name__ for r in results} == {"Sent"}

    run(tmp_path, peer, test)
    assert peer.contents == [content, content]
    assert peer.connections == 1


def test_host_names_and_unix_sockets(tmp_path: Path) -> None:
    peer = Peer(lmtp=True)

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        results = await agent.deliver(await request(queue, f"box.test:{peer.port}", "a@x.test"))
        assert results[0].relay == f"box.test[127.0.0.1]:{peer.port}"
        server = await asyncio.start_unix_server(peer.serve, tmp_path / "socket")
        async with server:
            results = await agent.deliver(await request(queue, f"unix:{tmp_path}/socket", "a@x.test"))
            assert results[0].relay == f"mail.x.test[{tmp_path}/socket]"
            await agent.close()
            peer.drop_connections()

    run(tmp_path, peer, test)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("host", ("host", "")),
        ("host:24", ("host", "24")),
        ("[host]", ("host", "")),
        ("[192.0.2.1]:24", ("192.0.2.1", "24")),
        ("[2001:db8::1]:24", ("2001:db8::1", "24")),
        ("[ipv6:2001:db8::1]", ("2001:db8::1", "")),
        ("2001:db8::1", ("2001:db8::1", "")),
    ],
)
def test_nexthop_syntax(text: str, parts: tuple[str, str]) -> None:
    assert split_host_port(text) == parts
