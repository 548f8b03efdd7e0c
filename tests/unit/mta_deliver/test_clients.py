"""What smtp(8) and lmtp(8) do beyond the ordinary: remembered logins, TLS connections, filters, notices."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mailstack.mta.deliver.destination import Destinations
from mailstack.mta.deliver.lmtp import LMTPAgent
from mailstack.mta.deliver.request import Bounced, Deferred, Request, Result, Sent, Target
from mailstack.mta.deliver.session import SiteError
from mailstack.mta.deliver.smtp import SMTPAgent
from mailstack.mta.deliver.status_filter import filtered
from mailstack.net.clock import ManualClock
from mailstack.net.resolver import Answer
from mailstack.storage.queue import Queue
from mailstack.storage.tables import open_table
from tests.unit.mta_deliver.certificates import certificate
from tests.unit.mta_deliver.support import QUIET, Names, Peer, configuration, listening, request, summary

ARRIVAL = 1_700_000_000.0


@dataclass
class Outcome:
    """What came of some deliveries of one message each."""

    results: list[Sequence[Result]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    told: list[tuple[str, str, list[bytes]]] = field(default_factory=list)


def deliver(tmp_path: Path, peer: Peer, conf: str, *, times: int = 1, sender: str = "zs@x.test") -> Outcome:
    """Deliver one message after the other; the peer says which client is used."""
    outcome = Outcome()

    async def notify(client: str, host: str, history: Sequence[bytes]) -> None:
        outcome.told.append((client, host, list(history)))

    async def main() -> None:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        clock = ManualClock(ARRIVAL + 1)
        settings = configuration(conf)
        names = Names({}, {})
        agent: SMTPAgent
        wanted = notify if "notify_classes" in conf else None
        if peer.lmtp:
            agent = LMTPAgent(settings, queue, names, clock, QUIET, notify=wanted)
        else:
            agent = SMTPAgent(
                settings, queue, names, clock, QUIET, is_own_address=lambda address: False, notify=wanted
            )
        async with listening(peer):
            for _ in range(times):
                job = await request(queue, f"[127.0.0.1]:{peer.port}", "a@to.test", sender=sender)
                outcome.results.append(await agent.deliver(job))
                outcome.requests.append(job)
            await agent.close()

    asyncio.run(main())
    return outcome


# ---- TLS


@pytest.mark.parametrize(("level", "counts"), [("may", False), ("encrypt", True)])
def test_a_handshake_that_fails_counts_only_where_tls_is_demanded(
    level: str, counts: bool, tmp_path: Path
) -> None:
    context, _ = certificate(tmp_path, "x.test")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    word = "mandatory_" if level == "encrypt" else ""
    conf = f"smtp_tls_security_level = {level}\nsmtp_tls_{word}protocols = TLSv1.3\n"
    found = deliver(tmp_path, Peer(extensions=("STARTTLS",), tls=context), conf)
    assert summary(found.results[0])[0][1:3] == ("Deferred", "4.7.5")
    assert (found.requests[0].site_failure is not None) is counts


@pytest.mark.parametrize(("reuse", "connections"), [("no", 3), ("yes", 1)])
@pytest.mark.parametrize("client", ["smtp", "lmtp"])
def test_connections_with_tls_are_kept_where_that_is_said(
    client: str, reuse: str, connections: int, tmp_path: Path
) -> None:
    context, _ = certificate(tmp_path, "x.test")
    peer = Peer(lmtp=client == "lmtp", extensions=("STARTTLS", "PIPELINING"), tls=context)
    conf = (
        f"{client}_tls_security_level = encrypt\n{client}_tls_connection_reuse = {reuse}\n"
        f"{client}_connection_cache_destinations = 127.0.0.1\n"
    )
    found = deliver(tmp_path, peer, conf, times=3)
    assert {summary(results)[0][1] for results in found.results} == {"Sent"}
    assert peer.connections == connections


@pytest.mark.parametrize(("depth", "kind"), [(0, "Deferred"), (1, "Sent")])
def test_a_chain_may_be_so_long(depth: int, kind: str, tmp_path: Path) -> None:
    from tests.unit.mta_deliver.chains import Chain

    chain = Chain(tmp_path, "peer.test")
    conf = (
        f"smtp_tls_security_level = verify\nsmtp_tls_CAfile = {chain.authority}\n"
        f"smtp_tls_verify_cert_match = peer.test\nsmtp_tls_scert_verifydepth = {depth}\n"
    )
    found = deliver(tmp_path, Peer(extensions=("STARTTLS",), tls=chain.context), conf)
    assert summary(found.results[0])[0][1] == kind


# ---- logins


@pytest.mark.parametrize(
    ("options", "kind", "tries"),
    [
        ("smtp_sasl_auth_cache_name = proxy:btree:/x\nsmtp_sasl_auth_soft_bounce = no\n", "Bounced", 1),
        ("smtp_sasl_auth_cache_name = proxy:btree:/x\n", "Deferred", 1),
        ("", "Deferred", 3),
    ],
)
def test_a_login_that_was_refused_is_not_tried_again(
    options: str, kind: str, tries: int, tmp_path: Path
) -> None:
    peer = Peer(extensions=("AUTH PLAIN",), replies={"AUTH": "535 5.7.8 no"})
    conf = "smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = static:u:p\nsmtp_sasl_security_options =\n"
    found = deliver(tmp_path, peer, conf + options, times=3)
    assert [summary(results)[0][1] for results in found.results] == [kind] * 3
    assert sum(command.startswith("AUTH") for command in peer.commands) == tries
    assert ("[CACHED]" in summary(found.results[-1])[0][3]) is (tries == 1)


# ---- LMTP's connections


@pytest.mark.parametrize(("options", "connections"), [("", 1), ("lmtp_connection_cache_on_demand = no\n", 3)])
def test_connections_by_lmtp(options: str, connections: int, tmp_path: Path) -> None:
    peer = Peer(lmtp=True)
    deliver(tmp_path, peer, options, times=3)
    assert peer.connections == connections


def test_what_lmtp_has_taken_may_be_final(tmp_path: Path) -> None:
    for conf, action in (("", "relayed"), ("lmtp_assume_final = yes\n", "delivered")):
        outcome = deliver(tmp_path, Peer(lmtp=True), conf).results[0][0].outcome
        assert isinstance(outcome, Sent)
        assert outcome.action == action


# ---- notices


def test_the_postmaster_is_told_what_a_server_took_for_wrong(tmp_path: Path) -> None:
    peer = Peer(replies={"RCPT": "501 5.1.3 bad syntax"})
    conf = "notify_classes = protocol\n"
    found = deliver(tmp_path, peer, conf)
    assert summary(found.results[0])[0][1] == "Bounced"
    ((client, host, history),) = found.told
    assert (client, host) == ("smtp", "127.0.0.1[127.0.0.1]")
    assert history[0] == b"220 peer.test ESMTP"
    assert b"RCPT TO:<a@to.test>\r\n" in history
    assert b"501 5.1.3 bad syntax" in history
    # A refusal is none of his business, nor are his own notices.
    assert deliver(tmp_path, Peer(replies={"RCPT": "550 5.1.1 unknown"}), conf).told == []
    assert deliver(tmp_path, peer, conf, sender="double-bounce@mail.x.test").told == []


def test_transcripts_have_no_passwords_and_no_content(tmp_path: Path) -> None:
    peer = Peer(
        lmtp=True,
        extensions=("AUTH PLAIN",),
        replies={"AUTH": "235 2.7.0 welcome", "END": "500 5.5.2 what?"},
    )
    conf = "lmtp_sasl_auth_enable = yes\nlmtp_sasl_password_maps = static:u:p\nlmtp_sasl_security_options =\n"
    found = deliver(tmp_path, peer, conf + "notify_classes = protocol\n")
    ((client, _, history),) = found.told
    assert client == "lmtp"
    assert b"AUTH PLAIN\r\n" in history
    assert not any(b"Subject" in line or b"body" in line for line in history)


# ---- the DNS


def destinations(conf: str, names: Names) -> Destinations:
    return Destinations(configuration(conf), names, QUIET, is_own_address=lambda address: False)


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ("smtp_dns_support_level = dnssec\n", ["mx.x.test[192.0.2.1]", "mx.x.test[2001:db8::1]"]),
        ("smtp_cname_overrides_servername = yes\n", ["real.test[192.0.2.1]", "mx.x.test[2001:db8::1]"]),
        ("smtp_dns_reply_filter = inline:{{mx.x.test. 60 IN AAAA 2001:db8::1 = IGNORE}}\n",
         ["mx.x.test[192.0.2.1]"]),
        ("smtp_dns_reply_filter = inline:{{x.test. 60 IN MX 10 mx.x.test. = IGNORE}}\n", "4.7.0"),
    ],
)  # fmt: skip
def test_what_the_dns_says(conf: str, expected: list[str] | str) -> None:
    names = Names({}, {})
    names.answers = {
        ("x.test", "MX"): Answer(((10, "mx.x.test"),), "x.test", True, 60),
        ("mx.x.test", "A"): Answer(((0, "192.0.2.1"),), "real.test", True, 60),
        ("mx.x.test", "AAAA"): Answer(((0, "2001:db8::1"),), "mx.x.test", False, 60),
    }
    where = destinations(conf + "smtp_randomize_addresses = no\ninet_protocols = all\n", names)
    if isinstance(expected, str):
        with pytest.raises(SiteError) as error:
            asyncio.run(where.find("x.test:2525"))
        assert error.value.outcome.dsn == expected
        return
    found = asyncio.run(where.find("x.test:2525"))
    assert [str(host) for host in found.hosts] == expected
    facts = found.hosts[0].facts
    assert facts is not None
    assert (facts.asked, facts.name, facts.secure) == ("mx.x.test", "real.test", True)
    assert (facts.domain, facts.domain_secure) == ("x.test", True)


# ---- delivery statuses


class Fixed:
    daemon = "virtual"

    def __init__(self, outcome: Sent | Deferred | Bounced) -> None:
        self._outcome = outcome

    async def deliver(self, request: Request) -> Sequence[Result]:
        return request.all(self._outcome)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("outcome", "becomes"),
    [
        (Deferred("full", "4.2.2"), Bounced("too full", "5.2.2")),
        (Bounced("unknown", "5.1.1"), Deferred("not yet known", "4.1.1")),
        (Sent("delivered", "2.0.0"), Sent("delivered well", "2.6.0")),
        (Sent("done", "2.0.0"), Sent("done", "2.0.0")),
        (Deferred("other", "4.0.0"), Deferred("other", "4.0.0")),
    ],
)
def test_delivery_status_filter(
    outcome: Sent | Deferred | Bounced, becomes: Sent | Deferred | Bounced, tmp_path: Path
) -> None:
    (tmp_path / "statuses").write_text(
        "/^4\\.2\\.2 full/ 5.2.2 too full\n/^5\\.1\\.1 unknown/ 4.1.1 not yet known\n"
        "/^2\\.0\\.0 delivered/ 2.6.0 delivered well\n/^2\\.0\\.0 done/ 5.0.0 not done\n"
    )
    conf = configuration(f"default_delivery_status_filter = regexp:{tmp_path}/statuses\n")
    agent = filtered(Fixed(outcome), conf, open_table, QUIET)

    async def main() -> Sequence[Result]:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        return await agent.deliver(await request(queue, "x.test", "a@x.test"))

    assert [(result.target, result.outcome) for result in asyncio.run(main())] == [
        (Target(0, "a@x.test"), becomes)
    ]
