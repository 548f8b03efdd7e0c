"""internal_mail_filter_classes: notifications and postmaster notices before header_checks, body_checks and
non_smtpd_milters, as if a local program had sent them.

`InternalFilter.load` gives None where main.cf does not name the class: such mail is queued as it is. What is
refused is not queued, and `Refused` is an OSError, as of a full disk: a notification that cannot be sent is
tried again with its message, a notice is given up. Logs cleanup's lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.cleanup import FILTER, Cleanup, Findings, Origin
from mailstack.mta.cleanup.milter_checks import MilterInspector
from mailstack.mta.lookup import settled
from mailstack.mta.milter import Draft, LocalFilter, Milters, Recipients, load_milters
from mailstack.mta.milter.draft import Body
from mailstack.mta.milter.verdicts import CLOSING
from mailstack.mta.rewrite import Rewriter
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Envelope, Queue

CLASSES = frozenset(("bounce", "notify"))
_RECEIVED = re.compile(rb"Received:[^\r]*\r\n(?:[ \t][^\r]*\r\n)*")


class Refused(OSError):  # noqa: N818 - what has been done
    """Checks or milters do not let mail of our own pass; it has been logged."""


class InternalFilter:
    """What one class of internal mail is put before."""

    __slots__ = ("_cleanup", "_limit", "_milters", "_rewriter")

    def __init__(self, cleanup: Cleanup, rewriter: Rewriter, milters: Milters | None, limit: int) -> None:
        self._cleanup = cleanup
        self._rewriter = rewriter
        self._milters = milters
        self._limit = limit

    @classmethod
    def load(
        cls,
        conf: MainCf,
        what: str,
        cleanup: Cleanup,
        rewriter: Rewriter,
        open_table: OpenTable,
        resolver: Resolver,
    ) -> Self | None:
        """For the class `what`. Raises `ConfigError` and what a table raises."""
        words = conf.list("internal_mail_filter_classes")
        for word in words:
            if word not in CLASSES:
                message = f'unknown value "{word}" in "{" ".join(words)}"'
                raise conf.error("internal_mail_filter_classes", message)
        if what not in words:
            return None
        milters = load_milters(conf, "non_smtpd_milters", open_table, resolver)
        if cleanup.checks is None and milters is None:
            return None
        return cls(cleanup, rewriter, milters, conf.size("message_size_limit"))

    async def enqueue(
        self,
        envelope: Envelope,
        content: Sequence[bytes],
        given: str,
        queue: Queue,
        commit: GroupCommit,
        log: Log,
    ) -> str:
        """Queue a message for `given` (as yet without aliases); the queue's name, `""`: it is thrown away.

        Raises `Refused`, `OSError` and what tables raise.
        """
        origin = Origin("local", envelope.sender, given)
        whole = b"".join(content)
        head, body, found = await settled(lambda: self._checked(whole, envelope, origin, log))
        if found.rejected is not None:
            raise Refused(0, f"refused: {found.rejected}")
        if found.discard:
            return ""
        cleaned = envelope
        envelope = await settled(lambda: self._decided(cleaned, found, given))
        if self._milters is None:
            return await self._stored(envelope, [head, body], found, queue, commit)
        received = _RECEIVED.search(head)
        draft = Draft(
            envelope.queue_id,
            head,
            Body((body,)),
            Recipients(
                self._cleanup,
                self._rewriter,
                envelope.sender,
                envelope.recipients,
                fixed=bool(found.redirect),
            ),
            own=received[0] if received is not None else b"",
            limit=self._limit,
            new_spool=lambda suffix: queue.spool(envelope.arrival, queue_id=envelope.queue_id, suffix=suffix),
            log=log,
        )
        try:
            changed = await self._shown(self._milters, draft, envelope, given, found, log)
            if changed is None:
                return ""
            parts, spool = await draft.assemble(None)
            if spool is None:
                return await self._stored(changed, parts, found, queue, commit)
            name = "hold" if found.hold else "incoming"
            await spool.commit(changed, commit, name)
            return name
        finally:
            draft.close()

    def _checked(
        self, whole: bytes, envelope: Envelope, origin: Origin, log: Log
    ) -> tuple[bytes, bytes, Findings]:
        """The header, the rest, and what has been decided, when the checks have seen them.

        A Date: or a From: that they have taken out is put in again, as into any message without.
        """
        inspector = self._cleanup.inspector(envelope.queue_id, origin, log)
        cleaned = self._cleanup.headers(
            whole,
            received=b"",
            queue_id=envelope.queue_id,
            sender=envelope.sender,
            local=True,
            now=envelope.arrival,
            inspector=inspector,
        )
        *head, body = cleaned.parts
        if inspector is None:
            return b"".join(head), body, Findings()
        return b"".join(head), body + inspector.finish(), inspector.found

    def _decided(self, envelope: Envelope, found: Findings, given: str) -> Envelope:
        if found.filter:
            envelope = replace(envelope, attributes={**envelope.attributes, FILTER: found.filter})
        if found.redirect:
            return replace(envelope, recipients=self._cleanup.redirected(found.redirect, given))
        if found.bcc:
            return replace(envelope, recipients=self._cleanup.add_copies(envelope.recipients, found.bcc))
        return envelope

    async def _shown(
        self, milters: Milters, draft: Draft, envelope: Envelope, given: str, found: Findings, log: Log
    ) -> Envelope | None:
        """The envelope as milters want it, the rest in `found` and `draft`; None: it is to be thrown away.

        Raises `Refused`.
        """
        origin = Origin("localhost[127.0.0.1]", envelope.sender, given)
        if milters.checks is not None:
            draft.inspector = MilterInspector(milters.checks, envelope.queue_id, origin, log)
        looking = LocalFilter(milters, envelope.queue_id, log, waits=False)
        verdict = await looking.look(draft, envelope.sender, [given], origin)
        if draft.inspector is not None:
            checked = draft.inspector.found
            found.hold = found.hold or checked.hold
            if checked.filter:
                envelope = replace(envelope, attributes={**envelope.attributes, FILTER: checked.filter})
        found.hold = found.hold or looking.hold
        if verdict is not None:
            if not verdict.discard:
                raise Refused(0, f"refused: {verdict.reply or CLOSING}")
            return None
        changed = draft.envelope
        return replace(
            envelope,
            sender=changed.sender,
            recipients=changed.recipients,
            ret=changed.ret,
            envid=changed.envid,
            body="8bitmime" if draft.eight_bit else envelope.body,
        )

    async def _stored(
        self, envelope: Envelope, parts: Sequence[bytes], found: Findings, queue: Queue, commit: GroupCommit
    ) -> str:
        name = "hold" if found.hold else "incoming"
        await queue.enqueue(envelope, parts, commit, name)
        return name
