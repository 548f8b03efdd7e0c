"""lmtp(8): per-recipient outcomes, reuse of connections, and every way in which a server can fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mailstack.mta.deliver.destination import split_host_port
from mailstack.mta.deliver.lmtp import LMTPAgent
from mailstack.net.clock import SystemClock
from mailstack.net.stream import Stream
from mailstack.storage.queue import Acceptance, NotOurs, Queue
from tests.unit.mta_deliver.support import (
    CONTENT,
    QUIET,
    Names,
    Peer,
    configuration,
    listening,
    request,
    summary,
)

Test = Callable[[LMTPAgent, Queue, str], Awaitable[None]]
CHUNKING = ("PIPELINING", "CHUNKING", "8BITMIME", "ENHANCEDSTATUSCODES")
EXTENSIONS = [CHUNKING, ("PIPELINING", "ENHANCEDSTATUSCODES"), ("ENHANCEDSTATUSCODES",)]


def run(tmp_path: Path, peer: Peer, test: Test, conf: str = "") -> None:
    async def main() -> None:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        agent = LMTPAgent(
            configuration(conf), queue, Names({}, {"box.test": ["127.0.0.1"]}), SystemClock(), QUIET
        )
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


@pytest.mark.parametrize("extensions", EXTENSIONS)
def test_recipients_have_replies_of_their_own(tmp_path: Path, extensions: tuple[str, ...]) -> None:
    peer = Peer(
        lmtp=True,
        extensions=extensions,
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


REFUSALS: list[tuple[dict[str, str], str, str, str]] = [
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
    ({"GREETING": "554 5.3.2 Go away"}, "Deferred", "4.3.2", "refused to talk to me: 554 5.3.2 Go away"),
    ({"GREETING": "421 4.3.2 Busy"}, "Deferred", "4.3.2", "refused to talk to me: 421 4.3.2 Busy"),
    ({"GREETING": "hello"}, "Deferred", "4.5.0", "protocol error from 127.0.0.1[127.0.0.1]"),
    ({"LHLO": "500 5.5.1 What?"}, "Bounced", "5.5.1", "refused to talk to me: 500 5.5.1 What?"),
]


@pytest.mark.parametrize(
    ("extensions", "replies", "kind", "dsn", "text"),
    [
        (extensions, *refusal)
        for extensions in EXTENSIONS
        for refusal in REFUSALS
        if "DATA" not in refusal[0] or "CHUNKING" not in extensions
    ],
)
def test_refusals(
    tmp_path: Path, extensions: tuple[str, ...], replies: dict[str, str], kind: str, dsn: str, text: str
) -> None:
    peer = Peer(lmtp=True, extensions=extensions, replies=dict(replies))

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        results = await agent.deliver(await request(queue, nexthop, "a@x.test", "b@x.test"))
        assert [(r.target.address, type(r.outcome).__name__, r.outcome.dsn) for r in results] == [
            ("a@x.test", kind, dsn),
            ("b@x.test", kind, dsn),
        ]
        assert text in results[0].outcome.text
        if "GREETING" not in replies and "LHLO" not in replies:
            # The connection is still good, also in the eyes of a server that takes no second MAIL.
            peer.replies.clear()
            assert summary(await agent.deliver(await request(queue, nexthop, "a@x.test")))[0][1] == "Sent"
            assert peer.connections == 1

    run(tmp_path, peer, test)


@pytest.mark.parametrize(
    ("verb", "doing"),
    [
        ("LHLO", "performing the LHLO handshake"),
        ("MAIL", "sending MAIL FROM"),
        ("RCPT", "sending RCPT TO"),
        ("DATA", "sending DATA command"),
        (".", "sending end of data -- message may be sent more than once"),
        ("BDAT", "sending end of data -- message may be sent more than once"),
    ],
)
def test_lost_connections_defer(tmp_path: Path, verb: str, doing: str) -> None:
    peer = Peer(lmtp=True, hang_up_after=verb)
    if verb == "BDAT":
        peer.extensions = CHUNKING

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        results = await agent.deliver(await request(queue, nexthop, "a@x.test"))
        assert summary(results) == [
            ("a@x.test", "Deferred", "4.4.2", f"lost connection with 127.0.0.1[127.0.0.1] while {doing}")
        ]

    run(tmp_path, peer, test)


@pytest.mark.parametrize(
    ("extensions", "verb"),
    [
        (extensions, verb)
        for extensions in EXTENSIONS
        for verb in ("MAIL", "RCPT", "RCPT TO:<b@x.test>", "DATA", "END", "END 1")
        if verb != "DATA" or "CHUNKING" not in extensions
    ],
)
def test_a_server_that_says_goodbye_in_between_defers(
    tmp_path: Path, extensions: tuple[str, ...], verb: str
) -> None:
    peer = Peer(lmtp=True, extensions=extensions, replies={verb: "421 4.3.2 Shutting down"})

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        results = summary(await agent.deliver(await request(queue, nexthop, "a@x.test", "b@x.test")))
        assert [name for name, _, _, _ in results] == ["a@x.test", "b@x.test"]
        assert [kind for _, kind, _, _ in results] == (
            ["Sent", "Deferred"] if verb == "END 1" else ["Deferred", "Deferred"]
        )
        assert "421 4.3.2 Shutting down" in results[1 if verb == "END 1" else 0][3]
        peer.replies.clear()
        assert summary(await agent.deliver(await request(queue, nexthop, "a@x.test")))[0][1] == "Sent"
        assert peer.connections == 2

    run(tmp_path, peer, test)


def test_a_server_that_takes_recipients_of_a_sender_it_has_refused(tmp_path: Path) -> None:
    """What it makes of the content is its affair: each recipient has one result, the refusal."""
    peer = Peer(lmtp=True, extensions=CHUNKING, replies={"MAIL": "550 5.7.1 No", "RCPT": "250 2.1.5 Yes"})

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        results = await agent.deliver(await request(queue, nexthop, "a@x.test", "b@x.test"))
        assert [(r.target.address, r.outcome.dsn) for r in results] == [
            ("a@x.test", "5.7.1"),
            ("b@x.test", "5.7.1"),
        ]
        peer.replies.clear()
        assert summary(await agent.deliver(await request(queue, nexthop, "a@x.test")))[0][1] == "Sent"

    run(tmp_path, peer, test)


def test_a_small_message_is_one_round_trip(tmp_path: Path) -> None:
    peer = Peer(lmtp=True, extensions=CHUNKING)
    written: list[bytes] = []

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        await agent.deliver(await request(queue, nexthop, "a@x.test"))
        write = Stream.write

        def note(stream: Stream, data: bytes) -> None:
            written.append(data)
            write(stream, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Stream, "write", note)
            results = await agent.deliver(await request(queue, nexthop, "a@x.test", "b@x.test"))
        assert [r.outcome.text for r in results] == ["250 2.0.0 Ok: queued as X"] * 2

    run(tmp_path, peer, test)
    assert written == [
        b"MAIL FROM:<zs@x.test>\r\nRCPT TO:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nBDAT %d LAST\r\n%s"
        % (len(CONTENT), CONTENT)
    ]
    assert peer.contents == [CONTENT, CONTENT]
    assert peer.connections == 1


def test_chunks_are_only_sent_where_they_may_be_pipelined(tmp_path: Path) -> None:
    peer = Peer(lmtp=True, extensions=("CHUNKING", "ENHANCEDSTATUSCODES"))

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        results = await agent.deliver(await request(queue, nexthop, "a@x.test"))
        assert summary(results)[0][1] == "Sent"

    run(tmp_path, peer, test)
    assert "DATA" in peer.commands
    assert peer.contents == [CONTENT]


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


@pytest.mark.parametrize("extensions", EXTENSIONS)
def test_large_messages_are_streamed(tmp_path: Path, extensions: tuple[str, ...]) -> None:
    peer = Peer(lmtp=True, extensions=extensions)
    content = b"Subject: x\r\n\r\n" + b".dots and text\r\n" * 50_000

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        for names in (["a@x.test"], ["b@x.test", "c@x.test"]):
            results = await agent.deliver(await request(queue, nexthop, *names, content=content))
            assert {type(r.outcome).__name__ for r in results} == {"Sent"}

    run(tmp_path, peer, test)
    assert peer.contents == [content, content]
    assert peer.connections == 1
    assert peer.commands.count("DATA") == 2


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


@pytest.mark.parametrize("extensions", EXTENSIONS)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("ours", [False, True])
def test_no_content_before_the_message_is_ours(
    tmp_path: Path, extensions: tuple[str, ...], cached: bool, ours: bool
) -> None:
    """What is prepared while the queue file is flushed goes out with the message's acceptance, or never."""
    peer = Peer(lmtp=True, extensions=extensions)

    async def test(agent: LMTPAgent, queue: Queue, nexthop: str) -> None:
        if cached:
            await agent.deliver(await request(queue, nexthop, "before@x.test"))
        coming = await request(queue, nexthop, "a@x.test")
        coming.message.acceptance = acceptance = Acceptance()
        waiting = asyncio.create_task(agent.deliver(coming))
        async with asyncio.timeout(10):
            while not acceptance.awaited:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert len(peer.contents) == int(cached)
        acceptance.tell(ours)
        if ours:
            assert summary(await waiting)[0][:2] == ("a@x.test", "Sent")
        else:
            with pytest.raises(NotOurs):
                await waiting

    run(tmp_path, peer, test)
    assert peer.contents == [CONTENT] * (cached + ours)
