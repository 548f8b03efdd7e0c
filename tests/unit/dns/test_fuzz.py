"""Whatever arrives: an answer with a sound header, or silence; never an exception."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dns.message
import dns.rdatatype
from hypothesis import given, settings
from hypothesis import strategies as st

from mailstack.dns.message import Malformed, parse
from mailstack.dns.responder import Responder
from mailstack.dns.results import Transfer
from tests.unit.dns.world import responder

NAMES = [
    "rich.test",
    "mail.rich.test",
    "x.y.wild.rich.test",
    "sub.rich.test",
    "w.dn.rich.test",
    "loop1.rich.test",
]


def make() -> Responder:
    with tempfile.TemporaryDirectory() as folder:
        return responder(
            Path(folder), "recursion no; allow-transfer { any; }; version none; rrset-order { order none; };"
        )


SERVER = make()


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    """Sound queries, with up to three octets changed and the end cut off or added to."""
    name = draw(st.sampled_from(NAMES))
    rdtype = draw(st.integers(0, 260))
    query = dns.message.make_query(
        name,
        dns.rdatatype.RdataType.make(rdtype),
        use_edns=draw(st.sampled_from([False, 0, 1])),
        payload=draw(st.integers(0, 65535)),
    )
    wire = bytearray(query.to_wire())
    for _ in range(draw(st.integers(0, 3))):
        wire[draw(st.integers(0, len(wire) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, 20))
    return bytes(wire[: len(wire) - cut]) + draw(st.binary(max_size=5))


@settings(max_examples=400)
@given(st.binary(max_size=600) | queries(), st.booleans())
def test_any_message(data: bytes, tcp: bool) -> None:
    result = SERVER.respond(data, "192.0.2.1", 5353, tcp=tcp)
    if isinstance(result, Transfer):
        result = next(result.messages)
    if result is None:
        assert len(data) < 12 or data[2] & 0x80
        return
    assert isinstance(result, bytes)
    assert result[:2] == data[:2]
    assert result[2] & 0x80
    assert result[2] & 0x78 == data[2] & 0x78
    assert len(result) <= (65535 if tcp else 1232)
    if not data[2] & 0x78:  # dnspython reads other opcodes by rules of their own
        dns.message.from_wire(result)
    again = SERVER.respond(data, "192.0.2.1", 5353, tcp=tcp)
    if isinstance(again, bytes):
        assert again == result


@given(st.binary(min_size=12, max_size=300))
def test_parser_reads_or_refuses(data: bytes) -> None:
    try:
        query = parse(data)
    except Malformed:
        return
    assert data[12:].startswith(query.question)
