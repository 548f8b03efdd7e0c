"""RESETKEY GENURLAUTH URLFETCH (state: authenticated; RFC 4467, and what RFC 5524 adds to URLFETCH).

A URL that GENURLAUTH signs lets others read one message, or a piece of it: everybody (`anonymous`), everybody
who has logged in (`authuser`), one user (`user+…`); the owner may always, as in Dovecot. A URL for submission
(`submit+…`) is made, but nobody may fetch it over IMAP. All this is there when imap_urlauth_host names the
host that such URLs have. Why a URL of somebody else's is not good is told only when its signature is.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mailstack.mailbox.auth import Unavailable
from mailstack.mailbox.imap import acl
from mailstack.mailbox.imap.attributes import open_in
from mailstack.mailbox.imap.catenate import locate_in, opened
from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.views import SharedMailbox
from mailstack.storage.maildir import tree, urlauth
from mailstack.wire.imap.encode import astring
from mailstack.wire.imap.section import find_part
from mailstack.wire.imap.structure import body
from mailstack.wire.imap.urlauth import BadUrlError, ImapUrl, parse_url
from mailstack.wire.imap.urlfetch import BINARY, BODY, INTERNAL, STRUCTURE, GenUrlAuth, ResetKey, UrlFetch
from mailstack.wire.mime.binary import DamagedError, UnknownEncodingError, decoded
from mailstack.wire.mime.lines import Data, wire, wire_pieces, wire_size
from mailstack.wire.mime.structure import Part, parse

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

CAPABILITIES = ("URLAUTH", "URLAUTH=BINARY")
_VERSION = "01"
"""Stands before each signature."""
_FAILED = "URLAUTH verification failed"
_BAD = "BAD Error in IMAP command GENURLAUTH: "


def _check_enabled(session: Session) -> None:
    if not session.service.settings.urlauth_host:
        raise CommandError("BAD URLAUTH disabled.")


async def resetkey(session: Session, tag: str, command: ResetKey) -> str:
    _check_enabled(session)
    root = session.root
    if not command.mailbox:
        for name in tree.names(root):
            if "a" in tree.rights(root, name):
                urlauth.remove(tree.path_of(root, name))
        return "OK All keys removed"
    if command.mechanisms and INTERNAL not in command.mechanisms:
        raise CommandError("NO Unsupported URLAUTH mechanism")
    if not tree.exists(root, command.mailbox):
        raise CommandError(f"NO [NONEXISTENT] Mailbox doesn't exist: {command.mailbox}")
    acl.need(session, command.mailbox, "a")
    urlauth.remove(tree.path_of(root, command.mailbox))
    return "OK [URLMECH INTERNAL] Key removed"


async def genurlauth(session: Session, tag: str, command: GenUrlAuth) -> str:
    _check_enabled(session)
    signed = []
    for text, mechanism in command.urls:
        if mechanism != INTERNAL:
            raise CommandError(f"{_BAD}Unsupported URLAUTH mechanism: {mechanism}")
        try:
            signed.append(await _signed(session, text))
        except BadUrlError as error:
            raise CommandError(f"{_BAD}Invalid URL: {error}") from None
    session.send(b" ".join([b"* GENURLAUTH", *(astring(url.encode()) for url in signed)]) + b"\r\n")
    return "OK GENURLAUTH completed."


async def urlfetch(session: Session, tag: str, command: UrlFetch) -> str:
    _check_enabled(session)
    for text, wanted in command.urls:
        try:
            await _fetch(session, text, wanted)
        except BadUrlError as error:
            session.send(b"* URLFETCH %b NIL\r\n" % astring(text.encode()))
            shown = text if text.isprintable() else "?"
            session.line(f'* NO Failed to fetch URLAUTH "{shown}": {error}.')
        if session.full:
            await session.flush()
    return "OK URLFETCH completed."


# ---- signatures


async def _signed(session: Session, text: str) -> str:
    """The URL with its signature. Raises `BadUrlError`."""
    url = _checked(session, text)
    assert session.user is not None
    if not url.access or url.mechanism:
        raise BadUrlError("Must be an URLAUTH rump URL")
    if _canonical(session, url.user) != session.user.name:
        raise CommandError(f"{_BAD}Not permitted to generate URLAUTH for user {url.user}")
    if _is_over(session, url):
        raise CommandError(f"{_BAD}URLAUTH has already expired")
    box = await opened(session, session.root, url)
    try:
        if box.folder.index(url.uid) < 0:
            raise BadUrlError("Message not found")
        key = urlauth.made(box.folder.path)
    finally:
        session.service.store.unpin(box)
    return f"{text}:internal:{_token(key, text)}"


def _token(key: bytes, rump: str) -> str:
    return _VERSION + hmac.digest(key, rump.encode(), "sha256").hex()


def _checked(session: Session, text: str) -> ImapUrl:
    """An absolute URL of this server. Raises `BadUrlError`."""
    url = parse_url(text)
    if not url.host:
        raise BadUrlError("Relative URL not allowed")
    if not url.user:
        raise BadUrlError("Missing user name")
    if not url.mailbox:
        raise BadUrlError("Missing mailbox name")
    settings = session.service.settings
    host, _, port = url.host.partition(":") if not url.host.startswith("[") else (url.host, "", "")
    if settings.urlauth_host != "*" and host.lower() != settings.urlauth_host.lower():
        raise BadUrlError("Inappropriate host name")
    if (port or "143") != str(settings.urlauth_port):
        raise BadUrlError("Inappropriate server port")
    return url


def _is_over(session: Session, url: ImapUrl) -> bool:
    return url.expire is not None and url.expire <= session.service.clock.time()


def _canonical(session: Session, user: str) -> str | None:
    return session.service.auth.directory.canonical(user)


def _may_read(session: Session, url: ImapUrl, owner: str) -> bool:
    """RFC 4467 §3: who has got a good URL may perhaps not use it."""
    assert session.user is not None
    config = session.service.auth.config
    anonymous = "ANONYMOUS" in config.auth_mechanisms and session.user.name == config.auth_anonymous_username
    kind, plus, who = url.access.partition("+")
    match kind.lower():
        case "anonymous" if not plus:
            return True
        case "authuser" if not plus:
            return not anonymous
        case "submit":
            return False
        case "user" if plus and _canonical(session, who) == session.user.name:
            return not anonymous
        case _:
            return owner == session.user.name


async def _verified(session: Session, url: ImapUrl) -> SharedMailbox:
    """The mailbox, pinned, if the URL's signature is good. Raises `BadUrlError`."""
    if not url.access:
        raise BadUrlError("Missing URLAUTH")
    if url.mechanism != INTERNAL:
        raise BadUrlError("Unsupported URLAUTH mechanism")
    if _is_over(session, url):
        raise BadUrlError("URLAUTH has expired")
    name = _canonical(session, url.user)
    try:
        owner = session.service.lookup(name) if name is not None else None
    except Unavailable as error:
        session.service.log.error(f"imap: URLFETCH: {error}")
        raise BadUrlError("Internal server error") from None
    if owner is None or not tree.exists(owner.mail_root, url.mailbox):
        raise BadUrlError(_FAILED)
    key = urlauth.read(tree.path_of(owner.mail_root, url.mailbox))
    if key is None or not hmac.compare_digest(_token(key, url.rump), url.token):
        raise BadUrlError(_FAILED)
    if not _may_read(session, url, owner.name):
        assert session.user is not None
        raise BadUrlError(f"No '{url.access}' access allowed for user {session.user.name}")
    return await opened(session, owner.mail_root, url)


