"""What the postmaster is told of an SMTP session that went wrong: its transcript, as smtpd(8) sends it.

`notify_classes` names the classes of errors: `policy` (a restriction said no), `protocol` (the client broke
the protocol), `resource` (no space), `software` (our configuration, or a fault of ours), `data` (a table
could not be read), and `bounce` (what would have bounced). The notice goes to `error_notice_recipient`, for
class `bounce` to `bounce_notice_recipient`, from `double_bounce_sender`. What a client said to AUTH is left
out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.bounce.report import INDENT, fold
from mailstack.mta.cleanup import Cleanup, author, mail_date
from mailstack.mta.rewrite import Rewriter
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Envelope, Queue

if TYPE_CHECKING:
    from mailstack.mta.internal import InternalFilter

CLASSES = frozenset(("bounce", "data", "policy", "protocol", "resource", "software"))
"""The classes that have transcripts."""
NOTIFY_CLASSES = CLASSES | {"2bounce", "delay"}
MAILER = "Mail Delivery System"
"""Whom notices and notifications are from."""
_WIDTH = 78


@dataclass(frozen=True, slots=True)
class Notices:
    """Postmaster notices of one smtpd service."""

    classes: frozenset[str]
    host: str
    mail_name: str
    sender: str
    error_recipient: str
    bounce_recipient: str
    author: str
    """The From: header."""
    to: str
    """The To: header."""
    cleanup: Cleanup
    long_ids: bool
    """Queue ids never repeat, and make Message-IDs alone."""
    filter: InternalFilter | None
    """internal_mail_filter_classes has `notify`."""

    @classmethod
    def read(
        cls, conf: MainCf, rewriter: Rewriter, cleanup: Cleanup, open_table: OpenTable, resolver: Resolver
    ) -> Notices | None:
        """What main.cf says; None where no session is to be reported.

        Raises `ConfigError`, and what a table raises.
        """
        classes = notify_classes(conf) & CLASSES
        if not classes:
            return None
        host = conf.str("myhostname")
        obsolete = conf.str("header_from_format") == "obsolete"
        error_recipient = rewriter.complete(conf.str("error_notice_recipient"))
        return cls(
            classes,
            host,
            conf.str("mail_name"),
            f"{conf.str('double_bounce_sender')}@{host}",
            error_recipient,
            rewriter.complete(conf.str("bounce_notice_recipient")),
            author(MAILER, f"{conf.str('empty_address_recipient')}@{host}", obsolete),
            author("Postmaster", error_recipient, obsolete),
            cleanup,
            conf.bool("enable_long_queue_ids"),
            internal_filter(conf, "notify", cleanup, rewriter, open_table, resolver),
        )

    async def enqueue(
        self, envelope: Envelope, content: bytes, queue: Queue, commit: GroupCommit, log: Log
    ) -> str:
        """Queue a notice: which queue it is in then, `""`: none, nobody is to have it. `log`: cleanup's.

        Raises `OSError` and what tables raise.
        """
        if self.filter is None:
            await queue.enqueue(envelope, (content,), commit)
            return "incoming"
        from mailstack.mta.internal import Refused

        first = envelope.recipients[0]
        given = first.original or first.address
        try:
            return await self.filter.enqueue(envelope, (content,), given, queue, commit, log)
        except Refused:
            return ""

    def envelope(self, errors: Iterable[str], queue_id: str, now: float) -> Envelope:
        """Of a notice of a session with such errors. Raises what `Cleanup.recipients` does."""
        address = self.bounce_recipient if "bounce" in errors else self.error_recipient
        recipients = self.cleanup.recipients([(address, address)])
        return Envelope(self.sender, recipients, now, queue_id=queue_id, body="8bitmime")

    def compose(
        self,
        peer: str,
        history: Sequence[bytes],
        reason: str,
        queue_id: str,
        now: float,
        program: str = "SMTP server",
    ) -> tuple[str, bytes]:
        """(Message-ID, content) of a notice.

        `history`: lines as they came, and replies, which end in CRLF; `reason`: why the session was broken
        off.
        """
        date = mail_date(now)
        stamp = "" if self.long_ids else time.strftime("%Y%m%d%H%M%S.", time.gmtime(now))
        message_id = f"<{stamp}{queue_id}@{self.host}>"
        lines = [
            f"Received: by {self.host} ({self.mail_name})",
            f"\tid {queue_id}; {date}",
            f"Date: {date}",
            f"From: {self.author}",
            f"To: {self.to}",
            f"Subject: {self.mail_name} {program}: errors from {peer}",
            f"Message-Id: {message_id}",
            "",
            "Transcript of session follows.",
            "",
            *transcript(history),
            "",
            *([f"Session aborted, reason: {reason}"] if reason else []),
            "",
            "For other details, see the local mail logfile",
        ]
        return message_id, "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")


def internal_filter(
    conf: MainCf, what: str, cleanup: Cleanup, rewriter: Rewriter, open_table: OpenTable, resolver: Resolver
) -> InternalFilter | None:
    """What mail of our own is put before (internal_mail_filter_classes); nearly always None."""
    if not conf.list("internal_mail_filter_classes"):
        return None
    from mailstack.mta.internal import InternalFilter

    return InternalFilter.load(conf, what, cleanup, rewriter, open_table, resolver)


def notify_classes(conf: MainCf) -> frozenset[str]:
    """What the postmaster wants to be told. Raises `ConfigError` for a class that does not exist."""
    words = conf.list("notify_classes")
    for word in words:
        if word not in NOTIFY_CLASSES:
            raise conf.error("notify_classes", f'unknown value "{word}" in "{" ".join(words)}"')
    return frozenset(words)


def transcript(history: Iterable[bytes]) -> list[str]:
    """The lines of a session, folded, each with who said it."""
    lines: list[str] = []
    for entry in history:
        if entry.endswith(b"\r\n"):
            said = [f"Out: {line}" for line in entry.decode("utf-8", "replace").split("\r\n")[:-1]]
        else:
            said = [f"In:  {_discreet(entry.decode('utf-8', 'replace').rstrip())}"]
        for line in said:
            lines += [f" {part}" for part in fold(_printable(line), _WIDTH, INDENT).splitlines()]
    return lines


def _discreet(line: str) -> str:
    words = line.split(None, 2)
    return f"{words[0]} {words[1]} ..." if len(words) == 3 and words[0].upper() == "AUTH" else line


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in line)
