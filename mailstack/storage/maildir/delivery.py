"""Delivery into a Maildir folder, ready for group commit.

Messages lie on disk with LF line ends, as Postfix, Dovecot and every Maildir program write them; the CRLF of
the wire comes back when a message is sent. Raises `OSError` when the folders cannot be made.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Sequence

from mailstack.storage.durable import Publication, fsync_directory, write_all
from mailstack.storage.identity import Identity
from mailstack.storage.maildir.names import suffix_of, unique_name
from mailstack.storage.placement import spread

_prepared: set[str] = set()
_PREPARED_LIMIT = 10_000
SUBDIRECTORIES = ("cur", "new", "tmp")


def make_folder(folder: str) -> None:
    """Make `cur`, `new` and `tmp` below `folder`, and the way to it; all flushed. Raises `OSError`.

    `""` is the root's.
    """
    missing = [name for name in SUBDIRECTORIES if not os.path.isdir(f"{folder}/{name}")]
    if not missing:
        return
    made = []
    parent = folder
    while parent and not os.path.isdir(parent):
        made.append(parent)
        parent = os.path.dirname(parent)
    for path in [*reversed(made), *(f"{folder}/{name}" for name in missing)]:
        if path == folder and not is_folder(os.path.dirname(path)):
            spread(os.path.dirname(path))  # an account's own folder, not one in a Maildir
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
    for path in {folder or "/", *(os.path.dirname(path) or "." for path in made)}:
        fsync_directory(path)


def is_folder(path: str) -> bool:
    """Whether there is a Maildir folder at `path`."""
    return os.path.isdir(f"{path}/cur")


def local_form(data: Sequence[bytes | memoryview]) -> tuple[list[bytes], int, int]:
    """A message's parts with LF line ends, its size on disk, and its size with CRLF, both in octets.

    CRLF becomes LF, also where a part ends between the two; a CR or LF alone stays as it is.
    """
    parts: list[bytes] = []
    size = lines = 0
    held = b""
    for piece in data:
        part = bytes(piece)
        if held:
            part = held + part
            held = b""
        if part.endswith(b"\r"):
            whole = part
            part = whole.rstrip(b"\r")
            held = whole[len(part) :]
        if b"\r" in part:
            part = part.replace(b"\r\n", b"\n")
        if part:
            parts.append(part)
            size += len(part)
            lines += part.count(b"\n")
    if held:
        parts.append(held)
        size += len(held)
    return parts, size, virtual_size(parts, size, lines)


def virtual_size(parts: Sequence[bytes], size: int, lines: int) -> int:
    """Octets when each LF that has no CR before it is sent as CRLF."""
    already = sum(part.count(b"\r\n") for part in parts if b"\r" in part)
    return size + lines - already


def write_delivery(root: str, parts: Iterable[bytes], now: float, hostname: str) -> Publication:
    """Write a large message, in parts with LF line ends, into `root/tmp/`; what is left to be published.

    Blocks: call it on a thread. Raises `OSError`; nothing is left then.
    """
    make_folder(root)
    name = unique_name(now, hostname)
    temporary = os.path.join(root, "tmp", name)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    size = more = 0
    try:
        try:
            for part in parts:
                write_all(fd, (part,))
                size += len(part)
                more += part.count(b"\n") - part.count(b"\r\n")
        finally:
            os.close(fd)
    except BaseException:
        os.unlink(temporary)
        raise
    return Publication(temporary, f"{root}/new/{name},S={size},W={size + more}", (), append=True)


def prepare_delivery(
    root: str, data: Sequence[bytes | memoryview], now: float, hostname: str, *, flags: int | None = None
) -> Publication:
    """What to publish so that the message lies in `root/new/` (with `flags`: in `root/cur/`, so flagged).

    `root` is a Maildir folder (the account's root is its INBOX); missing folders are made. `data` is the
    message as it came over the wire or with LF line ends. Raises `OSError`.
    """
    if root not in _prepared:
        make_folder(root)
        if len(_prepared) >= _PREPARED_LIMIT:
            _prepared.clear()
        _prepared.add(root)
    elif not is_folder(root):
        make_folder(root)
    return describe_delivery(root, data, now, hostname, flags=flags)


def describe_delivery(
    root: str,
    data: Sequence[bytes | memoryview],
    now: float,
    hostname: str,
    *,
    flags: int | None = None,
    owner: Identity | None = None,
    ordered: int = 0,
    gate: Callable[[], Awaitable[None]] | None = None,
) -> Publication:
    """The same without a look at the folders, which may be missing; the rest as `Publication` has it."""
    parts, size, wire_size = local_form(data)
    name = unique_name(now, hostname, size, wire_size)
    final = f"{root}/new/{name}" if flags is None else f"{root}/cur/{name}{suffix_of(flags)}"
    temporary = f"{root}/tmp/{name}"  # noqa: S108 - a Maildir's own
    return Publication(temporary, final, parts, owner=owner, ordered=ordered, gate=gate)
