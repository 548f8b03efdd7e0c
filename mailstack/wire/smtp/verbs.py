"""What each SMTP command holds: one reader per verb, from its argument to its event.

A reader raises `command.SyntaxRefusal`, which holds the reply, for an argument that cannot be taken. BDAT is
read by `read_bdat`: what follows it is not a line.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import TYPE_CHECKING

from mailstack.wire.smtp import command, events
from mailstack.wire.smtp.address import AddressError, Allowed, read_path, valid_domain
from mailstack.wire.smtp.events import Event
from mailstack.wire.smtp.reply import Reply

if TYPE_CHECKING:
    from mailstack.wire.smtp.server import Limits

NOT_IMPLEMENTED = Reply(502, "5.5.1", "Error: command not implemented")
AUTHENTICATED = Reply(503, "5.5.1", "Error: already authenticated")
AUTH_SYNTAX = Reply(501, "5.5.4", "Syntax: AUTH mechanism")
AUTH_BASE64_INITIAL = Reply(
    535, "5.7.8", "Error: authentication failed: Invalid base64 data in initial response"
)
VRFY_SYNTAX = Reply(501, "5.5.4", "Syntax: VRFY address [SMTPUTF8]")
ETRN_SYNTAX = Reply(500, "", "Syntax: ETRN domain")
ETRN_PARAMETER = Reply(501, "", "Error: invalid parameter syntax")
BDAT_SYNTAX = Reply(521, "5.5.4", "Syntax: BDAT count [LAST]")
_BDAT_DIGITS = 18


class CommandReaders:
    """The readers, and what of a connection they look at."""

    __slots__ = (
        "_utf8",
        "allowed",
        "authenticated",
        "dsn",
        "hello",
        "limits",
        "starttls_refusal",
        "strict_paths",
        "strict_utf8",
        "utf8",
    )

    limits: Limits
    hello: str
    starttls_refusal: Reply | None
    strict_paths: bool
    allowed: Allowed
    utf8: bool
    strict_utf8: bool
    dsn: bool
    verp: tuple[str, str] | None
    authenticated: bool
    _utf8: bool

    def _hello(self, verb: str, argument: str) -> Event:
        if not argument:
            raise command.SyntaxRefusal(Reply(501, "", f"Syntax: {verb} hostname"))
        self.hello = command.hello_name(argument)
        return events.Hello(verb, self.hello)

    def _on_ehlo(self, argument: str) -> Event:
        return self._hello("EHLO", argument)

    def _on_helo(self, argument: str) -> Event:
        return self._hello("HELO", argument)

    def _on_lhlo(self, argument: str) -> Event:
        return self._hello("LHLO", argument)

    def _on_mail(self, argument: str) -> Event:
        rules = command.Rules(
            self.limits.message,
            self.strict_paths,
            self.utf8,
            self.strict_utf8,
            self.dsn,
            self.verp,
            self.allowed,
        )
        sender, parameters = command.parse_mail(argument, rules)
        self._utf8 = parameters.smtputf8
        return events.Mail(sender, parameters)

    def _on_rcpt(self, argument: str) -> Event:
        return events.Rcpt(
            *command.parse_rcpt(
                argument, self._utf8, self.strict_paths, self.strict_utf8, self.dsn, self.allowed
            )
        )

    def _on_data(self, argument: str) -> Event:
        _no_argument("DATA", argument)
        return events.Data()

    def _on_rset(self, argument: str) -> Event:
        _no_argument("RSET", argument)
        return events.Reset()

    def _on_noop(self, argument: str) -> Event:
        return events.Noop()

    def _on_help(self, argument: str) -> Event:
        return events.Help()

    def _on_quit(self, argument: str) -> Event:
        return events.Quit()

    def _on_vrfy(self, argument: str) -> Event:
        if argument.upper().endswith(" SMTPUTF8"):
            argument = argument[:-9].rstrip()
        if not argument:
            raise command.SyntaxRefusal(VRFY_SYNTAX)
        try:
            address = read_path(argument, self.allowed)
        except AddressError:
            raise command.SyntaxRefusal(command.BAD_RECIPIENT) from None
        if not address:
            raise command.SyntaxRefusal(command.BAD_RECIPIENT)
        return events.Verify(address, argument)

    def _on_etrn(self, argument: str) -> Event:
        if not argument or len(argument.split()) > 1:
            raise command.SyntaxRefusal(ETRN_SYNTAX)
        domain = argument[1:] if argument[0] in "@#" else argument
        if not valid_domain(domain):
            raise command.SyntaxRefusal(ETRN_PARAMETER)
        return events.Etrn(domain.lower())

    def _on_starttls(self, argument: str) -> Event:
        _no_argument("STARTTLS", argument)
        if self.starttls_refusal is not None:
            raise command.SyntaxRefusal(self.starttls_refusal)
        return events.StartTLS()

    def _on_xclient(self, argument: str) -> Event:
        return events.Proxied("XCLIENT", argument)

    def _on_xforward(self, argument: str) -> Event:
        return events.Proxied("XFORWARD", argument)

    def _on_auth(self, argument: str) -> Event:
        if self.authenticated:
            raise command.SyntaxRefusal(AUTHENTICATED)
        words = argument.split()
        if not 1 <= len(words) <= 2:
            raise command.SyntaxRefusal(AUTH_SYNTAX)
        initial: bytes | None = None
        if len(words) == 2:
            initial = b"" if words[1] == "=" else decode_base64(words[1].encode())
            if initial is None:
                raise command.SyntaxRefusal(AUTH_BASE64_INITIAL)
        return events.Auth(words[0].upper(), initial)


READERS: dict[str, Callable[[CommandReaders, str], Event]] = {
    "EHLO": CommandReaders._on_ehlo,
    "HELO": CommandReaders._on_helo,
    "LHLO": CommandReaders._on_lhlo,
    "MAIL": CommandReaders._on_mail,
    "RCPT": CommandReaders._on_rcpt,
    "DATA": CommandReaders._on_data,
    "RSET": CommandReaders._on_rset,
    "NOOP": CommandReaders._on_noop,
    "HELP": CommandReaders._on_help,
    "QUIT": CommandReaders._on_quit,
    "VRFY": CommandReaders._on_vrfy,
    "ETRN": CommandReaders._on_etrn,
    "STARTTLS": CommandReaders._on_starttls,
    "AUTH": CommandReaders._on_auth,
    "XCLIENT": CommandReaders._on_xclient,
    "XFORWARD": CommandReaders._on_xforward,
}


def read_bdat(argument: str) -> tuple[int, bool] | None:
    """(octets that follow, whether they are the last) of BDAT (RFC 3030 §2); None where it cannot be read."""
    words = argument.split()
    if not 1 <= len(words) <= 2 or (len(words) == 2 and words[1].upper() != "LAST"):
        return None
    if not (words[0].isascii() and words[0].isdigit()) or len(words[0]) > _BDAT_DIGITS:
        return None
    return int(words[0]), len(words) == 2


def _no_argument(verb: str, argument: str) -> None:
    if argument:
        raise command.SyntaxRefusal(Reply(501, "5.5.4", f"Syntax: {verb}"))


def decode_base64(data: bytes) -> bytes | None:
    try:
        return binascii.a2b_base64(data, strict_mode=True) if data else b""
    except binascii.Error:
        return None
