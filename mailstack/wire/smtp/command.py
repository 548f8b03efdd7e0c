"""One command line, taken apart (RFC 5321 §4.1, RFC 3461 §4), as leniently as Postfix does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from mailstack.wire.smtp.address import NOTHING_ODD, AddressError, Allowed, read_path
from mailstack.wire.smtp.reply import Reply

SIZE_DIGITS = 20
"""A SIZE value may have this many digits (RFC 1870 §3)."""

_BRACKETED = re.compile(r'<(?:[^<>"\\]|\\.|"(?:[^"\\]|\\.)*+"|<[^<>]*+>)*+>')
_ATOM = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^\s"<>]|\\.)[^\s<]*')
_NEUTER = re.compile(r"[^\x21-\x7e]|[<>()\\\";@]")
_HEADER_LIKE = re.compile(r"[!-9;-~]+:")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")
_XTEXT_CODE = re.compile(r"\+([0-9A-Fa-f]{2})?")
_XTEXT_CODE_OCTETS = re.compile(rb"\+([0-9A-Fa-f]{2})")
_UXTEXT_CODE = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_NOTIFY = ("NEVER", "SUCCESS", "FAILURE", "DELAY")
"""What NOTIFY may say, in the order in which it is passed on."""


@dataclass(frozen=True, slots=True)
class MailParameters:
    """What follows the sender: SIZE (octets; 0: not given), BODY, SMTPUTF8, AUTH (xtext; None: not given).

    `ret` is `FULL` or `HDRS`, `envid` is decoded; `""`: not given (RFC 3461 §4.3, §4.4).
    """

    size: int = 0
    body: str = ""
    smtputf8: bool = False
    auth: str | None = None
    ret: str = ""
    envid: str = ""
    verp: str = ""
    """XVERP's two delimiters (VERP_README); `""`: not given."""


class RcptParameters(NamedTuple):
    """What follows a recipient; `""`: not given (RFC 3461 §4.1, §4.2).

    `notify` is `NEVER` or some of `SUCCESS,FAILURE,DELAY` in that order, `orcpt` is `type;address`, decoded.
    """

    notify: str = ""
    orcpt: str = ""


