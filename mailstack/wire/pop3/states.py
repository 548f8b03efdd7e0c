"""POP3's states and commands as data (RFC 1939 §4-6; RFC 2449 CAPA; RFC 2595 STLS; RFC 5034 AUTH;
RFC 6856 UTF8; RFC 1460 LAST)."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a session stands. UPDATE is the owner's: it happens between QUIT and its reply."""

    AUTHORIZATION = "nobody has logged in"
    SASL = "a challenge has been sent"
    TRANSACTION = "the mailbox is open and locked"
    TLS = "STLS has been accepted; a handshake comes next"
    CLOSED = "nothing more is read"


class Arguments(Enum):
    """What follows a command word."""

    NONE = "nothing"
    TEXT = "the rest of the line"
    NUMBER = "a message number"
    OPTIONAL_NUMBER = "a message number, or nothing"
    NUMBER_AND_LINES = "a message number and a number of lines"
    SASL = "a mechanism and an initial response, or nothing"


COMMANDS: dict[State, dict[str, Arguments]] = {
    State.AUTHORIZATION: {
        "CAPA": Arguments.NONE,
        "USER": Arguments.TEXT,
        "PASS": Arguments.TEXT,
        "AUTH": Arguments.SASL,
        "STLS": Arguments.NONE,
        "UTF8": Arguments.NONE,
        "NOOP": Arguments.NONE,
        "QUIT": Arguments.NONE,
    },
    State.TRANSACTION: {
        "CAPA": Arguments.NONE,
        "STAT": Arguments.NONE,
        "LIST": Arguments.OPTIONAL_NUMBER,
        "UIDL": Arguments.OPTIONAL_NUMBER,
        "TOP": Arguments.NUMBER_AND_LINES,
        "RETR": Arguments.NUMBER,
        "DELE": Arguments.NUMBER,
        "RSET": Arguments.NONE,
        "LAST": Arguments.NONE,
        "NOOP": Arguments.NONE,
        "QUIT": Arguments.NONE,
    },
}
"""What each state takes. Anything else is `-ERR Unknown command`, in Dovecot's words."""
