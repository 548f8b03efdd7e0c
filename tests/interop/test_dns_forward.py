"""Our forwarder beside named: the same questions at the same moments, before the same scripted server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import dns.rrset
import pytest

from tests.interop.dns_servers import WORLD, bind, configure, ours
from tests.interop.dns_upstream import Reply, Upstream, reply
from tests.ports import free_ports

SOA = "u.test. 30 SOA ns.u.test. h.u.test. 1 2 3 4 30"
BRIEF = "u.test. 1 SOA ns.u.test. h.u.test. 1 2 3 4 1"
SIGNATURE = "A 8 3 300 20301231000000 20200101000000 1 u.test. AAAA"
RD, CD = dns.flags.RD, dns.flags.CD


class World:
    """What the scripted server knows. By `mood` it answers `well`, not at all well (`fail`), or `late`."""

    def __init__(self) -> None:
        self.mood = "well"

    def script(self, query: dns.message.Message, tcp: bool) -> Reply | list[tuple[float, Reply]]:
        if self.mood == "fail":
            return reply(query, rcode=2)
        said = self.said(query, tcp)
        return [(1.5, said)] if self.mood == "late" and not isinstance(said, list) else said

    def said(self, query: dns.message.Message, tcp: bool) -> Reply | list[tuple[float, Reply]]:
        name = query.question[0].name.to_text().lower()
        rdtype = dns.rdatatype.to_text(query.question[0].rdtype)
        label = name.partition(".")[0]
        if name.endswith(".dn.u.test."):
            target = name.replace("dn.u.test.", "u.test.")
            return reply(query, ["dn.u.test. 300 DNAME u.test.", f"{name} 300 CNAME {target}"])
        match label:
            case "www":
                return reply(query, [f"{name} 300 CNAME web.u.test.", "web.u.test. 9 A 6.6.6.6"])
            case "web":
                return reply(query, [f"{name} 100 A 1.2.3.4"]) if rdtype == "A" else reply(query, [], [SOA])
            case "ext":
                return reply(query, [f"{name} 300 CNAME mail.rich.test."])
            case "gone":
                return reply(query, [f"{name} 300 CNAME none.u.test."])
            case "mx":
                return reply(query, [f"{name} 300 MX 1 web.u.test.", f"{name} 300 MX 2 hhh.u.test."], [], ["hhh.u.test. 40 A 9.9.9.9"])  # fmt: skip
            case "many":
                return reply(query, [f"{name} 300 A 1.1.1.{i}" for i in range(5)])
            case "any":
                return reply(
                    query, [f"{name} 300 A 1.1.1.1", f"{name} 200 TXT x", f"{name} 100 MX 10 a.u.test."]
                )
            case "uneven":
                return reply(query, [f"{name} 2000000 A 1.1.1.1"])
            case "zero":
                return reply(query, [f"{name} 0 A 1.1.1.1"])
            case "none":
                return reply(query, [], [SOA], rcode=3)
            case "nosoa":
                return reply(query, rcode=3)
            case "nodata":
                return reply(query, [], [SOA])
            case "servfail" | "formerr" | "refused" | "notimp":
                return reply(query, rcode={"servfail": 2, "formerr": 1, "refused": 5, "notimp": 4}[label])
            case "noedns" if query.edns >= 0:
                message = dns.message.make_response(query)
                message.use_edns(False)
                message.set_rcode(dns.rcode.FORMERR)
                return message
            case "tc" if not tcp:
                return reply(query, flags=dns.flags.TC)
            case "big":
                return reply(query, [f'{name} 300 TXT "{"x" * 200}{i}"' for i in range(9)])
            case "referral":
                return reply(query, [], ["u.test. 50 NS ns.u.test."], ["ns.u.test. 40 A 9.9.9.9"])
            case "signed":
                return reply(
                    query, [f"{name} 300 A 1.1.1.1", f"{name} 300 RRSIG {SIGNATURE}"], flags=dns.flags.AD
                )
            case "nonsense":
                return reply(query, [f"{name} 300 A 1.1.1.1"], rcode=3)
            case "chain":
                return reply(query, [f"{name} 300 CNAME c1.u.test."])
            case _ if label[0] == "c" and label[1:].isdigit():
                return reply(query, [f"{name} 300 CNAME c{int(label[1:]) + 1}.u.test."])
            case "loop":
                return reply(query, [f"{name} 300 CNAME loop2.u.test."])
            case "loop2":
                return reply(query, [f"{name} 300 CNAME loop.u.test."])
            case "short":
                return reply(query, [f"{name} 1 A 1.1.1.1"])
            case "shortalias":
                return reply(query, [f"{name} 1 CNAME short.u.test."])
            case "shortnone":
                return reply(query, [], [BRIEF], rcode=3)
            case "shortnodata":
                return reply(query, [], [BRIEF])
            case "forged":
                return self._forged(query, name)
            case "srv":
                return reply(query, [f"{name} 300 SRV 1 2 3 web.u.test."])
        return reply(query, [f"{name} 300 A 7.7.7.7"]) if rdtype == "A" else reply(query, [], [SOA])

    @staticmethod
    def _forged(query: dns.message.Message, name: str) -> list[tuple[float, Reply]]:
        """Wrong id, wrong question, a query, half a message; then the truth."""
        bad = reply(query, [f"{name} 300 A 6.6.6.6"]).to_wire()
        wrong = bad.replace(b"\x06forged", b"\x06forger")
        return [
            (0.0, bytes([bad[0] ^ 1]) + bad[1:]),
            (0.0, wrong),
            (0.0, bad[:2] + bytes([bad[2] & 0x7F]) + bad[3:]),
            (0.0, bad[:11]),
            (0.05, reply(query, [f"{name} 300 A 1.1.1.1"])),
        ]


Seen = tuple[object, ...]


@dataclass
class Pair:
    """named and our server, each before a scripted server of its own with the same moods."""

    world: World
    ports: tuple[int, int]
    above: tuple[Upstream, Upstream]
    slack: int = 1
    """Seconds that two TTLs may differ by: the two are not asked in the very same second."""
    seconds: list[float] = field(default_factory=list)

    def ask(
        self, name: str, rdtype: str = "A", **how: Any
    ) -> tuple[dns.message.Message, dns.message.Message]:
        """The answers of named and of ours to a question at the same moment."""
        begun = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            theirs, mine = pool.map(lambda port: question(port, name, rdtype, **how), self.ports)
        self.seconds.append(time.monotonic() - begun)
        self.slack = max(self.slack, 1 + int(self.seconds[-1]))
        return theirs, mine

    def agree(self, name: str, rdtype: str = "A", **how: Any) -> dns.message.Message:
        """Ask, and compare; ours."""
        theirs, mine = self.ask(name, rdtype, **how)
        told = f"{name} {rdtype} {how}\nnamed:\n{theirs}\nours:\n{mine}"
        assert shown(theirs) == shown(mine), told
        for one, other in zip(ttls(theirs), ttls(mine), strict=True):
            assert abs(one - other) <= self.slack, told
        return mine


def question(
    port: int,
    name: str,
    rdtype: str,
    *,
    flags: int = RD,
    do: bool = False,
    payload: int = 1232,
    edns: bool = True,
    tcp: bool = False,
) -> dns.message.Message:
    query = dns.message.make_query(
        name, rdtype, use_edns=0 if edns else False, want_dnssec=do, payload=payload if edns else None
    )
    query.flags = dns.flags.Flag(flags)
    ask = dns.query.tcp if tcp else dns.query.udp
    return ask(query, "127.0.0.1", port=port, timeout=60)


def shown(message: dns.message.Message) -> Seen:
    """Everything but TTLs and the order of records, and of sets behind the answer's chain."""
    sections = [
        [(rrset.name.to_text(), rrset.rdtype, rrset.covers, sorted(rdata.to_text() for rdata in rrset)) for rrset in section]
        for section in (message.answer, message.authority, message.additional)
    ]  # fmt: skip
    any_type = message.question[0].rdtype == dns.rdatatype.ANY
    told = [option.to_text() for option in message.options if option.otype == dns.edns.OptionType.EDE]
    return (
        message.rcode(),
        dns.flags.to_text(message.flags),
        message.edns,
        message.ednsflags,
        told,
        sorted(sections[0]) if any_type else sections[0],
        sorted(sections[1]),
        sorted(sections[2]),
    )


