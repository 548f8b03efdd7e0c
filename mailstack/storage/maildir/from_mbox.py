r"""An mbox file as a Maildir folder that can be read: a copy, brought up to date when the folder is opened.

`update` copies each message of the file that the folder does not have yet into `new/` (into `cur/`, seen,
where the file says `Status: R`), and removes from the folder what is not in the file any more. A message is
known by its content, so that it keeps its UID whatever happens to those around it. What mail programs note
in the headers (`Status:`, `X-UID:` …) is left out, as is the message in which UW-IMAP keeps its own. The file
is never written.

The copy is a cache: without it, the folder is made anew with another UIDVALIDITY. Everything here blocks:
call it on a thread. Raises `OSError`. Locks: a shared fcntl(2) lock, and nobody reads while there is a
`FILE.lock`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator

from mailstack.storage.maildir.delivery import make_folder

STATE = "mbox-copied"
"""A file in the folder: what the mbox file was when it was copied (inode, size, modification time in ns)."""
LOCK_WAIT = 5.0
"""Seconds to wait for a program that has locked the file; then it is read as it was copied last."""
_FROM = re.compile(
    rb"^From [^\n]*[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]?\d \d\d:\d\d(?::\d\d)?[^\n]*\n", re.MULTILINE
)
"""Without a date it is a line of the text, as for Dovecot."""
_NOTES = re.compile(
    rb"^(?:status|x-status|x-keywords|x-uid|x-imap|x-imapbase|content-length):[^\n]*\n(?:[ \t][^\n]*\n)*",
    re.IGNORECASE | re.MULTILINE,
)
_READ = re.compile(rb"^status:[ \t]*[^\n]*R", re.IGNORECASE | re.MULTILINE)
_INTERNAL = re.compile(rb"^subject: don't delete this message -- folder internal data", re.I | re.M)
_one_at_a_time = threading.Lock()


def stamp_of(mbox: str) -> str:
    """What the file is now; empty where there is none."""
    try:
        found = os.stat(mbox)
    except FileNotFoundError:
        return ""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}\n"


def is_current(mbox: str, folder: str) -> bool:
    """Whether nothing has changed since the last `update`."""
    try:
        with open(f"{folder}/{STATE}", encoding="ascii") as file:
            return file.read() == stamp_of(mbox)
    except FileNotFoundError:
        return False


def update(mbox: str, folder: str) -> None:
    """Bring the folder to what the file holds."""
    with _one_at_a_time:
        make_folder(folder)
        stamp, data = _read(mbox)
        if stamp is None:
            return
        present: dict[str, str] = {}
        for place in ("new", "cur"):
            for name in os.listdir(f"{folder}/{place}"):
                present[_key_of(name)] = f"{folder}/{place}/{name}"
        seen_before: Counter[str] = Counter()
        now = int(time.time())
        for number, (from_line, text) in enumerate(messages(data)):
            head, body = _split(text)
            content = _NOTES.sub(b"", head) + body
            digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            seen_before[digest] += 1
            key = f"{digest}-{seen_before[digest]}"
            if present.pop(key, None) is None:
                name = f"{now}.M{number:06d}H{key}.mbox"
                place, flags = ("cur", ":2,S") if _READ.search(head) else ("new", "")
                _write(folder, name, content, _date(from_line), f"{folder}/{place}/{name}{flags}")
        for path in present.values():
            os.unlink(path)
        with open(f"{folder}/{STATE}", "w", encoding="ascii") as file:
            file.write(stamp)


def messages(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The `From ` line and the text of each message, without the empty line that ends it."""
    starts = list(_FROM.finditer(data))
    for at, start in enumerate(starts):
        end = starts[at + 1].start() if at + 1 < len(starts) else len(data)
        text = data[start.end() : end]
        if text.endswith(b"\n\n"):
            text = text[:-1]
        elif text.endswith(b"\n\r\n"):
            text = text[:-2]
        if not _INTERNAL.search(_split(text)[0]):
            yield start[0], text


def _split(text: bytes) -> tuple[bytes, bytes]:
    ends = [end for end in (text.find(b"\n\n"), text.find(b"\n\r\n")) if end >= 0]
    at = min(ends) + 1 if ends else len(text)
    return text[:at], text[at:]


def _key_of(name: str) -> str:
    return name.partition("H")[2].partition(".")[0]


def _read(mbox: str) -> tuple[str | None, bytes]:
    """The file's stamp and content; no stamp when another program has it locked for too long."""
    end = time.monotonic() + LOCK_WAIT
    while True:
        try:
            with open(mbox, "rb") as file:
                if not os.path.exists(f"{mbox}.lock"):
                    try:
                        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                        return stamp_of(mbox), file.read()
                    except BlockingIOError:
                        pass
        except FileNotFoundError:
            return "", b""
        if time.monotonic() > end:
            return None, b""
        time.sleep(0.05)


def _date(from_line: bytes) -> float | None:
    try:
        return time.mktime(time.strptime(from_line.strip()[-24:].decode("ascii"), "%a %b %d %H:%M:%S %Y"))
    except (ValueError, OverflowError, UnicodeDecodeError):
        return None


def _write(folder: str, name: str, content: bytes, date: float | None, final: str) -> None:
    temporary = os.path.join(folder, "tmp", name)
    with open(temporary, "wb") as file:
        file.write(content)
    if date is not None:
        os.utime(temporary, (date, date))
    os.rename(temporary, final)
