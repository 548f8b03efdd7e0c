"""The two SMTP state machines as data (RFC 5321 §4.1.4, RFC 2033 §4, RFC 3030 §2,
RFC 3207 §4, RFC 4954 §4).

`AFTER` says where an accepted command leads, `OUT_OF_SEQUENCE` what a command is told in a state that
does not take it. A pair that is in neither table leaves the state as it is.
"""

from __future__ import annotations

from enum import Enum

from mailstack.wire.smtp.reply import Reply


class Mode(Enum):
    """The protocol spoken: they differ in the greeting command and in the replies to content."""

    SMTP = "SMTP"
    LMTP = "LMTP"


class State(Enum):
    """What a server knows of its client."""

    START = "the greeting has not been sent"
    IDLE = "no EHLO, HELO or LHLO yet"
    READY = "the client has introduced itself"
    MAIL = "a sender has been accepted"
    RCPT = "a sender and at least one recipient have been accepted"
    CONTENT = "message content comes in"
    CHUNK = "a BDAT chunk comes in"
    CHUNKS = "between two BDAT chunks"
    DONE = "all content is in; its reply, or replies (LMTP), are due"
    AUTH = "an authentication exchange goes on"
    TLS = "STARTTLS has been accepted; what comes next is a TLS handshake"
    CLOSED = "nothing more is read or sent"

    # An enumeration's own is a Python function, and states are looked up with every command.
    __hash__ = object.__hash__


NESTED = Reply(503, "5.5.1", "Error: nested MAIL command")
NEED_MAIL = Reply(503, "5.5.1", "Error: need MAIL command")
NEED_RCPT = Reply(503, "5.5.1", "Error: need RCPT command")
NO_RECIPIENTS = Reply(554, "5.5.1", "Error: no valid recipients")
LMTP_NO_RECIPIENTS = Reply(503, "5.5.1", "Error: no valid recipients")
"""The code that RFC 2033 §4.2 asks for."""
HELLO_FIRST = Reply(503, "5.5.1", "Error: send HELO/EHLO first")
IN_TRANSACTION = Reply(503, "5.5.1", "Error: MAIL transaction in progress")
ETRN_HELLO_FIRST = Reply(503, "", "Error: send HELO/EHLO first")
ETRN_IN_TRANSACTION = Reply(503, "", "Error: MAIL transaction in progress")

MAIL_AFTER_BDAT = Reply(503, "5.5.1", "Error: MAIL after BDAT")
RCPT_AFTER_BDAT = Reply(503, "5.5.1", "Error: RCPT after BDAT")
DATA_AFTER_BDAT = Reply(503, "5.5.1", "Error: DATA after BDAT")

_TRANSACTION = (State.MAIL, State.RCPT, State.CHUNKS)
_BETWEEN_COMMANDS = (State.IDLE, State.READY, *_TRANSACTION)

AFTER: dict[tuple[State, str], State] = {
    **{(state, verb): State.READY for state in _BETWEEN_COMMANDS for verb in ("EHLO", "HELO", "LHLO")},
    (State.IDLE, "MAIL"): State.MAIL,
    (State.READY, "MAIL"): State.MAIL,
    (State.MAIL, "RCPT"): State.RCPT,
    (State.RCPT, "DATA"): State.CONTENT,
    **{(state, "RSET"): State.READY for state in _TRANSACTION},
    **{(state, "QUIT"): State.CLOSED for state in _BETWEEN_COMMANDS},
    **{(state, "STARTTLS"): State.TLS for state in _BETWEEN_COMMANDS},
}
"""(state, command) -> state once the command has been answered positively."""

OUT_OF_SEQUENCE: dict[tuple[State, str], Reply] = {
    (State.MAIL, "MAIL"): NESTED,
    (State.RCPT, "MAIL"): NESTED,
    (State.IDLE, "RCPT"): NEED_MAIL,
    (State.READY, "RCPT"): NEED_MAIL,
    (State.IDLE, "DATA"): NEED_RCPT,
    (State.READY, "DATA"): NEED_RCPT,
    (State.MAIL, "DATA"): NO_RECIPIENTS,
    (State.IDLE, "BDAT"): NEED_RCPT,
    (State.READY, "BDAT"): NEED_RCPT,
    (State.MAIL, "BDAT"): NO_RECIPIENTS,
    (State.CHUNKS, "MAIL"): NESTED,
    (State.CHUNKS, "RCPT"): RCPT_AFTER_BDAT,
    (State.CHUNKS, "DATA"): DATA_AFTER_BDAT,
    (State.IDLE, "AUTH"): HELLO_FIRST,
    **{(state, "AUTH"): IN_TRANSACTION for state in _TRANSACTION},
    **{(state, "ETRN"): ETRN_IN_TRANSACTION for state in _TRANSACTION},
    **{(state, verb): IN_TRANSACTION for state in _TRANSACTION for verb in ("XCLIENT", "XFORWARD")},
}
"""(state, command) -> the refusal."""

AFTER_BDAT: dict[str, Reply] = {
    "MAIL": MAIL_AFTER_BDAT,
    "RCPT": RCPT_AFTER_BDAT,
    "DATA": DATA_AFTER_BDAT,
}
"""What is refused behind a failed chunk, in whatever state, until RSET or the last chunk."""

BEFORE_HELLO: frozenset[str] = frozenset({"MAIL", "ETRN"})
"""Refused in `State.IDLE` with `HELLO_FIRST` where the server insists on a greeting; what needs one of these
is refused for want of it."""

BEFORE_TLS: frozenset[str] = frozenset({"EHLO", "HELO", "LHLO", "STARTTLS", "NOOP", "QUIT"})
"""All that a server which insists on TLS takes in plain text (RFC 3207 §4)."""

COMMANDS: frozenset[str] = frozenset(
    (
        "EHLO",
        "HELO",
        "STARTTLS",
        "AUTH",
        "MAIL",
        "RCPT",
        "DATA",
        "BDAT",
        "RSET",
        "NOOP",
        "VRFY",
        "ETRN",
        "HELP",
        "QUIT",
        "XCLIENT",
        "XFORWARD",
    )
)
"""What an SMTP server knows; LMTP has LHLO in place of EHLO and HELO (RFC 2033 §4.1)."""
LMTP_COMMANDS: frozenset[str] = (COMMANDS - {"EHLO", "HELO", "ETRN", "XCLIENT", "XFORWARD"}) | {"LHLO"}


class ClientState(Enum):
    """What a client knows of its server."""

    GREETING = "the greeting is awaited"
    READY = "commands may be sent"
    CONTENT = "DATA has been answered 354"
    TLS = "STARTTLS has been answered 220; the caller shakes hands"
    CLOSED = "the connection is over"
