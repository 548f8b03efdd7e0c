"""Clients that send without pause and remember what they have been promised."""

from __future__ import annotations

import imaplib
import itertools
import re
import smtplib
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from mailstack.runtime.model import Endpoints

_MARK = re.compile(rb"^X-Mark: (\S+)\r?$", re.MULTILINE)
PAUSE = 0.02
"""Seconds between two messages of one client, so that the machine has time for other work."""


class Traffic:
    """Some clients, each in a thread: `accepted` holds `mark@recipient` of every message answered 250 or OK."""

    def __init__(self, where: Endpoints, clients: int = 3) -> None:
        self.where = where
        self.accepted: set[str] = set()
        self.unexpected: list[str] = []
        self._recipients = tuple(where.users)
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(self._smtp,)) for _ in range(clients)]
        self._threads.append(threading.Thread(target=self._repeat, args=(self._imap,)))

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait(self, count: int, seconds: float = 20.0) -> None:
        """Return when so many more messages have been taken."""
        wanted = len(self.accepted) + count
        deadline = time.monotonic() + seconds
        while len(self.accepted) < wanted:
            assert time.monotonic() < deadline, f"no mail is taken any more ({len(self.accepted)} so far)"
            time.sleep(0.01)

    def _repeat(self, session: Callable[[], None]) -> None:
        """Run sessions until it is time to stop; a server that is being killed breaks them anywhere."""
        while not self._stop.is_set():
            try:
                session()
            except (OSError, EOFError, smtplib.SMTPException, imaplib.IMAP4.error) as error:
                if isinstance(error, smtplib.SMTPResponseException) and error.smtp_code >= 500:
                    self.unexpected.append(str(error))
                time.sleep(0.05)

    def _message(self) -> tuple[str, bytes]:
        number = next(self._numbers)
        # Every tenth is larger than what smtpd holds in memory.
        body = b"x" * 76 + b"\r\n"
        lines = 5000 if number % 10 == 0 else 20
        return f"m{number}", b"Subject: crash\r\nX-Mark: m%d\r\n\r\n" % number + body * lines

    def _smtp(self) -> None:
        with smtplib.SMTP(self.where.host, self.where.ports["smtp"], timeout=15) as client:
            while not self._stop.is_set():
                mark, content = self._message()
                client.sendmail("sender@" + self.where.domain, self._recipients, content)
                self.accepted.update(f"{mark} {recipient}" for recipient in self._recipients)
                time.sleep(PAUSE)

    def _imap(self) -> None:
        context = ssl.create_default_context(cafile=self.where.ca_file)
        user = self._recipients[0]
        with imaplib.IMAP4_SSL(
            self.where.host, self.where.ports["imaps"], ssl_context=context, timeout=15
        ) as client:
            client.login(user, self.where.users[user])
            while not self._stop.is_set():
                mark, content = self._message()
                answer, _ = client.append("INBOX", "", "", content)
                if answer == "OK":
                    self.accepted.add(f"{mark} {user}")
                time.sleep(PAUSE)


def marks(folder: Path) -> list[str]:
    """The marks of the messages in a Maildir, once for each copy. Messages in `tmp` do not count."""
    found = []
    for path in (*folder.glob("new/*"), *folder.glob("cur/*")):
        with path.open("rb") as file:
            mark = _MARK.search(file.read(8192))
        assert mark is not None, f"{path} is not a whole message"
        found.append(mark[1].decode())
    return found


def damaged(folder: Path) -> list[Path]:
    """Messages whose size is not what their name says."""
    return [
        path
        for path in (*folder.glob("new/*"), *folder.glob("cur/*"))
        if (size := re.search(r",S=(\d+)", path.name)) is None or int(size[1]) != path.stat().st_size
    ]
