"""What the server says about a rich zone, question by question."""

from __future__ import annotations

import re
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest

from mailstack.dns.responder import Responder
from mailstack.dns.results import Transfer
from tests.unit.dns.world import ask, responder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Responder:
    return responder(tmp_path_factory.mktemp("named"))


def lines(section: list[dns.rrset.RRset]) -> list[str]:
    """`owner type data`, sorted, `rich.test` shortened to `@`."""
    return sorted(
        f"{rrset.name.to_text(True)} {dns.rdatatype.to_text(rrset.rdtype)} {rdata}".replace(
            ".rich.test", ".@"
        )
        for rrset in section
        for rdata in rrset
    )


SOA = "rich.test SOA ns1.@. hostmaster.@. 2026112201 86400 3600 604800 10800"
SUB_NS = ["sub.@ NS ns.sib.@.", "sub.@ NS ns.sub.@.", "sub.@ NS ns1.@."]
SUB_GLUE = ["ns.sib.@ A 192.0.2.11", "ns.sub.@ A 192.0.2.9", "ns.sub.@ AAAA 2001:db8::9"]


@pytest.mark.parametrize(
    ("question", "rcode", "answer", "authority", "additional"),
    [
        ("mail.rich.test A", "NOERROR", ["mail.@ A 192.0.2.4"], [], []),
        ("MAIL.Rich.Test A", "NOERROR", ["mail.@ A 192.0.2.4"], [], []),
        ("mail.rich.test CAA", "NOERROR", [], [SOA], []),
        ("nowhere.rich.test A", "NXDOMAIN", [], [SOA], []),
        ("_tcp.rich.test A", "NOERROR", [], [SOA], []),
        ("b.c.ent.rich.test TXT", "NOERROR", [], [SOA], []),
        ("_submission._tcp.rich.test SRV", "NOERROR", ["_submission._tcp.@ SRV 0 1 587 mail.@."], [],
         ["mail.@ A 192.0.2.4", "mail.@ AAAA 2001:db8::4"]),
        ("4.2.0.192.in-addr.arpa PTR", "NOERROR", ["4.2.0.192.in-addr.arpa PTR mail.@."], [], []),
        ("254.2.0.192.in-addr.arpa PTR", "NOERROR", ["254.2.0.192.in-addr.arpa PTR host-254.@."], [], []),
        ("chain1.rich.test A", "NOERROR",
         ["chain1.@ CNAME chain2.@.", "chain2.@ CNAME chain3.@.", "chain3.@ CNAME mail.@.",
          "mail.@ A 192.0.2.4"], [], []),
        ("chain1.rich.test CNAME", "NOERROR", ["chain1.@ CNAME chain2.@."], [], []),
        ("alias.rich.test CAA", "NOERROR", ["alias.@ CNAME mail.@."], [SOA], []),
        ("dangling.rich.test A", "NXDOMAIN", ["dangling.@ CNAME nothere.@."], [SOA], []),
        ("out.rich.test A", "NOERROR", ["out.@ CNAME www.elsewhere.example."], [], []),
        ("loop1.rich.test A", "SERVFAIL", ["loop1.@ CNAME loop2.@.", "loop2.@ CNAME loop1.@."], [], []),
        ("any.thing.wild.rich.test A", "NOERROR", ["any.thing.wild.@ A 192.0.2.7"], [], []),
        ("any.wild.rich.test AAAA", "NOERROR", [], [SOA], []),
        ("exact.wild.rich.test A", "NOERROR", [], [SOA], []),
        ("below.exact.wild.rich.test A", "NXDOMAIN", [], [SOA], []),
        ("ent2.wild.rich.test A", "NOERROR", [], [SOA], []),
        ("*.wild.rich.test A", "NOERROR", ["*.wild.@ A 192.0.2.7"], [], []),
        ("x.wcname.rich.test A", "NOERROR", ["mail.@ A 192.0.2.4", "x.wcname.@ CNAME mail.@."], [], []),
        ("x.sub.rich.test A", "NOERROR", [], SUB_NS, SUB_GLUE),
        ("sub.rich.test NS", "NOERROR", [], SUB_NS, SUB_GLUE),
        ("sub.rich.test DS", "NOERROR", ["sub.@ DS 12345 13 2 " + "0123456789abcdef" * 4], [], []),
        ("w.dn.rich.test A", "NOERROR",
         ["dn.@ DNAME target.@.", "w.dn.@ CNAME w.target.@.", "w.target.@ A 192.0.2.13"], [], []),
        ("dn.rich.test A", "NOERROR", [], [SOA], []),
        ("nullmx.rich.test MX", "NOERROR", ["nullmx.@ MX 0 ."], [], []),
        ("unknown.rich.test TYPE65400", "NOERROR", [r"unknown.@ TYPE65400 \# 3 010203"], [], []),
        ("www.child.other.test A", "NOERROR", ["www.child.other.test A 203.0.113.5"], [], []),
        ("elsewhere.example A", "REFUSED", [], [], []),
        (". NS", "REFUSED", [], [], []),
    ],
)  # fmt: skip
def test_questions(
    server: Responder,
    question: str,
    rcode: str,
    answer: list[str],
    authority: list[str],
    additional: list[str],
) -> None:
    name, rdtype = question.split()
    response = ask(server, dns.message.make_query(name, rdtype))
    assert dns.rcode.to_text(response.rcode()) == rcode
    assert lines(response.answer) == sorted(answer)
    assert lines(response.authority) == sorted(authority)
    assert lines(response.additional) == sorted(additional)
    referral = bool(authority) and not answer and authority[0].startswith("sub")
    assert bool(response.flags & dns.flags.AA) == (rcode != "REFUSED" and not referral)
    assert not response.flags & dns.flags.RA


