"""One IMAP connection: reads commands, runs them one after the other, says what has happened meanwhile.

State: `connection.state` (RFC 3501 §3). Every wait has a deadline: `login_timeout` before the login,
`idle_timeout` after it, `write_timeout` for a client that takes nothing. One task per connection.

Diagnostics: `BAD` for what is no command, `NO` with a response code of RFC 5530 where one fits. An error of
our own is logged with its traceback and answered `NO [SERVERBUG]`; the connection goes on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Sequence

from mailstack.mailbox.ids import session_id
from mailstack.mailbox.imap import append, notify, search, updates
from mailstack.mailbox.imap.capability import capabilities
from mailstack.mailbox.imap.conversation import Conversation
from mailstack.mailbox.imap.errors import CommandError, Disconnect
from mailstack.mailbox.imap.failures import failure
from mailstack.mailbox.imap.flags import SYSTEM_FLAGS
from mailstack.mailbox.imap.handlers import HANDLERS
from mailstack.mailbox.imap.service import ImapService, User
from mailstack.mailbox.imap.tally import Tally
from mailstack.mailbox.loglines import Attempt
from mailstack.mailbox.quota import Room
from mailstack.mailbox.views import KeywordsFullError, View
from mailstack.net.stream import Stream
from mailstack.storage.maildir.acl import guard_of
from mailstack.storage.maildir.folder import IN_NEW
from mailstack.storage.maildir.tree import MailboxNameError
from mailstack.wire.imap.append import (
    AppendData,
    AppendEnd,
    AppendEvent,
    AppendMessage,
    AppendText,
    AppendUrl,
)
from mailstack.wire.imap.encode import mailbox, mailbox_utf8
from mailstack.wire.imap.server import (
    BadCommand,
    ClientLine,
    CommandEvent,
    NeedData,
)
from mailstack.wire.imap.states import State
from mailstack.wire.imap.tokens import BadMailboxNameError

TURN = 0.005
"""Seconds of a client's commands, one behind the other, before the other sessions have their turn."""
BAD_LIMIT = 20
"""Commands in a row that cannot be read before the connection is closed."""
_NOOP = re.compile(rb"([A-Za-z0-9.]{1,64}) (?:NOOP|noop)\r\n")


async def serve(stream: Stream, service: ImapService) -> None:
    """See `run_imap_session`."""
    session = Session(stream, service)
    why = "Connection closed"
    try:
        await session.run()
        why = "Logged out" if session.user is not None else "Aborted login by logging out"
    except (ConnectionError, TimeoutError):
        pass
    except Disconnect as error:
        session.bye(error.text)
        why = error.text.removeprefix("Disconnected: ").rstrip(".")
    finally:
        session.close(why)


