"""CAPABILITY NOOP LOGOUT CHECK NAMESPACE ID ENABLE COMPRESS.

State: any (the first four RFC 3501 §6.1, §6.4.1; ID RFC 2971), authenticated (NAMESPACE RFC 2342, ENABLE
RFC 5161, COMPRESS RFC 4978).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mailstack import __version__
from mailstack.mailbox.imap.capability import capabilities
from mailstack.mailbox.imap.errors import CommandError
from mailstack.storage.maildir.roots import Account
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.deflate import Deflate
from mailstack.wire.imap.encode import string

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def capability(session: Session, tag: str, command: c.Plain) -> str:
    session.line("* CAPABILITY " + " ".join(capabilities(session)))
    return "OK Capability completed."


async def noop(session: Session, tag: str, command: c.Plain) -> str:
    return "OK NOOP completed."


async def check(session: Session, tag: str, command: c.Plain) -> str:
    return "OK Check completed."


async def logout(session: Session, tag: str, command: c.Plain) -> str:
    session.leave()
    session.line("* BYE Logging out")
    return "OK Logout completed."


async def identify(session: Session, tag: str, command: c.Id) -> str:
    settings = session.service.settings
    if settings.id_log and command.fields:
        _log_id(session, settings.id_log, command.fields)
    own = {"name": "mailstack", "version": __version__}
    if any(value == "*" for name, value in settings.id_send if name.startswith("os")):
        system = os.uname()
        own |= {"os": system.sysname, "os-version": system.release}
    sent = []
    for name, value in settings.id_send:
        value = own.get(name, "") if value == "*" else value
        sent.append(string(name.encode()) + b" " + (string(value.encode()) if value else b"NIL"))
    session.send(b"* ID %b\r\n" % (b"(%b)" % b" ".join(sent) if sent else b"NIL"))
    return "OK ID completed."


def _log_id(session: Session, wanted: frozenset[str], fields: tuple[tuple[bytes, bytes | None], ...]) -> None:
    """In Dovecot's words; nothing that is not printable gets into the log."""
    said = []
    for name, value in fields:
        key = name.decode("utf-8", "replace")
        if value is not None and ("*" in wanted or key.lower() in wanted):
            said.append(f"{key}={value.decode('utf-8', 'replace')}")
    if not said:
        return
    text = "".join(char if char.isprintable() else "?" for char in ", ".join(said))
    service = session.service
    if session.user is not None:
        service.log.info(f"{session.log_prefix}ID sent: {text}")
    else:
        service.log.info(service.lines.login("imap", f"ID sent: {text}", session.stream, "", "", session.id))


async def enable(session: Session, tag: str, command: c.Enable) -> str:
    """Others than these are passed over (RFC 5161 §3.1)."""
    enabled: list[str] = []
    for name in command.capabilities:
        match name:
            case "CONDSTORE" if not session.condstore or enabled[-1:] == ["QRESYNC"]:
                session.use_condstore()
            case "QRESYNC" if not session.qresync:
                session.qresync = True
                session.use_condstore()
            case "UIDONLY" if not session.uidonly:
                session.uidonly = True
            case "UTF8=ACCEPT" if not session.connection.utf8:
                session.connection.utf8 = True
            case "IMAP4REV2" if not session.rev2:
                name = "IMAP4rev2"
                session.rev2 = session.connection.utf8 = True
            case _:
                continue
        enabled.append(name)
    session.line(" ".join(["* ENABLED", *enabled]))
    return "OK Enabled."


async def compress(session: Session, tag: str, command: c.Compress) -> str:
    """The answer is the last that goes out as it is; what the client sends behind it is compressed."""
    if command.mechanism != "DEFLATE":
        raise CommandError("NO Unknown compression mechanism.")
    if session.deflate is not None:
        raise CommandError("NO [COMPRESSIONACTIVE] COMPRESSION already enabled.")
    session.line(f"{tag} OK Begin compression.")
    await session.flush()
    session.deflate = Deflate()
    session.connection.discard_input()
    return ""


async def namespace(session: Session, tag: str, command: c.Plain) -> str:
    root = session.root
    if not isinstance(root, Account):
        session.line('* NAMESPACE (("" ".")) NIL NIL')
        return "OK Namespace completed."
    found: dict[str, list[bytes]] = {"private": [], "shared": [], "public": []}
    for space in root.told:
        if not space.hidden:
            prefix = session.mailbox(space.fixed)
            prefix = prefix if prefix.startswith((b'"', b"{")) else b'"%b"' % prefix
            found[space.type].append(b'(%b "%b")' % (prefix, space.separator.encode()))
    parts = [b"(%b)" % b"".join(each) if each else b"NIL" for each in found.values()]
    session.send(b"* NAMESPACE %b\r\n" % b" ".join(parts))
    return "OK Namespace completed."
