"""The order and the hashes of names that proofs are made of, on the standards' own examples."""

from __future__ import annotations

import random

import pytest

from mailstack.dns.denial import Hashing, canonical_key
from mailstack.dns.names import from_text

CANONICAL = [
    from_text("example"),
    from_text("a.example"),
    from_text("yljkjljk.a.example"),
    from_text("z.a.example"),
    from_text("zabc.a.example"),
    from_text("z.example"),
    b"\1\x01\1z\7example\0",
    from_text("*.z.example"),
    b"\1\xc8\1z\7example\0",
]
"""RFC 4034 §6.1, in lower case."""


def test_canonical_order() -> None:
    shuffled = CANONICAL[:]
    random.Random(1).shuffle(shuffled)
    assert sorted(shuffled, key=canonical_key) == CANONICAL


def test_octets_of_zero_and_one_sort_as_they_should() -> None:
    names = [b"\1a\0", b"\1\0\1a\0", b"\2\0\0\1a\0", b"\2\0\1\1a\0", b"\1\1\1a\0", b"\1\2\1a\0", b"\2a\0\0"]
    assert [canonical_key(name) for name in names] == sorted(canonical_key(name) for name in names)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("example", "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom"),
        ("a.example", "35mthgpgcu1qg68fab165klnsnk3dpvl"),
        ("ns1.example", "2t7b4g4vsa5smi47k61mv5bv1a22bojr"),
        ("*.w.example", "r53bq7cc2uvmubfu5ocmm6pers9tk9en"),
    ],
)
def test_hashes(name: str, wanted: str) -> None:
    """RFC 5155, appendix A."""
    hashing = Hashing.read(bytes.fromhex("01 00 000c 04 aabbccdd"))
    assert hashing is not None
    assert hashing.owner(from_text(name), from_text("example")) == b"\x20" + wanted.encode() + from_text(
        "example"
    )


@pytest.mark.parametrize("rdata", ["", "0200000000", "0101000000", "0100000002aa", "01000000"])
def test_parameters_that_nobody_has_defined(rdata: str) -> None:
    assert Hashing.read(bytes.fromhex(rdata)) is None
