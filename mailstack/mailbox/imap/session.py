"""One IMAP connection: reads commands, runs them one after the other, says what has happened meanwhile.

State: `connection.state` (RFC 3501 §3). Every wait has a deadline: `login_timeout` before the login,
`idle_timeout` after it, `write_timeout` for a client that takes nothing. One task per connection.

Diagnostics: `BAD` for what is no command, `NO` with a response code of RFC 5530 where one fits. An error of
our own is logged with its traceback and answered `NO [SERVERBUG]`; the connection goes on.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mailstack.mailbox.imap import (
    acl,
    append,
    basic,
    copy,
    expunge,
    fetch,
    idle,
    login,
    mailboxes,
    metadata,
    notify,
    quota,
    search,
    select,
    sort,
    store,
    thread,
    urlauth,
)
from mailstack.mailbox.imap import list as listing
from mailstack.mailbox.imap.capability import capabilities
from mailstack.mailbox.imap.errors import CommandError, Disconnect
from mailstack.mailbox.imap.service import ImapService, User
from mailstack.mailbox.quota import Room
from mailstack.mailbox.views import KeywordsFullError, View
from mailstack.net.stream import Stream
from mailstack.storage.maildir.acl import guard_of
from mailstack.storage.maildir.folder import IN_NEW
from mailstack.storage.maildir.listing import FolderGoneError
from mailstack.storage.maildir.roots import NoNamespaceError
from mailstack.storage.maildir.tree import MailboxNameError
from mailstack.wire.imap.append import (
    AppendData,
    AppendEnd,
    AppendEvent,
    AppendMessage,
    AppendText,
    AppendUrl,
)
from mailstack.wire.imap.deflate import CompressionError, Deflate
from mailstack.wire.imap.encode import mailbox, mailbox_utf8
from mailstack.wire.imap.sequence import format_set
from mailstack.wire.imap.server import (
    BadCommand,
    ClientLine,
    CommandEvent,
    NeedData,
    ServerConnection,
)
from mailstack.wire.imap.states import State
from mailstack.wire.imap.tokens import BadMailboxNameError

FLUSH = 1 << 16
"""Octets of replies that are gathered before they are sent."""
TURN = 0.005
"""Seconds of a client's commands, one behind the other, before the other sessions have their turn."""
BAD_LIMIT = 20
"""Commands in a row that cannot be read before the connection is closed."""
SYSTEM_FLAGS = ((3, "\\Answered"), (1, "\\Flagged"), (5, "\\Deleted"), (4, "\\Seen"), (0, "\\Draft"))
"""Bits of the flag integer with their names, in Dovecot's order."""

_NOOP = re.compile(rb"([A-Za-z0-9.]{1,64}) (?:NOOP|noop)\r\n")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Handler = Callable[["Session", str, Any], Awaitable[str]]
"""Runs one command; returns the tagged reply without its tag. Raises `CommandError`."""


async def serve(stream: Stream, service: ImapService) -> None:
    """See `run_imap_session`."""
    session = Session(stream, service)
    try:
        await session.run()
    except (ConnectionError, TimeoutError):
        pass
    except Disconnect as error:
        session.bye(error.text)
    finally:
        session.close()


_STORING = frozenset(
    (
        "APPEND",
        "REPLACE",
        "COPY",
        "MOVE",
        "CREATE",
        "RENAME",
        "STORE",
        "SUBSCRIBE",
        "UNSUBSCRIBE",
        "SETMETADATA",
    )
)
"""Commands (with UID or without) that need room on the disk; others only fail there."""


