"""Compressed connections: complete replies, little memory whatever comes in."""

from __future__ import annotations

import zlib

import pytest

from mailstack.wire.imap.deflate import PIECE, CompressionError, Deflate


def test_each_reply_can_be_read_at_once() -> None:
    server, client = Deflate(), zlib.decompressobj(-15)
    for reply in (b"* OK one\r\n", b"", b"x" * 300_000, b"a OK\r\n"):
        assert client.decompress(server.send(reply)) == reply


def test_what_a_client_says_comes_in_pieces() -> None:
    client, server = zlib.compressobj(9, zlib.DEFLATED, -15), Deflate()
    bomb = client.compress(bytes(50_000_000)) + client.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 60_000
    total, data = 0, bomb
    while data or server.held:
        piece = server.receive(data)
        data = b""
        assert len(piece) <= PIECE
        total += len(piece)
    assert total == 50_000_000
    said = client.compress(b"a NOOP\r\n") + client.flush(zlib.Z_SYNC_FLUSH)
    assert b"".join(server.receive(said[at : at + 1]) for at in range(len(said))) == b"a NOOP\r\n"


@pytest.mark.parametrize("data", [b"a NOOP\r\n" * 10, b"\xff\xff", zlib.compress(b"x")[2:-4] + b"z"])
def test_nonsense_is_told(data: bytes) -> None:
    with pytest.raises(CompressionError):
        Deflate().receive(data)
