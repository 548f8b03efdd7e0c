"""bounce(8): delivery status notifications to the sender (RFC 3462, RFC 3464), in Postfix's words.

A notification is a message of its own from `<>`: an explanation, a delivery-status part, and the original
(its headers only when it is larger than `bounce_size_limit`, or the sender asked for RET=HDRS). Recipients
with NOTIFY=NEVER are not reported (RFC 3461 §4.1).

A message from `<>` never causes one: it goes to `2bounce_notice_recipient` when `notify_classes` names
`2bounce`, from `double_bounce_sender`; mail from that address is thrown away.

Logs `ID: sender non-delivery notification: NEWID`. Raises `OSError` when the notification cannot be queued.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.cleanup import AliasExpansionError, Cleanup, mail_date
from mailstack.mta.deliver.request import Result
from mailstack.mta.rewrite import Rewriter
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Envelope, Message, Queue, Recipient
from mailstack.storage.tables import TableError
from mailstack.wire.smtp import quote

HEADER_LIMIT = 100 * 1024
"""Octets of an original's headers that are returned at the most."""

_TEXT = """\
This is the mail system at host {host}.

I'm sorry to have to inform you that your message could not
be delivered to one or more recipients. It's attached below.

For further assistance, please send mail to postmaster.

If you do so, please include this problem report. You can
delete your own text from the attached returned message.

                   The mail system
"""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Where a notification goes and what it is called."""

    sender: str
    recipient: str
    subject: str
    logged: str


class Bouncer:
    """Notifications under one configuration."""

    def __init__(
        self,
        conf: MainCf,
        queue: Queue,
        commit: GroupCommit,
        rewriter: Rewriter,
        cleanup: Cleanup,
        clock: Clock,
        log: Log,
        wake: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._commit = commit
        self._rewriter = rewriter
        self._cleanup = cleanup
        self._clock = clock
        self._wake = wake
        name = conf.str("syslog_name")
        self._log = log.child(f"{name}/bounce")
        self._cleanup_log = log.child(f"{name}/cleanup")
        self._host = conf.str("myhostname")
        self._mail_name = conf.str("mail_name")
        self._limit = conf.size("bounce_size_limit")
        self._null_name = conf.str("empty_address_recipient")
        self._double = rewriter.complete(conf.str("double_bounce_sender"))
        self._double_recipient = rewriter.complete(conf.str("2bounce_notice_recipient"))
        self._notify_double = "2bounce" in conf.list("notify_classes")

    async def send(self, message: Message, failed: Sequence[Result]) -> None:
        """Report failed recipients; return when the report is durable. Raises `OSError`."""
        recipients = message.envelope.recipients
        reported = [r for r in failed if recipients[r.target.index].notify.upper() != "NEVER"]
        kind = self._kind(message)
        if kind is None or not reported:
            return
        now = self._clock.time()
        queue_id = self._queue.new_id(now)
        parts = self._compose(message, reported, kind, queue_id, now)
        utf8 = not all(part.isascii() for part in parts[:1])
        envelope = Envelope(
            kind.sender,
            self._recipients(message, kind.recipient),
            now,
            queue_id=queue_id,
            body="7bit" if all(part.isascii() for part in parts) else "8bitmime",
            smtputf8=message.envelope.smtputf8 and utf8,
        )
        await self._queue.enqueue(envelope, parts, self._commit)
        self._cleanup_log.info(f"{queue_id}: message-id=<{self._message_id(queue_id, now)}>")
        self._log.info(f"{message.queue_id}: {kind.logged}: {queue_id}")
        self._wake(queue_id)

    def _recipients(self, message: Message, address: str) -> tuple[Recipient, ...]:
        """Whom the notification goes to; virtual_alias_maps apply as to any new mail."""
        try:
            return self._cleanup.recipients([(address, address)])
        except (AliasExpansionError, TableError) as error:
            self._log.warning(f"{message.queue_id}: {error}")
            return (Recipient(address),)

    def _kind(self, message: Message) -> _Kind | None:
        sender = message.envelope.sender
        if sender and sender.lower() == self._double.lower():
            self._log.warning(f"{message.queue_id}: undeliverable postmaster notification discarded")
            return None
        if sender:
            subject = "Undelivered Mail Returned to Sender"
            return _Kind("", sender, subject, "sender non-delivery notification")
        if not self._notify_double:
            return None
        return _Kind(
            self._double,
            self._double_recipient,
            "Postmaster Copy: Undelivered Mail",
            "postmaster non-delivery notification",
        )

    # ---- the message

    def _message_id(self, queue_id: str, now: float) -> str:
        return f"{time.strftime('%Y%m%d%H%M%S', time.gmtime(now))}.{queue_id}@{self._host}"

    def _compose(
        self, message: Message, failed: Sequence[Result], kind: _Kind, queue_id: str, now: float
    ) -> list[bytes]:
        headers_only = message.envelope.size > self._limit or message.envelope.ret.upper() == "HDRS"
        original = self._queue.read_content(message, HEADER_LIMIT if headers_only else None)
        if headers_only:
            original = original.partition(b"\r\n\r\n")[0].rstrip(b"\r\n") + b"\r\n"
        text = _TEXT.format(host=self._host) + self._explain(failed)
        status = self._status(message, failed)
        utf8 = "" if (text + status).isascii() else "utf-8"
        eight_bit = bool(utf8) or not original.isascii()
        encoding = "Content-Transfer-Encoding: 8bit\n" if eight_bit else ""
        boundary = f"{queue_id}.{int(now)}/{self._host}"
        author = self._rewriter.complete(self._null_name)
        head = (
            f"Received: by {self._host} ({self._mail_name})\n\tid {queue_id}; {mail_date(now)}\n"
            f"Date: {mail_date(now)}\n"
            f"From: {quote(author)} (Mail Delivery System)\n"
            f"Subject: {kind.subject}\n"
            f"To: {quote(kind.recipient)}\n"
            "Auto-Submitted: auto-replied\n"
            "MIME-Version: 1.0\n"
            "Content-Type: multipart/report; report-type=delivery-status;\n"
            f'\tboundary="{boundary}"\n'
            f"{encoding}"
            f"Message-Id: <{self._message_id(queue_id, now)}>\n\n"
            "This is a MIME-encapsulated message.\n\n"
            f"--{boundary}\n"
            "Content-Description: Notification\n"
            f"Content-Type: text/plain; charset={utf8 or 'us-ascii'}\n{encoding}\n"
            f"{text}\n"
            f"--{boundary}\n"
            "Content-Description: Delivery report\n"
            f"Content-Type: message/{'global-' if utf8 else ''}delivery-status\n{encoding}\n"
            f"{status}\n"
            f"--{boundary}\n"
            f"Content-Description: Undelivered Message{' Headers' if headers_only else ''}\n"
            f"Content-Type: {'text/rfc822-headers' if headers_only else 'message/rfc822'}\n{encoding}\n"
        )
        end = f"\n--{boundary}--\n"
        return [_crlf(head), original, _crlf(end)]

    def _explain(self, failed: Sequence[Result]) -> str:
        """A paragraph per recipient, folded as Postfix folds it."""
        lines = []
        for result in failed:
            name = f"<{quote(result.target.address)}>"
            if result.target.original and result.target.original != result.target.address:
                name += f" (expanded from <{quote(result.target.original)}>)"
            lines.append("\n" + _fold(f"{name}: {result.outcome.text}", 79, 4))
        return "".join(lines)

    def _status(self, message: Message, failed: Sequence[Result]) -> str:
        """The fields of message/delivery-status (RFC 3464 §2)."""
        envelope = message.envelope
        fields = [f"Reporting-MTA: dns; {self._host}"]
        if envelope.envid:
            fields.insert(0, f"Original-Envelope-Id: {envelope.envid}")
        fields.append(f"X-{self._mail_name}-Queue-ID: {message.queue_id}")
        if envelope.sender:
            fields.append(
                f"X-{self._mail_name}-Sender: {_address_type(envelope.sender)}; {quote(envelope.sender)}"
            )
        fields.append(f"Arrival-Date: {mail_date(envelope.arrival)}")
        for result in failed:
            recipient = envelope.recipients[result.target.index]
            address = result.target.address
            fields.append(f"\nFinal-Recipient: {_address_type(address)}; {quote(address)}")
            if recipient.orcpt:
                fields.append(f"Original-Recipient: {recipient.orcpt.replace(';', '; ', 1)}")
            elif result.target.original:
                original = result.target.original
                fields.append(f"Original-Recipient: {_address_type(original)};{quote(original)}")
            fields += ["Action: failed", f"Status: {result.outcome.dsn}"]
            if result.remote_mta:
                fields.append(f"Remote-MTA: dns; {result.remote_mta}")
            diagnostic = result.diagnostic or f"X-{self._mail_name}; {result.outcome.text}"
            fields.append(_fold(f"Diagnostic-Code: {diagnostic}", 79, 4).rstrip("\n"))
        return "\n".join(fields) + "\n"


def _address_type(address: str) -> str:
    return "rfc822" if address.isascii() else "utf-8"


def _fold(text: str, width: int, indent: int) -> str:
    """Break at spaces so that lines stay within `width`; following lines are indented."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = " " * indent + word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    return "\n".join(lines) + "\n"


def _crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("utf-8", "replace")