class Session:
    """The state of one connection. Handlers use `send`, `flush`, `view` and the helpers below."""

    __slots__ = (
        "__weakref__",
        "_bad",
        "_out",
        "_pending",
        "append",
        "condstore",
        "connection",
        "deflate",
        "failures",
        "keywords_told",
        "notifying",
        "qresync",
        "rev2",
        "room",
        "saved",
        "searches",
        "selected_name",
        "service",
        "stream",
        "uidonly",
        "user",
        "view",
        "woken",
    )

    def __init__(self, stream: Stream, service: ImapService) -> None:
        self.stream = stream
        self.service = service
        self.connection = ServerConnection(service.settings.line_limit)
        self.user: User | None = None
        self.view: View | None = None
        self.selected_name = ""
        self.append: append.Appending | None = None
        self.room: Room | None = None
        """What the command under way may store (see `Quotas.admit`)."""
        self.failures = 0
        self.condstore = False
        self.qresync = False
        self.rev2 = False
        self.uidonly = False
        self.saved: Sequence[int] = ()
        self.searches: dict[str, search.Watched] = {}
        self.deflate: Deflate | None = None
        self.keywords_told = ""
        self.notifying: notify.Notifying | None = None
        self.woken = False
        self._out: list[bytes] = []
        self._pending = 0
        self._bad = 0

    # ---- output

    def send(self, data: bytes) -> None:
        """Queue octets, line end included."""
        self._out.append(data)
        self._pending += len(data)

    def line(self, text: str) -> None:
        """Queue one line. Control characters become `?`: a mailbox's name may hold a line end (in UTF-7)."""
        if not text.isprintable():
            text = _CONTROL.sub("?", text)
        self.send(text.encode("utf-8", "replace") + b"\r\n")

    @property
    def full(self) -> bool:
        """Enough is queued for `flush` to be worth it."""
        return self._pending >= FLUSH

    async def flush(self) -> None:
        """Hand the queue to the client; waits while the client is slow. Raises `ConnectionError`."""
        self.push()
        try:
            await self.stream.drain(self.service.settings.write_timeout)
        except TimeoutError:
            self.stream.abort()
            raise

    def push(self) -> None:
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self.stream.write(data if self.deflate is None else self.deflate.send(data))
            self._out.clear()
            self._pending = 0

    def bye(self, text: str) -> None:
        """Say good-bye; the caller closes."""
        self.line(f"* BYE {text}")
        self.push()

    # ---- input

    @property
    def secured(self) -> bool:
        """Inside TLS."""
        return self.stream.tls is not None

    async def read(self, timeout: float) -> bool:
        """Wait for octets and give them to the parser; False when woken by `interrupt` instead.

        Raises `ConnectionResetError` when the client is gone, `TimeoutError`.
        """
        self._stay()
        data = b""
        if self.deflate is None or not self.deflate.held:
            data = await self.stream.read(timeout)
            if not data:
                if self.stream.eof:
                    raise ConnectionResetError("the client has closed the connection")
                self._stay()
                return False
        if self.deflate is not None:
            try:
                data = self.deflate.receive(data)
            except CompressionError as error:
                raise Disconnect(f"Cannot decompress: {error}") from None
        self.connection.receive_data(data)
        return True

    def awaken(self) -> None:
        """Something has happened in the mailbox while the client idles."""
        self.woken = True
        self.stream.interrupt()

    def _stay(self) -> None:
        """Raises `Disconnect` when the process is about to end; a message that comes in is still stored."""
        if self.service.stopping and self.append is None:
            raise Disconnect("Server shutting down.")

    async def client_line(self, timeout: float) -> bytes:
        """The next line after AUTHENTICATE or IDLE. Raises `Disconnect` for an endless one."""
        while True:
            event = self.connection.next_event()
            if isinstance(event, ClientLine):
                return event.data
            if isinstance(event, BadCommand):
                raise Disconnect("Input buffer full, aborting")
            await self.flush()
            await self.read(timeout)

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
            reply = self.failure(name, error)
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
            await self.sync(expunge=name not in ("FETCH", "STORE", "SEARCH", "SORT", "THREAD"))
        if self.notifying is not None:
            notify.listen(self)
            await notify.tell(self)
        self.line(f"{tag} {reply}")

    def failure(self, name: str, error: Exception) -> str:
        """The reply for an error that is not the client's fault, or not altogether."""
        match error:
            case NoNamespaceError():
                return f"NO {error}"
            case MailboxNameError():
                return f"NO [CANNOT] Invalid mailbox name: {error}"
            case KeywordsFullError():
                return f"NO [LIMIT] {error}"
            case FolderGoneError():
                raise Disconnect("Selected mailbox was deleted, have to disconnect.")
            case OSError() if error.errno == errno.EROFS:
                return "NO [NOPERM] Mailbox is read-only."
            case OSError() if (
                error.errno in (errno.ENOSPC, errno.EDQUOT) and name.removeprefix("UID ") in _STORING
            ):
                self.service.log.error(f"imap: {name}: {error}")
                return "NO [OVERQUOTA] Not enough disk space"
            case OSError():
                self.service.log.error(f"imap: {name}: {error}")
                return "NO [UNAVAILABLE] The mail storage failed, see the server's log"
        return f"NO {error}"

    def close(self) -> None:
        """Let go of everything but the stream."""
        append.abandon(self)
        self.leave()
        notify.leave(self)
        self.push()

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

    async def sync(self, *, expunge: bool, refresh: bool = True) -> None:
        """Tell the client what is new in the selected mailbox (RFC 3501 §5.2, §7.4.1)."""
        view = self.selected
        if refresh:
            try:
                await view.box.refresh()
            except FolderGoneError:
                self.leave()
                raise Disconnect("Selected mailbox was deleted, have to disconnect.") from None
            except OSError as error:
                self.service.log.error(f"imap: {view.box.folder.path}: {error}")
        if not view.behind:
            return
        before = view.count
        updates = view.sync(expunge)
        if self.searches:
            search.tell_gone(self, updates)
        if (self.qresync or self.uidonly) and updates.vanished:
            self.line(f"* VANISHED {format_set(updates.vanished)}")
        else:
            for number in updates.expunged:
                self.send(b"* %d EXPUNGE\r\n" % number)
        if updates.exists is not None:
            self.send(b"* %d EXISTS\r\n" % updates.exists)
            if not self.rev2:
                self.send(b"* %d RECENT\r\n" % view.recent_count())
        if updates.flags:
            self.tell_keywords()
        if self.notifying is None or self.notifying.hears_flags:
            for number in updates.flags:
                self.tell_flags(number)
        if updates.exists is not None and self.notifying is not None:
            await notify.new_messages(self, before - len(updates.expunged) + 1, updates.exists)
        if self.searches:
            await search.tell_changed(self)

    def tell_flags(self, number: int, *, uid: bool = False) -> None:
        """`* 12 FETCH (FLAGS (…))`, unless the message is gone. `uid`: with its UID."""
        folder = self.selected.box.folder
        index = folder.index(self.selected.uid(number))
        if index < 0:
            return
        sequence = b"MODSEQ (%d) " % folder.modseqs[index] if self.condstore else b""
        self.send(b"%b%bFLAGS %b)\r\n" % (self.fetched(number, uid=uid), sequence, self.flags(index)))

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

    def tell_keywords(self) -> None:
        """FLAGS and PERMANENTFLAGS, when the mailbox has keywords that the client has not been told of."""
        view = self.selected
        keywords = view.box.folder.keywords
        system = " ".join(name for _, name in SYSTEM_FLAGS)
        names = " ".join([system, *filter(None, keywords.names)])
        if names == self.keywords_told:
            return
        self.keywords_told = names
        self.line(f"* FLAGS ({names})")
        if view.readonly:
            self.line("* OK [PERMANENTFLAGS ()] Read-only mailbox.")
        else:
            rights = acl.selected(self)
            mask = acl.flags_mask(rights)
            words = [name for bit, name in SYSTEM_FLAGS if mask >> bit & 1]
            if "w" in rights:
                words += [*filter(None, keywords.names), *(() if keywords.full else ("\\*",))]
            self.line(f"* OK [PERMANENTFLAGS ({' '.join(words)})] Flags permitted.")


