"""What goes over a milter's connection: packets, events, replies, flags (mfdef.h of libmilter).

A packet is a length (four octets, most significant first; it counts what follows), one octet that says what
it is, and its data. Text ends in a NUL. Nothing here keeps a state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from mailstack.wire.smtp.reply import Reply

MILTER_CHUNK = 65535
"""Octets of content in one packet, at most."""
PACKET_LIMIT = 1024 * 1024 + 64
"""Octets of a packet that a milter may send: what the protocol's largest data size makes of a body."""

ABORT = b"A"
MACRO = b"D"
NEGOTIATE = b"O"
QUIT = b"Q"

ADD_RECIPIENT = ord("+")
DELETE_RECIPIENT = ord("-")
ADD_RECIPIENT_WITH = ord("2")
SHUTDOWN = ord("4")
ACCEPT = ord("a")
REPLACE_BODY = ord("b")
CONTINUE = ord("c")
DISCARD = ord("d")
CHANGE_SENDER = ord("e")
ADD_HEADER = ord("h")
INSERT_HEADER = ord("i")
CHANGE_HEADER = ord("m")
PROGRESS = ord("p")
QUARANTINE = ord("q")
REJECT = ord("r")
SKIP = ord("s")
TEMPFAIL = ord("t")
REPLY_CODE = ord("y")

REPLY_NAMES = {
    ADD_RECIPIENT: "SMFIR_ADDRCPT",
    DELETE_RECIPIENT: "SMFIR_DELRCPT",
    ADD_RECIPIENT_WITH: "SMFIR_ADDRCPT_PAR",
    SHUTDOWN: "SMFIR_SHUTDOWN",
    ACCEPT: "SMFIR_ACCEPT",
    REPLACE_BODY: "SMFIR_REPLBODY",
    CONTINUE: "SMFIR_CONTINUE",
    DISCARD: "SMFIR_DISCARD",
    CHANGE_SENDER: "SMFIR_CHGFROM",
    ord("f"): "SMFIR_CONN_FAIL",
    ADD_HEADER: "SMFIR_ADDHEADER",
    INSERT_HEADER: "SMFIR_INSHEADER",
    ord("l"): "SMFIR_SETSYMLIST",
    CHANGE_HEADER: "SMFIR_CHGHEADER",
    PROGRESS: "SMFIR_PROGRESS",
    QUARANTINE: "SMFIR_QUARANTINE",
    REJECT: "SMFIR_REJECT",
    SKIP: "SMFIR_SKIP",
    TEMPFAIL: "SMFIR_TEMPFAIL",
    REPLY_CODE: "SMFIR_REPLYCODE",
}

ACTIONS = 0x1FF
"""What we do when a milter asks for it: ADDHDRS, CHGBODY, ADDRCPT, DELRCPT, CHGHDRS, QUARANTINE, CHGFROM,
ADDRCPT_PAR, SETSYMLIST."""

# SMFIP_*: what a milter does not want to be told, or does not answer.
NO_CONNECT, NO_HELO, NO_MAIL, NO_RCPT = 0x01, 0x02, 0x04, 0x08
NO_BODY, NO_HEADERS, NO_EOH, NO_HEADER_REPLY = 0x10, 0x20, 0x40, 0x80
NO_UNKNOWN, NO_DATA, MAY_SKIP, REJECTED_RCPT = 0x100, 0x200, 0x400, 0x800
NR_CONNECT, NR_HELO, NR_MAIL, NR_RCPT, NR_DATA = 0x1000, 0x2000, 0x4000, 0x8000, 0x10000
NR_UNKNOWN, NR_EOH, NR_BODY, LEADING_SPACE = 0x20000, 0x40000, 0x80000, 0x100000

_NOT_SENT = 0x7F | NO_UNKNOWN | NO_DATA
_V2 = 0x7F
_V3 = _V2 | NO_UNKNOWN
_V4 = _V3 | NO_DATA
_V6 = 0x1FFF7F | NO_HEADER_REPLY
VERSIONS = {6: _V6, 4: _V4, 3: _V3, 2: _V2}
"""The flags of each version of the protocol that can be asked for."""


