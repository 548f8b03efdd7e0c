"""One mail transaction: from MAIL FROM to the queue.

Content is held in memory up to `SPOOL_AT` octets and written to the queue's own spool file beyond that. When
`finish` returns an accepting reply the message is durable and qmgr has been woken; a transaction that ends
otherwise leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailstack.mta import flow
from mailstack.mta.smtpd.changes import Changes
from mailstack.mta.cleanup import AliasExpansionError, TooManyHops, received_header
from mailstack.storage.queue import Envelope, Spool
from mailstack.storage.tables import TableError
from mailstack.wire.smtp.command import MailParameters
from mailstack.wire.smtp.reply import Reply

if TYPE_CHECKING:
    from mailstack.mta.smtpd.settings import Settings
    from mailstack.mta.smtpd.worker import Shared

SPOOL_AT = 256 * 1024
"""Octets of one message that are held in memory; every header lies within them."""

TOO_BIG = Reply(552, "5.3.4", "Error: message file too big")
TOO_MANY_HOPS = Reply(554, "5.4.0", "Error: too many hops")
ALIAS_ERROR = Reply(451, "4.6.0", "Alias expansion error")
NO_STORAGE = Reply(452, "4.3.1", "Insufficient system storage")
WRITE_ERROR = Reply(451, "4.3.0", "Error: queue file write error")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sends: for the Received: header, the envelope and the log."""

    client_name: str
    client_address: str
    helo: str
    protocol: str
    sasl_method: str
    sasl_user: str
    tls: str
    """The session in words, `""` in plain text."""
    local: bool
    """The headers are ours to complete."""


