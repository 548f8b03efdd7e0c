"""header_checks, mime_header_checks, nested_header_checks, body_checks, and what else looks at a message.

Where main.cf asks for any of this (`check_rules`), each message has an `Inspector`, to which the header is
shown first (`headers`), then the rest as it comes (`body`, `finish`). It gives back what the message is from
then on, and notes in `found` what was decided: a rejection, that it is to be held, discarded, filtered,
redirected, copied.

Logs Postfix's lines: `ID: reject: header TEXT from NAME[ADDRESS]; from=<…> to=<…> proto=… helo=<…>: REASON`,
and warnings for rules that cannot be carried out. Standards: header_checks(5), RFC 2045.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mailstack.mta.cleanup.check_rules import Checks, Rules
from mailstack.mta.cleanup.headers import HEADER
from mailstack.net.log import Log
from mailstack.storage.tables import TableError
from mailstack.wire.mime.scan import Encoding, Piece, Scanner
from mailstack.wire.smtp.reply import Reply

_LOGGED = 200
"""Characters of the matched text in a log line."""
_DSN = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\s+")
CONTENT_REJECTED = Reply(550, "5.7.1", "message content rejected")
_EIGHT_IN_HEADER = Reply(550, "5.6.0", "improper use of 8-bit data in message header")
_EIGHT_IN_BODY = Reply(550, "5.6.0", "improper use of 8-bit data in message body")
_ENCODING_DOMAIN = Reply(550, "5.6.0", "invalid message/* or multipart/* encoding domain")
_NESTING = Reply(550, "5.6.0", "MIME nesting exceeds safety limit")


@dataclass(frozen=True, slots=True)
class Origin:
    """Who a message is from, as a log line of a check has it."""

    client: str
    """`name[address]`, or `local` for mail of this machine."""
    sender: str
    recipient: str
    """The last one; `""` when there is none yet."""
    protocol: str = ""
    helo: str = ""

    def words(self) -> str:
        words = f"from {self.client}; from=<{self.sender}>"
        if self.recipient:
            words += f" to=<{self.recipient}>"
        if self.protocol:
            words += f" proto={self.protocol}"
        if self.helo:
            words += f" helo=<{self.helo}>"
        return words


@dataclass(slots=True)
class Findings:
    """What checks have decided for one message."""

    rejected: Reply | None = None
    hold: bool = False
    discard: bool = False
    filter: str = ""
    """`transport:nexthop`."""
    redirect: str = ""
    bcc: list[str] = field(default_factory=list)


class Inspector:
    """One message under inspection."""

    __slots__ = (
        "_checks",
        "_continued",
        "_log",
        "_offset",
        "_on",
        "_origin",
        "_queue_id",
        "_rest",
        "_scanner",
        "found",
    )

    def __init__(self, checks: Checks, queue_id: str, origin: Origin, log: Log) -> None:
        self._checks = checks
        self._queue_id = queue_id
        self._origin = origin
        self._log = log
        self._scanner = Scanner(
            understand=checks.understand,
            header_limit=checks.header_limit,
            nesting_limit=checks.nesting_limit,
            boundary_limit=checks.boundary_limit,
        )
        self._rest = b""
        self._continued = False
        """`_rest` goes on with a line of which parts have been given already."""
        self._offset = 0
        self._on = True
        """Tables are still asked: nothing final has been decided."""
        self.found = Findings()

    # ---- what it is shown

    def stripped(self, data: bytes) -> bytes:
        """Content without the characters that message_strip_characters names."""
        characters = self._checks.stripped_characters
        return data.translate(None, characters) if characters else data

    def headers(self, block: bytes) -> bytes:
        """The message's own header block (CRLF line ends, complete headers); what it becomes.

        Raises `OSError` and `TableError`.
        """
        return self._feed(block) + self._pieces(self._scanner.finish())

    def body(self, data: bytes) -> bytes:
        """What comes behind it, in pieces of any size, the empty line first."""
        return self._feed(data)

    def finish(self) -> bytes:
        """The message is over."""
        rest, self._rest = self._rest, b""
        out = self._feed(rest + b"\r\n") if rest or self._continued else b""
        out += self._pieces(self._scanner.finish())
        if self._scanner.nested_too_deep and (self._checks.eight_headers or self._checks.domain):
            self._mime_error(_NESTING, b"")
        return out

    def _feed(self, data: bytes) -> bytes:
        checks = self._checks
        bad = checks.bad_characters
        if bad and self.found.rejected is None and any(octet in data for octet in bad):
            self._reject_characters()
        if checks.stripped_characters:
            data = data.translate(None, checks.stripped_characters)
        lines = (self._rest + data).split(b"\r\n")
        self._rest = lines.pop()
        if (
            self._continued
            or len(self._rest) > checks.line_limit
            or max(map(len, lines), default=0) > (checks.line_limit)
        ):
            return self._long(lines)
        line = self._scanner.line
        return b"".join([self._pieces(line(one)) for one in lines])

    def _long(self, lines: list[bytes]) -> bytes:
        """Lines some of which are too long, and as much of an unfinished one as is."""
        out = [part for line in lines for part in self._parts(line, ends=True)]
        out += self._parts(self._rest, ends=False)
        return b"".join(out)

    def _parts(self, line: bytes, *, ends: bool) -> Iterator[bytes]:
        """A line in parts; one that has not ended keeps its last part in `_rest`."""
        limit = self._checks.line_limit
        start = 0
        while len(line) - start > limit:
            yield self._part(line[start : start + limit], ends=False)
            start += limit
        if ends:
            yield self._part(line[start:], ends=True)
        else:
            self._rest = line[start:]

    def _part(self, part: bytes, *, ends: bool) -> bytes:
        scanner = self._scanner
        pieces = scanner.more(part) if self._continued else scanner.line(part)
        self._continued = not ends
        out = self._pieces(pieces)
        unfinished = not ends and pieces and pieces[-1][0] is Piece.BODY
        return out.removesuffix(b"\r\n") if unfinished else out

    def _reject_characters(self) -> None:
        self.found.rejected = Reply(550, "5.7.1", "disallowed character")
        self._on = False
        self._log.info(
            f"{self._queue_id}: reject: content disallowed character {self._origin.words()}: "
            "5.7.1 disallowed character"
        )

    # ---- pieces

    def _pieces(self, pieces: list[tuple[Piece, bytes]]) -> bytes:
        out = b""
        for piece, text in pieces:
            if piece is Piece.BODY:
                out += self._body_line(text)
            elif piece is Piece.END:
                self._offset = 0
                scanner = self._scanner
                if self._checks.domain and scanner.composite and scanner.encoding is Encoding.CODED:
                    self._mime_error(_ENCODING_DOMAIN, b"")
                if not scanner.ran_on:  # a part stays as it is, octet for octet
                    out += text + b"\r\n"
            else:
                out += self._header(piece, text)
        return out

    def _header(self, piece: Piece, text: bytes) -> bytes:
        checks = self._checks
        if checks.eight_headers and not text.isascii():
            self._mime_error(_EIGHT_IN_HEADER, text)
        if piece is Piece.PRIMARY and _MIME_HEADER.match(text):
            piece = Piece.MULTIPART
        rules = checks.by_piece[piece]
        if rules is None or not self._on:
            return text.replace(b"\n", b"\r\n") + b"\r\n"
        return self._act(rules, "header", text)

    def _body_line(self, line: bytes) -> bytes:
        checks = self._checks
        if checks.eight_body and not line.isascii() and self._scanner.encoding is Encoding.SEVEN:
            self._mime_error(_EIGHT_IN_BODY, line)
        rules, offset = checks.body, self._offset
        self._offset = offset + len(line) + 1
        if rules is None or not self._on or (checks.body_limit and offset >= checks.body_limit):
            return line + b"\r\n"
        return self._act(rules, "body", line)

    def _mime_error(self, reply: Reply, text: bytes) -> None:
        if self.found.rejected is None:
            self.found.rejected = reply
            shown = text.decode("utf-8", "replace")[:_LOGGED]
            self._log.info(
                f"{self._queue_id}: reject: mime-error {reply.text}: {shown} {self._origin.words()}"
            )

    # ---- actions

    def _act(self, rules: Rules, context: str, octets: bytes) -> bytes:
        """The lines that a rule makes of a header or a line, with their CRLF."""
        text = octets.decode("utf-8", "surrogateescape")
        value = rules.find(text)
        unchanged = octets.replace(b"\n", b"\r\n") + b"\r\n"
        if value is None:
            return unchanged
        word, _, rest = value.partition(" ")
        rest = rest.strip()
        action = _ACTIONS.get(word.upper())
        if action is None:
            self._log.warning(f"unknown command in {rules.name} map: {value}")
            return unchanged
        return action(self, _Match(rules.name, context, text, rest, unchanged))

    def _say(self, word: str, match: _Match, text: str) -> None:
        shown = match.text[:_LOGGED].replace("\n", "?").encode("utf-8", "replace").decode()
        line = f"{self._queue_id}: {word}: {match.context} {shown} {self._origin.words()}"
        self._log.info(f"{line}: {text}" if text else line)

    def _warn(self, text: str) -> None:
        self._log.warning(text)

    def _reject(self, match: _Match) -> bytes:
        enhanced, text = CONTENT_REJECTED.enhanced, match.argument or CONTENT_REJECTED.text
        given = _DSN.match(text)
        if given is not None:
            enhanced, text = given[1], text[given.end() :]
            if enhanced[0] == "2":
                self._warn(f"bad DSN action in {match.rules} map -- need 4.x.x or 5.x.x")
                enhanced = f"4{enhanced[1:]}"
        self.found.rejected = Reply(451 if enhanced[0] == "4" else 550, enhanced, text)
        self._on = False
        self._say("reject", match, f"{enhanced} {text}")
        return match.unchanged

    def _speak(self, word: str) -> Callable[[_Match], bytes]:
        def speak(match: _Match) -> bytes:
            self._say(word, match, match.argument)
            return match.unchanged

        return speak

    def _warning(self, match: _Match) -> bytes:
        return self._speak("warning")(match)

    def _info(self, match: _Match) -> bytes:
        return self._speak("info")(match)

    def _pass(self, match: _Match) -> bytes:
        self._on = False
        return self._speak("pass")(match)

    def _discard(self, match: _Match) -> bytes:
        self.found.discard = True
        self._on = False
        return self._speak("discard")(match)

    def _hold(self, match: _Match) -> bytes:
        if not self.found.hold and not self.found.discard:
            self.found.hold = True
            self._say("hold", match, match.argument)
        return match.unchanged

    def _filter(self, match: _Match) -> bytes:
        if not match.argument:
            self._warn(f"missing FILTER command argument in {match.rules} map")
        elif ":" not in match.argument:
            self._warn(f"bad FILTER command {match.argument} in {match.rules} -- need transport:destination")
        else:
            self.found.filter = match.argument
            self._say("filter", match, match.argument)
        return match.unchanged

    def _redirect(self, match: _Match) -> bytes:
        if "@" not in match.argument:
            self._warn(f'bad REDIRECT target "{match.argument}" in {match.rules} map -- need user@domain')
        else:
            self.found.redirect = match.argument
            self._on = False
            self._say("redirect", match, match.argument)
        return match.unchanged

    def _bcc(self, match: _Match) -> bytes:
        if "@" not in match.argument:
            self._warn(f'bad BCC address "{match.argument}" in {match.rules} map -- need user@domain')
        else:
            if match.argument not in self.found.bcc:
                self.found.bcc.append(match.argument)
            self._say("bcc", match, match.argument)
        return match.unchanged

    def _prepend(self, match: _Match) -> bytes:
        return self._text("PREPEND", match) + match.unchanged

    def _replace(self, match: _Match) -> bytes:
        return self._text("REPLACE", match) or match.unchanged

    def _text(self, word: str, match: _Match) -> bytes:
        """The text of PREPEND and REPLACE as a line; nothing where it is no header and must be one."""
        if not match.argument:
            self._warn(f"{word} action without text in {match.rules} map")
            return b""
        if match.context == "header" and not HEADER.match(match.argument):
            self._warn(
                f'bad {word} header text "{match.argument}" in {match.rules} map -- '
                'need "headername: headervalue"'
            )
            return b""
        self._say(word.lower(), match, match.argument)
        return match.argument.encode("utf-8", "surrogateescape") + b"\r\n"

    def _strip(self, match: _Match) -> bytes:
        self._say("strip", match, match.argument)
        return b""

    def _ignore(self, match: _Match) -> bytes:
        return b""

    def _dunno(self, match: _Match) -> bytes:
        return match.unchanged


@dataclass(frozen=True, slots=True)
class _Match:
    """A rule that has matched."""

    rules: str
    """The parameter with the table."""
    context: str
    """`header` or `body`."""
    text: str
    argument: str
    """What the rule has behind the action's word."""
    unchanged: bytes


_ACTIONS: dict[str, Callable[[Inspector, _Match], bytes]] = {
    "BCC": Inspector._bcc,
    "DISCARD": Inspector._discard,
    "DUNNO": Inspector._dunno,
    "FILTER": Inspector._filter,
    "HOLD": Inspector._hold,
    "IGNORE": Inspector._ignore,
    "INFO": Inspector._info,
    "OK": Inspector._dunno,
    "PASS": Inspector._pass,
    "PREPEND": Inspector._prepend,
    "REDIRECT": Inspector._redirect,
    "REJECT": Inspector._reject,
    "REPLACE": Inspector._replace,
    "STRIP": Inspector._strip,
    "WARN": Inspector._warning,
}
_MIME_HEADER = re.compile(rb"(?:content-[a-z-]+|mime-version)[ \t]*:", re.IGNORECASE)
__all__ = ["CONTENT_REJECTED", "Checks", "Findings", "Inspector", "Origin", "TableError"]
