"""Whom to tell of what became of a message: its sender, the postmaster, or nobody.

The sender gets one notification for the recipients that failed, one for those that are late (once, see
`delay_warning_time`) and one for those that have been delivered, relayed or expanded, as NOTIFY says
(RFC 3461 §4.1): without it failures and delays, `NEVER` nothing. The postmaster gets copies of failures and
delays, with the original's headers, when `notify_classes` names `bounce` or `delay`.

A message from `<>` causes no notification: it goes to `2bounce_notice_recipient` when `notify_classes` names
`2bounce` or `bounce`, from `double_bounce_sender`; mail from that address is thrown away with a warning.

Every notification is a message of its own, durable when a method returns. Logs
`ID: sender non-delivery notification: NEWID` and the like. Raises `OSError` when one cannot be queued.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta import lines as lines_of
from mailstack.mta.bounce.report import Line, Notification, Site, compose, message_id
from mailstack.mta.bounce.template_file import read_templates
from mailstack.mta.bounce.transcript import MAILER, notify_classes
from mailstack.mta.cleanup import AliasExpansionError, Cleanup, MapError, author
from mailstack.mta.cleanup.addresses import rewrite
from mailstack.mta.deliver.apart import copy
from mailstack.mta.deliver.request import Result, Sent
from mailstack.mta.dsn import original_recipient
from mailstack.mta.lookup import settled
from mailstack.mta.rewrite import Rewriter
from mailstack.mta.verp import VERP, verp_sender
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Envelope, Message, Queue, Recipient
from mailstack.storage.tables import TableError

if TYPE_CHECKING:
    from mailstack.mta.internal import InternalFilter

HEADER_LIMIT = 100 * 1024
"""Octets of an original's headers that are returned at the most."""
MOST_TOKENS = 10_240
"""Words of a template's From: header that are looked at (header_address_token_limit's default)."""
LARGE = 256 * 1024
"""Octets from which on an original is copied piece by piece."""