class Transaction:
    """One message on its way in."""

    __slots__ = (
        "_failure",
        "_parts",
        "_settings",
        "_changes",
        "_shared",
        "_spool",
        "arrival",
        "eight_bit",
        "held",
        "message_id",
        "parameters",
        "queue_id",
        "recipients",
        "sender",
        "size",
    )

    def __init__(
        self, shared: Shared, settings: Settings, sender: str, parameters: MailParameters, now: float
    ) -> None:
        self._shared = shared
        self._settings = settings
        self.sender = sender
        """As the client gave it, in internal form."""
        self.parameters = parameters
        self.recipients: list[str] = []
        """Accepted recipients, as the client gave them."""
        self.arrival = now
        self.queue_id = ""
        """Empty before the first accepted recipient."""
        self.size = 0
        self.eight_bit = parameters.body == "8BITMIME"
        self.message_id = ""
        self._parts: list[bytes] = []
        self.held = 0
        """Octets held in memory."""
        self._spool: Spool | None = None
        self._failure: Reply | None = None
        self._changes: Changes | None = None

    def name(self) -> str:
        """The queue id; the first call makes it."""
        if not self.queue_id:
            self.queue_id = self._shared.queue.new_id(self.arrival)
        return self.queue_id

    def change(self, action: str, argument: str) -> None:
        """Note what an access table wants to be done to the message."""
        if self._changes is None:
            self._changes = Changes()
        self._changes.note(action, argument)

    def abort(self) -> None:
        """Forget the message."""
        if self._spool is not None:
            self._spool.abort()
            self._spool = None
        self._parts.clear()
        self.held = 0

    def add(self, data: bytes, origin: Origin) -> None:
        """Take content. What goes wrong is told by `finish`."""
        self.size += len(data)
        if not self.eight_bit and not data.isascii():
            self.eight_bit = True
        if self._failure is not None:
            return
        self._parts.append(data)
        self.held += len(data)
        if self.held >= SPOOL_AT:
            self._unload(origin)

    def _unload(self, origin: Origin) -> None:
        """Write what is held to the spool file."""
        try:
            if self._spool is None:
                parts = self._clean(origin)
                self._spool = self._shared.queue.spool(self.arrival, queue_id=self.name())
                self._spool.append(parts)
            else:
                self._spool.append(self._parts)
        except TooManyHops:
            self._failure = TOO_MANY_HOPS
        except OSError as error:
            self._fail(error)
        self._parts.clear()
        self.held = 0

    def _clean(self, origin: Origin) -> list[bytes]:
        """The parts held, with their headers in order. Raises `TooManyHops`."""
        settings = self._settings
        head = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        comments = [f"using {origin.tls}"] if origin.tls and settings.tls_header else []
        if origin.sasl_user and settings.auth_header:
            comments.append(f"Authenticated sender: {origin.sasl_user}")
        received = received_header(
            helo=origin.helo,
            client_name=origin.client_name,
            client_address=origin.client_address,
            comments=comments,
            host=settings.host,
            mail_name=settings.mail_name,
            protocol=origin.protocol,
            queue_id=self.name(),
            recipient=self.recipients[0] if len(self.recipients) == 1 else "",
            now=self.arrival,
        )
        cleaned = settings.cleanup.headers(
            head,
            received=self._changes.prepended + received if self._changes is not None else received,
            queue_id=self.queue_id,
            sender=settings.rewriter.complete(self.sender),
            local=origin.local,
            now=self.arrival,
        )
        self.message_id = cleaned.message_id
        return cleaned.parts

    async def finish(self, origin: Origin, *, too_big: bool) -> Reply:
        """Put the message into the queue; the reply to the dot."""
        if too_big:
            self._shared.log.warning(f"{self.name()}: queue file size limit exceeded")
            return TOO_BIG
        if self._changes is not None and self._changes.discard:
            self.abort()
            return Reply(250, "2.0.0", f"Ok: queued as {self.name()}")
        if flow.behind() and self._settings.in_flow_delay:
            # Not longer: mail is taken more slowly than it can be sent on, but it is taken.
            await asyncio.sleep(self._settings.in_flow_delay)
        if self._failure is None:
            await self._enqueue(origin)
        if self._failure is not None:
            return self._failure
        if self._changes is None or not self._changes.hold:
            self._shared.wake_qmgr(self.queue_id)
        return Reply(250, "2.0.0", f"Ok: queued as {self.queue_id}")

    async def _enqueue(self, origin: Origin) -> None:
        settings, shared = self._settings, self._shared
        complete = settings.rewriter.complete
        try:
            parts = self._parts if self._spool is not None else self._clean(origin)
            shared.cleanup_log.info(f"{self.queue_id}: message-id={self.message_id or '<>'}")
            envelope = Envelope(
                complete(self.sender),
                settings.cleanup.recipients((complete(given), given) for given in self._addressees()),
                self.arrival,
                queue_id=self.queue_id,
                client_name=origin.client_name,
                client_address=origin.client_address,
                helo_name=origin.helo,
                protocol=origin.protocol,
                sasl_method=origin.sasl_method,
                sasl_username=origin.sasl_user,
                body="8bitmime" if self.eight_bit else "7bit",
                smtputf8=self.parameters.smtputf8,
            )
            queue = "hold" if self._changes is not None and self._changes.hold else "incoming"
            if self._spool is None:
                await shared.queue.enqueue(envelope, parts, shared.commit, queue)
            else:
                self._spool.append(parts)
                await self._spool.commit(envelope, shared.commit, queue)
                self._spool = None
        except TooManyHops:
            self._failure = TOO_MANY_HOPS
        except (AliasExpansionError, TableError) as error:
            shared.cleanup_log.warning(f"{self.queue_id}: {error}")
            self._failure = ALIAS_ERROR
        except OSError as error:
            self._fail(error)

    def _addressees(self) -> list[str]:
        """Who gets the message: whom the client has named, and what access tables have made of them."""
        changes = self._changes
        if changes is None:
            return self.recipients
        named = [changes.redirect] if changes.redirect else self.recipients
        return [*named, *changes.bcc]

    def _fail(self, error: OSError) -> None:
        self._shared.log.warning(f"{self.queue_id}: queue file write error: {error.strerror or error}")
        self._failure = NO_STORAGE if error.errno in _FULL else WRITE_ERROR