def ttls(message: dns.message.Message) -> list[int]:
    records = [
        (rrset.name, rrset.rdtype, rrset.covers, rrset.ttl)
        for section in (message.answer, message.authority, message.additional)
        for rrset in section
    ]
    return [ttl for *_, ttl in sorted(records)]


@contextmanager
def pair(root: Path, options: str) -> Iterator[Pair]:
    """Both servers with the same options."""
    world = World()
    one, other, above_one, above_other = free_ports(4)
    with ExitStack() as stack:
        upstreams = [stack.enter_context(Upstream(world.script, port)) for port in (above_one, above_other)]
        for name, port, above, start in (("named", one, above_one, bind), ("ours", other, above_other, ours)):
            text = (
                f"recursion yes; allow-recursion {{ any; }}; dnssec-validation no; forward only; {options}"
                f" forwarders {{ 127.0.0.1 port {above}; }};"
            )
            stack.enter_context(start(configure(root / name, port, text, WORLD), port))
        yield Pair(world, (one, other), (upstreams[0], upstreams[1]))


ASKED: list[tuple[str, str, dict[str, Any]]] = [
    *((f"{name}.u.test", "A", {}) for name in ("www", "WWW", "gone", "many", "uneven", "zero", "none", "nosoa", "nodata")),
    *((f"{name}.u.test", "A", {}) for name in ("servfail", "formerr", "refused", "notimp", "noedns", "tc", "referral")),
    *((f"{name}.u.test", "A", {"do": True}) for name in ("signed", "none", "www", "nodata")),
    *((f"{name}.u.test", "A", {"edns": False}) for name in ("signed", "many", "other")),
    *((f"{name}.u.test", "A", {"flags": RD | CD}) for name in ("checked", "none", "servfail")),
    *((f"{name}.u.test", "A", {"flags": RD | dns.flags.AD}) for name in ("signed", "www")),
    *((name, "A", {}) for name in ("ext.u.test", "out.rich.test", "alias.rich.test", "loop.u.test", "forged.u.test")),
    ("www.u.test", "CNAME", {}),
    ("www.u.test", "AAAA", {}),
    ("none.u.test", "MX", {}),
    ("none.u.test", "ANY", {}),
    ("below.none.u.test", "A", {}),
    ("web.u.test", "ANY", {}),
    ("any.u.test", "ANY", {}),
    ("any.u.test", "TXT", {}),
    ("mx.u.test", "MX", {}),
    ("mx.u.test", "MX", {"payload": 512}),
    ("hhh.u.test", "A", {}),
    ("mx.u.test", "MX", {"edns": False}),
    ("srv.u.test", "SRV", {}),
    ("a.dn.u.test", "A", {}),
    ("web.dn.u.test", "A", {}),
    ("dn.u.test", "DNAME", {}),
    ("nonsense.u.test", "A", {}),
    ("chain.u.test", "A", {}),
    ("big.u.test", "TXT", {}),
    ("big.u.test", "TXT", {"tcp": True}),
    ("signed.u.test", "RRSIG", {}),
]  # fmt: skip