class Event(Enum):
    """What a milter is told: its octet, its name, the flags of not being told and of not answering."""

    CONNECT = (b"C", "SMFIC_CONNECT", NO_CONNECT, NR_CONNECT)
    HELO = (b"H", "SMFIC_HELO", NO_HELO, NR_HELO)
    MAIL = (b"M", "SMFIC_MAIL", NO_MAIL, NR_MAIL)
    RCPT = (b"R", "SMFIC_RCPT", NO_RCPT, NR_RCPT)
    DATA = (b"T", "SMFIC_DATA", NO_DATA, NR_DATA)
    UNKNOWN = (b"U", "SMFIC_UNKNOWN", NO_UNKNOWN, NR_UNKNOWN)
    HEADER = (b"L", "SMFIC_HEADER", NO_HEADERS, NO_HEADER_REPLY)
    END_OF_HEADER = (b"N", "SMFIC_EOH", NO_EOH, NR_EOH)
    BODY = (b"B", "SMFIC_BODY", NO_BODY, NR_BODY)
    END_OF_MESSAGE = (b"E", "SMFIC_BODYEOB", 0, 0)

    def __init__(self, code: bytes, label: str, unwanted: int, unanswered: int) -> None:
        self.code = code
        self.label = label
        self.unwanted = unwanted
        self.unanswered = unanswered

    __hash__ = object.__hash__


class Stage(Enum):
    """The lists of macros, by the numbers that a milter names them with (SMFIM_*)."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    END_OF_MESSAGE = 5
    END_OF_HEADER = 6
    UNKNOWN = 7

    __hash__ = object.__hash__


class MilterError(Exception):
    """A milter does not keep to the protocol; `str()` is Postfix's warning, without the milter's name."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a milter has decided, where it does not let things go on as they are.

    One of: `reply` for the client; the message is to be put on `hold` (`reason`: why, may be empty), or to be
    thrown away (`discard`); the session is to end (`shutdown`).
    """

    reply: Reply | None = None
    hold: bool = False
    discard: bool = False
    shutdown: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AddHeader:
    """Append a header; lines of `value` are separated by LF."""

    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class InsertHeader:
    """Insert a header before the one at `index`, the first of all being 0."""

    index: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class ChangeHeader:
    """Change the `index`th header of that name, the first being 1; an empty value deletes it."""

    index: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class ChangeSender:
    """Another envelope sender, with parameters of MAIL FROM."""

    address: str
    parameters: str


@dataclass(frozen=True, slots=True)
class AddRecipient:
    """One more recipient, with parameters of RCPT TO."""

    address: str
    parameters: str


@dataclass(frozen=True, slots=True)
class DeleteRecipient:
    """One recipient less, with all that aliases have made of it."""

    address: str


@dataclass(frozen=True, slots=True)
class ReplaceBody:
    """A piece of the new body; the first one takes the place of the old body."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """Still at work: the deadline begins anew."""


Edit = AddHeader | InsertHeader | ChangeHeader | ChangeSender | AddRecipient | DeleteRecipient | ReplaceBody


def pack(code: bytes, data: bytes = b"") -> bytes:
    """One packet."""
    return (len(data) + 1).to_bytes(4, "big") + code + data


def strings(texts: Iterable[str | bytes]) -> bytes:
    """Texts with a NUL behind each; one within a text would end it, and is left out."""
    return b"".join(
        (text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text).replace(b"\0", b"")
        + b"\0"
        for text in texts
    )


def offered_events(protocol: Iterable[str]) -> tuple[int, int]:
    """Version and flags of the words of milter_protocol. Raises `ValueError` with Postfix's warning."""
    version = flags = 0
    for word in protocol:
        if word == "no_header_reply":
            flags |= NO_HEADER_REPLY
            continue
        if word not in ("2", "3", "4", "6") or version:
            raise ValueError(f"bad protocol information: {word}")
        version = int(word)
        flags |= VERSIONS[version]
    if not version:
        raise ValueError("no protocol version information")
    return version, flags


def undefined_events(version: int, offered: int) -> int:
    """The flags of the events that are not sent to a milter which speaks `version`, `offered` being ours."""
    flags = _NOT_SENT & ~offered
    for known, defined in VERSIONS.items():
        if known <= version:
            return flags | (_NOT_SENT & ~defined)
    return flags


class Fields:
    """Reads the data of one packet. Raises `MilterError`."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._position

    def number(self) -> int:
        if self.left < 4:
            raise MilterError("input packet too short for network long")
        start, self._position = self._position, self._position + 4
        return int.from_bytes(self._data[start : start + 4], "big")

    def text(self) -> bytes:
        if not self.left:
            raise MilterError("packet too short for string")
        end = self._data.find(b"\0", self._position)
        if end < 0:
            raise MilterError("missing string null termimator")
        start, self._position = self._position, end + 1
        return self._data[start:end]

    def address(self) -> str:
        return self.text().decode("utf-8", "surrogateescape")

    def end(self) -> None:
        if self.left:
            raise MilterError(f"left-over data {self.left} bytes")
