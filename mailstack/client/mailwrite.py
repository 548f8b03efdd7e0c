"""Messages into files: mbox, Maildir or `.eml`, with what each of them can keep.

| | flags, keywords | date | folders |
|---|---|---|---|
| mbox | `Status:`, `X-Status:`, `X-Keywords:` behind the header's other fields | From_ line | a file each |
| Maildir | the file's name, `dovecot-keywords` | the file's | Maildir++ |
| eml | none | the file's | a folder each |

A file appears whole or not at all: an mbox is written beside its place and renamed, the others have a file
for each message, so that what is there after an interruption is complete. Raises `OSError`.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from email.utils import parseaddr
from itertools import count
from pathlib import Path
from typing import BinaryIO, Protocol

from mailstack.client.mailfiles import quoted, read, read_mbox
from mailstack.client.stored import Key, Stored, header_of, keys_of, lf
from mailstack.wire.imap import utf7

_FROM = re.compile(rb"^(>*From )", re.MULTILINE)
_LETTERS = {
    "\\draft": "D",
    "\\flagged": "F",
    "\\answered": "R",
    "\\seen": "S",
    "\\deleted": "T",
    "$forwarded": "P",
}
_RETURN_PATH = re.compile(rb"^return-path:[ \t]*<?([^\s<>]+)>?[ \t]*$", re.IGNORECASE | re.MULTILINE)
_FROM_FIELD = re.compile(rb"^from:[ \t]*(.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)
KEYWORDS_MAX = 26


class Writer(Protocol):
    """What writes the messages of one mailbox after the other."""

    lost: set[str]
    """Keywords that had no place."""

    def begin(self, mailbox: str, separator: str) -> None:
        """What follows is of this mailbox."""
        ...

    def known(self) -> set[Key]:
        """The keys of what the mailbox's place holds already."""
        ...

    def write(self, message: Stored) -> None:
        """Add a message."""
        ...

    def end(self) -> None:
        """The mailbox is complete: let it be seen."""
        ...

    def abandon(self) -> None:
        """Leave no half of the mailbox."""
        ...


def mbox_text(message: Stored, now: float) -> bytes:
    """A message as it stands in an mboxrd, with the empty line behind it."""
    header = lf(header_of(message.raw))
    body = lf(message.raw[len(header_of(message.raw)) :])
    status = _status(message.flags)
    if status and header.endswith(b"\n\n"):
        header = header[:-1] + status + b"\n"
    elif status and header == b"\n":
        header = status + b"\n"
    elif status:
        header += (b"" if header.endswith(b"\n") or not header else b"\n") + status
    text = _FROM.sub(rb">\1", header + body)
    moment = time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(now if message.date is None else message.date))
    end = b"\n" if text.endswith(b"\n") or not text else b"\n\n"
    return b"From %b %b\n%b%b" % (_sender(header), moment.encode("ascii"), text, end)


def _status(flags: tuple[str, ...]) -> bytes:
    """The fields in which mail programs keep flags (UW imapd, mutt, Dovecot)."""
    names = {flag.lower() for flag in flags}
    status = "RO" if "\\seen" in names else "O"
    marks = (("\\answered", "A"), ("\\flagged", "F"), ("\\draft", "T"), ("\\deleted", "D"))
    more = "".join(letter for name, letter in marks if name in names)
    keywords = " ".join(flag for flag in flags if not flag.startswith("\\"))
    return (
        f"Status: {status}\n"
        + (f"X-Status: {more}\n" if more else "")
        + (f"X-Keywords: {keywords}\n" if keywords else "")
    ).encode()


def _sender(header: bytes) -> bytes:
    """The envelope's sender for the From_ line: Return-Path:, else From:, else MAILER-DAEMON."""
    if (found := _RETURN_PATH.search(header)) is not None:
        return found[1]
    if (found := _FROM_FIELD.search(header)) is not None:
        address = parseaddr(found[1].decode("ascii", "replace"))[1]
        if address and address.isascii() and not re.search(r"\s", address):
            return address.encode()
    return b"MAILER-DAEMON"


