"""Credentials that have been checked before, so that logging in again costs microseconds.

Nothing in here can be turned back into a password: an entry is a MAC, under a key made at start, over user,
stored password and given password. A changed stored password gives another MAC, so entries never outlive it.
"""

from __future__ import annotations

import hashlib
import secrets

LIMIT = 10_000


class Verified:
    """A bounded set of MACs; the ones not used for longest go first."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._key = secrets.token_bytes(32)
        self._limit = limit
        self._macs: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._macs)

    def mac(self, user: str, stored: str, password: str) -> bytes:
        """The MAC of one successful check."""
        parts = [text.encode("utf-8", "surrogateescape") for text in (user, stored, password)]
        state = hashlib.blake2b(key=self._key, digest_size=32)
        for part in parts:
            state.update(len(part).to_bytes(4, "big"))
            state.update(part)
        return state.digest()

    def holds(self, mac: bytes) -> bool:
        """Whether that check has succeeded before. A MAC is not secret, so the look-up may take any time."""
        if mac not in self._macs:
            return False
        del self._macs[mac]
        self._macs[mac] = None
        return True

    def add(self, mac: bytes) -> None:
        """Remember a check that succeeded."""
        self._macs[mac] = None
        if len(self._macs) > self._limit:
            del self._macs[next(iter(self._macs))]
