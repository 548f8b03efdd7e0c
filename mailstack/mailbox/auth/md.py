"""MD4 (RFC 1320), which today's OpenSSL leaves out, and MD5 (RFC 1321) from a state in the midst of it.

CRAM-MD5's stored form is the state of MD5 behind the first block of either half of an HMAC, which hashlib
cannot go on from. Both are for checking what old files hold, never for making something new.
"""

from __future__ import annotations

import math
import struct

_MASK = 0xFFFFFFFF
INITIAL = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_SINES = tuple(int(abs(math.sin(i + 1)) * 2**32) & _MASK for i in range(64))
_SHIFTS5 = ((7, 12, 17, 22), (5, 9, 14, 20), (4, 11, 16, 23), (6, 10, 15, 21))
_ROUNDS4 = (
    (0, (3, 7, 11, 19), (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)),
    (0x5A827999, (3, 5, 9, 13), (0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)),
    (0x6ED9EBA1, (3, 9, 11, 15), (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15)),
)

State = tuple[int, int, int, int]


def md4(data: bytes) -> bytes:
    """The MD4 digest, 16 octets."""
    state = INITIAL
    padded = data + _padding(len(data))
    for at in range(0, len(padded), 64):
        state = _block4(state, padded[at : at + 64])
    return struct.pack("<4I", *state)


def md5_state(block: bytes) -> State:
    """The state of MD5 behind its first block of 64 octets."""
    return _block5(INITIAL, block)


def md5_continued(state: State, data: bytes) -> bytes:
    """The MD5 digest of a block of 64 octets, behind which the state was `state`, and of `data`."""
    padded = data + _padding(64 + len(data))
    for at in range(0, len(padded), 64):
        state = _block5(state, padded[at : at + 64])
    return struct.pack("<4I", *state)


def _padding(length: int) -> bytes:
    return b"\x80" + bytes((55 - length) % 64) + struct.pack("<Q", length * 8)


def _turned(value: int, count: int) -> int:
    value &= _MASK
    return (value << count | value >> (32 - count)) & _MASK


def _block4(state: State, block: bytes) -> State:
    words = struct.unpack("<16I", block)
    a, b, c, d = state
    for number, (constant, shifts, order) in enumerate(_ROUNDS4):
        for step, index in enumerate(order):
            mixed = (b & c | ~b & d) if number == 0 else (b & c | b & d | c & d) if number == 1 else b ^ c ^ d
            a, b, c, d = d, _turned(a + mixed + words[index] + constant, shifts[step % 4]), b, c
    return _sum(state, (a, b, c, d))


def _block5(state: State, block: bytes) -> State:
    words = struct.unpack("<16I", block)
    a, b, c, d = state
    for step in range(64):
        number = step >> 4
        if number == 0:
            mixed, index = b & c | ~b & d, step
        elif number == 1:
            mixed, index = d & b | ~d & c, (5 * step + 1) % 16
        elif number == 2:
            mixed, index = b ^ c ^ d, (3 * step + 5) % 16
        else:
            mixed, index = c ^ (b | ~d & _MASK), (7 * step) % 16
        turned = _turned(a + mixed + _SINES[step] + words[index], _SHIFTS5[number][step % 4])
        a, b, c, d = d, (b + turned) & _MASK, b, c
    return _sum(state, (a, b, c, d))


def _sum(one: State, other: State) -> State:
    a, b, c, d = ((x + y) & _MASK for x, y in zip(one, other, strict=True))
    return a, b, c, d