class MboxWriter:
    """One mbox, or with `folder` one below it for each mailbox."""

    def __init__(self, target: Path, *, folder: bool) -> None:
        self.lost: set[str] = set()
        self._target = target
        self._folder = folder
        self._place = target
        self._out: BinaryIO | None = None

    def begin(self, mailbox: str, separator: str) -> None:
        if self._folder:
            self._target.mkdir(parents=True, exist_ok=True)
            self._place = self._target / (quoted(dotted(mailbox, separator)) + ".mbox")
        self._out = open(self._temporary, "wb")  # noqa: SIM115  (open until `end`)
        if self._place.exists():
            with open(self._place, "rb") as old:
                shutil.copyfileobj(old, self._out)
            if self._out.tell():
                self._out.write(_missing_end(self._place))

    def known(self) -> set[Key]:
        if not self._place.exists():
            return set()
        with open(self._place, "rb") as file:
            return {key for message in read_mbox(file, str(self._place)) for key in keys_of(message.raw)}

    def write(self, message: Stored) -> None:
        assert self._out is not None
        self._out.write(mbox_text(message, time.time()))

    def end(self) -> None:
        assert self._out is not None
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()
        self._out = None
        os.rename(self._temporary, self._place)

    def abandon(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None
            self._temporary.unlink(missing_ok=True)

    @property
    def _temporary(self) -> Path:
        return self._place.with_name(self._place.name + f".{os.getpid()}.new")


def _missing_end(path: Path) -> bytes:
    """What an mbox lacks before the next From_ line may follow."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 2))
        last = file.read()
    return b"" if last.endswith(b"\n\n") else b"\n" if last.endswith(b"\n") else b"\n\n"


class StreamWriter:
    """One mbox on standard output."""

    def __init__(self, out: BinaryIO) -> None:
        self.lost: set[str] = set()
        self._out = out

    def begin(self, mailbox: str, separator: str) -> None:
        pass

    def known(self) -> set[Key]:
        return set()

    def write(self, message: Stored) -> None:
        self._out.write(mbox_text(message, time.time()))

    def end(self) -> None:
        self._out.flush()

    def abandon(self) -> None:
        pass


class MaildirWriter:
    """A Maildir++: INBOX, or the only mailbox, at its root."""

    def __init__(self, target: Path, *, folders: bool) -> None:
        self.lost: set[str] = set()
        self._root = target
        self._folders = folders
        self._place = target
        self._keywords: list[str] = []
        self._host = socket.gethostname().replace("/", "_").replace(":", "_") or "localhost"
        self._count = count(1)

    def begin(self, mailbox: str, separator: str) -> None:
        _make_maildir(self._root)
        self._place = self._root
        if self._folders and mailbox.upper() != "INBOX":
            name = dotted(mailbox, separator)
            self._place = self._root / ("." + utf7.encode(name).decode("ascii").replace("/", "_"))
            _make_maildir(self._place)
            (self._place / "maildirfolder").touch()
        try:
            lines = (self._place / "dovecot-keywords").read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            lines = []
        numbered = {
            int(number): name
            for number, _, name in (line.partition(" ") for line in lines)
            if number.isdigit()
        }
        self._keywords = [numbered.get(index, "") for index in range(max(numbered, default=-1) + 1)]

    def known(self) -> set[Key]:
        inbox_only = (message for message in read(str(self._place)) if not message.mailbox)
        return {key for message in inbox_only for key in keys_of(message.raw)}

    def write(self, message: Stored) -> None:
        data = lf(message.raw)
        now = time.time()
        seconds = int(now if message.date is None else message.date)
        unique = f"{seconds}.M{int(now % 1 * 1e6)}P{os.getpid()}Q{next(self._count)}.{self._host}"
        name = f"{unique},S={len(data)},W={len(message.raw)}"
        temporary = self._place / "tmp" / name
        with open(temporary, "xb") as file:
            file.write(data)
        if message.date is not None:
            os.utime(temporary, (message.date, message.date))
        letters = self._letters(message.flags)
        os.rename(temporary, self._place / "cur" / f"{name}:2,{letters}")

    def _letters(self, flags: tuple[str, ...]) -> str:
        letters = {_LETTERS[flag.lower()] for flag in flags if flag.lower() in _LETTERS}
        for flag in flags:
            if flag.lower() in _LETTERS:
                continue
            index = next((at for at, name in enumerate(self._keywords) if name.lower() == flag.lower()), -1)
            if index < 0 and len(self._keywords) < KEYWORDS_MAX:
                index = len(self._keywords)
                self._keywords.append(flag)
                self._keep_keywords()
            if index < 0:
                self.lost.add(flag)
            else:
                letters.add(chr(ord("a") + index))
        return "".join(sorted(letters))

    def _keep_keywords(self) -> None:
        text = "".join(f"{index} {name}\n" for index, name in enumerate(self._keywords) if name)
        new = self._place / f"dovecot-keywords.{os.getpid()}.new"
        new.write_text(text, "utf-8")
        new.rename(self._place / "dovecot-keywords")

    def end(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class EmlWriter:
    """A file for each message, named by its UID, below `target`; with `folders` a folder for each mailbox."""

    def __init__(self, target: Path, *, folders: bool) -> None:
        self.lost: set[str] = set()
        self._target = target
        self._folders = folders
        self._place = target

    def begin(self, mailbox: str, separator: str) -> None:
        self._place = self._target
        if self._folders and mailbox.upper() != "INBOX":
            for level in mailbox.split(separator) if separator else [mailbox]:
                self._place = self._place / quoted(level)
        self._place.mkdir(parents=True, exist_ok=True)

    def known(self) -> set[Key]:
        files = (read(str(path)) for path in self._place.glob("*.eml"))
        return {key for messages in files for message in messages for key in keys_of(message.raw)}

    def write(self, message: Stored) -> None:
        temporary = self._place / f".{message.uid}.{os.getpid()}.new"
        with open(temporary, "wb") as file:
            file.write(lf(message.raw))
        if message.date is not None:
            os.utime(temporary, (message.date, message.date))
        final = self._place / f"{message.uid}.eml"
        extra = count(2)
        while final.exists():  # of another mailbox with the same UIDs
            final = self._place / f"{message.uid}-{next(extra)}.eml"
        os.rename(temporary, final)

    def end(self) -> None:
        pass

    def abandon(self) -> None:
        pass


def dotted(mailbox: str, separator: str) -> str:
    """A mailbox's name with its levels separated by dots, as Maildir++ has them."""
    return mailbox if separator in ("", ".") else mailbox.replace(".", "_").replace(separator, ".")


def _make_maildir(path: Path) -> None:
    for name in ("cur", "new", "tmp"):
        (path / name).mkdir(parents=True, exist_ok=True, mode=0o700)
