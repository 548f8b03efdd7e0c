"""A message between cleanup and the queue, as milters see it and change it.

The header is in memory, in whole headers. The body is where reception has put it: held, when the message is
small, or in its spool file, from which it is read piece by piece; a new body is kept the same way. So a large
message needs no more memory than a small one.

Postfix's rules: our own Received: is not shown, and cannot be changed; a header is inserted counting it, and
changed or deleted without counting it. What milters add is put before milter_header_checks. A change that
cannot be made (no room, a table that cannot be read) is `failure`, and no other is made after it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence

from mailstack.mta.cleanup import AliasExpansionError, Cleanup, MapError
from mailstack.mta.cleanup.milter_checks import MilterInspector
from mailstack.mta.lookup import settled
from mailstack.mta.rewrite import Rewriter
from mailstack.net.log import Log
from mailstack.storage.queue import Recipient, Spool
from mailstack.storage.tables import TableError
from mailstack.wire.milter import (
    MILTER_CHUNK,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    Edit,
    InsertHeader,
    ReplaceBody,
    Verdict,
)
from mailstack.wire.smtp.address import AddressError, parse_path
from mailstack.wire.smtp.command import RcptParameters, Rules, SyntaxRefusal, parse_mail, parse_rcpt
from mailstack.wire.smtp.reply import Reply

HEADER_ROOM = 4 * 1024 * 1024
"""Octets of headers, and of envelope addresses, that milters may add to one message."""
HELD = 256 * 1024
"""Octets of a new body that are held in memory; a larger one goes to a file."""
TOO_BIG = Reply(552, "5.3.4", "Error: message file too big")
WRITE_ERROR = Reply(451, "4.3.0", "Error: queue file write error")

_HEADER = re.compile(rb"([!-9;-~]+)[ \t]*:([^\r]*\r\n(?:[ \t][^\r]*\r\n)*)")
_MULTIPLE = "Milter or header/body_checks request to add multi-recipient"
_NAME = re.compile(rb"[!-9;-~]+\Z")
_RULES = Rules(0, strict_paths=False, utf8=True, strict_utf8=False, dsn=True)


class Recipients:
    """The envelope, and what milters make of it."""

    def __init__(
        self,
        cleanup: Cleanup,
        rewriter: Rewriter,
        sender: str,
        recipients: tuple[Recipient, ...],
        *,
        ret: str = "",
        envid: str = "",
        fixed: bool = False,
    ) -> None:
        self._cleanup = cleanup
        self._rewriter = rewriter
        self._fixed = fixed
        """A REDIRECT action has named the only recipient."""
        self.sender = sender
        self.recipients = recipients
        self.ret = ret
        self.envid = envid

    async def change_sender(self, edit: ChangeSender, log: Log, queue_id: str) -> None:
        """Raises what tables raise."""
        address = self._internal(edit.address, "Milter request to add multi-sender", log, queue_id)
        complete = self._rewriter.complete
        self.sender = await settled(lambda: self._cleanup.sender(complete(address)))
        for word in edit.parameters.split():
            try:
                parameters = parse_mail(f"FROM:<> {word}", _RULES)[1]
            except SyntaxRefusal:
                parameters = None
            if parameters is None or not (parameters.ret or parameters.envid):
                log.warning(f'Ignoring bad ESMTP parameter "{word}" in SMFI_CHGFROM request')
                continue
            self.ret = parameters.ret or self.ret
            self.envid = parameters.envid or self.envid

    async def add(self, edit: AddRecipient, log: Log, queue_id: str) -> None:
        """Raises what tables raise, and `AliasExpansionError`."""
        notify = orcpt = ""
        for word in edit.parameters.split():
            name = word.partition("=")[0].upper()
            try:
                parameters = parse_rcpt(f"TO:<x@x.invalid> {word}", True, False, False, True)[1]
            except SyntaxRefusal:
                if name in ("NOTIFY", "ORCPT"):
                    log.warning(
                        f'{queue_id}: Bad {name} parameter from Milter or header/body_checks: "{word[:100]}"'
                    )
                else:
                    log.warning(
                        f"{queue_id}: ignoring ESMTP argument from Milter or header/body_checks: "
                        f'"{word[:100]}"'
                    )
                continue
            notify, orcpt = parameters.notify or notify, parameters.orcpt or orcpt
        address = self._internal(edit.address, _MULTIPLE, log, queue_id)
        if not address:
            log.warning(f"{queue_id}: ignoring attempt from Milter to add null recipient")
            return
        if self._fixed:
            return
        cleanup, complete = self._cleanup, self._rewriter.complete
        whole = complete(address)
        asked = {whole: RcptParameters(notify, orcpt)} if notify or orcpt else None
        new = await settled(lambda: cleanup.recipients([(whole, whole)], asked))
        known = {(one.address.lower(), _given(one).lower()) for one in self.recipients}
        self.recipients += tuple(
            one for one in new if (one.address.lower(), _given(one).lower()) not in known
        )

    def delete(self, edit: DeleteRecipient, log: Log, queue_id: str) -> None:
        address = self._internal(edit.address, "Milter request to drop multi-recipient", log, queue_id)
        if not self._fixed:
            self.recipients = tuple(one for one in self.recipients if _given(one) != address)

    def _internal(self, text: str, request: str, log: Log, queue_id: str) -> str:
        """The address in a milter's words, which may be anything: the first one that can be read."""
        words = text.strip()
        try:
            return parse_path(words)
        except AddressError:
            pass
        first, comma, _ = words.partition(",")
        if comma:
            log.warning(f'{queue_id}: {request}: "{words[:100]}"')
            words = first.strip()
        if words.endswith(">") and "<" in words:
            words = words[words.rindex("<") :]
        try:
            return parse_path(words)
        except AddressError:
            return ""


