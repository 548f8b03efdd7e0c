"""Address lists (RFC 5322 §3.4), with Dovecot's answers for broken ones."""

from __future__ import annotations

import re
from typing import NamedTuple

from mailstack.wire.mime.rfc822 import BAD, END, MORE, Lexer

MISSING_MAILBOX = b"MISSING_MAILBOX"
MISSING_DOMAIN = b"MISSING_DOMAIN"
SYNTAX_ERROR = b"SYNTAX_ERROR"
INVALID_ROUTE = b"INVALID_ROUTE"
ADDRESSES_MAX = 10_000
_A = rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\xff]"
_DOT_ATOM = _A + rb"+(?:\." + _A + rb"+)*"
_PHRASE = _A + _A.replace(b"]", b".]") + rb"*(?: " + _A.replace(b"]", b".]") + rb"+)*"
# What nearly every address looks like; anything else takes the slow way.
_SIMPLE = re.compile(
    rb'(?:(?:"([^"\\\r\n]*)" ?|(%b) )?<(%b)@(%b)>|(%b)@(%b))(?:, ?|$)'
    % (_PHRASE, _DOT_ATOM, _DOT_ATOM, _DOT_ATOM, _DOT_ATOM)
)


class Address(NamedTuple):
    """The four fields of IMAP's address (RFC 3501 §2.3.5).

    A group begins with an address whose `domain` is None and `mailbox` the group's name, and ends with one
    that is all None.
    """

    name: bytes | None
    route: bytes | None
    mailbox: bytes | None
    domain: bytes | None


def parse_addresses(value: bytes) -> list[Address]:
    """The addresses of an unfolded field value."""
    found: list[Address] = []
    at = 0
    while len(found) < ADDRESSES_MAX and (match := _SIMPLE.match(value, at)) is not None:
        quoted, phrase, mailbox, domain, bare, bare_domain = match.groups()
        found.append(Address(quoted or phrase, None, mailbox or bare, domain or bare_domain))
        at = match.end()
        if at == len(value) and not match[0].endswith((b",", b" ")):
            return found
    if len(found) >= ADDRESSES_MAX:
        return found
    parser = _Parser(value)
    if parser.lexer.blanks() == MORE:
        parser.address_list()
    return parser.found


class _Parser:
    def __init__(self, value: bytes) -> None:
        self.lexer = Lexer(value)
        self.found: list[Address] = []
        self.clear()

    def clear(self) -> None:
        self.name: bytes | None = None
        self.route: bytes | None = None
        self.mailbox: bytes | None = None
        self.domain: bytes | None = None

    def add(self) -> None:
        self.found.append(Address(self.name, self.route, self.mailbox, self.domain))
        self.clear()

    def add_complete(self) -> None:
        if self.mailbox is None:
            self.mailbox = MISSING_MAILBOX
        if not self.domain:
            self.domain = MISSING_DOMAIN
        self.add()

    def address_list(self) -> None:
        lexer = self.lexer
        while len(self.found) < ADDRESSES_MAX:
            if self.address() == END:
                return
            if not lexer.next_is(b","):
                return
            lexer.at += 1
            result = lexer.blanks()
            if result == BAD:
                self.add_complete()
            if result != MORE:
                return

    def address(self) -> int:
        start = self.lexer.at
        result = self.group()
        if result == BAD:
            self.lexer.at = start
            self.clear()
            result = self.mailbox_spec()
        return result

    def group(self) -> int:
        lexer = self.lexer
        words: list[bytes] = []
        if lexer.phrase(words) != MORE or not lexer.next_is(b":"):
            return BAD
        lexer.at += 1
        result = lexer.blanks()
        self.mailbox = b"".join(words)
        self.add()
        if result == MORE and not lexer.next_is(b";"):
            while len(self.found) < ADDRESSES_MAX:
                self.mailbox_spec()
                if not lexer.next_is(b","):
                    break
                lexer.at += 1
                if lexer.blanks() != MORE:
                    result = BAD
                    break
        if result != BAD:
            if lexer.next_is(b";"):
                lexer.at += 1
                result = lexer.blanks()
            else:
                result = BAD
        self.add()
        return END if result == END else MORE

    def mailbox_spec(self) -> int:
        start = self.lexer.at
        result = self.name_addr()
        if result == BAD:
            self.lexer.at = start
            self.clear()
            result = self.addr_spec()
        self.add_complete()
        return result

    def name_addr(self) -> int:
        lexer = self.lexer
        words: list[bytes] = []
        if lexer.phrase(words) != MORE or not lexer.next_is(b"<"):
            return BAD
        self.name = b"".join(words) or None
        if self.angle_addr() == BAD:
            self.domain = SYNTAX_ERROR
        return END if lexer.ended else MORE

    def angle_addr(self) -> int:
        lexer = self.lexer
        lexer.at += 1
        if lexer.blanks() != MORE:
            return BAD
        if lexer.next_is(b"@"):
            if self.route_list() == MORE and lexer.next_is(b":"):
                lexer.at += 1
            else:
                self.route = INVALID_ROUTE
                if lexer.ended:
                    return BAD
            if lexer.blanks() != MORE:
                return BAD
        if not lexer.next_is(b">"):
            if self.local_part() != MORE:
                return BAD
            if lexer.next_is(b"@") and self.domain_part() != MORE:
                return BAD
        if not lexer.next_is(b">"):
            return BAD
        lexer.at += 1
        return lexer.blanks()

    def route_list(self) -> int:
        lexer = self.lexer
        out: list[bytes] = []
        while lexer.next_is(b"@"):
            if out:
                out.append(b",")
            out.append(b"@")
            result = lexer.domain(out)
            if result != MORE:
                return result
            while lexer.blanks() == MORE and lexer.next_is(b","):
                lexer.at += 1
        if lexer.ended:
            return END
        self.route = b"".join(out)
        return MORE

    def local_part(self) -> int:
        out: list[bytes] = []
        while self.lexer.next_is(b"."):
            out.append(b".")
            self.lexer.at += 1
        result = self.lexer.quoted(out) if self.lexer.next_is(b'"') else self.lexer.dot_atom(out)
        if result != BAD:
            self.mailbox = b"".join(out)
        return result

    def domain_part(self) -> int:
        out: list[bytes] = []
        result = self.lexer.domain(out)
        if result != BAD:
            self.domain = b"".join(out)
        return result

    def addr_spec(self) -> int:
        lexer = self.lexer
        lexer.comment = b""
        quoted = lexer.next_is(b'"')
        result = self.local_part()
        at_domain = False
        if result != END and lexer.next_is(b"@"):
            at_domain = True
            after = self.domain_part()
            if after != MORE:
                result = after
        if lexer.comment:
            self.name = lexer.comment
        elif not at_domain:
            # A word alone is a mailbox; with more behind it, or in quotes, it was a display name.
            more: list[bytes] = []
            lexer.phrase(more)
            if b"".join(more):
                self.name = (self.mailbox or b"") + b" " + b"".join(more)
                self.mailbox = None
            elif quoted and self.mailbox is not None:
                self.name, self.mailbox = self.mailbox, None
            result = BAD
        return result
