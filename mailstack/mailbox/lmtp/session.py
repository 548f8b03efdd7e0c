"""One LMTP connection.

Holds always: `250 2.0.0 … Saved` goes out when the message and its directory entry are on disk, one reply for
each accepted recipient, in order (RFC 2033 §4.2). A recipient's failure touches no other recipient.

Diagnostics, in Dovecot's words: `550 5.1.1 <a> User doesn't exist: a`; `451 4.3.0 <a> Temporary internal
error` when users cannot be looked up or the message cannot be stored; `452 4.2.2 <a> …` when the disk is
full; `421 4.3.2` at shutdown; `421 4.4.2` after `IDLE_TIMEOUT` seconds of silence.
"""

from __future__ import annotations

import asyncio
import errno
import re
from dataclasses import dataclass, field

from mailstack.mailbox.auth import Unavailable, User
from mailstack.mailbox.ids import session_id
from mailstack.mailbox.lmtp.content import Content
from mailstack.mailbox.lmtp.service import LmtpService
from mailstack.mailbox.quota import OverQuotaError
from mailstack.net.stream import Stream
from mailstack.storage.maildir import subscriptions, tree
from mailstack.storage.maildir.names import size_in_name
from mailstack.storage.maildir.quota import Usage
from mailstack.wire.mime.dates import write_date
from mailstack.wire.smtp import events
from mailstack.wire.smtp.address import quote
from mailstack.wire.smtp.reply import Reply
from mailstack.wire.smtp.server import Limits, ServerConnection
from mailstack.wire.smtp.states import Mode, State

IDLE_TIMEOUT = 300.0
WRITE_TIMEOUT = 300.0
HANDSHAKE_TIMEOUT = 30.0
RECIPIENTS_LIMIT = 1000
"""Recipients of one message (RFC 5321 §4.5.3.1.8 asks for 100 at the least)."""
MESSAGE_LIMIT = 1 << 30
"""Octets of one message."""
TOGETHER = 32
"""Recipients of one message that are stored at the same time."""

_OK = Reply(250, "2.1.0", "OK")
_RCPT_OK = Reply(250, "2.1.5", "OK")
_RESET = Reply(250, "2.0.0", "OK")
_DATA = Reply(354, "", "OK")
_BYE = Reply(221, "2.0.0", "Bye")
_TOO_MANY = Reply(452, "4.5.3", "Too many recipients")
_SHUTDOWN = Reply(421, "4.3.2", "Shutting down")
_SILENCE = Reply(421, "4.4.2", "Disconnected for inactivity")
_NOT_HERE = Reply(502, "5.5.1", "Command not implemented")
_CANNOT_VRFY = Reply(252, "2.3.3", "Try RCPT instead")
_READY = Reply(220, "2.0.0", "Begin TLS negotiation now.")
_HELP = Reply(214, "2.0.0", "RFC 2033")

_BETWEEN = (State.IDLE, State.READY)
"""No transaction is open."""
_FULL = {errno.ENOSPC: "Disk is full", errno.EDQUOT: "Quota exceeded (mailbox for user is full)"}
_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*(?:\r\n[ \t]+)?([^\r\n]{0,250})", re.I | re.M)


@dataclass(slots=True)
class _Recipient:
    address: str
    user: User
    mailbox: str = tree.INBOX


@dataclass(slots=True)
class _Transaction:
    sender: str
    recipients: list[_Recipient] = field(default_factory=list)
    content: Content = field(default_factory=Content)


