"""COMPRESS=DEFLATE (RFC 4978): both directions of a connection, without I/O."""

from __future__ import annotations

import zlib

_WINDOW, _MEMORY = -13, 6
"""What we compress with: 8 KiB windows, about 50 KB a connection (RFC 1951 lets the client's be larger)."""
PIECE = 1 << 16
"""Octets that come out of one `receive` at the most, whatever the client has packed into few."""


class CompressionError(Exception):
    """The client has sent what is no deflate stream: nothing that follows can be understood."""


class Deflate:
    """`held` says that `receive(b"")` will give more of what has come in already."""

    __slots__ = ("_in", "_out")

    def __init__(self) -> None:
        self._in = zlib.decompressobj(-15)
        self._out = zlib.compressobj(6, zlib.DEFLATED, _WINDOW, _MEMORY)

    def send(self, data: bytes) -> bytes:
        """The octets for the wire, complete: the client can read all of `data` from them."""
        return self._out.compress(data) + self._out.flush(zlib.Z_SYNC_FLUSH)

    @property
    def held(self) -> bool:
        return bool(self._in.unconsumed_tail)

    def receive(self, data: bytes) -> bytes:
        """Up to `PIECE` octets of what the client has said. Raises `CompressionError`."""
        try:
            plain = self._in.decompress(self._in.unconsumed_tail + data, PIECE)
        except zlib.error as error:
            raise CompressionError(str(error)) from None
        if self._in.eof:
            raise CompressionError("the stream has ended")
        return plain