def test_negative_ttl_is_the_smaller_of_soa_and_minimum(server: Responder) -> None:
    response = ask(server, dns.message.make_query("nx.2.0.192.in-addr.arpa", "A"))
    assert response.authority[0].ttl == 600  # minimum 600, TTL one day


@pytest.mark.parametrize(("minimal", "full"), [("no", True), ("no-auth", False), ("yes", False)])
def test_minimal_responses(tmp_path: Path, minimal: str, full: bool) -> None:
    server = responder(tmp_path, f"recursion no; minimal-responses {minimal};")
    response = ask(server, dns.message.make_query("rich.test", "MX"))
    assert bool(response.authority) == full
    assert bool(response.additional) == (minimal != "yes")


def test_the_question_comes_back_as_asked_and_names_as_written(server: Responder) -> None:
    for _ in range(2):  # computed, then prepared
        response = ask(server, dns.message.make_query("mAiL.rIcH.tEsT", "A"))
        assert response.question[0].name.to_text() == "mAiL.rIcH.tEsT."
        assert response.answer[0].name.to_text() == "mail.rich.test."
        mixed = ask(server, dns.message.make_query("mixed.CASE.rich.test", "A"))
        assert mixed.answer[0].name.to_text() == "Mixed.Case.rich.test."


@pytest.mark.parametrize(
    ("payload", "truncated"), [(None, True), (100, True), (512, True), (1000, False), (4096, False)]
)
def test_truncation_at_what_the_client_takes(server: Responder, payload: int | None, truncated: bool) -> None:
    query = dns.message.make_query("big.rich.test", "TXT", use_edns=payload is not None, payload=payload)
    wire = server.respond(query.to_wire(), "192.0.2.99", 1, tcp=False)
    assert isinstance(wire, bytes)
    assert len(wire) <= max(512, payload or 0)
    assert bool(dns.message.from_wire(wire).flags & dns.flags.TC) == truncated
    assert len(ask(server, query, tcp=True).answer[0]) == 3


def test_udp_answers_stay_below_max_udp_size(tmp_path: Path) -> None:
    server = responder(tmp_path, "recursion no; max-udp-size 600;")
    response = ask(server, dns.message.make_query("big.rich.test", "TXT", use_edns=0, payload=4096))
    assert response.flags & dns.flags.TC


def test_additional_data_that_does_not_fit_is_left_out_silently(server: Responder) -> None:
    response = ask(server, dns.message.make_query("many.rich.test", "MX"))
    assert len(response.answer[0]) == 10
    assert 0 < len(response.additional) < 20
    assert not response.flags & dns.flags.TC


def test_edns(server: Responder) -> None:
    query = dns.message.make_query("mail.rich.test", "A", use_edns=0, payload=4096, want_dnssec=True)
    response = ask(server, query)
    assert (response.edns, response.payload, response.ednsflags) == (0, 1232, dns.flags.DO)
    plain = ask(server, dns.message.make_query("mail.rich.test", "A"))
    assert plain.edns == -1


def test_unknown_edns_version(server: Responder) -> None:
    query = dns.message.make_query("mail.rich.test", "A", use_edns=3)
    response = ask(server, query)
    assert (response.rcode(), response.edns, response.answer) == (dns.rcode.BADVERS, 0, [])


def test_nsid_when_the_server_has_a_name(tmp_path: Path) -> None:
    server = responder(tmp_path, 'recursion no; server-id "dns-7";')
    nsid = dns.edns.GenericOption(dns.edns.OptionType.NSID, b"")
    response = ask(server, dns.message.make_query("rich.test", "A", use_edns=0, options=[nsid]))
    assert [option.to_wire() for option in response.options] == [b"dns-7"]


@pytest.mark.parametrize(("opcode", "rcode"), [(dns.opcode.STATUS, "NOTIMP"), (6, "NOTIMP")])
def test_other_opcodes(server: Responder, opcode: int, rcode: str) -> None:
    query = dns.message.make_query("rich.test", "SOA")
    query.set_opcode(dns.opcode.Opcode(opcode))
    assert dns.rcode.to_text(ask(server, query).rcode()) == rcode