def test_as_named(tmp_path: Path) -> None:
    with pair(tmp_path, "servfail-ttl 30;") as both:
        for name, rdtype, how in ASKED * 2:
            both.agree(name, rdtype, **how)
        # What is in the cache is not asked for again, by either of them.
        counted = [Counter(q.question[0].to_text() for _, q in above.asked) for above in both.above]
        for name in (
            "www",
            "web",
            "none",
            "nodata",
            "many",
            "any",
            "mx",
            "srv",
            "signed",
            "uneven",
            "servfail",
        ):
            text = f"{name}.u.test. IN {'MX' if name == 'mx' else 'SRV' if name == 'srv' else 'ANY' if name == 'any' else 'A'}"
            assert counted[0][text] and (counted[1][text] in (counted[0][text], 1 + counted[0][text])), text
        assert counted[0]["zero.u.test. IN A"] == counted[1]["zero.u.test. IN A"] == 2
        assert both.above[1].count("none.u.test.") <= 3  # with and without CD, and for nothing else


STALE = "stale-cache-enable yes; stale-answer-enable yes; stale-answer-ttl 7; stale-refresh-time 2;"
BRIEFLY = [f"{name}.u.test" for name in ("short", "shortalias", "shortnone", "shortnodata")]


@pytest.mark.parametrize(("timeout", "mood"), [("off", "fail"), ("0", "late"), ("300", "late")])
def test_stale_answers_as_named(tmp_path: Path, timeout: str, mood: str) -> None:
    with pair(tmp_path, f"{STALE} stale-answer-client-timeout {timeout};") as both:
        for name in BRIEFLY:
            both.agree(name)
        time.sleep(2.2)  # until named holds them for stale
        both.world.mood = mood
        told = [
            [option.to_text() for option in both.agree(name).options]
            for name in BRIEFLY
            # A name that is not there is never stale; and where an alias would make it wait a second time,
            # named does not answer any more.
            if mood == "fail" or name not in ("shortnone.u.test", "shortalias.u.test")
        ]
        if mood == "fail":
            assert both.agree("shortnone.u.test").rcode() == dns.rcode.SERVFAIL
            both.world.mood = "well"
            assert not both.agree("short.u.test").options
        assert told[0] and "Stale Answer" in told[0][0]