HANDLERS: dict[str, Handler] = {
    "CAPABILITY": basic.capability,
    "NOOP": basic.noop,
    "LOGOUT": basic.logout,
    "ID": basic.identify,
    "ENABLE": basic.enable,
    "NAMESPACE": basic.namespace,
    "CHECK": basic.check,
    "COMPRESS": basic.compress,
    "STARTTLS": login.starttls,
    "LOGIN": login.login,
    "AUTHENTICATE": login.authenticate,
    "SELECT": select.select,
    "EXAMINE": select.select,
    "CLOSE": select.close,
    "UNSELECT": select.unselect,
    "CREATE": mailboxes.create,
    "DELETE": mailboxes.delete,
    "RENAME": mailboxes.rename,
    "SUBSCRIBE": mailboxes.subscribe,
    "UNSUBSCRIBE": mailboxes.subscribe,
    "LIST": listing.list_mailboxes,
    "LSUB": listing.lsub,
    "STATUS": listing.status,
    "GETMETADATA": metadata.getmetadata,
    "SETMETADATA": metadata.setmetadata,
    "SETACL": acl.setacl,
    "DELETEACL": acl.deleteacl,
    "GETACL": acl.getacl,
    "LISTRIGHTS": acl.listrights,
    "MYRIGHTS": acl.myrights,
    "GETQUOTA": quota.getquota,
    "GETQUOTAROOT": quota.getquotaroot,
    "SETQUOTA": quota.setquota,
    "NOTIFY": notify.notify,
    "RESETKEY": urlauth.resetkey,
    "GENURLAUTH": urlauth.genurlauth,
    "URLFETCH": urlauth.urlfetch,
    "IDLE": idle.idle,
    "EXPUNGE": expunge.expunge,
    "UID EXPUNGE": expunge.uid_expunge,
    "SEARCH": search.search,
    "UID SEARCH": search.search,
    "SORT": sort.sort,
    "UID SORT": sort.sort,
    "THREAD": thread.thread,
    "UID THREAD": thread.thread,
    "CANCELUPDATE": search.cancel_update,
    "FETCH": fetch.fetch,
    "UID FETCH": fetch.fetch,
    "STORE": store.store,
    "UID STORE": store.store,
    "COPY": copy.copy,
    "UID COPY": copy.copy,
    "MOVE": copy.copy,
    "UID MOVE": copy.copy,
}
