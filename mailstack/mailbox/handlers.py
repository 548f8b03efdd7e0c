"""What runs when somebody connects: one handler per service, from greeting to close."""

from __future__ import annotations

from collections.abc import Mapping

from mailstack.mailbox.auth.dovecot import DovecotAuthSession
from mailstack.mailbox.auth.saslauthd import serve_saslauthd
from mailstack.mailbox.doveadm.session import serve_doveadm
from mailstack.mailbox.imap import run_imap_session
from mailstack.mailbox.lmtp import LmtpSession
from mailstack.mailbox.pop3 import Pop3Session
from mailstack.mailbox.quota_status import serve_quota_status
from mailstack.mailbox.service import MailboxService
from mailstack.net.listen import Handler
from mailstack.net.stream import Stream


class _Waker:
    """Wakes an IMAP session that waits for its client; it sees `service.stopping` then."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def shutdown(self) -> None:
        self._stream.interrupt()


def handlers(service: MailboxService) -> Mapping[str, Handler]:
    """The handlers by service name: imap, pop3, lmtp, auth, saslauthd, doveadm, quota-status."""

    async def imap(stream: Stream) -> None:
        connection = (stream.peer, stream.local)
        waker = _Waker(stream)
        service.sessions.add(waker)
        try:
            await run_imap_session(stream, service)
        finally:
            service.sessions.discard(waker)
            await service.left(connection)

    async def pop3(stream: Stream) -> None:
        connection = (stream.peer, stream.local)
        session = Pop3Session(stream, service)
        service.sessions.add(session)
        try:
            await session.run()
        finally:
            service.sessions.discard(session)
            await service.left(connection)

    async def lmtp(stream: Stream) -> None:
        gate, most = service.lmtp_gate, service.config.session_limits.get("lmtp", 0)
        if gate.is_full(most):
            text = f"process_limit ({most}) reached, client connections are being dropped"
            service.log.warning(f"master: service(lmtp): {text}")
        await gate.enter(most)
        try:
            if service.stopping:
                return
            session = LmtpSession(stream, service)
            service.sessions.add(session)
            try:
                await session.run()
            finally:
                service.sessions.discard(session)
        finally:
            gate.leave()

    async def auth(stream: Stream) -> None:
        await DovecotAuthSession(stream, service.auth, service.log).run()

    async def saslauthd(stream: Stream) -> None:
        await serve_saslauthd(stream, service.auth, service.log)

    async def doveadm(stream: Stream) -> None:
        await serve_doveadm(stream, service)

    async def quota_status(stream: Stream) -> None:
        await serve_quota_status(stream, service)

    return {
        "imap": imap,
        "pop3": pop3,
        "lmtp": lmtp,
        "auth": auth,
        "saslauthd": saslauthd,
        "doveadm": doveadm,
        "quota-status": quota_status,
    }