def test_server_statements_as_named(tmp_path: Path) -> None:
    world = World()
    port, other, above, signing = free_ports(4)
    hosts = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
    key = 'key k { algorithm hmac-sha256; secret "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0"; };\n'
    secret = configure(tmp_path / "secret", signing, "recursion no; allow-query { key k; };", WORLD)
    conf = secret / "named.conf"
    conf.write_text(key + conf.read_text().replace("{ 127.0.0.1; }", "{ 127.0.0.1; 127.0.0.5; }"))
    zones = "".join(
        f'zone "{name}.test" {{ type forward; forward only; forwarders {{ {" ".join(f"{h} port {p};" for h, p in to)} }}; }};\n'
        for name, to in (
            ("bogus", [(hosts[0], above)]),
            ("tcp", [(hosts[0], above), (hosts[1], above)]),
            ("plain", [(hosts[2], above)]),
            ("rich", [("127.0.0.5", signing)]),
            ("dead", [("127.0.0.6", above), (hosts[2], above)]),
        )
    )
    zones += (
        f"{key} server 127.0.0.2 {{ bogus yes; }}; server 127.0.0.3 {{ tcp-only yes; }};"
        " server 127.0.0.4 { edns no; }; server 127.0.0.5 { keys k; };\n"
    )
    with ExitStack() as stack:
        upstreams = [stack.enter_context(Upstream(world.script, above, host)) for host in hosts]
        stack.enter_context(bind(secret, signing))
        for name, own, start in (("named", port, bind), ("ours", other, ours)):
            text = "recursion yes; allow-recursion { any; }; dnssec-validation no;"
            stack.enter_context(start(configure(tmp_path / name, own, text, zones), own))
        both = Pair(world, (port, other), (upstreams[0], upstreams[0]))
        for name in (
            "x.bogus.test",
            "x.tcp.test",
            "x.plain.test",
            "mail.rich.test",
            "nothere.rich.test",
            "x.dead.test",
        ):
            both.agree(name)
    assert not upstreams[0].asked
    assert {how for how, _ in upstreams[1].asked} == {"tcp"}
    assert {message.edns for _, message in upstreams[2].asked} == {-1}
