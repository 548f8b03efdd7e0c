"""What the postmaster is told of sessions in which a server and our client did not understand each other.

`notify_classes = protocol`: a server has said 500 to 509, or 555 (RFC 5321 §4.2.1: it takes what we say for
wrong). The notice has the session's transcript up to there, without content and passwords, and goes to
`error_notice_recipient`. A session with a notice, or for a bounce that cannot be delivered, gets none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.bounce.transcript import Notices
from mailstack.mta.cleanup import AliasExpansionError, Cleanup, MapError
from mailstack.mta.lookup import settled
from mailstack.mta.rewrite import Rewriter
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Queue
from mailstack.storage.tables import TableError

Notify = Callable[[str, str, Sequence[bytes]], Awaitable[None]]
"""Sends a transcript: `smtp` or `lmtp`, the host, and what was said."""


def notifier(
    conf: MainCf,
    rewriter: Rewriter,
    cleanup: Cleanup,
    queue: Queue,
    commit: GroupCommit,
    clock: Clock,
    log: Log,
    wake: Callable[[str], None],
    open_table: OpenTable,
    resolver: Resolver,
) -> Notify | None:
    """None where nobody wants to be told. Raises `ConfigError` and what a table raises."""
    notices = Notices.read(conf, rewriter, cleanup, open_table, resolver)
    if notices is None or "protocol" not in notices.classes:
        return None
    cleanup_log = log.child(f"{conf.str('syslog_name')}/cleanup")

    async def notify(client: str, host: str, history: Sequence[bytes]) -> None:
        now = clock.time()
        queue_id = queue.new_id(now)
        try:
            envelope = await settled(lambda: notices.envelope(("protocol",), queue_id, now))
            program = f"{client.upper()} client"
            _, content = notices.compose(host, history, "", queue_id, now, program=program)
            where = await notices.enqueue(envelope, content, queue, commit, cleanup_log)
        except (OSError, AliasExpansionError, MapError, TableError) as error:
            log.warning(f"postmaster notify: {error}")
            return
        if where == "incoming":
            wake(queue_id)

    return notify