# ---- what is fetched


async def _fetch(session: Session, text: str, wanted: frozenset[str] | None) -> None:
    """Send one URLFETCH response. Raises `BadUrlError`."""
    url = _checked(session, text)
    box = await _verified(session, url)
    try:
        try:
            data = open_in(box, url.uid)
        except FileNotFoundError:
            raise BadUrlError("Message not found") from None
        head = b"* URLFETCH %b " % astring(text.encode())
        if wanted is None:
            size, pieces = await _octets(data, url)
            session.send(b"%b{%d}\r\n" % (head, size))
            await _send(session, pieces, size)
            session.send(b"\r\n")
            return
        session.send(head + b"(")
        space = b""
        if STRUCTURE in wanted:
            session.send(b"%b %b" % (STRUCTURE.encode(), await asyncio.to_thread(_structure, data, url)))
            space = b" "
        if BODY in wanted:
            size, pieces = await _octets(data, url)
            session.send(b"%bBODY {%d}\r\n" % (space, size))
            await _send(session, pieces, size)
        if BINARY in wanted:
            session.send(b"%bBINARY " % space)
            await _binary(session, data, url)
        session.send(b")\r\n")
    finally:
        session.service.store.unpin(box)


async def _octets(data: Data, url: ImapUrl) -> tuple[int, Iterator[bytes]]:
    """How many octets the URL names, and they. What there is not is empty, as in Dovecot."""
    found = await asyncio.to_thread(locate_in, data, url.section)
    first, most = url.section.partial or (0, None)
    if isinstance(found, bytes):
        text = wire(found)[first:]
        text = text if most is None else text[:most]
        return len(text), iter([text])
    size = max(0, await asyncio.to_thread(wire_size, data, *found) - first)
    size = size if most is None else min(size, most)
    return size, wire_pieces(data, *found, first, size)


async def _send(session: Session, pieces: Iterator[bytes], size: int) -> None:
    """No literal but a binary one may hold a NUL (RFC 3501 §9)."""
    sent = 0
    for piece in pieces:
        session.send(piece.replace(b"\0", b"\x80"))
        sent += len(piece)
        if session.full:
            await session.flush()
    if sent != size:
        raise ConnectionAbortedError("a message has changed while it was sent")


def _part(data: Data, url: ImapUrl) -> Part | None:
    """What BODYPARTSTRUCTURE and BINARY are about: a part, or the message (also its text alone)."""
    section = url.section
    if section.kind not in ("", "TEXT") or (section.kind and section.part):
        return None
    return find_part(parse(data), section.part)


def _structure(data: Data, url: ImapUrl) -> bytes:
    part = _part(data, url)
    return b"NIL" if part is None else body(part, data, extended=True)


async def _binary(session: Session, data: Data, url: ImapUrl) -> None:
    """The content without its transfer encoding (RFC 5524 §3.2); NIL where that cannot be."""
    part = await asyncio.to_thread(_part, data, url)
    header = not url.section.part and not url.section.kind
    if part is None:
        session.send(b"NIL")
        return
    try:
        size = await asyncio.to_thread(lambda: sum(map(len, decoded(part, data, header=header))))
    except (UnknownEncodingError, DamagedError):
        session.send(b"NIL")
        return
    first, most = url.section.partial or (0, None)
    count = max(0, size - first)
    count = count if most is None else min(count, most)
    session.send(b"~{%d}\r\n" % count)
    for piece in decoded(part, data, header=header):
        skipped, first = min(first, len(piece)), max(0, first - len(piece))
        piece = piece[skipped : skipped + count]
        count -= len(piece)
        session.send(piece)
        if session.full:
            await session.flush()
