"""pickup(8): takes what local programs have left in maildrop/ into the queue. A task of the queue manager.

A file counts when its mode says that it is complete (`postdrop.READY`). It is checked: a regular file of our
own account, in the queue file's format, not over `message_size_limit`; what fails goes to corrupt/ with a
warning. What passes is cleaned as mail from the network is (headers completed, Bcc removed, aliases
expanded), made durable in incoming/ under a queue id of its own, and only then removed: a crash in between
delivers it twice, and never loses it. A message that loops goes back to its sender. One that cannot be taken
now (a table that cannot be read, a full disk) stays where it is until the next look.

There is a look when sendmail has left something, every `wakeup` seconds of the pickup line in master.cf, and
at start; without that line nothing is taken. Unfinished files are removed when they are a day old.

Logs `postfix/pickup[…]: ID: uid=UID from=<SENDER>` and cleanup's line.
"""

from __future__ import annotations

import asyncio
import math
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mailstack.config.postfix import MainCf, MasterService
from mailstack.mta import lines
from mailstack.mta.cleanup import (
    FILTER,
    AliasExpansionError,
    Cleaned,
    Cleanup,
    Findings,
    Inspector,
    MapError,
    Origin,
    TooManyHops,
    headers,
    mail_date,
)
from mailstack.mta.cleanup.milter_checks import MilterInspector
from mailstack.mta.deliver.request import Bounced, Result, Target
from mailstack.mta.lookup import settled
from mailstack.mta.milter import Draft, LocalFilter, Milters, Recipients, load_milters
from mailstack.mta.milter.draft import Body
from mailstack.mta.milter.verdicts import CLOSING
from mailstack.mta.postdrop import FULL_NAME, READY, REWRITE_CONTEXT, UID
from mailstack.mta.rewrite import Rewriter
from mailstack.mta.submission import HEADER_LIMIT
from mailstack.mta.verify import PROBE, USER
from mailstack.mta.verp import VERP
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import DamagedFile, Envelope, Message, Queue, Recipient, Spool
from mailstack.storage.tables import Opener, TableError
from mailstack.wire.smtp import quote
from mailstack.wire.smtp.command import RcptParameters
from mailstack.wire.smtp.reply import Reply

STALE = 86400.0
"""Seconds after which a file that was never finished is removed."""
TOGETHER = 16
"""Files taken at once, which share their flushes."""
COPY = 256 * 1024
"""Octets copied at once."""

Bouncing = Callable[[Message, Sequence[Result]], Awaitable[None]]
"""Reports failed recipients to the sender; returns when the report is durable."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The pickup line of master.cf under one main.cf."""

    wakeup: int
    """Seconds between two looks; 0: only when told."""
    host: str
    mail_name: str
    size_limit: int
    rewriter: Rewriter
    cleanup: Cleanup
    milters: Milters | None
    """None: there are none."""
    detect_utf8: bool
    """Mail with addresses or headers outside ASCII asks for SMTPUTF8 (RFC 6531)."""

    @classmethod
    def read(
        cls,
        conf: MainCf,
        services: Sequence[MasterService],
        cleanup: Cleanup,
        open_table: Opener,
        resolver: Resolver,
    ) -> Settings | None:
        """None where master.cf has no pickup. Raises `ConfigError`, `TableError`, `OSError`."""
        for service in services:
            if service.command == "pickup":
                if service.overrides:
                    conf = conf.with_overrides(service.overrides, service.origin)
                rewriter = Rewriter(conf, open_table)
                return cls(
                    service.wakeup,
                    conf.str("myhostname"),
                    conf.str("mail_name"),
                    conf.size("message_size_limit"),
                    rewriter,
                    Cleanup(conf, rewriter, open_table) if service.overrides else cleanup,
                    load_milters(conf, "non_smtpd_milters", open_table, resolver),
                    _detects_utf8(conf),
                )
        return None


