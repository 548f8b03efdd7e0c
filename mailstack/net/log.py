"""Log lines in syslog's traditional form, as Postfix, Dovecot and BIND write them.

    Nov 22 11:40:21 mail postfix/smtpd[123]: connect from localhost[127.0.0.1]

One line is one `write(2)`, so that lines of several processes on one pipe or file never mix. Control
characters of a peer's making are replaced by `?`, so that nobody forges a line. A line that cannot be written
(a full disk, a closed pipe) is dropped: a service never dies of its log.
"""

from __future__ import annotations

import os
import re
import time
import traceback

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
LINE_LIMIT = 2048
"""Octets of one line at the most; longer ones are cut, as Postfix does."""


class Log:
    """Writes lines under one tag (`postfix/smtpd`, `dovecot`, `named`)."""

    def __init__(self, tag: str, host: str, fd: int = 2) -> None:
        self.tag = tag
        self.host = host
        self.fd = fd
        self.verbose = False
        self._second = -1
        self._stamp = ""

    def child(self, tag: str) -> Log:
        """The same destination under another tag."""
        other = Log(tag, self.host, self.fd)
        other.verbose = self.verbose
        return other

    def info(self, text: str) -> None:
        self._write(text)

    def warning(self, text: str) -> None:
        self._write("warning: " + text)

    def error(self, text: str) -> None:
        self._write("error: " + text)

    def fatal(self, text: str) -> None:
        self._write("fatal: " + text)

    def debug(self, text: str) -> None:
        """Only when `verbose` is set."""
        if self.verbose:
            self._write(text)

    def exception(self, text: str, error: BaseException) -> None:
        """A fault of our own: the error, and its traceback line by line."""
        self._write(f"error: {text}: {type(error).__name__}: {error}")
        for block in traceback.format_exception(error):
            for line in block.rstrip("\n").split("\n"):
                self._write("  " + line)

    def _write(self, text: str) -> None:
        now = int(time.time())
        if now != self._second:
            local = time.localtime(now)
            self._stamp = (
                f"{time.strftime('%b', local)} {local.tm_mday:2d} {time.strftime('%H:%M:%S', local)}"
            )
            self._second = now
        if not text.isprintable():
            text = _CONTROL.sub("?", text)
        line = f"{self._stamp} {self.host} {self.tag}[{os.getpid()}]: {text}"
        data = line.encode("utf-8", "backslashreplace")[:LINE_LIMIT] + b"\n"
        try:
            os.write(self.fd, data)
        except OSError:
            pass
