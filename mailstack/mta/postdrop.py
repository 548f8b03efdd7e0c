"""Put a message of a local program into maildrop/ and wake pickup, as postdrop(1) does for sendmail(1).

The folder is 0700 and belongs to the account that runs the MTA: only that account and root can submit, and
nobody else can see, read or remove what waits there. A file is 0600 while it is written; mode 0700 says that
it is whole and on disk, and pickup looks at no other. What root submits is given to the MTA's account.

The format is the queue file's (docs/queue.md). Raises `Fatal` with what is missing, in words for the person
who runs the program.
"""

from __future__ import annotations

import errno
import os
import pwd

from mailstack.mta.command import Fatal
from mailstack.mta.trigger import SCAN_MAILDROP, send_now
from mailstack.storage.durable import write_all
from mailstack.storage.queue import Envelope, Queue
from mailstack.storage.queue_file import HEADER_SIZE, encode_envelope, encode_header

READY = 0o700
"""The mode of a file that is complete."""
UID, FULL_NAME, REWRITE_CONTEXT = "uid", "full_name", "rewrite_context"
"""Attributes of a submission: who, how he is called (From:), and `remote` for `sendmail -G`."""


def user_name(uid: int) -> str:
    """The account's name; `unknown` where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "unknown"


class Drop:
    """One submission. Write content (CRLF line ends), then `commit` or `abort` once."""

    def __init__(self, queue: Queue, now: float, limit: int) -> None:
        """`limit`: octets of content; 0: any number. Raises `Fatal`."""
        self._uid = os.getuid()
        self._queue = queue
        self._limit = limit
        self.size = 0
        self._path = queue.path("maildrop", queue.new_id(now))
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._refusal(error) from None
        try:
            self._give_away()
            os.write(self._fd, b" " * HEADER_SIZE)
        except OSError as error:
            raise self._failure(error) from None

    def write(self, data: bytes) -> None:
        """Add content. Raises `Fatal`; nothing is left then."""
        self.size += len(data)
        if self._limit and self.size > self._limit:
            self.abort()
            raise Fatal(f"{self._who()}: message file too big")
        try:
            write_all(self._fd, (data,))
        except OSError as error:
            raise self._failure(error) from None

    def commit(self, envelope: Envelope) -> None:
        """Make the submission durable and wake pickup. Raises `Fatal`; nothing is left then."""
        records = encode_envelope(envelope)
        try:
            write_all(self._fd, (records,))
            os.pwrite(self._fd, encode_header(self.size, records), 0)
            os.fsync(self._fd)
            os.fchmod(self._fd, READY)
            os.fsync(self._fd)
            folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failure(error) from None
        os.close(self._fd)
        self._fd = -1
        try:
            send_now(self._queue.directory, SCAN_MAILDROP)
        except OSError:
            pass  # the MTA does not run now: it will look into maildrop/ when it starts

    def abort(self) -> None:
        """Leave nothing behind. Harmless after `commit`."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
            os.unlink(self._path)

    def _give_away(self) -> None:
        """What root submits belongs to the account that will pick it up."""
        if os.geteuid() == 0:
            folder = os.stat(os.path.dirname(self._path))
            os.fchown(self._fd, folder.st_uid, folder.st_gid)

    def _who(self) -> str:
        return f"{user_name(self._uid)}({self._uid})"

    def _refusal(self, error: OSError) -> Fatal:
        folder = os.path.dirname(self._path)
        match error.errno:
            case errno.ENOENT:
                return Fatal(f"{self._who()}: there is no queue in {folder} yet: start the mail system first")
            case errno.EACCES | errno.EPERM:
                try:
                    owner = os.stat(self._queue.directory).st_uid
                except OSError:
                    return Fatal(f"{self._who()}: create file in {folder}: {error.strerror}")
                return Fatal(
                    f"{self._who()}: create file in {folder}: {error.strerror}: only "
                    f"{user_name(owner)}({owner}), who runs the mail system, and root may submit mail here "
                    "(there is no set-gid postdrop); others submit by SMTP"
                )
        return Fatal(f"{self._who()}: create file in {folder}: {error.strerror}")

    def _failure(self, error: OSError) -> Fatal:
        self.abort()
        return Fatal(f"{self._who()}: queue file write error: {error.strerror}")
