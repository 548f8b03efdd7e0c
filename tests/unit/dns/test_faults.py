"""Answers that are wrong on purpose, each as a client sees it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.named import Locality
from mailstack.config.named.faults import KINDS, load_faults
from mailstack.config.named.model import DnssecPolicy
from mailstack.dns.forward import Forwarder
from mailstack.dns.responder import Responder
from mailstack.dns.results import Delayed
from mailstack.net.log import Log
from tests.unit.dns.test_signing import zone
from tests.unit.dns.world import ask, configuration, zones


def server(folder: Path, faults: str, *, log: Path | None = None) -> Responder:
    (folder / "faults.conf").write_text(faults)
    fd = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT)
    found = load_faults(folder / "faults.conf")
    return Responder(configuration(folder), zones(), Locality(), Forwarder(), Log("named", "test", fd), found)


def rcode(running: Responder, name: str, rdtype: str = "A", host: str = "192.0.2.99") -> str:
    return dns.rcode.to_text(ask(running, dns.message.make_query(name, rdtype), host).rcode())


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("servfail", "SERVFAIL"), ("refused", "REFUSED"), ("nxdomain", "NXDOMAIN"), ("formerr", "FORMERR"),
        ("notimp", "NOTIMP"), ("lame", "NOERROR"),
    ],
)  # fmt: skip
def test_answers_without_records(tmp_path: Path, kind: str, wanted: str) -> None:
    running = server(tmp_path, f'fault "mail.rich.test" {{ answer {kind}; }};')
    answer = ask(running, dns.message.make_query("MAIL.rich.test", "A"))
    assert dns.rcode.to_text(answer.rcode()) == wanted
    assert not answer.answer and not answer.authority and not answer.flags & dns.flags.AA
    assert rcode(running, "rich.test") == "NOERROR"


def test_by_name_type_client_and_number(tmp_path: Path) -> None:
    running = server(
        tmp_path,
        """
        acl office { 192.0.2.0/28; };
        fault "rich.test" { type MX TXT; client { office; }; queries 2 3; answer servfail; };
        fault "*.other.test" { answer refused; };
        fault "mail.rich.test" { queries 2; answer servfail; };
        fault "*" { type CAA; answer nxdomain; };
        """,
    )
    asked = [rcode(running, "rich.test", "MX", "192.0.2.1") for _ in range(5)]
    assert asked == ["NOERROR", "SERVFAIL", "SERVFAIL", "NOERROR", "NOERROR"]
    assert [rcode(running, "rich.test", "A", "192.0.2.1"), rcode(running, "rich.test", "MX")] == [
        "NOERROR"
    ] * 2
    assert [rcode(running, "www.other.test"), rcode(running, "other.test")] == ["REFUSED", "NOERROR"]
    assert [rcode(running, "mail.rich.test") for _ in range(4)] == ["NOERROR"] + ["SERVFAIL"] * 3
    assert [rcode(running, "rich.test", "CAA"), rcode(running, "www.other.test", "CAA")] == [
        "NXDOMAIN",
        "REFUSED",
    ]


def test_no_answer_and_a_late_one(tmp_path: Path) -> None:
    running = server(
        tmp_path,
        'fault "mail.rich.test" { type A; answer nothing; };\n'
        'fault "mail.rich.test" { type AAAA; answer delay 1500; };',
    )
    query = dns.message.make_query("mail.rich.test", "A")
    assert running.respond(query.to_wire(), "192.0.2.1", 4242, tcp=False) is None
    late = running.respond(
        dns.message.make_query("mail.rich.test", "AAAA").to_wire(), "192.0.2.1", 4242, tcp=True
    )
    assert isinstance(late, Delayed)
    assert late.seconds == 1.5
    assert "2001:db8::4" in str(dns.message.from_wire(late.wire))


def test_truncated_over_udp_only(tmp_path: Path) -> None:
    running = server(tmp_path, 'fault "*" { answer truncated; };')
    query = dns.message.make_query("mail.rich.test", "A")
    answer = ask(running, query)
    assert answer.flags & dns.flags.TC and not answer.answer
    assert ask(running, query, tcp=True).answer


def test_other_records(tmp_path: Path) -> None:
    running = server(
        tmp_path,
        'fault "rich.test" { type MX; answer records { "MX 0 ."; "MX 5 evil.test."; }; };\n'
        'fault "mail.rich.test" { answer records { "CNAME elsewhere.test."; }; };',
    )
    answer = ask(running, dns.message.make_query("rich.test", "MX")).answer[0]
    assert sorted(map(str, answer)) == ["0 .", "5 evil.test."]
    assert str(ask(running, dns.message.make_query("mail.rich.test", "A")).answer[0][0]) == "elsewhere.test."


def test_signatures_that_do_not_hold(tmp_path: Path) -> None:
    signed = zone(tmp_path, DnssecPolicy(name="x"), now=2_000_000_000.0)
    (tmp_path / "faults.conf").write_text(
        'fault "mail.rich.test" { type A; answer bad-signature; };\n'
        'fault "mail.rich.test" { type AAAA; answer expired-signature; };\n'
    )
    log = Log("named", "test", os.open(os.devnull, os.O_WRONLY))
    faults = load_faults(tmp_path / "faults.conf")
    running = Responder(configuration(tmp_path), [signed], Locality(), Forwarder(), log, faults)

    def records(rdtype: str) -> tuple[dns.rrset.RRset, dns.rrset.RRset]:
        query = dns.message.make_query("mail.rich.test" if rdtype != "DNSKEY" else "rich.test", rdtype)
        query.use_edns(0, dns.flags.DO, 4096)
        answer = ask(running, query, tcp=True).answer
        return answer[0], answer[1]

    origin = dns.name.from_text("rich.test")
    keys = records("DNSKEY")[0]
    dns.dnssec.validate(*records("TXT"), {origin: keys}, now=2_000_000_000)
    with pytest.raises(dns.exception.ValidationFailure):
        dns.dnssec.validate(*records("A"), {origin: keys}, now=2_000_000_000)
    assert records("AAAA")[1][0].expiration < time.time() < records("TXT")[1][0].expiration


def test_the_log_is_loud(tmp_path: Path) -> None:
    running = server(tmp_path, 'fault "mail.rich.test" { answer servfail; };', log=tmp_path / "log")
    rcode(running, "mail.rich.test")
    line = (tmp_path / "log").read_text()
    assert "client 192.0.2.99#4242: mail.rich.test IN A: WRONG ON PURPOSE: servfail" in line
    assert f"{tmp_path}/faults.conf:1" in line


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('fault "a" { };', "'answer' is missing: servfail, refused"),
        ('fault "a" { answer maybe; };', "answer takes one of servfail"),
        ('fault "a" { answer delay; };', "answer takes one of"),
        ('fault "a" { answer delay 99999999; };', "is not a number from 1 to 60000"),
        ('fault "a" { type NONE-SUCH; answer lame; };', "'NONE-SUCH' is not a record type"),
        ('fault "a" { queries 3 2; answer lame; };', "queries takes FIRST [ LAST ]"),
        ('fault "a" { queries; answer lame; };', "'queries' takes words"),
        ('fault "a" { answer records { "MX ten mail."; }; };', "'MX ten mail.' is not a record"),
        ('fault "a" { answer records { MX; }; };', 'a record is "TYPE DATA" in quotes'),
        ('fault "a" { colour blue; answer lame; };', "unknown option 'colour'"),
        ("options { };", "only acl and fault statements"),
        ('fault "a";', "fault takes a name and a { block }"),
        ('fault "a" { client { nobody-we-know; }; answer lame; };', "nobody-we-know"),
    ],
)
def test_faults_that_cannot_be(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "faults.conf").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_faults(tmp_path / "faults.conf")
    assert wanted in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/faults.conf:1:")


def test_no_file_no_faults(tmp_path: Path) -> None:
    assert load_faults(tmp_path / "faults.conf") == ()
    assert len(KINDS) == 12
