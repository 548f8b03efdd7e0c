"""smtp(8): TLS policies, logins, kept connections, order of hosts, and what a message becomes on its way."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.mta.deliver.certificates import fingerprints, name_matches, public_key
from mailstack.mta.deliver.connection_cache import BACK_TO_BACK, Demand
from mailstack.mta.deliver.destination import Destinations, balanced
from mailstack.mta.deliver.pieces import fold, forwarded
from mailstack.mta.deliver.request import Request, Result
from mailstack.mta.deliver.session import Host, SiteError
from mailstack.mta.deliver.smtp import SMTPAgent
from mailstack.mta.deliver.tls_policy import (
    TLSLevel,
    TLSPolicies,
    Unusable,
)
from mailstack.net.clock import ManualClock
from mailstack.net.log import Log
from mailstack.net.tls import parse_protocols
from mailstack.storage.queue import Queue
from mailstack.storage.tables import open_table
from mailstack.wire.sasl import SASLError
from mailstack.wire.sasl_client import ScramClient, choose
from tests.unit.mta_deliver.certificates import certificate
from tests.unit.mta_deliver.support import CONTENT, Names, Peer, configuration, listening, request, summary

QUIET = Log("postfix/smtp", "mail", -1)
ARRIVAL = 1_700_000_000.0


def policies(text: str) -> TLSPolicies:
    return TLSPolicies(configuration(text), open_table, QUIET)


TABLE = (
    "smtp_tls_security_level = may\nsmtp_tls_policy_maps = inline:{"
    "a.test=none, .a.test=encrypt, {[h.test]:587=secure match=x.test:.y.test servername=hostname}, "
    "{f.test=fingerprint match=aa:bb|cc:dd}, {p.test=encrypt protocols=!TLSv1.2 ciphers=high exclude=AES128}, "
    "bad.test=silly, {odd.test=may match=x}, {none.test=none ciphers=high}, dane.test=half-dane}\n"
)


@pytest.mark.parametrize(
    ("nexthop", "level", "match"),
    [
        ("a.test", "none", ()),
        ("b.a.test", "encrypt", ()),
        ("c.b.A.test", "encrypt", ()),
        ("[b.a.test]", "may", ()),
        ("other.test", "may", ()),
        ("[h.test]:587", "secure", ("x.test", ".y.test")),
        ("[h.test]", "may", ()),
        ("f.test", "fingerprint", ("AA:BB", "CC:DD")),
    ],
)
def test_policies_by_nexthop(nexthop: str, level: str, match: tuple[str, ...]) -> None:
    found = policies(TABLE).find(nexthop)
    assert (found.level.value, found.match) == (level, match)


def test_a_policy_says_which_versions_and_names(tmp_path: Path) -> None:
    found = policies(TABLE).find("p.test")
    assert found.context is not None
    assert found.context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert not any(
        "AES128" in cipher["name"]
        for cipher in found.context.get_ciphers()
        if cipher["protocol"] != "TLSv1.3"
    )
    secure = policies(TABLE).find("[h.test]:587")
    assert secure.server_name("h.test", "mx.h.test") == "mx.h.test"
    assert found.server_name("p.test", "mx.p.test") is None


@pytest.mark.parametrize("nexthop", ["bad.test", "odd.test", "none.test", "dane.test"])
def test_a_policy_that_cannot_be_followed(nexthop: str) -> None:
    with pytest.raises(Unusable, match="smtp_tls_policy_maps"):
        policies(TABLE).find(nexthop)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("smtp_tls_security_level = fingerprint\n", "needs something to match"),
        ("smtp_tls_wrappermode = yes\n", "requires"),
        ("smtp_tls_security_level = encrypt\nsmtp_tls_mandatory_protocols = TLSv9\n", "TLSv9"),
        ("smtp_tls_security_level = encrypt\nsmtp_tls_mandatory_protocols = <=TLSv1.1\n", "no TLS protocol"),
        ("smtp_tls_security_level = verify\nsmtp_tls_CAfile = /nowhere.pem\n", "/nowhere.pem"),
    ],
)
def test_a_level_that_cannot_be_followed_is_found_at_the_start(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        policies(text)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("", TLSLevel.NONE),
        ("smtp_use_tls = yes\n", TLSLevel.MAY),
        ("smtp_enforce_tls = yes\n", TLSLevel.VERIFY),
        ("smtp_enforce_tls = yes\nsmtp_tls_enforce_peername = no\n", TLSLevel.ENCRYPT),
    ],
)
def test_old_names_of_levels(text: str, level: TLSLevel) -> None:
    assert policies(text).find("x.test").level is level


@pytest.mark.parametrize(
    ("words", "low", "high"),
    [
        (">=TLSv1", "TLSv1_2", "TLSv1_3"),
        ("!SSLv2, !SSLv3, !TLSv1.3", "TLSv1_2", "TLSv1_2"),
        ("TLSv1.3", "TLSv1_3", "TLSv1_3"),
        ("<=TLSv1.2", "TLSv1_2", "TLSv1_2"),
    ],
)
def test_protocols(words: str, low: str, high: str) -> None:
    found = parse_protocols(words)
    assert (found.low.name, found.high.name) == (low, high)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("mx.x.test", "mx.x.test", True),
        ("mx.x.test", "*.x.test", True),
        ("x.test", "*.x.test", False),
        ("a.mx.x.test", "*.x.test", False),
        (".x.test", "mx.x.test", True),
        (".x.test", "x.test", False),
        ("test", "*.test", False),
    ],
)
def test_names_in_certificates(pattern: str, name: str, fits: bool) -> None:
    assert name_matches(pattern, name) is fits


@pytest.mark.parametrize(("pattern", "fits"), [("a.mx.x.test", True), ("mx.x.test", True), ("x.test", False)])
def test_a_wide_wildcard(pattern: str, fits: bool) -> None:
    assert name_matches(pattern, "*.x.test", wide=True) is fits
    assert policies("smtp_tls_security_level = may\n").find("x.test").wide
    narrow = "smtp_tls_security_level = may\ntls_wildcard_matches_multiple_labels = no\n"
    assert not policies(narrow).find("x.test").wide


def test_fingerprints_of_certificate_and_key(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    _, path = certificate(tmp_path, "x.test")
    cert = x509.load_pem_x509_certificate(path.read_bytes())
    der = cert.public_bytes(serialization.Encoding.DER)
    info = cert.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert public_key(der) == info
    assert len(set(fingerprints(der, "sha256"))) == 2
    assert public_key(b"") == public_key(b"\x30\x82") == b""


# ---- deliveries


def deliver(
    tmp_path: Path,
    peers: Sequence[Peer],
    conf: str,
    *,
    now: float = ARRIVAL + 1,
    body: str = "7bit",
    content: bytes = CONTENT,
    nexthop: str = "[127.0.0.1]:PORT",
    times: int = 1,
    mx: list[tuple[int, str]] | None = None,
) -> Sequence[Result]:
    async def main() -> Sequence[Result]:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        clock = ManualClock(now)
        async with listening(*peers):
            agent = SMTPAgent(
                configuration(f"smtp_tcp_port = {peers[0].port}\n{conf}"),
                queue,
                Names({"to.test": mx or []}, {"one.test": ["127.0.0.1"], "two.test": ["127.0.0.2"]}),
                clock,
                QUIET,
                is_own_address=lambda address: False,
            )
            results: Sequence[Result] = []
            for _ in range(times):
                where = nexthop.replace("PORT", str(peers[0].port))
                results = await agent.deliver(
                    await request(queue, where, "a@to.test", body=body, content=content)
                )
            await agent.close()
            return results

    return asyncio.run(main())


STARTTLS = ("PIPELINING", "STARTTLS")


def test_plain_text_after_a_failed_handshake_once_the_message_has_waited(tmp_path: Path) -> None:
    context, _ = certificate(tmp_path, "x.test")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    conf = "smtp_tls_security_level = may\nsmtp_tls_protocols = TLSv1.2\n"
    peer = Peer(extensions=STARTTLS, tls=context)
    results = deliver(tmp_path, [peer], conf)
    assert summary(results)[0][1:] == ("Deferred", "4.7.5", "Cannot start TLS: handshake failure")
    results = deliver(tmp_path, [peer], conf, now=ARRIVAL + 300)
    assert summary(results)[0][1] == "Sent"
    # A login must not be given away in plain text.
    login = "smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = static:u:p\n"
    results = deliver(tmp_path, [peer], conf + login, now=ARRIVAL + 300)
    assert summary(results)[0][1] == "Deferred"


def test_a_bad_policy_defers(tmp_path: Path) -> None:
    results = deliver(tmp_path, [Peer()], "smtp_tls_policy_maps = static:silly\n")
    assert summary(results)[0][1:] == ("Deferred", "4.7.5", "client TLS configuration problem")


def test_connections_are_kept_for_mail_that_follows(tmp_path: Path) -> None:
    peer = Peer()
    deliver(tmp_path, [peer], "", times=4)
    assert peer.connections == 2  # the first delivery cannot know that others follow
    peer = Peer()
    deliver(tmp_path, [peer], "smtp_connection_cache_on_demand = no\n", times=3)
    assert peer.connections == 3
    peer = Peer()
    always = "smtp_connection_cache_on_demand = no\nsmtp_connection_cache_destinations = 127.0.0.1\n"
    deliver(tmp_path, [peer], always, times=3)
    assert peer.connections == 1
    peer = Peer()
    deliver(tmp_path, [peer], always + "smtp_connection_reuse_count_limit = 2\n", times=4)
    assert peer.connections == 2


def test_demand_ends_when_mail_comes_one_by_one() -> None:
    clock = ManualClock()
    demand = Demand(clock, on_demand=True, always=None)
    kept = []
    for pause in (0.0, 0.1, BACK_TO_BACK + 1, 0.1):
        clock.advance(pause)
        demand.begin("x")
        kept.append(demand.wants("x", "x"))
        demand.end("x")
    assert kept == [False, True, False, True]


def test_eight_bits_become_seven(tmp_path: Path) -> None:
    content = (
        b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: 8bit\r\n\r\ngr\xc3\xbcn\r\n"
    )
    peer = Peer(extensions=("PIPELINING",))
    deliver(tmp_path, [peer], "", body="8bitmime", content=content)
    assert peer.contents[0].endswith(b"\r\n\r\ngr=C3=BCn\r\n")
    assert b"quoted-printable" in peer.contents[0]
    peer = Peer(extensions=("PIPELINING",))
    deliver(tmp_path, [peer], "disable_mime_output_conversion = yes\n", body="8bitmime", content=content)
    assert peer.contents == [content]


def test_a_login_that_the_server_does_not_take(tmp_path: Path) -> None:
    conf = "smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = static:joe:secret\n"
    peer = Peer(extensions=("AUTH PLAIN",), replies={"AUTH": "535 5.7.8 no"})
    assert summary(deliver(tmp_path, [peer], conf))[0][3] == (
        "SASL authentication failed; cannot authenticate to server 127.0.0.1[127.0.0.1]: no mechanism available"
    )
    plain = conf + "smtp_sasl_security_options = noanonymous\n"
    assert summary(deliver(tmp_path, [peer], plain))[0][1:] == (
        "Deferred",
        "4.7.8",
        "SASL authentication failed; server 127.0.0.1[127.0.0.1] said: 535 5.7.8 no",
    )
    hard = plain + "smtp_sasl_auth_soft_bounce = no\n"
    assert summary(deliver(tmp_path, [peer], hard))[0][1:3] == ("Bounced", "5.7.8")
    assert not peer.contents


def test_logins_are_not_shared_between_senders(tmp_path: Path) -> None:
    conf = (
        "smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = inline:{zs@x.test=zs:mine}\n"
        "smtp_sasl_security_options =\nsmtp_sender_dependent_authentication = yes\n"
        "smtp_connection_cache_destinations = 127.0.0.1\n"
    )
    peer = Peer(extensions=("AUTH PLAIN",))
    deliver(tmp_path, [peer], conf, times=2)
    assert peer.connections == 1
    assert peer.commands[1] == "AUTH PLAIN " + base64.b64encode(b"\0zs\0mine").decode()


def test_best_mx_transport(tmp_path: Path) -> None:
    class Other:
        daemon = "local"
        got: list[Request] = []

        async def deliver(self, job: Request) -> Sequence[Result]:
            self.got.append(job)
            return []

        async def close(self) -> None: ...

    async def main() -> None:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        agent = SMTPAgent(
            configuration("best_mx_transport = local\n"),
            queue,
            Names({"to.test": [(1, "one.test")]}, {"one.test": ["127.0.0.1"]}),
            ManualClock(),
            QUIET,
            is_own_address=lambda address: True,
            other=lambda name: Other() if name == "local" else pytest.fail(name),
        )
        await agent.deliver(await request(queue, "to.test", "a@to.test"))

    asyncio.run(main())
    assert [(job.nexthop, job.targets[0].address) for job in Other.got] == [("to.test", "a@to.test")]


# ---- order of hosts


def hosts(*addresses: str) -> list[Host]:
    return [Host(f"h{number}", address, 25) for number, address in enumerate(addresses)]


@pytest.mark.parametrize(
    ("addresses", "limit", "kept"),
    [
        (["::1", "::2", "::3", "1.1.1.1"], 3, ["::1", "::2", "1.1.1.1"]),
        (["1.1.1.1", "1.1.1.2", "1.1.1.3", "::1"], 2, ["1.1.1.1", "::1"]),
        (["::1", "1.1.1.1", "::2", "1.1.1.2", "::3", "1.1.1.3"], 3, ["::1", "1.1.1.1", "::2"]),
        (["1.1.1.1", "::1", "1.1.1.2", "::2", "1.1.1.3", "::3"], 3, ["1.1.1.1", "::1", "1.1.1.2"]),
        (["::1", "::2", "::3"], 2, ["::1", "::2", "::3"]),
    ],
)
def test_both_families_keep_a_share(addresses: list[str], limit: int, kept: list[str]) -> None:
    assert [host.address for host in balanced(hosts(*addresses), limit)] == kept


@pytest.mark.parametrize(
    ("conf", "order"),
    [
        ("smtp_address_preference = ipv6\n", ["::1", "127.0.0.1", "::2", "127.0.0.2"]),
        ("smtp_address_preference = ipv4\n", ["127.0.0.1", "::1", "127.0.0.2", "::2"]),
        ("inet_protocols = ipv6\n", ["::1", "::2"]),
        ("smtp_dns_support_level = disabled\n", None),
    ],
)
def test_families_within_a_preference(conf: str, order: list[str] | None) -> None:
    names = Names(
        {"to.test": [(1, "one.test"), (2, "two.test")]},
        {"one.test": ["127.0.0.1", "::1"], "two.test": ["127.0.0.2", "::2"]},
    )
    found = Destinations(configuration(conf), names, QUIET, is_own_address=lambda address: False)
    if order is None:
        with pytest.raises(SiteError, match=r"unable to look up host to\.test"):
            asyncio.run(found.find("to.test"))
    else:
        assert [host.address for host in asyncio.run(found.find("to.test")).hosts] == order


# ---- content


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("content", "folded"),
    [
        (b"abcde\r\nxy\r\n", b"abcde\r\nxy\r\n"),
        (b"abcdef\r\n", b"abcde\r\n f\r\n"),
        (b"abcdefghijk\r\n\r\n", b"abcde\r\n fghi\r\n jk\r\n\r\n"),
    ],
)
def test_long_lines_are_folded_however_they_are_cut(content: bytes, folded: bytes, size: int) -> None:
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    assert b"".join(fold(parts, 5)) == folded


def test_xforward_says_what_is_known(tmp_path: Path) -> None:
    async def main() -> Request:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        return await request(queue, "x", "a@x.test")

    message = asyncio.run(main()).message
    assert forwarded(message, ("NAME", "HELO", "SOURCE")) == [
        "NAME=[UNAVAILABLE]",
        "HELO=[UNAVAILABLE] SOURCE=LOCAL",
    ]


# ---- mechanisms


def test_scram_as_in_rfc_7677() -> None:
    client = ScramClient("user", "pencil", "rOprNGfwEbeRWgbNEkqO")
    assert client.initial() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    assert client.step(f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode()) == (
        f"c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()
    )
    assert not client.verified
    assert client.step(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=") == b""
    assert client.verified


@pytest.mark.parametrize(
    "challenge",
    [b"r=other,s=AAAA,i=1", b"r=n,s=AAAA,i=1", b"r=nx,s=AAAA,i=0", b"r=nx,s=AAAA,i=99999999", b"r=nx,s=!,i=1",
     b"e=other-error", b"\xff", b"r=nx"],
)  # fmt: skip
def test_scram_trusts_no_server(challenge: bytes) -> None:
    with pytest.raises(SASLError):
        ScramClient("user", "pencil", "n").step(challenge)
    client = ScramClient("user", "pencil", "n")
    client.step(b"r=nx,s=AAAA,i=1")
    with pytest.raises(SASLError):
        client.step(b"v=AAAA")


@pytest.mark.parametrize(
    ("offered", "options", "chosen"),
    [
        ("PLAIN LOGIN CRAM-MD5", "noanonymous", "CRAM-MD5"),
        ("PLAIN LOGIN", "noplaintext noanonymous", None),
        ("LOGIN PLAIN", "noanonymous", "PLAIN"),
        ("CRAM-MD5 SCRAM-SHA-256", "", "SCRAM-SHA-256"),
        ("CRAM-MD5 PLAIN", "mutual_auth", None),
        ("GSSAPI", "", None),
    ],
)
def test_the_best_mechanism_that_is_allowed(offered: str, options: str, chosen: str | None) -> None:
    assert choose(offered.split(), options.split()) == chosen


def test_an_address_to_come_from_that_cannot_be_had(tmp_path: Path) -> None:
    conf = "smtp_bind_address = 192.0.2.1\n"
    assert summary(deliver(tmp_path, [Peer()], conf))[0][1] == "Sent"
    results = deliver(tmp_path, [Peer()], conf + "smtp_bind_address_enforce = yes\n")
    assert summary(results)[0][1:3] == ("Deferred", "4.4.1")
    assert summary(results)[0][3].endswith(": Cannot assign requested address")


def test_a_table_that_cannot_be_read_defers(tmp_path: Path) -> None:
    peer = Peer(extensions=("AUTH PLAIN",))
    conf = "smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = fail:x\n"
    assert summary(deliver(tmp_path, [peer], conf))[0][1:] == ("Deferred", "4.3.0", "table lookup problem")
    assert not peer.connections
