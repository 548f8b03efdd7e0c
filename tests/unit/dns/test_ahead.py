"""Large zones signed on the side: what the child hands over is what answers would have been signed with."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import dns.dnssec
import dns.message
import dns.name
import dns.rdata
import dns.rdatatype
import dns.rrset
import pytest

from mailstack.config.named import load
from mailstack.config.named.model import DnssecPolicy, PolicyKey
from mailstack.dns import ahead, zonefile
from mailstack.dns.ahead import Ahead, Work
from mailstack.dns.authority import Authority
from mailstack.dns.direct import Direct
from mailstack.dns.message import AA, QR, opt, parse, render
from mailstack.dns.plainlines import Nodes
from mailstack.dns.signing import Signer, sign
from mailstack.dns.statistics import Seen
from mailstack.dns.zone import Rdata, RRset, Zone
from mailstack.net.log import Log

NOW = 1_800_000_000.0
DAY = 86_400
HEAD = """$TTL 3600
@ SOA ns hostmaster 1 3600 600 86400 300
@ NS ns
ns A 192.0.2.1
sub NS ns.sub
sub DS 1 13 2 0000000000000000000000000000000000000000000000000000000000000000
ns.sub A 192.0.2.2
plain NS ns.plain
ns.plain A 192.0.2.2
x.ent A 192.0.2.3
Mixed A 192.0.2.4
d MX 10 h3
h7 AAAA 2001:db8::7
alias CNAME h3
text TXT "some words"
"""
POLICIES = {
    "NSEC": DnssecPolicy(name="x"),
    "NSEC3": DnssecPolicy(name="x", nsec3=(1, False, 2), keys=(PolicyKey(True, True, 15),)),
    "opt-out": DnssecPolicy(
        name="x", nsec3=(0, True, 0), keys=(PolicyKey(True, False, 13), PolicyKey(False, True, 13))
    ),
}
ASKED = (
    *("h3", "h4", "h7", "h35", "nx", "h3x", "a.h3", "ent", "x.ent", "y.ent", "mixed", "d", "alias", "text"),
    *("ns", "sub", "ns.sub", "q.plain", "plain", "h11.star", ""),
)


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> DnssecPolicy:
    return POLICIES[request.param]


Make = Callable[..., Zone]


@pytest.fixture(params=[0, 1 << 40], ids=["lines", "nodes"])
def make(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: DnssecPolicy
) -> Make:
    """Signs large.test; its names are kept as lines, or as nodes."""
    monkeypatch.setattr(zonefile, "LARGE", request.param)
    (tmp_path / "named.conf").write_text(
        f'options {{ directory "{tmp_path}"; }};\nzone "large.test" {{ type primary; file "zone"; }};\n'
    )
    conf = replace(
        load(tmp_path / "named.conf").zones[0], name="large.test", dnssec=policy, key_directory=str(tmp_path)
    )

    def make(now: float = NOW, *, wild: bool = True, of: Zone | None = None) -> Zone:
        hosts = "".join(f"h{number} A 192.0.2.{number}\n" for number in range(3, 60, 4))
        (tmp_path / "zone").write_text(HEAD + "*.star MX 5 d\n" * wild + hosts)
        found = zonefile.load_zone("large.test", str(tmp_path / "zone"))[0] if of is None else of
        assert isinstance(found.nodes, Nodes) is (request.param == 0)
        sign(found, conf, now)
        return found

    return make


def work_of(zone: Zone) -> Work:
    assert zone.signer is not None
    return Work(zone, zone.signer)


def answers(zone: Zone) -> Iterator[list[tuple[bytes, RRset]]]:
    """The sections to questions for what is there, and what is not."""
    authority = Authority([zone])
    for name in ASKED:
        wire = dns.name.from_text(f"{name}.large.test".lstrip(".")).to_wire() or b""
        for rdtype in (1, 2, 15, 16, 28, 43, 48):
            found = authority.answer(wire, rdtype, recursive=False, tcp=True, do=True)
            assert found is not None
            yield [*found.answer, *found.authority, *found.additional]


def shown(sections: list[tuple[bytes, RRset]]) -> list[object]:
    """Without the signatures themselves: they are other ones each time."""
    cut = 18 + len(dns.name.from_text("large.test").to_wire() or b"")
    return [
        (owner, one.rdtype, one.ttl, [flat(data)[:cut] if one.rdtype == 46 else data for data in one.rdatas])
        for owner, one in sections
    ]


def flat(rdata: Rdata) -> bytes:
    return rdata if isinstance(rdata, bytes) else rdata[0] + b"".join(rdata[1]) + rdata[2]


def as_set(owner: bytes, rrset: RRset) -> dns.rrset.RRset:
    kind = dns.rdatatype.RdataType(rrset.rdtype)
    datas = [dns.rdata.from_wire("IN", kind, data, 0, len(data)) for data in map(flat, rrset.rdatas)]
    return dns.rrset.from_rdata_list(dns.name.from_wire(owner, 0)[0], rrset.ttl, datas)


def validate(zone: Zone) -> int:
    """Check every signature in the zone; returns how many sets have one."""
    origin = dns.name.from_text("large.test")
    keys: dict[dns.name.Name, Any] = {origin: as_set(zone.origin, zone.apex.rrsets[48])}
    records = list(zone.records())
    signed = 0
    for (owner, rrset), (_, signature) in pairwise(records):
        if signature.rdtype == 46:
            dns.dnssec.validate(as_set(owner, rrset), as_set(owner, signature), keys, now=NOW)
            signed += 1
    return signed


def no_more(*_: object) -> RRset:
    raise AssertionError("signed anew")


def test_nothing_is_left_to_sign(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = [shown(sections) for sections in answers(make())]
    zone = make()
    work = work_of(zone)
    for frame in work.frames():
        if frame[2]:
            work.take(frame)
    monkeypatch.setattr(Signer, "sign", no_more)
    # Serial and keys are those of the first one, salt and so the hashes may be others.
    salted = any(one.rdtype == 51 and flat(one.rdatas[0])[4] for one in zone.apex.rrsets.values())
    for before, sections in zip(lazy, answers(zone), strict=True):
        if not salted:
            assert [one for one in shown(sections) if one[1] != 6] == [one for one in before if one[1] != 6]  # type: ignore[index]
    assert validate(zone) > 40


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_answers_are_signed_meanwhile(make: Make, before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "FRAME", 7)
    zone = make()
    work = work_of(zone)
    frames = [frame for frame in work.frames() if frame[2]]
    for index, frame in enumerate(frames):
        if index == before * len(frames) // 4:
            assert all(answers(zone))
        work.take(frame)
    assert all(answers(zone))
    assert validate(zone) > 40


def test_another_generation(make: Make) -> None:
    zone = make()
    work = work_of(zone)
    for frame in work.frames():
        if frame[2]:
            work.take(frame)
    proofs = [one for one in shown([(b"", one) for _, one in zone.records()]) if one[1] in (47, 50)]  # type: ignore[index]
    make(NOW + 9 * DAY, of=zone)
    assert not work.is_wanted
    again = work_of(zone)
    for frame in again.frames():
        if frame[2]:
            again.take(frame)
    expirations = {flat(one.rdatas[0])[8:12] for _, one in zone.records() if one.rdtype == 46}
    assert expirations == {int(NOW + 23 * DAY).to_bytes(4, "big")}
    assert len(proofs) == sum(one.rdtype in (47, 50) for _, one in zone.records())


def test_forms(make: Make) -> None:
    zone = make(wild=False)
    work = work_of(zone)
    for frame in work.frames():
        if frame[2]:
            work.take(frame)
    authority = Authority([zone])
    seen: Seen = defaultdict(int)
    direct = Direct(authority)
    denied = made = 0
    asked = [
        *(f"h{number}" for number in range(100)),
        *(f"n{number}" for number in range(60)),
        "d",
        "sub",
    ] * 2
    for name, rdtype in product(asked, ("A", "AAAA")):
        data = dns.message.make_query(f"{name}.large.test", rdtype, want_dnssec=True, flags=0).to_wire()
        answer = direct.answer(data, seen)
        query = parse(data)
        found = authority.answer(query.name, query.rdtype, recursive=False, tcp=False, do=True)
        assert found is not None
        sections = found.answer, found.authority, found.additional
        wire = render(query, QR | AA | found.rcode, *sections, limit=1232, opt_record=opt(1232, 0, 0x8000))
        direct.learn(data, query, found, wire)
        if answer is not None:
            made += 1
            denied += answer[3] & 0xF == 3
            assert answer == wire, (name, rdtype)
    assert denied > 100
    assert made > denied


class Lines(Log):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__("named", "test")
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    def warning(self, text: str) -> None:
        self.lines.append(text)

    def category(self, name: str) -> Lines:
        return self


def children() -> list[int]:
    """Processes of ours, dead ones included."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in listed.split()]


def test_a_child_signs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "LEAST", 10)
    monkeypatch.setattr(ahead, "QUIET", 0.0)
    monkeypatch.setattr(ahead, "SHARE", 0.0)
    log, zone, before = Lines(), make(), children()

    async def run() -> None:
        signing = Ahead(log)
        signing.start({"large.test": zone})
        deadline = asyncio.get_running_loop().time() + 60
        while not log.lines or children() != before:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        signing.changed("large.test", make(NOW + 1, of=zone))
        while len(log.lines) < 2:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        signing.changed("large.test", make(NOW + 2, of=zone))
        signing.close()
        assert children() == before

    asyncio.run(run())
    assert all("large.test/IN: all signatures made" in line for line in log.lines)