def _given(recipient: Recipient) -> str:
    return recipient.original or recipient.address


class Body:
    """What stands behind the header: the empty line, and the rest; CRLF line ends."""

    def __init__(self, held: Sequence[bytes], spool: Spool | None = None, offset: int = 0) -> None:
        self.held = held
        self.spool = spool
        self.offset = offset
        """Where it begins in the spool file."""

    def pieces(self, skip: int = 0) -> Iterator[bytes]:
        """All of it but the first `skip` octets, `MILTER_CHUNK` octets at a time. Raises `OSError`."""
        if self.spool is None:
            whole = memoryview(b"".join(self.held))
            for start in range(skip, len(whole), MILTER_CHUNK):
                yield bytes(whole[start : start + MILTER_CHUNK])
            return
        position = self.offset + skip
        while piece := self.spool.read(position, MILTER_CHUNK):
            position += len(piece)
            yield piece


class Draft:
    """One message. `own`: our Received: header. `limit`: octets of a message, 0: any number."""

    def __init__(
        self,
        queue_id: str,
        head: bytes,
        body: Body,
        envelope: Recipients,
        *,
        own: bytes,
        limit: int,
        new_spool: Callable[[str], Spool],
        log: Log,
        inspector: MilterInspector | None = None,
    ) -> None:
        self.queue_id = queue_id
        self.headers = [found[0] for found in _HEADER.finditer(head)]
        self.body = body
        self.envelope = envelope
        self.changed = False
        """The content is not what it was."""
        self.failure: Reply | None = None
        self.inspector = inspector
        self._own = own
        self._limit = limit
        self._new_spool = new_spool
        self._log = log
        self._room = HEADER_ROOM
        self._space = b" "
        self._eight_bit = False
        self._lines: _Lines | None = None
        self._replacement: Spool | None = None

    # ---- what milters see

    def shown(self, *, leading_space: bool) -> Iterator[tuple[bytes, bytes]]:
        """Names and values of the headers; lines of a value are separated by LF."""
        hidden = False
        for header in tuple(self.headers):
            if not hidden and header == self._own:
                hidden = True
                continue
            found = _HEADER.match(header)
            assert found is not None
            value = found[2][:-2].replace(b"\r\n", b"\n")
            if not leading_space and value[:1] == b" ":
                value = value[1:]
            yield found[1], value

    def text(self) -> Iterator[bytes]:
        """The body without the empty line before it. Raises `OSError`."""
        return self.body.pieces(2)

    @property
    def eight_bit(self) -> bool:
        """Octets outside ASCII have been added."""
        return self._eight_bit

    def excused(self, verdict: Verdict) -> bool:
        """Whether a verdict is our own, which has been logged."""
        if verdict.reply is not None:
            return verdict.reply is self.failure
        return verdict.discard and self.discarded

    @property
    def discarded(self) -> bool:
        """milter_header_checks want the message thrown away."""
        return self.inspector is not None and self.inspector.found.discard

    # ---- what they change

    def begin_changes(self, *, space: bool) -> None:
        """Changes of another milter follow; `space`: one goes between a header's colon and its value."""
        self._space = b" " if space else b""

    async def change(self, edit: Edit) -> None:
        """Carry out one change; raises nothing."""
        if self.failure is not None:
            return
        if self._lines is not None and not isinstance(edit, ReplaceBody):
            self._finish_body()
        try:
            await self._change(edit)
        except (AliasExpansionError, MapError, TableError) as error:
            self._log.warning(f"{self.queue_id}: {error}")
            self.failure = WRITE_ERROR
        except OSError as error:
            self._log.warning(f"{self.queue_id}: write queue file: {error.strerror or error}")
            self.failure = WRITE_ERROR

    def end_changes(self) -> None:
        """The milter has decided. Raises nothing."""
        if self._lines is not None:
            try:
                self._finish_body()
            except OSError as error:
                self._log.warning(f"{self.queue_id}: write queue file: {error.strerror or error}")
                self.failure = WRITE_ERROR
        found = self.inspector.found.rejected if self.inspector is not None else None
        if found is not None and self.failure is None:
            self.failure = found

    def spoil(self) -> None:
        """A new body will not come to its end: the old one stays."""
        if self._lines is not None:
            self._lines = None
            self._drop_replacement()

    def close(self) -> None:
        """Nothing of it is wanted any more, or all of it has been taken."""
        self._lines = None
        self._drop_replacement()

    async def assemble(self, original: Spool | None) -> tuple[list[bytes], Spool | None]:
        """The content for the queue: what is to be written behind that of a spool file, where there is one.

        `original` is the spool file that the message came in; when it is not the result it has been removed.
        Raises `OSError`.
        """
        head = b"".join(self.headers)
        if original is None and self.body.spool is None:
            return [head, *self.body.held], None
        if not self.changed:
            return [], original
        new = self._new_spool(".new")
        try:
            new.append((head,))
            for piece in self.body.pieces():
                new.append((piece,))
                await asyncio.sleep(0)
        except BaseException:
            new.abort()
            raise
        if original is not None:
            original.abort()
        return [], new

    def _drop_replacement(self) -> None:
        if self._replacement is not None:
            self._replacement.abort()
            self._replacement = None

    async def _change(self, edit: Edit) -> None:
        match edit:
            case AddHeader(name, value):
                self._insert(len(self.headers), name, value)
            case InsertHeader(index, name, value):
                self._insert(index, name, value)
            case ChangeHeader():
                self._change_header(edit)
            case ChangeSender():
                self._spend(len(edit.address) + len(edit.parameters))
                await self.envelope.change_sender(edit, self._log, self.queue_id)
            case AddRecipient():
                if self._spend(len(edit.address) + len(edit.parameters) + 64):
                    await self.envelope.add(edit, self._log, self.queue_id)
            case DeleteRecipient():
                self.envelope.delete(edit, self._log, self.queue_id)
            case ReplaceBody(data):
                self._take_body(data)

    def _spend(self, octets: int) -> bool:
        """Whether there is room for so many octets more."""
        self._room -= octets
        if self._room < 0 and self.failure is None:
            self._log.warning(f"{self.queue_id}: queue file size limit exceeded")
            self.failure = TOO_BIG
        return self._room >= 0

    # ---- headers

    def _insert(self, index: int, name: bytes, value: bytes) -> None:
        new = self._made(name, value)
        if new:
            self.headers[index:index] = new
            self.changed = True

    def _change_header(self, edit: ChangeHeader) -> None:
        wanted = edit.name.lower()
        places = [
            position
            for position, header in enumerate(self.headers)
            if header != self._own and _name(header) == wanted
        ]
        if edit.index > len(places):
            if edit.value:
                self._insert(len(self.headers), edit.name, edit.value)
            return
        position = places[edit.index - 1]
        if edit.value:
            new = self._made(edit.name, edit.value)
            if not new:
                return
            self.headers[position : position + 1] = new
        else:
            del self.headers[position]
        self.changed = True

    def _made(self, name: bytes, value: bytes) -> list[bytes]:
        """A new header, as milter_header_checks leave it; nothing where they, or its name, forbid it."""
        if not _NAME.match(name):
            shown = name[:100].decode("utf-8", "replace")
            self._log.warning(f"{self.queue_id}: ignoring a header with the bad name {shown!r} from Milter")
            return []
        if not self._spend(len(name) + len(value) + 4):
            return []
        lines = value.replace(b"\r\n", b"\n").replace(b"\r", b" ").split(b"\n")
        text = b"\r\n".join(
            line if not number or line[:1] in (b" ", b"\t") else b"\t" + line
            for number, line in enumerate(lines)
        )
        header = name + b":" + self._space + text + b"\r\n"
        self._eight_bit = self._eight_bit or not header.isascii()
        if self.inspector is None:
            return [header]
        checked = self.inspector.check(header)
        return [found[0] for found in _HEADER.finditer(checked)]

    # ---- the body

    def _take_body(self, data: bytes) -> None:
        if self._lines is None:
            self._drop_replacement()
            self._lines = _Lines()
        lines = self._lines
        lines.feed(data)
        self._eight_bit = self._eight_bit or not data.isascii()
        if self._limit and lines.size > self._limit:
            self._log.warning(f"{self.queue_id}: queue file size limit exceeded")
            self.failure = TOO_BIG
        elif lines.held >= HELD:
            self._unload(lines)

    def _unload(self, lines: _Lines) -> None:
        if self._replacement is None:
            self._replacement = self._new_spool(".body")
        self._replacement.append(lines.take())

    def _finish_body(self) -> None:
        """The new body is complete. Raises `OSError`."""
        lines, self._lines = self._lines, None
        assert lines is not None
        lines.end()
        if self._replacement is not None:
            self._unload(lines)
            self.body = Body((), self._replacement)
        else:
            self.body = Body(lines.take())
        self.changed = True


class _Lines:
    """Makes CRLF of every line end, however the octets are cut; begins with the empty line of a body."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = [b"\r\n"]
        self._last = b"\n"
        self._pending = False
        """A CR has come, and nothing behind it yet."""
        self.held = self.size = 2

    def feed(self, data: bytes) -> None:
        if not data:
            return
        if self._pending:
            data = b"\r" + data
            self._pending = False
        if data[-1:] == b"\r":
            data, self._pending = data[:-1], True
        if not data:
            return
        data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        self._last = data[-1:]
        self._pieces.append(data)
        self.held += len(data)
        self.size += len(data)

    def end(self) -> None:
        """The last line gets its end."""
        if self._pending:
            self._pieces.append(b"\r")
            self._last = b"\r"
        if self._last != b"\n":
            self._pieces.append(b"\r\n")

    def take(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        self.held = 0
        return pieces


def _name(header: bytes) -> bytes:
    return header.partition(b":")[0].rstrip(b" \t").lower()
