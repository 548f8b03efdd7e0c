"""The key that signs URLs of a mailbox's messages (RFC 4467 §8): `mailstack-urlauth` in the mailbox's folder.

The file (mode 0600) holds `V<TAB>1` and the key in hexadecimal, and is replaced whole, durable on return. It
goes with its folder; without it, or when it is damaged, no URL of the mailbox is good. Raises `OSError`,
`LockBusyError`.
"""

from __future__ import annotations

import os
import secrets

from mailstack.storage.durable import fsync_directory
from mailstack.storage.maildir.uidlist import Lock

FILE = "mailstack-urlauth"
SIZE = 32
"""Octets of a key."""
_HEADER = b"V\t1\n"


def read(folder: str) -> bytes | None:
    """The mailbox's key; None where there is none."""
    try:
        with open(f"{folder}/{FILE}", "rb") as file:
            data = file.read(256)
    except FileNotFoundError:
        return None
    try:
        key = bytes.fromhex(data.removeprefix(_HEADER).decode("ascii"))
    except ValueError:
        return None
    return key if data.startswith(_HEADER) and data.endswith(b"\n") and len(key) == SIZE else None


def made(folder: str) -> bytes:
    """The mailbox's key, made if there is none."""
    key = read(folder)
    if key is not None:
        return key
    with Lock(f"{folder}/{FILE}") as lock:
        key = read(folder)
        if key is None:
            key = secrets.token_bytes(SIZE)
            lock.replace(b"%b%b\n" % (_HEADER, key.hex().encode()))
    fsync_directory(folder)
    return key


def remove(folder: str) -> None:
    """Make all URLs of the mailbox worthless."""
    try:
        os.unlink(f"{folder}/{FILE}")
    except FileNotFoundError:
        return
    fsync_directory(folder)
