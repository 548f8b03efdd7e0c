"""smtp(8): which hosts are tried, in which order, and what a message needs of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailstack.mta.deliver.request import Result
from mailstack.mta.deliver.smtp import SMTPAgent
from mailstack.net.clock import SystemClock
from mailstack.net.log import Log
from mailstack.net.resolver import NoSuchDomain, NullMX, ResolveTemporary
from mailstack.storage.queue import Queue
from tests.unit.mta_deliver.certificates import certificate
from tests.unit.mta_deliver.support import CONTENT, Names, Peer, configuration, listening, request, summary

QUIET = Log("postfix/smtp", "mail", -1)
MX = [(10, "one.test"), (20, "two.test"), (20, "three.test")]
HOSTS: dict[str, list[str] | Exception] = {
    "one.test": ["127.0.0.1"],
    "two.test": ["127.0.0.2"],
    "three.test": ["127.0.0.3"],
    "dead.test": ["127.0.0.9"],
    "six.test": ["::1"],
    "slow.test": ResolveTemporary("no answer"),
}


def deliver(
    tmp_path: Path,
    peers: Sequence[Peer],
    *recipients: str,
    mx: list[tuple[int, str]] | Exception | None = None,
    conf: str = "",
    nexthop: str = "to.test",
    content: bytes = CONTENT,
    smtputf8: bool = False,
    own: frozenset[str] = frozenset(),
    before: Sequence[bytes] = (),
) -> Sequence[Result]:
    """Deliver to peers at 127.0.0.1, .2, .3 … on one port, which is `smtp_tcp_port`; `before`: messages that
    go first."""

    async def main() -> Sequence[Result]:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        async with listening(*peers):
            port = peers[0].port
            kept = "smtp_connection_cache_destinations = to.test\n" if before else ""
            agent = SMTPAgent(
                configuration(f"smtp_tcp_port = {port}\n{kept}{conf.replace('PORT', str(port))}"),
                queue,
                Names({"to.test": MX if mx is None else mx}, HOSTS),
                SystemClock(),
                QUIET,
                is_own_address=own.__contains__,
                shuffle=lambda names: names.reverse(),
            )
            for octets in (*before, content):
                job = await request(
                    queue,
                    nexthop.replace("PORT", str(port)),
                    *(recipients or ("a@to.test",)),
                    content=octets,
                    smtputf8=smtputf8,
                )
                results = await agent.deliver(job)
            await agent.close()
            return results

    return asyncio.run(main())


def test_the_best_host_gets_it_over_one_connection(tmp_path: Path) -> None:
    peers = [Peer(), Peer(), Peer()]
    results = deliver(tmp_path, peers, "a@to.test", "b@to.test", before=[CONTENT])
    assert [outcome[1] for outcome in summary(results)] == ["Sent", "Sent"]
    assert results[0].relay == f"one.test[127.0.0.1]:{peers[0].port}"
    assert [peer.connections for peer in peers] == [1, 0, 0]
    assert peers[0].contents == [CONTENT, CONTENT]
    assert peers[0].commands[0] == "EHLO mail.x.test"


def test_equal_hosts_are_shuffled(tmp_path: Path) -> None:
    peers = [Peer(replies={"GREETING": "421 4.3.2 busy"}), Peer(), Peer()]
    results = deliver(tmp_path, peers)
    assert results[0].relay.startswith("three.test[127.0.0.3]")


@pytest.mark.parametrize(
    "first",
    [
        Peer(replies={"GREETING": "554 5.3.2 no"}),
        Peer(replies={"RCPT": "450 4.2.0 later"}),
        Peer(replies={"MAIL": "451 4.3.0 later"}),
        Peer(replies={"END": "451 4.3.0 later"}),
        Peer(hang_up_after="MAIL"),
        Peer(replies={"EHLO": "421 4.3.2 busy"}),
    ],
)
def test_the_next_host_is_tried(tmp_path: Path, first: Peer) -> None:
    first.connections, first.contents = 0, []
    second = Peer()
    results = deliver(tmp_path, [first, second], mx=[(10, "one.test"), (20, "two.test")])
    assert summary(results) == [("a@to.test", "Sent", "2.0.0", "250 2.0.0 Ok: queued as X")]
    assert results[0].relay.startswith("two.test[127.0.0.2]")


def test_only_deferred_recipients_go_on_to_the_next_host(tmp_path: Path) -> None:
    first = Peer(replies={"RCPT TO:<b@to.test>": "450 4.2.0 later", "RCPT TO:<c@to.test>": "550 5.1.1 no"})
    second = Peer()
    results = deliver(
        tmp_path,
        [first, second],
        "a@to.test",
        "b@to.test",
        "c@to.test",
        mx=[(1, "one.test"), (2, "two.test")],
    )
    assert [(r.target.address, type(r.outcome).__name__, r.relay[:8]) for r in results] == [
        ("c@to.test", "Bounced", "one.test"),
        ("a@to.test", "Sent", "one.test"),
        ("b@to.test", "Sent", "two.test"),
    ]
    assert [line for line in second.commands if line.startswith("RCPT")] == ["RCPT TO:<b@to.test>"]


def test_a_host_is_asked_once_for_each_attempt(tmp_path: Path) -> None:
    first = Peer(replies={"RCPT TO:<b@to.test>": "450 4.2.0 later"})
    second = Peer()
    mx = [(1, "one.test"), (2, "two.test")]
    results = deliver(tmp_path, [first, second], "a@to.test", "b@to.test", mx=mx, before=[CONTENT])
    assert [(r.target.address, r.relay[:8]) for r in results] == [
        ("a@to.test", "one.test"),
        ("b@to.test", "two.test"),
    ]
    # The second message begins on a connection that is still open, and does not return to that host.
    assert [line for line in first.commands if line.startswith("RCPT")].count("RCPT TO:<b@to.test>") == 2
    assert first.connections == 1


def test_a_kept_connection_is_held_to_what_its_host_announced(tmp_path: Path) -> None:
    kept = Peer(extensions=(f"SIZE {len(CONTENT)}",))
    results = deliver(tmp_path, [kept], content=CONTENT + b"x\r\n", before=[CONTENT])
    assert kept.contents == [CONTENT]
    assert summary(results)[0][1:3] == ("Bounced", "5.3.4")


def test_a_kept_connection_may_have_been_closed(tmp_path: Path) -> None:
    peer = Peer(farewell="421 4.3.2 shutting down")
    results = deliver(tmp_path, [peer], before=[CONTENT])
    assert summary(results)[0][1] == "Sent"
    assert peer.connections == 2


def test_limits_of_addresses_and_sessions(tmp_path: Path) -> None:
    late = {"RCPT": "450 4.2.0 later"}
    peers = [Peer(replies=late), Peer(replies=late), Peer()]
    results = deliver(tmp_path, peers, mx=[(1, "one.test"), (2, "two.test"), (3, "three.test")])
    assert summary(results)[0][1:3] == ("Deferred", "4.2.0")
    assert peers[2].connections == 0
    peers = [Peer(), Peer()]
    results = deliver(
        tmp_path, peers, mx=[(1, "dead.test"), (2, "two.test")], conf="smtp_mx_address_limit = 1\n"
    )
    assert summary(results)[0][3] == f"connect to dead.test[127.0.0.9]:{peers[0].port}: Connection refused"


@pytest.mark.parametrize(
    ("mx", "conf", "kind", "dsn", "text"),
    [
        (NullMX("Domain to.test does not accept mail (nullMX)"), "", "Bounced", "5.1.0", "(nullMX)"),
        (NoSuchDomain(""), "", "Bounced", "5.4.4", "name=to.test type=AAAA: Host not found"),
        (
            NoSuchDomain(""),
            "inet_protocols = ipv4\n",
            "Bounced",
            "5.4.4",
            "name=to.test type=A: Host not found",
        ),
        (ResolveTemporary(""), "", "Deferred", "4.4.3", "name=to.test type=MX: Host not found, try again"),
        (
            ResolveTemporary(""),
            "ignore_mx_lookup_error = yes\ninet_protocols = ipv4\n",
            "Bounced",
            "5.4.4",
            "name=to.test type=A: Host not found",
        ),
        ([(1, "slow.test")], "", "Deferred", "4.4.3", "name=slow.test type=AAAA: Host not found, try again"),
        (
            [(1, "six.test")],
            "inet_protocols = ipv4\n",
            "Bounced",
            "5.4.4",
            "name=six.test type=A: Host found but no data record of requested type",
        ),
        ([(1, "gone.test")], "", "Bounced", "5.4.4", "name=gone.test type=AAAA: Host not found"),
        (
            [(1, "gone.test")],
            "smtp_defer_if_no_mx_address_found = yes\n",
            "Deferred",
            "4.4.4",
            "name=gone.test type=AAAA: Host not found",
        ),
        (
            [(1, "gone.invalid")],
            "smtp_host_lookup = dns, native\n",
            "Bounced",
            "5.4.4",
            "unable to look up host gone.invalid: Name or service not known",
        ),
    ],
)
def test_names_that_lead_nowhere(
    tmp_path: Path, mx: list[tuple[int, str]] | Exception, conf: str, kind: str, dsn: str, text: str
) -> None:
    results = deliver(tmp_path, [Peer()], mx=mx, conf=conf)
    assert summary(results)[0][:3] == ("a@to.test", kind, dsn)
    assert results[0].outcome.text.endswith(text)
    assert results[0].relay == "none"


def test_a_host_of_our_own_choice_never_bounces_mail(tmp_path: Path) -> None:
    nowhere = NoSuchDomain("")
    results = deliver(tmp_path, [Peer()], mx=nowhere, conf="relayhost = to.test\n")
    assert summary(results)[0][1:3] == ("Deferred", "4.3.5")
    conf = "smtp_fallback_relay = gone.test\n"
    results = deliver(tmp_path, [Peer()], mx=nowhere, conf=conf)
    assert summary(results)[0][1:3] == ("Deferred", "4.3.5")
    # A fallback is asked although the destination itself does not exist.
    results = deliver(tmp_path, [Peer()], mx=nowhere, conf="smtp_fallback_relay = [one.test]:PORT\n")
    assert summary(results)[0][1] == "Sent"


def test_without_mx_the_domain_itself(tmp_path: Path) -> None:
    results = deliver(tmp_path, [Peer()], nexthop="one.test")
    assert results[0].relay.startswith("one.test[127.0.0.1]")


@pytest.mark.parametrize(
    "nexthop", ["[one.test]:PORT", "[127.0.0.1]:PORT", "[one.test]", "inet:one.test:PORT"]
)
def test_brackets_mean_no_mx_lookup(tmp_path: Path, nexthop: str) -> None:
    results = deliver(tmp_path, [Peer()], nexthop=nexthop, mx=NoSuchDomain("not asked"))
    assert summary(results)[0][1] == "Sent"


def test_fallback_relay(tmp_path: Path) -> None:
    peers = [Peer(), Peer()]
    results = deliver(tmp_path, peers, mx=[(1, "dead.test")], conf="smtp_fallback_relay = [two.test]\n")
    assert results[0].relay.startswith("two.test[127.0.0.2]")


def test_old_servers_get_helo(tmp_path: Path) -> None:
    peer = Peer(replies={"EHLO": "502 5.5.1 unknown"})
    assert summary(deliver(tmp_path, [peer]))[0][1] == "Sent"
    assert peer.commands[:3] == ["EHLO mail.x.test", "HELO mail.x.test", "MAIL FROM:<zs@x.test>"]


def test_what_a_message_needs(tmp_path: Path) -> None:
    peer = Peer(extensions=("SIZE 10", "8BITMIME"))
    results = deliver(tmp_path, [peer])
    assert summary(results) == [
        (
            "a@to.test",
            "Bounced",
            "5.3.4",
            f"message size {len(CONTENT)} exceeds size limit 10 of server one.test[127.0.0.1]",
        )
    ]
    peer = Peer(extensions=("PIPELINING",))
    results = deliver(tmp_path, [peer], "grün@to.test", smtputf8=True)
    assert summary(results)[0][1:] == (
        "Bounced",
        "5.6.7",
        "SMTPUTF8 is required, but was not offered by host one.test[127.0.0.1]",
    )
    assert summary(deliver(tmp_path, [Peer(extensions=("PIPELINING",))], smtputf8=True))[0][1] == "Sent"
    peer = Peer()
    deliver(tmp_path, [peer], "grün@to.test", smtputf8=True)
    assert peer.commands[1].endswith(" SMTPUTF8")


def loops(
    tmp_path: Path, mx: list[tuple[int, str]], own: frozenset[str], nexthop: str = "to.test"
) -> list[str]:
    """Texts of a delivery by port 25, to nobody."""

    async def main() -> Sequence[Result]:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        names = Names({"to.test": mx}, {**HOSTS, "mail.x.test": ["127.0.0.9"]})
        agent = SMTPAgent(
            configuration("smtp_bind_address = 127.0.0.1\n"),
            queue,
            names,
            SystemClock(),
            QUIET,
            is_own_address=own.__contains__,
        )
        return await agent.deliver(await request(queue, nexthop, "a@to.test"))

    return [f"{outcome[2]} {outcome[3]}" for outcome in summary(asyncio.run(main()))]


def test_mail_for_ourselves_bounces(tmp_path: Path) -> None:
    bounce = ["5.4.6 mail for to.test loops back to myself"]
    missing = ["4.4.4 unable to find primary relay for to.test"]
    assert loops(tmp_path, [(10, "one.test")], frozenset({"127.0.0.1"})) == bounce
    assert loops(tmp_path, [(10, "mail.x.test")], frozenset()) == bounce
    assert loops(tmp_path, [(5, "mail.x.test"), (10, "one.test")], frozenset()) == bounce
    assert loops(tmp_path, [(1, "gone.test"), (5, "mail.x.test")], frozenset()) == missing
    assert loops(tmp_path, [], frozenset({"127.0.0.1"}), "[127.0.0.1]") == [
        "5.4.6 mail for 127.0.0.1 loops back to myself"
    ]


TLS = ("PIPELINING", "STARTTLS")


def test_opportunistic_tls(tmp_path: Path) -> None:
    context, _ = certificate(tmp_path, "one.test")
    peer = Peer(extensions=TLS, tls=context)
    conf = "smtp_tls_security_level = may\n"
    assert summary(deliver(tmp_path, [peer], conf=conf))[0][1] == "Sent"
    assert peer.commands[:4] == ["EHLO mail.x.test", "STARTTLS", "EHLO mail.x.test", "MAIL FROM:<zs@x.test>"]
    plain = Peer(extensions=("PIPELINING",))
    assert summary(deliver(tmp_path, [plain], conf=conf))[0][1] == "Sent"
    refusing = Peer(extensions=TLS, replies={"STARTTLS": "454 4.7.0 not now"}, tls=context)
    refusing.tls = None
    results = deliver(tmp_path, [Peer(extensions=("X",)), Peer()], conf="smtp_tls_security_level = encrypt\n",
                      mx=[(1, "one.test")])  # fmt: skip
    assert summary(results) == [
        ("a@to.test", "Deferred", "4.7.4", "TLS is required, but was not offered by host one.test[127.0.0.1]")
    ]


def test_verified_tls(tmp_path: Path) -> None:
    context, path = certificate(tmp_path, "one.test")
    conf = f"smtp_tls_security_level = verify\nsmtp_tls_CAfile = {path}\n"
    peers = [Peer(extensions=TLS, tls=context), Peer(extensions=TLS, tls=context)]
    assert summary(deliver(tmp_path, peers, mx=[(1, "one.test")], conf=conf))[0][1] == "Sent"
    results = deliver(tmp_path, peers, mx=[(1, "two.test")], conf=conf)
    assert summary(results)[0][1:3] == ("Deferred", "4.7.5")
    assert summary(results)[0][3] == "Server certificate not verified"