class SyntaxRefusal(Exception):  # noqa: N818  # a reply to send, not an error of ours
    """A command that cannot be taken; holds the reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


NO_PARAMETERS = MailParameters()
NO_RCPT_PARAMETERS = RcptParameters()
MAIL_SYNTAX = Reply(501, "5.5.4", "Syntax: MAIL FROM:<address>")
RCPT_SYNTAX = Reply(501, "5.5.4", "Syntax: RCPT TO:<address>")
BAD_SENDER = Reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT = Reply(501, "5.1.3", "Bad recipient address syntax")
BAD_SIZE = Reply(501, "5.5.4", "Bad message size syntax")
SIZE_FILESYSTEM = Reply(552, "5.3.4", "Message size exceeds file system imposed limit")
SIZE_LIMIT = Reply(552, "5.3.4", "Message size exceeds fixed limit")
NEED_SMTPUTF8 = Reply(553, "5.6.7", "Must declare SMTPUTF8 to send unicode address")
BAD_AUTH_PARAMETER = Reply(501, "5.5.4", "Error: Malformed AUTH= parameter")
DSN_DISABLED = Reply(501, "5.7.1", "DSN support is disabled")
NULL_VERP = Reply(503, "5.5.4", "Error: XVERP requires non-null sender")
BAD_RET = Reply(501, "5.5.4", "Bad RET parameter syntax")
BAD_ENVID = Reply(501, "5.5.4", "Bad ENVID parameter syntax")
BAD_NOTIFY = Reply(501, "5.5.4", "Error: Bad NOTIFY parameter syntax")
BAD_ORCPT = Reply(501, "5.5.4", "Error: Bad ORCPT parameter syntax")


def is_foreign(line: str) -> bool:
    """Whether the line is of another protocol: HTTP, or a message header (Postfix's forbidden commands)."""
    verb = line.split(None, 1)[0].upper()
    letter = verb[0].isascii() and verb[0].isalpha()
    return verb in ("CONNECT", "GET", "POST") or not letter or _HEADER_LIKE.match(line) is not None


def hello_name(argument: str) -> str:
    """The client's name with everything that could mislead in a header or a log line made `?`."""
    return _NEUTER.sub("?", argument)


@dataclass(frozen=True, slots=True)
class Rules:
    """How to read MAIL FROM; the fields are `ServerConnection`'s of the same names."""

    size_limit: int
    strict_paths: bool
    utf8: bool
    strict_utf8: bool
    dsn: bool = False
    verp: tuple[str, str] | None = None
    """The delimiters of a bare XVERP, and the characters that may be named; None: it is not offered."""
    allowed: Allowed = NOTHING_ODD


def parse_mail(argument: str, rules: Rules) -> tuple[str, MailParameters]:
    """Sender (internal form) and parameters of `FROM:<…> …`. Raises `SyntaxRefusal`."""
    path, rest = _split_path(argument, "FROM:", MAIL_SYNTAX, BAD_SENDER, rules.strict_paths)
    sender = _address(path, BAD_SENDER, rules.allowed)
    parameters = _mail_parameters(rest, rules) if rest else NO_PARAMETERS
    if not sender.isascii() and not parameters.smtputf8:
        _check_ascii(sender, rules.strict_utf8, BAD_SENDER)
    if parameters.verp and not sender:
        raise SyntaxRefusal(NULL_VERP)
    return sender, parameters


def _check_ascii(address: str, strict: bool, bad: Reply) -> None:
    """Refuse what is not ASCII without SMTPUTF8: always a domain, a local part where that is strict."""
    if strict:
        raise SyntaxRefusal(NEED_SMTPUTF8)
    if not address.rpartition("@")[2].isascii() and "@" in address:
        raise SyntaxRefusal(bad)


def parse_rcpt(
    argument: str,
    smtputf8: bool,
    strict_paths: bool,
    strict_utf8: bool,
    dsn: bool = False,
    allowed: Allowed = NOTHING_ODD,
) -> tuple[str, RcptParameters]:
    """Recipient (internal form) and parameters of `TO:<…> …`. Raises `SyntaxRefusal`."""
    path, rest = _split_path(argument, "TO:", RCPT_SYNTAX, BAD_RECIPIENT, strict_paths)
    recipient = _address(path, BAD_RECIPIENT, allowed)
    if not recipient:
        raise SyntaxRefusal(BAD_RECIPIENT)
    parameters = _rcpt_parameters(rest, dsn) if rest else NO_RCPT_PARAMETERS
    if not recipient.isascii() and not smtputf8:
        _check_ascii(recipient, strict_utf8, BAD_RECIPIENT)
    return recipient, parameters


def path_of(text: str) -> str:
    """The address at the beginning of what follows FROM: or TO:, whatever it is; for log lines."""
    found = _BRACKETED.match(text) if text[:1] == "<" else _ATOM.match(text)
    return found[0] if found is not None else text


def _split_path(argument: str, keyword: str, syntax: Reply, bad: Reply, strict: bool) -> tuple[str, str]:
    if argument[: len(keyword)].upper() != keyword:
        raise SyntaxRefusal(syntax)
    text = argument[len(keyword) :].lstrip()
    if not text:
        raise SyntaxRefusal(syntax)
    if strict and text[0] != "<":
        raise SyntaxRefusal(bad)
    found = _BRACKETED.match(text) if text[0] == "<" else _ATOM.match(text)
    if found is None:
        raise SyntaxRefusal(bad)
    rest = text[found.end() :]
    if rest and not rest[0].isspace():
        raise SyntaxRefusal(bad)
    return found[0], rest.strip()


def _address(path: str, bad: Reply, allowed: Allowed) -> str:
    try:
        return read_path(path, allowed)
    except AddressError:
        raise SyntaxRefusal(bad) from None


def _unsupported(token: str) -> Reply:
    return Reply(555, "5.5.4", f"Unsupported option: {token}")


def _mail_parameters(text: str, rules: Rules) -> MailParameters:
    size = 0
    body = ""
    smtputf8 = False
    auth: str | None = None
    ret = envid = verp = ""
    for token in text.split():
        key, equals, value = token.partition("=")
        match key.upper():
            case "SIZE" if equals:
                size = _size(value)
            case "BODY" if value.upper() in ("7BIT", "8BITMIME"):
                body = value.upper()
            case "SMTPUTF8" if rules.utf8 and not equals:
                smtputf8 = True
            case "AUTH" if equals:
                if value != "<>" and not _XTEXT.match(value):
                    raise SyntaxRefusal(BAD_AUTH_PARAMETER)
                auth = value
            case "RET" if equals:
                ret = _ret(value, ret, rules.dsn)
            case "ENVID" if equals:
                envid = _envid(value, envid, rules.dsn)
            case "XVERP" if rules.verp is not None:
                verp = _verp(value, rules.verp[1]) if equals else rules.verp[0]
            case _:
                raise SyntaxRefusal(_unsupported(token))
    if rules.size_limit and size > rules.size_limit:
        raise SyntaxRefusal(SIZE_LIMIT)
    return MailParameters(size, body, smtputf8, auth, ret, envid, verp)


def _verp(value: str, allowed: str) -> str:
    if len(value) != 2 or any(char not in allowed for char in value):
        raise SyntaxRefusal(Reply(501, "5.5.4", f"Error: XVERP needs two characters from {allowed}"))
    return value


def _rcpt_parameters(text: str, dsn: bool) -> RcptParameters:
    notify = orcpt = ""
    for token in text.split():
        key, equals, value = token.partition("=")
        match key.upper():
            case "NOTIFY" if equals:
                notify = _notify(value, notify, dsn)
            case "ORCPT" if equals:
                orcpt = _orcpt(value, orcpt, dsn)
            case _:
                raise SyntaxRefusal(_unsupported(token))
    return RcptParameters(notify, orcpt)


def _demand_dsn(dsn: bool) -> None:
    if not dsn:
        raise SyntaxRefusal(DSN_DISABLED)


def _ret(value: str, before: str, dsn: bool) -> str:
    _demand_dsn(dsn)
    if before or value.upper() not in ("FULL", "HDRS"):
        raise SyntaxRefusal(BAD_RET)
    return value.upper()


def _envid(value: str, before: str, dsn: bool) -> str:
    """Decoded; it has to be printable, for it goes into a header field."""
    _demand_dsn(dsn)
    decoded = decode_xtext(value)
    if before or not decoded or not (decoded.isascii() and decoded.isprintable()):
        raise SyntaxRefusal(BAD_ENVID)
    return decoded


def _notify(value: str, before: str, dsn: bool) -> str:
    _demand_dsn(dsn)
    words = {word for word in value.upper().split(",") if word}
    if before or not words or words - set(_NOTIFY) or ("NEVER" in words and len(words) > 1):
        raise SyntaxRefusal(BAD_NOTIFY)
    return ",".join(word for word in _NOTIFY if word in words)


def _orcpt(value: str, before: str, dsn: bool) -> str:
    _demand_dsn(dsn)
    kind, semicolon, coded = value.partition(";")
    decoded = decode_xtext(coded)
    if decoded is not None and kind.lower() == "utf-8":
        decoded = _decode_uxtext(decoded)
    if before or not kind or not semicolon or decoded is None:
        raise SyntaxRefusal(BAD_ORCPT)
    # It goes into a header field of a report: nothing that would end a line of it.
    return f"{kind};{''.join(char if char.isprintable() else '?' for char in decoded)}"


def decode_xtext(text: str) -> str | None:
    """xtext (RFC 3461 §4) without its `+XX`; None where a `+` stands for nothing."""
    if "+" not in text:
        return text
    if any(found[1] is None for found in _XTEXT_CODE.finditer(text)):
        return None
    data = _XTEXT_CODE_OCTETS.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode())
    return data.decode("utf-8", "surrogateescape")


def encode_xtext(text: str) -> str:
    """`text` as xtext: what is not printable ASCII, `+` and `=` as `+XX`, octet by octet."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}" for octet in data
    )


def encode_uxtext(text: str) -> str:
    """`text` as utf-8-addr-xtext (RFC 6533 §3): what xtext would escape, and a backslash, as `\\x{XX}`."""
    return "".join(
        char if "!" <= char <= "~" and char not in "+=\\" else f"\\x{{{ord(char):02X}}}" for char in text
    )


def _decode_uxtext(text: str) -> str | None:
    try:
        return _UXTEXT_CODE.sub(lambda found: chr(int(found[1], 16)), text)
    except (ValueError, OverflowError):
        return None


def _size(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise SyntaxRefusal(BAD_SIZE)
    if len(value) > SIZE_DIGITS:
        raise SyntaxRefusal(SIZE_FILESYSTEM)
    return int(value)
