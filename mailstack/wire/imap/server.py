"""The server's side of IMAP4rev1, sans-I/O: octets in, commands out.

`receive_data` takes what the client has sent, `next_event` gives commands until it returns `NEED_DATA`, and
`data_to_send` holds continuation requests. A command that cannot be read gives `BadCommand` with the text of
its BAD reply, and the reading goes on with the next one: after a synchronizing literal nothing more of the
command comes; a non-synchronizing one (RFC 7888) is skipped, however long. `utf8` says that mailbox names
come in UTF-8 (RFC 6855).

The messages of APPEND and REPLACE are not collected but handed on: `AppendMessage` and `AppendText` ask for
`accept_literal` or `refuse_literal` (any of their events may be answered with the latter), then `AppendData`
comes in pieces, and `AppendEnd` when the command is complete; see `append`. After AUTHENTICATE and IDLE the
lines that follow come as `ClientLine` until `resume`.

Invariants: at most `line_limit` octets of text and as many of literals are held for a command; the parser
never raises, whatever comes in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from mailstack.wire.imap.append import LITERAL, AppendData, AppendEvent, Arguments, Replace
from mailstack.wire.imap.commands import Authenticate, Command, Plain
from mailstack.wire.imap.parse import PARSERS, parse_command
from mailstack.wire.imap.states import ALLOWED, TRANSITIONS, State
from mailstack.wire.imap.tokens import BadMailboxNameError, Cursor, ParseError

DEFAULT_LINE_LIMIT = 65536
_TAG = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\+]+")
_APPEND = re.compile(
    rb"[^ ]+ +(?:APPEND|(?P<uid>UID +)?REPLACE +(?P<number>[0-9]{1,10}|\*)) +(?P<rest>.*)", re.I | re.S
)
_UNPRINTABLE = re.compile(r"[^ -~]")
_APPENDING = frozenset({"APPEND", "REPLACE", "UID REPLACE"})
"""Commands that have messages in them."""
_TAIL = 64
"""Octets at a line's end that are kept when the line itself is not."""


@dataclass(frozen=True, slots=True)
class NeedData:
    """Nothing more to say until more octets come."""


NEED_DATA = NeedData()


@dataclass(frozen=True, slots=True)
class CommandEvent:
    """A complete command. `name` is its keyword in upper case (`UID FETCH`)."""

    tag: str
    name: str
    command: Command


@dataclass(frozen=True, slots=True)
class BadCommand:
    """Something that is no command: reply `<tag> <status> <text>`; `*` stands for a missing tag."""

    tag: str
    text: str
    status: str = "BAD"


@dataclass(frozen=True, slots=True)
class ClientLine:
    """A line (without its end) after AUTHENTICATE or IDLE."""

    data: bytes


Event = NeedData | CommandEvent | BadCommand | AppendEvent | AppendData | ClientLine


class _Mode(Enum):
    COMMAND = auto()
    LITERAL = auto()
    SKIP_LITERAL = auto()
    SKIP_LINE = auto()
    APPEND_DECIDE = auto()
    APPEND_URL = auto()
    APPEND_DATA = auto()
    APPEND_TAIL = auto()
    LINES = auto()