class Session(Conversation):
    """The state of one connection. Handlers use `send`, `flush`, `view` and the helpers below."""

    __slots__ = (
        *("_bad", "_began", "condstore", "failures", "id", "keywords_told", "notifying", "qresync"),
        *("rev2", "room", "saved", "searches", "selected_name", "tally", "tried", "uidonly", "user", "view"),
    )

    def __init__(self, stream: Stream, service: ImapService) -> None:
        super().__init__(stream, service)
        self.id = session_id()
        self._began = service.clock.monotonic()
        self.tried = ("", "")
        """The name that wanted to log in, and by which mechanism."""
        self.tally = Tally()
        self.user: User | None = None
        self.view: View | None = None
        self.selected_name = ""
        self.room: Room | None = None
        """What the command under way may store (see `Quotas.admit`)."""
        self.failures = 0
        self.condstore = False
        self.qresync = False
        self.rev2 = False
        self.uidonly = False
        self.saved: Sequence[int] = ()
        self.searches: dict[str, search.Watched] = {}
        self.keywords_told = ""
        self.notifying: notify.Notifying | None = None
        self._bad = 0

    # ---- the loop

    async def run(self) -> None:
        names = " ".join(capabilities(self))
        self.line(f"* OK [CAPABILITY {names}] {self.service.settings.greeting}")
        deadline = self.service.clock.monotonic() + self.service.settings.login_timeout
        loop = asyncio.get_running_loop()
        turn = loop.time() + TURN
        while self.connection.state is not State.LOGOUT:
            event = self.connection.next_event()
            more = self.connection.data_to_send()
            if more:
                self.send(more)
            if isinstance(event, NeedData):
                if self.woken and self.notifying is not None and self._between:
                    self.woken = False
                    await notify.push(self)
                self.push()
                if self.stream.congested:
                    await self.flush()
                if self.woken and self.notifying is not None and self._between:
                    continue
                waits = not self.stream.readable
                await self._wait(deadline)
                if waits:
                    turn = loop.time() + TURN
            else:
                await self._handle(event)
                if self.full:
                    await self.flush()
                if not self.connection.is_idle and loop.time() > turn:
                    # A client that does not wait for its answers: others first.
                    await asyncio.sleep(0)
                    turn = loop.time() + TURN
        await self.flush()

    @property
    def _between(self) -> bool:
        """Whether the client is between two commands."""
        return self.connection.is_idle and self.append is None

    async def _wait(self, deadline: float) -> None:
        if self.connection.state is State.NOT_AUTHENTICATED:
            timeout = max(0.1, deadline - self.service.clock.monotonic())
            reason = "Disconnected: Inactivity during authentication."
        else:
            timeout = self.service.settings.idle_timeout
            reason = "Disconnected for inactivity."
        if not self.connection.is_idle:
            self.stream.quick_ack()
        elif self.view is not None and self.deflate is None and self.notifying is None:
            self.stream.shortcut = self._nothing_new
        try:
            await self.read(timeout)
        except TimeoutError:
            raise Disconnect(reason) from None
        finally:
            self.stream.shortcut = None

    def _nothing_new(self, data: bytes) -> bytes:
        """The reply to a NOOP that comes alone when there is nothing to tell: most of what clients send."""
        found = _NOOP.fullmatch(data)
        if found is None or self.view is None or self.service.stopping:
            return b""
        box = self.view.box
        box.store.watcher.poll()
        if box.gone or box.has_news() or self.view.behind:
            return b""
        self._bad = 0
        return b"%b OK NOOP completed.\r\n" % found[1]

    async def _handle(self, event: object) -> None:
        match event:
            case CommandEvent(tag, name, command):
                self._bad = 0
                await self.answer(tag, name, HANDLERS[name](self, tag, command))
            case AppendMessage() | AppendText() | AppendUrl() | AppendData() | AppendEnd():
                self._bad = 0
                await self._appending(event)
            case BadCommand(tag, text, status):
                if self.append is not None:
                    append.abandon(self)
                self.line(f"{tag} {status} {text}")
                self._bad += status == "BAD"
                if self._bad >= BAD_LIMIT:
                    raise Disconnect("Too many invalid IMAP commands.")
            case ClientLine():
                pass

    async def _appending(self, event: AppendEvent | AppendData) -> None:
        match event:
            case AppendText(tag) | AppendUrl(tag):
                await self.answer(tag, "", append.piece(self, event))
            case AppendMessage(tag):
                await self.answer(tag, "", append.announced(self, event))
            case AppendData(data):
                await append.received(self, data)
            case AppendEnd(tag):
                await self.answer(tag, "APPEND", append.finished(self, tag))

    async def answer(self, tag: str, name: str, work: Awaitable[str]) -> None:
        """Run a command and send its tagged reply, with everything that happened meanwhile before it.

        An empty reply means that there is nothing to say yet.
        """
        try:
            reply = await work
        except CommandError as error:
            reply = error.reply
        except (BadMailboxNameError, MailboxNameError, KeywordsFullError, OSError) as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            reply = failure(self, name, error)
        except Disconnect:
            raise
        except Exception as error:
            self.service.log.exception(f"imap: {name}", error)
            reply = "NO [SERVERBUG] Internal error occurred. Refer to server log for more information."
        finally:
            if self.room is not None:
                self.room.close()
                self.room = None
        if not reply:
            return
        if reply.startswith("OK"):
            self.connection.succeeded(name)
        if self.view is not None and (self.hears or name in notify.DIRECT):
            await updates.sync(self, expunge=name not in ("FETCH", "STORE", "SEARCH", "SORT", "THREAD"))
        if self.notifying is not None:
            notify.listen(self)
            await notify.tell(self)
        self.line(f"{tag} {reply}")

    def close(self, why: str) -> None:
        """Let go of everything but the stream; the log says how it ended."""
        append.abandon(self)
        self.leave()
        notify.leave(self)
        self.push()
        service = self.service
        if self.user is None:
            seconds = int(service.clock.monotonic() - self._began)
            attempt = Attempt(*self.tried, self.failures, seconds, self.id)
            service.log.info(service.lines.left("imap", self.stream, why, attempt))
        else:
            how = service.lines.logout(self.tally, self.received, self.sent, self.id)
            service.log.info(f"{self.log_prefix}Disconnected: {why} {how}".rstrip(" "))

    @property
    def log_prefix(self) -> str:
        """What the log's lines about this session begin with, once somebody has logged in."""
        assert self.user is not None
        return self.service.lines.prefix("imap", self.user.name, self.stream, self.id)

    def logged_in(self, user: User) -> None:
        """From now on it is the user's session."""
        self.user = user
        self.received = self.sent = 0

    def mailbox(self, name: str) -> bytes:
        """A mailbox's name as the client reads it (RFC 6855 §3, RFC 9051 §5.1)."""
        return mailbox_utf8(name) if self.connection.utf8 else mailbox(name)

    # ---- the selected mailbox

    @property
    def selected(self) -> View:
        """The view; the parser lets no command through that needs one when there is none."""
        assert self.view is not None
        return self.view

    @property
    def root(self) -> str:
        """The Maildir++ root of who has logged in."""
        assert self.user is not None
        return self.user.mail_root

    @property
    def guarded(self) -> bool:
        """Whether there are ACLs."""
        return guard_of(self.root) is not None

    def leave(self) -> None:
        """Leave the selected mailbox."""
        if self.view is not None:
            self.view.close()
            self.view = None
            self.saved = ()
            self.searches.clear()
        if self.connection.state is State.SELECTED:
            self.connection.state = State.AUTHENTICATED

    @property
    def hears(self) -> bool:
        """Whether the client wants to hear of the selected mailbox (RFC 5465)."""
        return self.notifying is None or self.notifying.hears

    async def sync(self, *, expunge: bool) -> None:
        """See `updates.sync`."""
        await updates.sync(self, expunge=expunge)

    def fetched(self, number: int, *, uid: bool) -> bytes:
        """`* 12 FETCH (`, with `UID 40 ` behind it where the client needs it, or UIDONLY's `* 40 UIDFETCH (`
        (RFC 9586 §3.3)."""
        if self.uidonly:
            return b"* %d UIDFETCH (" % self.selected.uid(number)
        head = b"* %d FETCH (" % number
        return head + b"UID %d " % self.selected.uid(number) if uid or self.qresync else head

    def use_condstore(self) -> None:
        """The client knows modification sequences: it hears of them from now on (RFC 7162 §3.1)."""
        if not self.condstore:
            self.condstore = True
            if self.view is not None:
                self.line(f"* OK [HIGHESTMODSEQ {self.view.box.folder.highest_modseq}] Highest")

    def flags(self, index: int) -> bytes:
        """`(\\Seen $Forwarded)` of the message at a folder index."""
        view = self.selected
        folder = view.box.folder
        bits = folder.flags[index] & ~IN_NEW
        names = [name for bit, name in SYSTEM_FLAGS if bits >> bit & 1]
        if not self.rev2 and view.is_recent(folder.uids[index]):
            names.append("\\Recent")
        if bits >> 6:
            names += folder.keywords.of(bits)
        return ("(" + " ".join(names) + ")").encode("utf-8", "replace")
