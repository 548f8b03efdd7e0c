"""The IMAP half of the mailbox service: one session per connection, one file per command group."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailstack.mailbox.imap.service import ImapService
    from mailstack.net.stream import Stream


async def run_imap_session(stream: Stream, service: ImapService) -> None:
    """Serve one connection from greeting to end; the caller closes the stream. Never raises for a peer."""
    # Imported with the first connection: the service listens sooner, and one without IMAP stays smaller.
    from mailstack.mailbox.imap.session import serve

    await serve(stream, service)
