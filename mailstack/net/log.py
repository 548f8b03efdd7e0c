"""Log lines in syslog's traditional form, as Postfix, Dovecot and BIND write them.

    Nov 22 11:40:21 mail postfix/smtpd[123]: connect from localhost[127.0.0.1]

A `write(2)` holds whole lines and no more than a pipe takes in one piece, so that lines of several processes
on one pipe or file never mix. Below a running event loop (`on_loop`) the lines of one turn go out together at
its end; otherwise each goes out at once. Control characters of a peer's making are replaced by `?`, so that
nobody forges a line. A line that cannot be written (a full disk, a closed pipe) is dropped: a service never
dies of its log.
"""

from __future__ import annotations

import os
import re
import time
import traceback
from threading import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
LINE_LIMIT = 2048
"""Octets of one line at the most; longer ones are cut, as Postfix does."""
PIPE_BUF = 4096
"""Octets that a pipe takes in one piece (Linux; POSIX promises 512)."""


class _Sink:
    """Where lines go, shared by a log and its children."""

    __slots__ = ("fd", "loop", "own", "pid", "second", "stamp", "thread", "waiting")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.own = False
        """Whether `fd` is ours to close."""
        self.loop: AbstractEventLoop | None = None
        self.waiting: list[bytes] = []
        self.second = -1
        self.stamp = ""
        self.pid = os.getpid()
        self.thread = 0

    def put(self, line: bytes) -> None:
        loop = self.loop
        if loop is None or loop.is_closed():
            self.write([line])
            return
        self.waiting.append(line)
        if len(self.waiting) == 1:
            if get_ident() == self.thread:
                loop.call_soon(self.flush)
            else:
                loop.call_soon_threadsafe(self.flush)

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        self.write(waiting)

    def write(self, lines: list[bytes]) -> None:
        """In as few calls as pipes allow."""
        piece = b""
        for line in lines:
            if piece and len(piece) + len(line) > PIPE_BUF:
                self._write(piece)
                piece = b""
            piece += line
        if piece:
            self._write(piece)

    def _write(self, data: bytes) -> None:
        try:
            os.write(self.fd, data)
        except OSError:
            pass


class Log:
    """Writes lines under one tag (`postfix/smtpd`, `dovecot`, `named`)."""

    def __init__(self, tag: str, host: str, fd: int = 2) -> None:
        self.tag = tag
        self.host = host
        self.verbose = False
        self._sink = _Sink(fd)

    def child(self, tag: str) -> Log:
        """The same destination under another tag."""
        other = Log(tag, self.host, self._sink.fd)
        other.verbose = self.verbose
        other._sink = self._sink
        return other

    def on_loop(self, loop: AbstractEventLoop | None) -> None:
        """Gather lines (children's too) while `loop` runs; None: write them, and each at once from now on.

        Call it in the process that runs the loop, after its last fork.
        """
        self._sink.flush()
        self._sink.loop = loop
        self._sink.pid = os.getpid()
        self._sink.thread = get_ident()

    def category(self, name: str) -> Log:
        """The log for one category of lines; here, all of them go the same way."""
        return self

    def raw(self, line: str) -> None:
        """A line as it is, without time and tag."""
        if not line.isprintable():
            line = _CONTROL.sub("?", line)
        self._sink.put(line.encode("utf-8", "backslashreplace")[:LINE_LIMIT] + b"\n")

    def send_to(self, fd: int) -> None:
        """Write lines (children's too) to another descriptor from now on, and close it with the next one."""
        sink = self._sink
        sink.flush()
        if sink.own:
            os.close(sink.fd)
        sink.fd, sink.own = fd, True

    def flush(self) -> None:
        """Write what was gathered."""
        self._sink.flush()

    def close(self) -> None:
        """Write what was gathered, and close the descriptor if it is ours. What comes later is dropped."""
        sink = self._sink
        sink.flush()
        if sink.own:
            os.close(sink.fd)
        sink.fd, sink.own = -1, False

    def info(self, text: str) -> None:
        self._write(text)

    def warning(self, text: str) -> None:
        self._write("warning: " + text)

    def error(self, text: str) -> None:
        self._write("error: " + text)

    def notice(self, text: str) -> None:
        """What an administrator is to know of, though nothing is wrong."""
        self._write(text)

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
        sink = self._sink
        now = int(time.time())
        if now != sink.second:
            local = time.localtime(now)
            sink.stamp = f"{time.strftime('%b', local)} {local.tm_mday:2d} {time.strftime('%H:%M:%S', local)}"
            sink.second = now
        pid = sink.pid if sink.loop is not None else os.getpid()
        if not text.isprintable():
            text = _CONTROL.sub("?", text)
        line = f"{sink.stamp} {self.host} {self.tag}[{pid}]: {text}"
        sink.put(line.encode("utf-8", "backslashreplace")[:LINE_LIMIT] + b"\n")