class LmtpSession:
    """One connected client."""

    def __init__(self, stream: Stream, service: LmtpService) -> None:
        self._stream = stream
        self._service = service
        self._settings = service.lmtp
        self._conn = ServerConnection(Mode.LMTP, Limits(message=MESSAGE_LIMIT))
        self._transaction = _Transaction("")
        self._id = session_id()
        self._waiting = False
        self._stopping = False

    async def run(self) -> None:
        """From greeting to close."""
        conn = self._conn
        if self._service.tls is not None and self._stream.tls is None:
            conn.starttls_refusal = None
        conn.greet(Reply(220, "", f"{self._settings.hostname} {self._settings.greeting}"))
        try:
            while True:
                event = conn.next_event()
                if event is events.NEED_DATA:
                    await self._flush()
                    conn.receive_data(await self._read())
                elif isinstance(event, events.Content):
                    transaction = self._transaction
                    transaction.content.add(
                        event.data, tree.inbox_of(transaction.recipients[0].user.mail_root)
                    )
                elif isinstance(event, events.Closed):
                    break
                else:
                    await self._answer(event)
            await self._flush()
        except TimeoutError:
            conn.say(_SILENCE)
            self._stream.write(conn.data_to_send())
        except OSError:
            pass
        finally:
            self._begin("")

    def shutdown(self) -> None:
        """Say goodbye: at once when the client is silent, else after what is under way."""
        self._stopping = True
        if self._waiting and self._conn.state in _BETWEEN:
            self._conn.say(_SHUTDOWN)
            self._stream.write(self._conn.data_to_send())
            self._stream.interrupt()

    async def _read(self) -> bytes:
        if self._stopping and self._conn.state in _BETWEEN:
            self._conn.say(_SHUTDOWN)
            return b""
        self._waiting = True
        try:
            return await self._stream.read(IDLE_TIMEOUT)
        finally:
            self._waiting = False

    def _prefix(self, user: str) -> str:
        return self._service.lines.prefix("lmtp", user, self._stream, self._id)

    async def _flush(self) -> None:
        self._stream.write(self._conn.data_to_send())
        await self._stream.drain(WRITE_TIMEOUT)

    async def _answer(self, event: events.Event) -> None:
        conn = self._conn
        match event:
            case events.Rcpt():
                conn.reply(await self._rcpt(event.recipient))
            case events.Mail():
                self._begin(event.sender)
                conn.reply(_SHUTDOWN if self._stopping else _OK)
            case events.Data():
                conn.reply(_DATA)
            case events.ContentEnd():
                await self._deliver(event)
            case events.Chunk():
                conn.take_chunk()
            case events.ChunkEnd():
                conn.reply(Reply(250, "2.0.0", f"Added {event.size} octets"))
            case events.Hello():
                self._begin("")
                conn.reply(Reply(250, "", self._extensions()))
            case events.Reset():
                self._begin("")
                conn.reply(_RESET)
            case events.Noop():
                conn.reply(_RESET)
            case events.Quit():
                conn.reply(_BYE)
            case events.StartTLS():
                await self._start_tls()
            case events.Verify():
                conn.reply(_CANNOT_VRFY)
            case events.Help():
                conn.reply(_HELP)
            case events.Refused():
                pass
            case _:
                conn.reply(_NOT_HERE)

    def _begin(self, sender: str) -> None:
        """Forget the transaction, and whatever it had on disk, for another one."""
        self._transaction.content.close()
        users = self._service.lmtp_users
        for recipient in self._transaction.recipients:
            users[recipient.user.name] -= 1
            if users[recipient.user.name] <= 0:
                del users[recipient.user.name]
        self._transaction = _Transaction(sender)

    def _extensions(self) -> str:
        lines = [self._settings.hostname]
        if self._conn.starttls_refusal is None:
            lines.append("STARTTLS")
        lines += [
            "8BITMIME",
            "CHUNKING",
            "ENHANCEDSTATUSCODES",
            "PIPELINING",
            f"SIZE {MESSAGE_LIMIT}",
            "SMTPUTF8",
        ]
        return "\n".join(lines)

    async def _start_tls(self) -> None:
        context = self._service.tls
        assert context is not None
        self._conn.reply(_READY)
        await self._flush()
        await self._stream.start_tls(context, HANDSHAKE_TIMEOUT, server_side=True)
        self._conn.starttls_refusal = _NOT_HERE
        self._conn.tls_started()
        self._begin("")

    # ---- recipients and delivery

    async def _rcpt(self, address: str) -> Reply:
        recipients = self._transaction.recipients
        if len(recipients) >= RECIPIENTS_LIMIT:
            return _TOO_MANY
        settings = self._settings
        name, detail = split_detail(address, settings.recipient_delimiter)
        try:
            user = self._service.lookup_recipient(name)
        except Unavailable as error:
            self._service.log.error(f"lmtp: {address}: {error}")
            return Reply(451, "4.3.0", f"<{address}> Temporary internal error")
        if user is None:
            return Reply(550, "5.1.1", f"<{address}> User doesn't exist: {address}")
        users = self._service.lmtp_users
        if 0 < settings.user_concurrency <= users[user.name]:
            return Reply(451, "4.3.0", f"<{address}> Too many concurrent deliveries for user")
        mailbox = detail if detail and settings.detail_mailbox else tree.INBOX
        if settings.check_quota and self._service.quotas.active and not tree.mbox_of(user.mail_root):
            try:
                place = _folder(user.mail_root, mailbox)
                if self._service.quotas.counts(tree.main_of(user.mail_root), place):
                    (await self._service.quotas.admit(user, place, Usage(0, 1), grace=True)).close()
            except OverQuotaError as error:
                return self._over_quota(address, error)
            except OSError as error:
                self._service.log.error(f"{self._prefix(user.name)}quota not known: {error}")
        users[user.name] += 1
        recipients.append(_Recipient(address, user, mailbox))
        return _RCPT_OK

    async def _deliver(self, end: events.ContentEnd) -> None:
        transaction = self._transaction
        recipients = transaction.recipients
        try:
            if end.too_big:
                for recipient in recipients:
                    self._conn.reply(Reply(552, "5.3.4", f"<{recipient.address}> Message is too big"))
                return
            now = self._service.clock.time()
            if len(recipients) == 1:
                self._conn.reply(await self._store(transaction, recipients[0], now))
                return
            for at in range(0, len(recipients), TOGETHER):
                some = [self._store(transaction, one, now) for one in recipients[at : at + TOGETHER]]
                for reply in await asyncio.gather(*some):
                    self._conn.reply(reply)
        finally:
            self._begin("")

    async def _store(self, transaction: _Transaction, recipient: _Recipient, now: float) -> Reply:
        service, user = self._service, recipient.user
        header = self._header(transaction.sender, recipient, now)
        mailbox = recipient.mailbox
        try:
            if mailbox != tree.INBOX:
                mailbox = self._mailbox(user.mail_root, mailbox)
            if mbox := tree.mbox_of(user.mail_root):
                await transaction.content.append(mbox, transaction.sender, header, now)
            else:
                path = tree.path_of(user.mail_root, mailbox)
                root = user.mail_root
                counted = tree.located(root, mailbox)[0] == tree.main_of(root) and service.quotas.counts(
                    tree.main_of(root), path
                )
                if counted:
                    coming = Usage(len(header) + transaction.content.size, 1)
                    with await service.quotas.admit(user, path, coming, grace=True):
                        stored = await transaction.content.deliver(service.store, path, header)
                        service.quotas.changed(user, Usage(size_in_name(stored, "S") or 0, 1))
                else:
                    await transaction.content.deliver(service.store, path, header)
        except OverQuotaError as error:
            service.log.info(f"{self._prefix(user.name)}save to {mailbox} failed: {error}")
            return self._over_quota(recipient.address, error)
        except OSError as error:
            service.log.error(f"{self._prefix(user.name)}save to {mailbox} failed: {error}")
            if error.errno in _FULL:
                return Reply(452, "4.2.2", f"<{recipient.address}> {_FULL[error.errno]}")
            reason = error.strerror if self._settings.verbose_replies else ""
            return Reply(451, "4.3.0", f"<{recipient.address}> {reason or 'Temporary internal error'}")
        shown = message_id(transaction.content.head)
        service.log.info(f"{self._prefix(user.name)}msgid={shown}: saved mail to {mailbox}")
        return Reply(250, "2.0.0", f"<{recipient.address}> {self._id} Saved")

    def _over_quota(self, address: str, error: OverQuotaError) -> Reply:
        code, status = (452, "4.2.2") if self._settings.quota_full_tempfail else (552, "5.2.2")
        return Reply(code, status, f"<{address}> {error}")

    def _mailbox(self, root: str, name: str) -> str:
        """The mailbox that a detail names, made where it has to be, or INBOX. Raises `OSError`."""
        settings = self._settings
        try:
            if tree.exists(root, name):
                return tree.canonical(name, root) if "p" in tree.rights(root, name) else tree.INBOX
            if not settings.autocreate and name not in settings.auto_mailboxes:
                return tree.INBOX
            if "k" not in tree.parent_rights(root, name):
                return tree.INBOX
            tree.create(root, name)
            if settings.autosubscribe:
                subscriptions.change(root, name, True)
        except (tree.MailboxNameError, FileNotFoundError):
            return tree.INBOX
        return name

    def _header(self, sender: str, recipient: _Recipient, now: float) -> bytes:
        settings = self._settings
        lines = [f"Return-Path: <{quote(sender)}>\r\n"]
        if settings.delivery_address != "none":
            shown = recipient.user.name if settings.delivery_address == "final" else recipient.address
            lines.append(f"Delivered-To: {shown}\r\n")
        if settings.add_received:
            tls = self._stream.tls
            secured = f"\t(using {tls.version()})\r\n" if tls is not None else ""
            lines.append(
                f"Received: from {self._conn.hello} ([{self._stream.peer[0] or 'unix'}])\r\n{secured}"
                f"\tby {settings.hostname} with LMTP{'S' if secured else ''}\r\n"
                f"\tid {self._id}\r\n"
                f"\t(envelope-from <{quote(sender)}>)\r\n"
                f"\tfor <{quote(recipient.address)}>; {write_date(now)}\r\n"
            )
        return "".join(lines).encode("utf-8", "replace")


def _folder(root: str, mailbox: str) -> str:
    """Where the mailbox would be; the INBOX for a name that cannot be."""
    try:
        return tree.path_of(root, mailbox)
    except tree.MailboxNameError:
        return tree.inbox_of(root)


def split_detail(address: str, delimiters: str) -> tuple[str, str]:
    """`zs+list@mail.test` -> `zs@mail.test`, `list`, for the delimiter `+`; a leading one stays."""
    local, at, domain = address.rpartition("@")
    if not at:
        local, domain = domain, ""
    ends = [end for char in delimiters if (end := local.find(char)) > 0]
    if not ends:
        return address, ""
    return f"{local[: min(ends)]}{at}{domain}", local[min(ends) + 1 :]


def message_id(head: bytes) -> str:
    """The Message-ID for the log, `unspecified` where there is none; `head` is the content's beginning."""
    end = head.find(b"\r\n\r\n")
    found = _MESSAGE_ID.search(head, 0, end + 2 if end >= 0 else 16384)
    if found is None:
        return "unspecified"
    return found[1].strip().decode("utf-8", "replace") or "unspecified"