def test_other_classes_are_refused(server: Responder) -> None:
    assert ask(server, dns.message.make_query("rich.test", "A", "HS")).rcode() == dns.rcode.REFUSED


def test_version_bind_only_when_told(server: Responder, tmp_path: Path) -> None:
    query = dns.message.make_query("version.bind", "TXT", "CH")
    assert not ask(server, query).answer
    told = responder(tmp_path, 'recursion no; version "9 and a half";')
    assert ask(told, query).answer[0][0].to_text() == '"9 and a half"'


@pytest.mark.parametrize(
    "damage",
    [
        lambda wire: wire[:-1],
        lambda wire: wire[:4] + b"\0\2" + wire[6:],
        lambda wire: wire[:4] + b"\0\0" + wire[6:],
        lambda wire: wire[:12] + b"\xc0\x0c" + wire[-4:],
        lambda wire: wire[:12] + b"\x40" + wire[13:],
        lambda wire: wire[:10] + b"\0\1" + wire[12:],
        lambda wire: wire[:12] + b"\x01a" * 130 + b"\0\0\1\0\1",
    ],
)
def test_malformed_queries(server: Responder, damage: object) -> None:
    assert callable(damage)
    wire = damage(dns.message.make_query("rich.test", "A").to_wire())
    result = server.respond(wire, "192.0.2.99", 1, tcp=False)
    assert isinstance(result, bytes)
    assert (result[:2], result[3] & 0xF) == (wire[:2], dns.rcode.FORMERR)


def test_silence(server: Responder) -> None:
    answer = dns.message.make_query("rich.test", "A").to_wire()
    for wire in (b"", b"\0" * 11, answer[:2] + b"\x80" + answer[3:]):
        assert server.respond(wire, "192.0.2.99", 1, tcp=False) is None


def test_access_lists_by_client(tmp_path: Path) -> None:
    server = responder(tmp_path, "recursion no; allow-query { 192.0.2.0/24; }; blackhole { 198.51.100.1; };")
    query = dns.message.make_query("mail.rich.test", "A")
    for _ in range(2):
        assert ask(server, query, "192.0.2.5").rcode() == dns.rcode.NOERROR
        assert ask(server, query, "203.0.113.5").rcode() == dns.rcode.REFUSED
        assert server.respond(query.to_wire(), "198.51.100.1", 1, tcp=False) is None


def test_transfer_only_when_allowed(server: Responder, tmp_path: Path) -> None:
    query = dns.message.make_query("rich.test", "AXFR")
    assert ask(server, query, tcp=True).rcode() == dns.rcode.REFUSED
    allowed = responder(tmp_path, "recursion no; allow-transfer { 192.0.2.99; };")
    assert ask(allowed, query, "192.0.2.98", tcp=True).rcode() == dns.rcode.REFUSED
    result = allowed.respond(query.to_wire(), "192.0.2.99", 1, tcp=True)
    assert isinstance(result, Transfer)
    records = [
        rrset
        for wire in result.messages
        for rrset in dns.message.from_wire(wire, one_rr_per_rrset=True).answer
    ]
    assert records[0] == records[-1]
    assert records[0].rdtype == dns.rdatatype.SOA
    assert len(records) == len(allowed.zones[0]) + 1
    elsewhere = dns.message.make_query("elsewhere.example", "AXFR")
    assert ask(allowed, elsewhere, tcp=True).rcode() == dns.rcode.NOTAUTH


def test_prepared_answers_are_bounded(tmp_path: Path) -> None:
    server = responder(tmp_path)
    server._prepared.limit = 50
    for number in range(500):
        ask(server, dns.message.make_query(f"n{number}.rich.test", "A"))
    assert len(server.prepared("192.0.2.99")) <= 50


def test_query_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with open(log, "wb") as file:
        server = responder(tmp_path, "recursion no; querylog yes;", log_fd=file.fileno())
        for _ in range(2):
            ask(server, dns.message.make_query("mail.rich.test", "A", use_edns=0))
    line = r"client @0x[0-9a-f]+ 192\.0\.2\.99#4242 \(mail\.rich\.test\): query: mail\.rich\.test IN A \+E\(0\) \(\)"
    assert len(re.findall(line, log.read_text())) == 2


@pytest.mark.parametrize(("tcp", "sets"), [(False, 1), (True, 6)])
def test_minimal_any_gives_one_set_over_udp(tmp_path: Path, tcp: bool, sets: int) -> None:
    server = responder(tmp_path, "recursion no; minimal-any yes;")
    response = ask(server, dns.message.make_query("rich.test", "ANY"), tcp=tcp)
    assert len(response.answer) == sets
