"""One mail transaction: from MAIL FROM to the queue.

Content is held in memory up to `SPOOL_AT` octets and written to the queue's own spool file beyond that. When
`finish` returns an accepting reply the message is durable and qmgr has been woken; a transaction that ends
otherwise leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import errno
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailstack.mta import flow, lines
from mailstack.mta.cleanup import (
    FILTER,
    AliasExpansionError,
    Findings,
    Inspector,
    MapError,
    TooManyHops,
    headers,
    received_header,
)
from mailstack.mta.cleanup import Origin as Sender
from mailstack.mta.cleanup.milter_checks import MilterInspector
from mailstack.mta.dsn import REPLACED
from mailstack.mta.lookup import Pending, settled
from mailstack.mta.milter import Draft, Recipients
from mailstack.mta.milter.draft import Body
from mailstack.mta.milter.verdicts import CLOSING
from mailstack.mta.smtpd.changes import Changes
from mailstack.mta.verp import VERP
from mailstack.storage.queue import Envelope, Recipient, Spool
from mailstack.storage.tables import TableError
from mailstack.wire.smtp.command import MailParameters, RcptParameters
from mailstack.wire.smtp.reply import Reply

if TYPE_CHECKING:
    from mailstack.mta.smtpd.milters import ContentFilter
    from mailstack.mta.smtpd.settings import Settings
    from mailstack.mta.smtpd.worker import Shared

SPOOL_AT = 256 * 1024
"""Octets of one message that are held in memory, or all of a longer header block."""

TOO_BIG = Reply(552, "5.3.4", "Error: message file too big")
TOO_MANY_HOPS = Reply(554, "5.4.0", "Error: too many hops")
ALIAS_ERROR = Reply(451, "4.6.0", "Alias expansion error")
NO_STORAGE = Reply(452, "4.3.1", "Insufficient system storage")
WRITE_ERROR = Reply(451, "4.3.0", "Error: queue file write error")
FAILURES = {
    TOO_BIG: "bounce",
    TOO_MANY_HOPS: "bounce",
    ALIAS_ERROR: "data",
    NO_STORAGE: "resource",
    WRITE_ERROR: "resource",
}
"""The class of error, as notify_classes names them, of each reply that says no to a message."""

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
    port: str = ""


class Transaction:
    """One message on its way in."""

    __slots__ = (
        "_asked",
        "_canonical",
        "_changes",
        "_failure",
        "_head",
        "_inspector",
        "_own",
        "_parts",
        "_settings",
        "_shared",
        "_spool",
        "arrival",
        "eight_bit",
        "held",
        "message_id",
        "parameters",
        "queue_id",
        "recipients",
        "resent_id",
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
        self._asked: dict[str, RcptParameters] | None = None
        self.arrival = now
        self.queue_id = ""
        """Empty before the first accepted recipient."""
        self.size = 0
        self.eight_bit = parameters.body == "8BITMIME"
        self.message_id = self.resent_id = ""
        self._inspector: Inspector | None = None
        """Looks at the content as it comes, where main.cf has checks."""
        self._parts: list[bytes] = []
        self.held = 0
        """Octets held in memory."""
        self._spool: Spool | None = None
        self._failure: Reply | None = None
        self._changes: Changes | None = None
        self._canonical: str | None = None
        self._head = self._own = b""
        """The header block, and our own header in it, where there are milters."""

    def name(self) -> str:
        """The queue id; the first call makes it."""
        if not self.queue_id:
            self.queue_id = self._shared.queue.new_id(self.arrival)
        return self.queue_id

    def ask(self, recipient: str, parameters: RcptParameters) -> None:
        """Note what the client wants to be told of a recipient (RFC 3461); the first wish counts."""
        if self._asked is None:
            self._asked = {}
        self._asked.setdefault(recipient, parameters)

    def change(self, action: str, argument: str) -> None:
        """Note what an access table wants to be done to the message."""
        if self._changes is None:
            self._changes = Changes()
        self._changes.note(action, argument)

    @property
    def discarded(self) -> bool:
        """The message is to be thrown away."""
        return self._changes is not None and self._changes.discard

    def abort(self) -> None:
        """Forget the message."""
        if self._spool is not None:
            self._spool.abort()
            self._spool = None
        self._parts.clear()
        self.held = 0

    def add(self, data: bytes) -> bool:
        """Take content; True when it is time to `unload` it. What goes wrong is told by `finish`."""
        self.size += len(data)
        if not self.eight_bit and not data.isascii():
            self.eight_bit = True
        if self._failure is not None:
            return False
        self._parts.append(data)
        self.held += len(data)
        return self.held >= SPOOL_AT and (self._spool is not None or self._has_headers())

    def _has_headers(self) -> bool:
        """The header block has ended, or is longer than any that is understood."""
        self._parts = [b"".join(self._parts)]
        return self.held >= headers.MOST or headers.whole(self._parts[0])

    async def unload(self, origin: Origin) -> None:
        """Write what is held to the spool file."""
        try:
            if self._spool is None:
                try:
                    parts = self._clean(origin)
                except Pending:
                    parts = await settled(lambda: self._clean(origin))
                self._spool = self._shared.queue.spool(self.arrival, queue_id=self.name())
                self._spool.append(parts)
            else:
                self._spool.append(self._inspected())
        except (TooManyHops, AliasExpansionError, MapError, TableError, OSError) as error:
            self._fail(error)
        self._parts.clear()
        self.held = 0

    def _received_field(self, origin: Origin, queue_id: str) -> bytes:
        """Our Received: field; `queue_id` may be empty."""
        settings = self._settings
        comments = [f"using {origin.tls}"] if origin.tls and settings.tls_header else []
        if origin.sasl_user and settings.auth_header:
            comments.append(f"Authenticated sender: {origin.sasl_user}")
        return received_header(
            helo=origin.helo,
            client_name=origin.client_name,
            client_address=origin.client_address,
            comments=comments,
            host=settings.host,
            mail_name=settings.mail_name,
            protocol=origin.protocol,
            queue_id=queue_id,
            recipient=self.recipients[0] if len(self.recipients) == 1 else "",
            now=self.arrival,
        )

    def _clean(self, origin: Origin) -> list[bytes]:
        """The parts held, with their headers in order. Raises what `Cleanup.headers` raises."""
        settings, cleanup = self._settings, self._settings.cleanup
        head = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if head[:1] in _MAILBOX_LINE and _MAILBOX_LINES.match(head):
            head = _MAILBOX_LINES.sub(_mailbox_lines, head, 1)
        received = self._received_field(origin, self.name())
        if cleanup.checks is not None:
            self._inspector = cleanup.inspector(
                self.queue_id, self._described(origin), self._shared.cleanup_log
            )
        cleaned = cleanup.headers(
            head,
            received=self._changes.prepended + received if self._changes is not None else received,
            queue_id=self.queue_id,
            sender=self._from(),
            local=origin.local,
            now=self.arrival,
            inspector=self._inspector,
        )
        self.message_id, self.resent_id = cleaned.message_id, cleaned.resent_id
        for text in cleaned.warnings:
            self._shared.cleanup_log.warning(f"{self.queue_id}: {text}")
        if settings.milters is not None:
            self._head, self._own = b"".join(cleaned.parts[:-1]), received
        return cleaned.parts

    def _from(self) -> str:
        """The envelope sender, completed and canonical. Asked for once: a table may have to be waited for."""
        if self._canonical is None:
            self._canonical = self._settings.cleanup.sender(self._settings.rewriter.complete(self.sender))
        return self._canonical

    def _described(self, origin: Origin) -> Sender:
        recipient = self.recipients[-1] if self.recipients else ""
        return Sender(
            f"{origin.client_name}[{origin.client_address}]",
            self._from(),
            self._settings.rewriter.complete(recipient),
            origin.protocol if origin.protocol == "SMTP" else "ESMTP",
            origin.helo,
        )

    def _inspected(self) -> list[bytes]:
        """The parts held, the first having been cleaned before."""
        return self._parts if self._inspector is None else [self._inspector.body(b"".join(self._parts))]

    def _decide(self, found: Findings) -> None:
        """Take over what checks of the content have decided."""
        if found.rejected is not None:
            self._failure = found.rejected
            return
        if self._changes is None:
            self._changes = Changes()
        changes = self._changes
        changes.hold = changes.hold or found.hold
        changes.discard = changes.discard or found.discard
        changes.filter = found.filter or changes.filter
        changes.redirect = found.redirect or changes.redirect
        changes.bcc += found.bcc

    async def finish(self, origin: Origin, *, too_big: bool, milters: ContentFilter | None = None) -> Reply:
        """Put the message into the queue; the reply to the dot."""
        if too_big:
            self.announce()
            self._shared.log.warning(f"{self.name()}: queue file size limit exceeded")
            return TOO_BIG
        if self._changes is not None and self._changes.discard:
            self.abort()
            return Reply(250, "2.0.0", f"Ok: queued as {self.name()}")
        if flow.behind() and self._settings.in_flow_delay:
            # Not longer: mail is taken more slowly than it can be sent on, but it is taken.
            await asyncio.sleep(self._settings.in_flow_delay)
        if self._failure is None:
            await self._enqueue(origin, milters)
        if self._failure is not None:
            return self._failure
        if self._changes is None or not (self._changes.hold or self._changes.discard):
            self._shared.wake_qmgr(self.queue_id)
        return Reply(250, "2.0.0", f"Ok: queued as {self.queue_id}")

    async def _enqueue(self, origin: Origin, milters: ContentFilter | None) -> None:
        settings, shared = self._settings, self._shared
        try:
            if self._spool is not None:
                parts = self._inspected()
            else:
                try:
                    parts = self._clean(origin)
                except Pending:
                    parts = await settled(lambda: self._clean(origin))
            if self.resent_id:
                shared.cleanup_log.info(f"{self.queue_id}: resent-message-id={self.resent_id}")
            shared.cleanup_log.info(f"{self.queue_id}: message-id={self.message_id or '<>'}")
            if self._inspector is not None:
                parts = [*parts, self._inspector.finish()]
                self._decide(self._inspector.found)
                if self._failure is not None or (self._changes is not None and self._changes.discard):
                    self.abort()
                    return
            try:
                recipients, replaced = self._expanded()
            except Pending:
                recipients, replaced = await settled(self._expanded)
            sender, ret, envid = self._from(), self.parameters.ret, self.parameters.envid
            if milters is not None:
                draft = self._draft(parts, recipients)
                try:
                    parts = await self._filtered(milters, draft, parts, origin)
                finally:
                    draft.close()
                if self._failure is not None or self.discarded:
                    self.abort()
                    return
                sender, recipients = draft.envelope.sender, draft.envelope.recipients
                ret, envid = draft.envelope.ret, draft.envelope.envid
            attributes = {REPLACED: "\n".join(replaced)} if replaced else {}
            if self.parameters.verp:
                attributes[VERP] = self.parameters.verp
            content_filter = (self._changes is not None and self._changes.filter) or settings.cleanup.filter
            if content_filter:
                attributes[FILTER] = content_filter
            if settings.port_wanted:
                attributes["client_port"] = origin.port
                if origin.local:
                    attributes["rewrite_context"] = "local"
            envelope = Envelope(
                sender,
                recipients,
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
                ret=ret,
                envid=envid,
                attributes=attributes,
            )
            if self._spool is None and (self._changes is None or not self._changes.hold):
                await shared.queue.enqueue(envelope, parts, shared.commit, "incoming", self._expect)
            elif self._spool is None:
                await shared.queue.enqueue(envelope, parts, shared.commit, "hold")
            else:
                self._spool.append(parts)
                held = self._changes is not None and self._changes.hold
                await self._spool.commit(envelope, shared.commit, "hold" if held else "incoming")
                self._spool = None
        except (TooManyHops, AliasExpansionError, MapError, TableError, OSError) as error:
            self._fail(error)

    def _expect(self) -> None:
        self._shared.expect(self.queue_id)

    # ---- milters

    def _draft(self, parts: list[bytes], recipients: tuple[Recipient, ...]) -> Draft:
        """The message as milters see it; a spool file gets the rest of its content first."""
        settings, shared = self._settings, self._shared
        assert settings.milters is not None
        envelope = Recipients(
            settings.cleanup,
            settings.rewriter,
            self._from(),
            recipients,
            ret=self.parameters.ret,
            envid=self.parameters.envid,
            fixed=self._changes is not None and bool(self._changes.redirect),
        )
        if self._spool is not None:
            self._spool.append(parts)
            body = Body((), self._spool, len(self._head))
        else:
            body = Body((b"".join(parts)[len(self._head) :],))
        return Draft(
            self.queue_id,
            self._head,
            body,
            envelope,
            own=self._own,
            limit=settings.message_limit,
            new_spool=lambda suffix: shared.queue.spool(self.arrival, queue_id=self.queue_id, suffix=suffix),
            log=shared.cleanup_log,
        )

    async def _filtered(
        self, milters: ContentFilter, draft: Draft, parts: list[bytes], origin: Origin
    ) -> list[bytes]:
        """Show the message to milters; what is to be written yet. Raises `OSError`."""
        described = self._described(origin)
        checks = self._settings.milters.checks if self._settings.milters is not None else None
        if checks is not None:
            draft.inspector = MilterInspector(checks, self.queue_id, described, self._shared.cleanup_log)
        verdict = await milters.look(draft, described, self._shared.cleanup_log)
        if draft.inspector is not None:
            self._decide(draft.inspector.found)
        if verdict is not None:
            self._failure = CLOSING if verdict.shutdown else verdict.reply
            if self._failure is None:
                self.change("hold" if verdict.hold else "discard", "")
        if self._failure is not None or self.discarded:
            return []
        self.eight_bit = self.eight_bit or draft.eight_bit
        if not draft.changed and self._spool is None:
            return parts
        parts, self._spool = await draft.assemble(self._spool)
        return parts

    def _expanded(self) -> tuple[tuple[Recipient, ...], list[str]]:
        """Who gets the message when the tables have been applied, and what they have replaced."""
        cleanup, changes = self._settings.cleanup, self._changes
        replaced: list[str] = []
        if changes is not None and changes.redirect:
            return cleanup.redirected(changes.redirect, self.recipients[0]), replaced
        complete = self._settings.rewriter.complete
        named = ((complete(given), given) for given in self.recipients)
        recipients = cleanup.recipients(named, self._asked, replaced, copies_for=self._from())
        if changes is not None and changes.bcc:
            recipients = cleanup.add_copies(recipients, changes.bcc)
        return recipients, replaced

    def announce(self) -> None:
        """Log the Message-ID of what is not put into the queue."""
        found = self.message_id or lines.message_id(b"".join(self._parts))
        self._shared.cleanup_log.info(f"{self.name()}: message-id={found}")

    def _fail(self, error: Exception) -> None:
        """Note why the message cannot be taken."""
        if isinstance(error, TooManyHops):
            self.announce()
            self._shared.cleanup_log.warning(f"{self.queue_id}: message rejected: hopcount exceeded")
            self._failure = TOO_MANY_HOPS
        elif isinstance(error, OSError):
            self._shared.log.warning(f"{self.queue_id}: queue file write error: {error.strerror or error}")
            self._failure = NO_STORAGE if error.errno in _FULL else WRITE_ERROR
        else:
            self._shared.cleanup_log.warning(f"{self.queue_id}: {error}")
            self._failure = WRITE_ERROR if isinstance(error, MapError) else ALIAS_ERROR


_MAILBOX_LINE = (b"F", b"f", b">")
_MAILBOX_LINES = re.compile(rb"(?:>*from [^\r]*\r\n)+", re.IGNORECASE)


def _mailbox_lines(found: re.Match[bytes]) -> bytes:
    """Lines of an mbox file in front of the headers become headers, as Postfix has it."""
    return b"".join(b"X-Mailbox-Line: " + line for line in found[0].splitlines(keepends=True))