class _Whom(NamedTuple):
    """A receiver of a notification; `postmaster`: it gets the short form."""

    address: str
    postmaster: bool


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
        internal: InternalFilter | None = None,
    ) -> None:
        self._internal = internal
        """internal_mail_filter_classes has `bounce`."""
        self._queue = queue
        self._commit = commit
        self._cleanup = cleanup
        self._clock = clock
        self._wake = wake
        name = conf.str("syslog_name")
        self._log = log.child(f"{name}/bounce")
        self._cleanup_log = log.child(f"{name}/cleanup")
        host = conf.str("myhostname")
        null_name = conf.str("empty_address_recipient")
        self._site = Site(
            host,
            conf.str("mail_name"),
            author(MAILER, rewriter.complete(null_name), conf.str("header_from_format") == "obsolete"),
            conf.bool("smtputf8_enable"),
        )
        self._null_sender = f"{null_name}@{host}"
        self._double = f"{conf.str('double_bounce_sender')}@{host}"
        self._limit = conf.size("bounce_size_limit")
        self._long_ids = conf.bool("enable_long_queue_ids")
        self._threaded = conf.bool("enable_threaded_bounces")
        self._verp = not conf.bool("disable_verp_bounces")
        self._templates = {
            kind: replace(template, author=_completed(template.author, rewriter))
            for kind, template in read_templates(conf, self._log.warning).items()
        }
        self._lifetime = conf.time("maximal_queue_lifetime")
        classes = notify_classes(conf)

        def notified(parameter: str, *names: str) -> str:
            """Where the postmaster's copies go; "" for none."""
            return "" if classes.isdisjoint(names) else rewriter.complete(conf.str(parameter))

        self._bounces = notified("bounce_notice_recipient", "bounce")
        self._double_bounces = notified("2bounce_notice_recipient", "2bounce", "bounce")
        self._delays = notified("delay_notice_recipient", "delay")

    # ---- what happened

    async def send(self, message: Message, failed: Sequence[Result]) -> None:
        """Recipients have failed for good."""
        lines = [self._line(message, result, "failed") for result in failed]
        envelope = message.envelope
        if not envelope.sender:
            if self._double_bounces:
                whom = _Whom(self._double_bounces, True)
                await self._send(message, "failure", whom, lines, self._whole(message))
            return
        if envelope.sender.lower() == self._double.lower():
            self._log.warning(f"{message.queue_id}: undeliverable postmaster notification discarded")
            return
        reported = [line for line in lines if not line.notify or "FAILURE" in line.notify]
        verp = envelope.attributes.get(VERP, "") if envelope.attributes and self._verp else ""
        if verp:
            # Each to the address that he was written from.
            for line in lines:
                if line in reported:
                    sender = verp_sender(verp, envelope.sender, line.original or line.address)
                    await self._send(message, "failure", _Whom(sender, False), [line], self._whole(message))
                if self._bounces:
                    await self._send(message, "failure", _Whom(self._bounces, True), [line], whole=False)
            return
        if reported:
            whom = _Whom(envelope.sender, False)
            await self._send(message, "failure", whom, reported, self._whole(message))
        if self._bounces:
            await self._send(message, "failure", _Whom(self._bounces, True), lines, whole=False)

    async def warn(self, message: Message, late: Sequence[Result]) -> None:
        """Recipients have not been reached for `delay_warning_time`."""
        sender = message.envelope.sender
        if not sender or sender.lower() == self._double.lower():
            return
        until = message.envelope.arrival + self._lifetime
        lines = [self._line(message, result, "delayed", until) for result in late]
        reported = [line for line in lines if not line.notify or "DELAY" in line.notify]
        if reported:
            await self._send(message, "delay", _Whom(sender, False), reported, whole=False)
        if self._delays:
            await self._send(message, "delay", _Whom(self._delays, True), lines, whole=False)

    async def confirm(self, message: Message, sent: Sequence[Result], expanded: str) -> None:
        """Recipients with NOTIFY=SUCCESS have been delivered, or (confirm_delay_cleared) some that were late;
        `expanded` is the attribute `REPLACED`."""
        sender = message.envelope.sender
        name = self._site.mail_name
        lines = [_expanded(record, name) for record in expanded.split("\n") if record]
        for result in sent:
            assert isinstance(result.outcome, Sent)
            # What the next MTA would tell of is told here where the sender knows of a delay.
            lines.append(self._line(message, result, result.outcome.action or "relayed"))
        if sender and lines:
            await self._send(message, "success", _Whom(sender, False), lines, whole=False)

    async def verified(self, message: Message, found: Sequence[Result]) -> None:
        """Somebody has asked what would become of a message (sendmail -bv)."""
        lines = []
        for result in found:
            sent = isinstance(result.outcome, Sent)
            line = self._line(message, result, "deliverable" if sent else "undeliverable")
            if result.relay != "none" and not sent:
                line = replace(line, text=f"delivery via {result.relay}: {line.text}")
            if "[" not in result.relay:
                line = replace(line, diagnostic=f"X-{self._site.mail_name}; {line.text}")
            elif sent:
                remote = result.relay.partition("[")[0]
                line = replace(line, remote_mta=remote, diagnostic=f"smtp; {result.outcome.text}")
            lines.append(line)
        if message.envelope.sender and lines:
            await self._send(message, "verify", _Whom(message.envelope.sender, False), lines, whole=False)

    # ---- one notification

    async def _send(
        self, message: Message, kind: str, whom: _Whom, lines: Sequence[Line], whole: bool
    ) -> None:
        """Put a notification into the queue. `whole`: with all of the original."""
        envelope = message.envelope
        internal = self._internal  # what is looked at is in memory; bounce_size_limit bounds it
        large = whole and envelope.size > LARGE and internal is None
        now = self._clock.time()
        queue_id = self._queue.new_id(now)
        stamp = "" if self._long_ids else time.strftime("%Y%m%d%H%M%S", time.gmtime(now))
        template = self._templates[kind]
        if not whom.postmaster:
            for text in template.warnings:
                self._log.warning(text)
        notification = Notification(
            template,
            "" if whom.postmaster else template.text,
            template.postmaster_subject if whom.postmaster else template.subject,
            whom.address,
            "auto-generated" if whom.postmaster else "auto-replied",
            queue_id,
            now,
            envelope,
            envelope.sender or self._null_sender,
            lines,
            b"" if large else self._original(message, whole),
            not whole,
            self._thread(message) if self._threaded else "",
        )
        parts = compose(self._site, notification, stamp)
        eight_bit = (large and envelope.body == "8bitmime") or not all(part.isascii() for part in parts)
        report = Envelope(
            self._double if whom.postmaster else "",
            await self._recipients(message, whom.address, needed=kind == "failure" and not whom.postmaster),
            now,
            queue_id=queue_id,
            body="8bitmime" if eight_bit or self._site.utf8 else "7bit",
            smtputf8=envelope.smtputf8,
        )
        where = "incoming"
        if internal is not None:
            try:
                where = await internal.enqueue(
                    report, parts, whom.address, self._queue, self._commit, self._cleanup_log
                )
            except (AliasExpansionError, MapError, TableError) as error:
                raise OSError(0, str(error)) from None
        elif large:
            await self._spool(report, message, parts[0], parts[-1])
        else:
            await self._queue.enqueue(report, parts, self._commit)
        if where:
            self._cleanup_log.info(f"{queue_id}: message-id=<{message_id(queue_id, stamp, self._site.host)}>")
        logged = template.postmaster_log if whom.postmaster else template.sender_log
        self._log.info(f"{envelope.queue_id}: {logged}: {queue_id}")
        if where == "incoming":
            self._wake(queue_id)

    async def _spool(self, report: Envelope, message: Message, head: bytes, tail: bytes) -> None:
        """Put a notification with a large original between `head` and `tail` into the queue."""
        spool = self._queue.spool(report.arrival, queue_id=report.queue_id)
        try:
            spool.append((head,))
            await copy(self._queue, message, spool)
            spool.append((tail,))
        except BaseException:
            spool.abort()
            raise
        await spool.commit(report, self._commit)

    async def _recipients(self, message: Message, address: str, *, needed: bool) -> tuple[Recipient, ...]:
        """Whom the notification goes to; virtual_alias_maps apply as to any new mail.

        `needed`: it waits for tables that cannot be asked for now. Sent to an address that only they know, it
        would be lost. Raises `OSError` then.
        """
        try:
            return await settled(lambda: self._cleanup.recipients([(address, address)]))
        except (AliasExpansionError, MapError, TableError) as error:
            if needed and not isinstance(error, AliasExpansionError):
                raise OSError(0, str(error)) from None
            self._log.warning(f"{message.queue_id}: {error}")
            return (Recipient(address),)

    def _thread(self, message: Message) -> str:
        """The original's Message-ID; empty where it has none."""
        found = lines_of.message_id(self._queue.read_content(message, HEADER_LIMIT))
        return "" if found == "<>" else found

    def _whole(self, message: Message) -> bool:
        """Whether the sender gets all of the original back (RFC 3461 §4.3: RET is about failures only)."""
        return message.envelope.size <= self._limit and message.envelope.ret != "HDRS"

    def _original(self, message: Message, whole: bool) -> bytes:
        content = self._queue.read_content(message, None if whole else HEADER_LIMIT)
        return content if whole else content.partition(b"\r\n\r\n")[0].rstrip(b"\r\n") + b"\r\n"

    # ---- one recipient

    def _line(self, message: Message, result: Result, action: str, until: float = 0.0) -> Line:
        target, outcome = result.target, result.outcome
        recipient = message.envelope.recipients[target.index]
        text, remote, diagnostic = outcome.text, result.remote_mta, result.diagnostic
        if isinstance(outcome, Sent):
            text = f"delivery via {result.relay}: {outcome.report or outcome.text}"
            if action == "relayed" and "[" in result.relay:
                remote, diagnostic = result.relay.partition("[")[0], f"smtp; {outcome.text}"
        return Line(
            target.address,
            target.original,
            original_recipient(recipient.orcpt, recipient.original or recipient.address),
            action,
            outcome.dsn,
            text,
            remote,
            diagnostic or f"X-{self._site.mail_name}; {text}",
            recipient.notify,
            until,
        )


def _completed(author: str, rewriter: Rewriter) -> str:
    """A From: header with complete addresses."""
    found = rewrite(f" {author}", rewriter.complete, MOST_TOKENS) if author else None
    return author if found is None else found.strip().replace("\n", "")


def _expanded(record: str, mail_name: str) -> Line:
    """A recipient that virtual aliases have replaced (`dsn.REPLACED`)."""
    address, _, orcpt = record.partition("\t")
    text = "alias expanded"
    return Line(address, "", orcpt, "expanded", "2.0.0", text, "", f"X-{mail_name}; {text}", "SUCCESS")
