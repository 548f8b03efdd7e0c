"""Whatever arrives: an answer with a sound header, or silence; never an exception."""

from __future__ import annotations

import struct
import tempfile
import time
from pathlib import Path

import dns.message
import dns.rdatatype
import pytest
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


def worst(opcode: int, records: int, name: bytes, *, tsig: bool) -> bytes:
    """A message of up to 65,535 octets: a record with a long name, others whose names are pointers to it."""
    zone = b"\4rich\4test\0"
    counts = (1, 0, records, int(tsig))
    wire = struct.pack("!6H", 1, opcode << 11, *counts) + zone + struct.pack("!HH", 6 if opcode else 1, 1)
    pointer = (0xC000 | len(wire)).to_bytes(2, "big")
    record = struct.pack("!HHIH", 16, 255, 0, 0)
    wire += name + record + (pointer + record) * (records - 1)
    if tsig:
        rdata = b"\x0bhmac-sha256\0" + bytes(6) + struct.pack("!HH", 300, 32) + bytes(32 + 6)
        wire += b"\4nope\0" + struct.pack("!HHIH", 250, 255, 0, len(rdata)) + rdata
    return wire


@pytest.mark.parametrize("name", [b"\1a" * 120 + b"\xc0\x0c", b"\xc0\x1c", b"\xc0\x0c"])
@pytest.mark.parametrize(("opcode", "records"), [(0, 90), (0, 5000), (4, 90), (5, 5000), (15, 5000)])
@pytest.mark.parametrize("tsig", [False, True], ids=["", "an unknown key"])
def test_the_worst_messages_cost_little(opcode: int, records: int, name: bytes, tsig: bool) -> None:
    """Of clients that may do nothing; what it costs is the processor's time, some 3 ms."""
    data = worst(opcode, records, name, tsig=tsig)
    assert len(data) <= 65_535
    begun = time.process_time()
    answer = SERVER.respond(data, "192.0.2.1", 5353, tcp=True)
    assert time.process_time() - begun < 0.5
    assert isinstance(answer, bytes)
    assert len(answer) < 1000
