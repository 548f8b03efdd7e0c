"""IDLE (state: authenticated or selected; RFC 2177)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.imap import notify
from mailstack.mailbox.imap.errors import CommandError, Disconnect
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.server import BadCommand, ClientLine

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def idle(session: Session, tag: str, command: c.Plain) -> str:
    """Say what happens until the client sends DONE; no task of its own, no polling."""
    view = session.view
    session.line("+ idling")
    if view is not None:
        view.wake = session.awaken
    try:
        line = await _until_line(session)
    finally:
        if view is not None:
            view.wake = None
        session.connection.resume()
    if line.strip().upper() != b"DONE":
        raise CommandError("BAD Expected DONE")
    return "OK Idle completed."


async def _until_line(session: Session) -> bytes:
    settings = session.service.settings
    clock = session.service.clock
    end = clock.monotonic() + settings.idle_timeout
    while True:
        session.woken = False
        if session.view is not None and session.hears:
            await session.sync(expunge=True)
        await notify.tell(session)
        event = session.connection.next_event()
        if isinstance(event, ClientLine):
            return event.data
        if isinstance(event, BadCommand):
            raise Disconnect("Input buffer full, aborting")
        await session.flush()
        left = end - clock.monotonic()
        if left <= 0:
            raise Disconnect("Disconnected for inactivity.")
        if session.woken:
            continue
        try:
            await session.read(min(left, settings.idle_notify_interval))
        except TimeoutError:
            session.line("* OK Still here")