class ServerConnection:
    """See the module. `state` is moved by `succeeded`, and decides which commands are allowed."""

    __slots__ = (
        "_append",
        "_bad",
        "_buffer",
        "_literals",
        "_literals_size",
        "_mode",
        "_out",
        "_queue",
        "_remaining",
        "_searched",
        "_sync",
        "_text",
        "line_limit",
        "state",
        "utf8",
    )

    def __init__(self, line_limit: int = DEFAULT_LINE_LIMIT) -> None:
        self.state = State.NOT_AUTHENTICATED
        self.line_limit = line_limit
        self.utf8 = False
        self._buffer = bytearray()
        self._searched = 0
        self._mode = _Mode.COMMAND
        self._text = b""
        self._literals: list[bytes] = []
        self._literals_size = 0
        self._remaining = 0
        self._sync = False
        self._append: Arguments | None = None
        self._queue: list[AppendEvent] = []
        self._bad: BadCommand | None = None
        self._out = b""

    def receive_data(self, data: bytes) -> None:
        """Take octets from the client."""
        self._buffer += data

    def data_to_send(self) -> bytes:
        """Continuation requests for the client; empty when there are none."""
        out, self._out = self._out, b""
        return out

    def discard_input(self) -> None:
        """Forget what has come in already (after STARTTLS)."""
        self._buffer.clear()
        self._searched = 0

    @property
    def is_idle(self) -> bool:
        """No command is half read."""
        return not self._buffer and not self._text and self._mode in (_Mode.COMMAND, _Mode.LINES)

    def succeeded(self, name: str) -> None:
        """The command `name` has been answered with OK: go where it leads."""
        self.state = TRANSITIONS.get((self.state, name), self.state)

    def resume(self) -> None:
        """AUTHENTICATE or IDLE is over: read commands again."""
        if self._mode is _Mode.LINES:
            self._mode = _Mode.COMMAND

    def accept_literal(self) -> None:
        """Let what `AppendMessage` or `AppendText` announced come."""
        if self._sync:
            self._out += b"+ OK\r\n"
        self._mode = _Mode.APPEND_DATA

    def refuse_literal(self) -> None:
        """Do not take the rest of APPEND or REPLACE; the owner has answered the command."""
        self._queue.clear()
        if self._mode in (_Mode.APPEND_DECIDE, _Mode.APPEND_URL) and not self._sync:
            self._mode = _Mode.SKIP_LITERAL
        else:
            self._start_over()

    # ---- events

    def next_event(self) -> Event:
        """The next thing the client has said."""
        while True:
            event = self._step()
            if event is not None:
                return event

    def _step(self) -> Event | None:
        """Do one thing; None when there may be more to do at once."""
        if self._queue:
            return self._queue.pop(0)
        match self._mode:
            case _Mode.LINES:
                line = self._line()
                if line is None:
                    return self._overlong() or NEED_DATA
                if len(line) <= self.line_limit:
                    return ClientLine(line)
                return self._too_long(_tag_of(line), line)
            case _Mode.COMMAND | _Mode.APPEND_TAIL:
                line = self._line()
                if line is None:
                    return self._overlong() or NEED_DATA
                return self._got_line(line)
            case _Mode.LITERAL:
                if len(self._buffer) < self._remaining:
                    return NEED_DATA
                self._literals.append(self._take(self._remaining))
                self._mode = _Mode.COMMAND
                return None
            case _Mode.SKIP_LITERAL:
                self._remaining -= len(self._take(min(self._remaining, len(self._buffer))))
                if self._remaining:
                    return NEED_DATA
                self._mode = _Mode.SKIP_LINE
                return None
            case _Mode.SKIP_LINE:
                return self._skip_line()
            case _Mode.APPEND_DATA:
                if not self._remaining:
                    self._mode = _Mode.APPEND_TAIL
                    return None
                if not self._buffer:
                    return NEED_DATA
                data = self._take(min(self._remaining, len(self._buffer)))
                self._remaining -= len(data)
                return AppendData(data)
            case _Mode.APPEND_URL:
                if self._sync:
                    self._sync = False
                    self._out += b"+ OK\r\n"
                if len(self._buffer) < self._remaining:
                    return NEED_DATA
                self._literals.append(self._take(self._remaining))
                self._mode = _Mode.APPEND_TAIL
                return None
            case _Mode.APPEND_DECIDE:
                return NEED_DATA

    def _take(self, count: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        self._searched = 0
        return data

    def _line(self) -> bytes | None:
        """The next line without its CRLF (or LF alone, as Dovecot takes it); None when there is none yet."""
        end = self._buffer.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._buffer)
            return None
        line = self._take(end + 1)[:-1]
        return line[:-1] if line.endswith(b"\r") else line

    def _overlong(self) -> Event | None:
        if len(self._buffer) - self._buffer.endswith(b"\r") + len(self._text) <= self.line_limit:
            return None
        tag = self._tag(self._text or bytes(self._buffer[:256]))
        self._start_over()
        self._mode = _Mode.SKIP_LINE
        return BadCommand(tag, "Error in IMAP command: Too long line.")

    def _too_long(self, tag: str, line: bytes) -> BadCommand:
        """The refusal of a whole line; a literal that it announces is skipped, as `_skip_line` does."""
        self._start_over()
        found = LITERAL.search(line)
        if found is not None and found[3]:
            self._remaining = int(found[2])
            self._mode = _Mode.SKIP_LITERAL
        return BadCommand(tag, "Error in IMAP command: Too long line.")

    def _tag(self, text: bytes) -> str:
        return self._append.tag if self._append is not None else _tag_of(text)

    def _skip_line(self) -> Event | None:
        line = self._line()
        if line is None:
            # Only the line's end matters: it may announce a literal, which is to be skipped too.
            del self._buffer[:-_TAIL]
            self._searched = len(self._buffer)
            return NEED_DATA
        found = LITERAL.search(line)
        if found is not None and found[3]:
            self._remaining = int(found[2])
            self._mode = _Mode.SKIP_LITERAL
            return None
        bad, self._bad = self._bad, None
        self._start_over()
        return bad

    def _start_over(self) -> None:
        self._mode = _Mode.COMMAND
        self._text = b""
        self._literals = []
        self._literals_size = 0
        self._append = None

    # ---- commands

    def _got_line(self, line: bytes) -> Event | None:
        text = self._text + line
        found = LITERAL.search(line)
        if len(text) > self.line_limit:
            return self._too_long(self._tag(text), line)
        if self._append is not None:
            return self._append_read(self._append, self._text + line.replace(b"\0", b"\x80"), found)
        if b"\0" in line:
            tag = _tag_of(text)
            self._start_over()
            return BadCommand(tag, "Error in IMAP command: NUL character.")
        if found is not None:
            return self._literal(text, found)
        literals = self._literals
        self._start_over()
        return self._command(text, literals)

    def _literal(self, text: bytes, found: re.Match[bytes]) -> Event | None:
        size, plus = int(found[2]), bool(found[3])
        head = text[: len(text) - len(found[0])]
        append = _APPEND.match(head)
        # Where nothing stands before it, the literal is the mailbox's name.
        if append is not None and append["rest"].strip(b" ") and self.state in _appending(append):
            return self._append_first(text, append, found)
        limit = self.line_limit if self.state is not State.NOT_AUTHENTICATED else 8192
        if self._literals_size + size > limit:
            return self._refuse(BadCommand(_tag_of(text), "Literal size too large"), size, plus)
        self._text = head + b"\0"
        self._literals_size += size
        self._remaining = size
        self._mode = _Mode.LITERAL
        if not plus:
            self._out += b"+ OK\r\n"
        return None

    def _refuse(self, bad: BadCommand, size: int, plus: bool) -> Event | None:
        """Answer BAD now (the client waits) or once its literal has gone by."""
        self._start_over()
        if not plus:
            return bad
        self._bad = bad
        self._remaining = size
        self._mode = _Mode.SKIP_LITERAL
        return None

    def _command(self, text: bytes, literals: list[bytes]) -> Event | None:
        cursor = Cursor(text, literals, utf8=self.utf8)
        found = _TAG.match(text)
        if found is None or text[found.end() : found.end() + 1] not in (b" ", b""):
            return BadCommand("*", "Error in IMAP tag: Invalid tag.") if text.strip() else _empty(text)
        tag = found[0].decode("ascii")
        cursor.at = found.end()
        try:
            cursor.space()
            name = cursor.word()
        except ParseError:
            return BadCommand(tag, "Error in IMAP command: Invalid command name.")
        try:
            if name == "UID":
                cursor.space()
                name = f"UID {cursor.word()}"
        except ParseError:
            return BadCommand(tag, "Error in IMAP command UID: Missing arguments.")
        allowed = ALLOWED.get(name)
        if allowed is None:
            return BadCommand(tag, f"Error in IMAP command {name[:64]}: Unknown command.")
        if self.state not in allowed:
            return BadCommand(tag, self._wrong_state(name, allowed))
        if name in _APPENDING:
            append = _APPEND.match(text)
            if append is None:
                return BadCommand(tag, f"Error in IMAP command {name}: Missing arguments.")
            self._literals = literals
            return self._append_first(text, append, None)
        try:
            command = parse_command(name, cursor)
        except ParseError as error:
            reason = _UNPRINTABLE.sub("?", str(error)[:200]).removesuffix(".")
            return BadCommand(tag, f"Error in IMAP command {name}: {reason}.")
        except BadMailboxNameError as error:
            return BadCommand(tag, str(error), "NO")
        if isinstance(command, Authenticate) or (isinstance(command, Plain) and command.name == "IDLE"):
            self._mode = _Mode.LINES
        return CommandEvent(tag, name, command)

    def _wrong_state(self, name: str, allowed: frozenset[State]) -> str:
        if self.state is State.NOT_AUTHENTICATED:
            return f"Error in IMAP command {name}: Please authenticate first."
        if State.NOT_AUTHENTICATED in allowed:
            return f"Error in IMAP command {name}: Already logged in."
        return "No mailbox selected."

    # ---- APPEND and REPLACE

    def _append_first(
        self, text: bytes, append: re.Match[bytes], found: re.Match[bytes] | None
    ) -> Event | None:
        """The command's beginning, up to its first literal or (without one) its end."""
        tag = _tag_of(text)
        head = text[: len(text) - len(found[0])] if found else text
        cursor = Cursor(head, self._literals, utf8=self.utf8)
        cursor.at = append.start("rest")
        number = append["number"]
        replace = None
        if number is not None:
            replace = Replace(0 if number == b"*" else int(number), append["uid"] is not None)
        try:
            mailbox = cursor.mailbox()
        except ParseError as error:
            return self._append_refused(f"Error in IMAP command {_verb(replace)}: {error}", found, tag)
        except BadMailboxNameError as error:
            return self._append_refused(str(error), found, tag, "NO")
        rest, self._literals, self._literals_size = cursor.text[cursor.at :], [], 0
        return self._append_read(Arguments(tag, mailbox, replace), rest + (found[0] if found else b""), found)

    def _append_read(self, append: Arguments, text: bytes, found: re.Match[bytes] | None) -> Event | None:
        """Go on with the arguments: to the next literal, or to the command's end."""
        literal, head = None, text
        if found is not None:
            literal, head = (bool(found[1]), int(found[2])), text[: len(text) - len(found[0])]
        try:
            events, again = append.read(Cursor(head, self._literals), literal)
        except ParseError as error:
            reason = f"Error in IMAP command {_verb(append.replace)}: {error}"
            return self._append_refused(reason, found, append.tag)
        if found is None:
            self._start_over()
            self._queue = events
            return None
        self._remaining, self._sync = int(found[2]), not found[3]
        self._text, self._literals, self._append = b"", [], append
        self._mode = _Mode.APPEND_DECIDE
        if again is not None:
            if self._remaining > self.line_limit:
                return self._append_refused("Literal size too large", found, append.tag)
            self._text = head[again:] + b"\0"
            self._mode = _Mode.APPEND_URL
        self._queue = events
        return None

    def _append_refused(
        self, text: str, found: re.Match[bytes] | None, tag: str, status: str = "BAD"
    ) -> Event | None:
        """What is wrong now, when the client waits or has said all; or once its literal has gone by."""
        bad = BadCommand(tag, _UNPRINTABLE.sub("?", text[:250]), status)
        if found is None:
            self._start_over()
            return bad
        return self._refuse(bad, int(found[2]), bool(found[3]))


def _appending(append: re.Match[bytes]) -> frozenset[State]:
    """The states that allow this APPEND or REPLACE."""
    return ALLOWED["APPEND" if append["number"] is None else "REPLACE"]


def _verb(replace: Replace | None) -> str:
    return "APPEND" if replace is None else "UID REPLACE" if replace.uid else "REPLACE"


def _tag_of(text: bytes) -> str:
    found = _TAG.match(text)
    if found is None or text[found.end() : found.end() + 1] not in (b" ", b"") or len(found[0]) > 128:
        return "*"
    return found[0].decode("ascii")


def _empty(text: bytes) -> BadCommand:
    return BadCommand("*", "Error in IMAP tag: Empty tag.")


_KNOWN = frozenset(PARSERS) | _APPENDING
if frozenset(ALLOWED) != _KNOWN:
    raise AssertionError("states and parsers name different commands")