def _needs_utf8(sender: str, recipients: Sequence[Recipient], headers: Sequence[bytes]) -> bool:
    return not (
        sender.isascii()
        and all(recipient.address.isascii() for recipient in recipients)
        and all(block.isascii() for block in headers)
    )


def _detects_utf8(conf: MainCf) -> bool:
    """Whether smtputf8_autodetect_classes has mail of local programs. Raises `ConfigError`."""
    words = {word.lower() for word in conf.list("smtputf8_autodetect_classes")}
    if words - {"sendmail", "verify"}:
        unknown = ", ".join(sorted(words - {"sendmail", "verify"}))
        raise conf.error("smtputf8_autodetect_classes", f"only sendmail counts here, not {unknown}")
    return conf.bool("smtputf8_enable") and "sendmail" in words


class Pickup:
    def __init__(
        self,
        queue: Queue,
        commit: GroupCommit,
        clock: Clock,
        log: Log,
        tasks: TaskSet,
        new_mail: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._commit = commit
        self._clock = clock
        self._log = log.child("postfix/pickup")
        self._cleanup_log = log.child("postfix/cleanup")
        self._tasks = tasks
        self._new_mail = new_mail
        self._settings: Settings | None = None
        self._bounce: Bouncing | None = None
        self._looking = False
        self._again = False
        self._next = 0.0

    def configure(self, settings: Settings | None, bounce: Bouncing, syslog_name: str) -> None:
        """Use another configuration from the next message on."""
        self._settings, self._bounce = settings, bounce
        self._log.tag = f"{syslog_name}/pickup"
        self._cleanup_log.tag = f"{syslog_name}/cleanup"
        self._next = 0.0

    def tick(self) -> None:
        """Look when the wake-up time has come, and once under each configuration."""
        settings = self._settings
        if settings is not None and self._clock.monotonic() >= self._next:
            self.wake()

    def wake(self) -> None:
        """Look into maildrop/ now, or once more when a look is under way."""
        if self._settings is None:
            return
        self._next = self._clock.monotonic() + (self._settings.wakeup or math.inf)
        self._again = True
        if not self._looking:
            self._looking = True
            self._tasks.start(self._look(), "pickup")

    async def _look(self) -> None:
        try:
            while self._again:
                self._again = False
                names = sorted(self._queue.names("maildrop"))
                for start in range(0, len(names), TOGETHER):
                    await asyncio.gather(*(self._take(name) for name in names[start : start + TOGETHER]))
        finally:
            self._looking = False

    # ---- one file

    async def _take(self, name: str) -> None:
        """Take one file; problems are logged, never raised."""
        settings = self._settings
        try:
            if settings is not None and self._acceptable(name):
                message = self._queue.read("maildrop", name)
                if settings.size_limit and message.envelope.size > settings.size_limit:
                    raise DamagedFile("queue file size limit exceeded")
                await self._enqueue(settings, message)
                os.unlink(self._queue.path("maildrop", name))
        except FileNotFoundError:
            pass  # withdrawn meanwhile
        except DamagedFile as error:
            self._set_aside(name, str(error))
        except (AliasExpansionError, MapError, TableError) as error:
            self._cleanup_log.warning(f"maildrop/{name}: {error}")
        except OSError as error:
            self._log.warning(f"maildrop/{name}: {error.strerror or error}")
        except Exception as error:
            # A fault of ours: the file stays, and the others go on.
            self._log.exception(f"maildrop/{name}", error)

    def _acceptable(self, name: str) -> bool:
        """Whether a file is complete. Raises `DamagedFile` for what no program of ours leaves."""
        path = self._queue.path("maildrop", name)
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            raise DamagedFile("not a regular file")
        if found.st_uid != os.geteuid():
            raise DamagedFile(f"it belongs to uid {found.st_uid}")
        if found.st_nlink != 1:
            raise DamagedFile(f"it has {found.st_nlink} links")
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o077:
            raise DamagedFile(f"mode {mode:04o}: others may use it")
        if mode == READY:
            return True
        if self._clock.time() - found.st_mtime > STALE:
            os.unlink(path)
            self._log.warning(f"maildrop/{name}: removed: it was never finished")
        return False

    def _set_aside(self, name: str, reason: str) -> None:
        self._log.warning(f"{name}: damaged queue file in maildrop: {reason}; saved in corrupt")
        try:
            self._queue.move(name, "maildrop", "corrupt")
        except OSError as error:
            self._log.warning(f"{name}: move to corrupt: {error.strerror or error}")

    async def _enqueue(self, settings: Settings, message: Message) -> None:
        """Put a message into incoming/, or send it back; maildrop/ need not keep it any longer then."""
        given = message.envelope
        complete = settings.rewriter.complete
        cleanup = settings.cleanup
        sender = await settled(lambda: cleanup.sender(complete(given.sender)))
        uid = given.attributes.get(UID, "unknown")
        queue_id = self._queue.new_id(self._clock.time())
        self._log.info(f"{queue_id}: uid={uid} from=<{quote(given.sender)}>")
        stamp = mail_date(given.arrival)
        received = (
            f"Received: by {settings.host} ({settings.mail_name}, from userid {uid})\r\n"
            f"\tid {queue_id}; {stamp}\r\n"
        )
        last = complete(given.recipients[-1].address) if given.recipients else ""
        inspector: Inspector | None = None

        head = self._queue.read_content(message, HEADER_LIMIT)
        if len(head) < given.size and not headers.whole(head):
            head = self._queue.read_content(message, headers.MOST)

        def clean() -> Cleaned:
            nonlocal inspector
            inspector = cleanup.inspector(queue_id, Origin("local", sender, last), self._cleanup_log)
            return cleanup.headers(
                head,
                received=received.encode("utf-8", "replace"),
                queue_id=queue_id,
                sender=sender,
                local=given.attributes.get(REWRITE_CONTEXT) != "remote",
                now=given.arrival,
                full_name=given.attributes.get(FULL_NAME, "") if sender else "",
                inspector=inspector,
            )

        try:
            cleaned = await settled(clean)
        except TooManyHops:
            message.envelope = replace(given, sender=sender, queue_id=queue_id)
            await self._report(message, Bounced("too many hops", "5.4.0"))
            return
        for text in cleaned.warnings:
            self._cleanup_log.warning(f"{queue_id}: {text}")
        if cleaned.resent_id:
            self._cleanup_log.info(f"{queue_id}: resent-message-id={cleaned.resent_id}")
        self._cleanup_log.info(f"{queue_id}: message-id={cleaned.message_id or '<>'}")
        recipients = await settled(
            lambda: cleanup.recipients(
                [(complete(entry.address), entry.address) for entry in given.recipients],
                {entry.address: RcptParameters(entry.notify) for entry in given.recipients if entry.notify},
                copies_for=sender,
            )
        )
        envelope = Envelope(
            sender,
            recipients,
            given.arrival,
            smtputf8=settings.detect_utf8 and _needs_utf8(sender, recipients, cleaned.parts[:-1]),
            queue_id=queue_id,
            body=given.body,
            ret=given.ret,
            envid=given.envid,
            attributes=_attributes(given, cleanup),
        )
        try:
            if settings.milters is not None and PROBE not in given.attributes:
                found = await self._filter(
                    settings, settings.milters, message, envelope, cleaned, len(head), inspector, received
                )
            elif given.size > len(head):
                found = await self._copy(message, envelope, cleaned.parts, len(head), inspector, cleanup)
            else:
                end = [inspector.finish()] if inspector is not None else []
                found, envelope = await settled(partial(_decided, cleanup, envelope, inspector))
                if not found.discard:
                    queue = "hold" if found.hold else "incoming"
                    await self._queue.enqueue(envelope, [*cleaned.parts, *end], self._commit, queue)
        except _Later as later:
            raise OSError(0, f"message not accepted: {later.reply}") from None
        except _Rejected as rejected:
            message.envelope = replace(given, sender=sender, queue_id=queue_id)
            await self._report(message, Bounced(rejected.reply.text, rejected.reply.dsn))
            return
        if not found.discard and not found.hold:
            self._new_mail(queue_id)

    async def _copy(
        self,
        message: Message,
        envelope: Envelope,
        parts: Sequence[bytes],
        start: int,
        inspector: Inspector | None,
        cleanup: Cleanup,
    ) -> Findings:
        """A large message, piece by piece: `parts` for its first `start` octets, then the rest.

        What was decided about it. Raises `OSError`, `_Rejected`.
        """
        spool = await self._spooled(message, envelope, parts, start, inspector)
        try:
            found, envelope = await settled(partial(_decided, cleanup, envelope, inspector))
        except BaseException:
            spool.abort()
            raise
        if found.discard:
            spool.abort()
        else:
            await spool.commit(envelope, self._commit, "hold" if found.hold else "incoming")
        return found

    async def _spooled(
        self,
        message: Message,
        envelope: Envelope,
        parts: Sequence[bytes],
        start: int,
        inspector: Inspector | None,
    ) -> Spool:
        """The content in a spool file: `parts` for its first `start` octets, then the rest."""
        spool = self._queue.spool(envelope.arrival, queue_id=envelope.queue_id)
        try:
            spool.append(parts)
            with os.fdopen(self._queue.open_content(message), "rb") as file:
                file.seek(start, os.SEEK_CUR)
                left = message.envelope.size - start
                while left > 0 and (piece := file.read(min(left, COPY))):
                    left -= len(piece)
                    spool.append((piece if inspector is None else inspector.body(piece),))
                    await asyncio.sleep(0)
            if inspector is not None:
                spool.append((inspector.finish(),))
        except BaseException:
            spool.abort()
            raise
        return spool

    async def _filter(
        self,
        settings: Settings,
        milters: Milters,
        message: Message,
        envelope: Envelope,
        cleaned: Cleaned,
        start: int,
        inspector: Inspector | None,
        received: str,
    ) -> Findings:
        """The same for a message that milters look at first. Raises `OSError`, `_Rejected`, `_Later`."""
        spool: Spool | None = None
        head = b"".join(cleaned.parts[:-1])
        if message.envelope.size > start:
            spool = await self._spooled(message, envelope, cleaned.parts, start, inspector)
            body = Body((), spool, len(head))
        else:
            end = inspector.finish() if inspector is not None else b""
            body = Body((cleaned.parts[-1], end))
        draft: Draft | None = None
        try:
            found, envelope = await settled(partial(_decided, settings.cleanup, envelope, inspector))
            if not found.discard:
                draft = self._draft(settings, envelope, head, body, received, fixed=bool(found.redirect))
                envelope = await self._show(settings, milters, message, envelope, draft, found)
            if not found.discard:
                assert draft is not None
                parts, spool = await draft.assemble(spool)
                queue = "hold" if found.hold else "incoming"
                if spool is None:
                    await self._queue.enqueue(envelope, parts, self._commit, queue)
                else:
                    await spool.commit(envelope, self._commit, queue)
        finally:
            if draft is not None:
                draft.close()
            if spool is not None:
                spool.abort()  # harmless when it has been taken
        return found

    def _draft(
        self, settings: Settings, envelope: Envelope, head: bytes, body: Body, received: str, *, fixed: bool
    ) -> Draft:
        queue = self._queue
        return Draft(
            envelope.queue_id,
            head,
            body,
            Recipients(
                settings.cleanup,
                settings.rewriter,
                envelope.sender,
                envelope.recipients,
                ret=envelope.ret,
                envid=envelope.envid,
                fixed=fixed,
            ),
            own=received.encode("utf-8", "replace"),
            limit=settings.size_limit,
            new_spool=lambda suffix: queue.spool(envelope.arrival, queue_id=envelope.queue_id, suffix=suffix),
            log=self._cleanup_log,
        )

    async def _show(
        self,
        settings: Settings,
        milters: Milters,
        message: Message,
        envelope: Envelope,
        draft: Draft,
        found: Findings,
    ) -> Envelope:
        """Show a message to the milters; the envelope as they want it, the rest in `found` and `draft`.

        Raises `_Rejected` and `_Later`.
        """
        complete = settings.rewriter.complete
        given = [complete(entry.address) for entry in message.envelope.recipients]
        origin = Origin("localhost[127.0.0.1]", envelope.sender, given[-1] if given else "")
        if milters.checks is not None:
            draft.inspector = MilterInspector(milters.checks, envelope.queue_id, origin, self._cleanup_log)
        looking = LocalFilter(milters, envelope.queue_id, self._cleanup_log)
        verdict = await looking.look(draft, envelope.sender, given, origin)
        if draft.inspector is not None:
            checked = draft.inspector.found
            found.hold = found.hold or checked.hold
            found.discard = found.discard or checked.discard
            if checked.filter:
                envelope = replace(envelope, attributes={**envelope.attributes, FILTER: checked.filter})
        found.hold = found.hold or looking.hold
        if verdict is not None and verdict.discard:
            found.discard = True
        elif verdict is not None:
            reply = CLOSING if verdict.shutdown else verdict.reply
            assert reply is not None
            raise _Later(reply) if reply.transient else _Rejected(reply)
        changed = draft.envelope
        return replace(
            envelope,
            sender=changed.sender,
            recipients=changed.recipients,
            ret=changed.ret,
            envid=changed.envid,
            body="8bitmime" if draft.eight_bit else envelope.body,
        )

    async def _report(self, message: Message, outcome: Bounced) -> None:
        """Send a message back. Raises `OSError`."""
        assert self._bounce is not None, "configure() comes first"
        envelope = message.envelope
        results = [
            Result(Target(index, entry.address), outcome) for index, entry in enumerate(envelope.recipients)
        ]
        stages = (max(0.0, self._clock.time() - envelope.arrival), 0.0, 0.0, 0.0)
        for result in results:
            self._cleanup_log.info(lines.delivery(envelope.queue_id, result, stages))
        await self._bounce(message, results)


class _Rejected(Exception):  # noqa: N818 - carries a reply
    """Checks of the content say no."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


class _Later(_Rejected):
    """Milters say no for now."""


def _attributes(given: Envelope, cleanup: Cleanup) -> dict[str, str]:
    """A question (sendmail -bv) goes the way that mail would go behind a content filter."""
    if PROBE in given.attributes:
        return {PROBE: USER}
    kept = {VERP: given.attributes[VERP]} if VERP in given.attributes else {}
    return kept | ({FILTER: cleanup.filter} if cleanup.filter else {})


def _given(envelope: Envelope) -> str:
    """The first recipient as he was given."""
    first = envelope.recipients[0] if envelope.recipients else None
    return first.original or first.address if first is not None else ""


def _decided(cleanup: Cleanup, envelope: Envelope, inspector: Inspector | None) -> tuple[Findings, Envelope]:
    """What checks have decided, and the envelope as they want it. Raises `_Rejected`."""
    found = inspector.found if inspector is not None else Findings()
    if found.rejected is not None:
        raise _Rejected(found.rejected)
    if found.filter:
        envelope = replace(envelope, attributes={**envelope.attributes, FILTER: found.filter})
    if found.redirect:
        envelope = replace(envelope, recipients=cleanup.redirected(found.redirect, _given(envelope)))
    elif found.bcc:
        envelope = replace(envelope, recipients=cleanup.add_copies(envelope.recipients, found.bcc))
    return found, envelope
