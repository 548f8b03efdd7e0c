"""The server's log: categories of lines, and the channels of `logging` that they go to.

Until a configuration says otherwise everything goes to the log that the server was started with, which is
what `syslog` and `stderr` channels stand for, too. A file is written from its end on, and put aside when it
has its size, as named does it; one that cannot be opened is an error of the configuration. Lines that cannot
be written are dropped.

`NamedLog.category(name)` may be asked for before there is a configuration, and follows each new one.
"""

from __future__ import annotations

import os
import re
import stat
import time
from asyncio import AbstractEventLoop
from pathlib import Path
from typing import Final

from mailstack.config.errors import ConfigError
from mailstack.config.named.channels import (
    CRITICAL,
    ERROR,
    INFO,
    NOTICE,
    UNLIMITED,
    WARNING,
    Channel,
    Logging,
)
from mailstack.net.log import Log

_WORDS: Final = {CRITICAL: "critical", ERROR: "error", WARNING: "warning", NOTICE: "notice", INFO: "info"}
_AS_EVER: Final = {CRITICAL: "fatal: ", ERROR: "error: ", WARNING: "warning: "}
"""What lines of the server's own log begin with."""
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class _File:
    """The file of a channel. Raises `OSError` when it cannot be opened."""

    def __init__(self, channel: Channel, loop: AbstractEventLoop | None) -> None:
        self.channel = channel
        self._full = False
        # Without a size, a new file is begun with each start and each new configuration.
        if channel.versions is not None and not channel.size:
            self._put_aside()
        fd = self._open()
        if channel.size and self._size >= channel.size and channel.versions is not None:
            os.close(fd)
            self._put_aside()
            fd = self._open()
        self.log = Log("", "", -1)
        self.log.send_to(fd)
        self.log.on_loop(loop)

    def _open(self) -> int:
        fd = os.open(self.channel.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(fd).st_size
        return fd

    def put(self, line: str) -> None:
        if self._full:
            return
        limit = self.channel.size
        if limit and self._size >= limit:
            if self.channel.versions is None:
                self._full = True
                return
            self._roll()
        self.log.raw(line)
        self._size += len(line) + 1

    def _roll(self) -> None:
        try:
            self.log.flush()
            self._put_aside()
            fd = self._open()
        except OSError:
            self._full = True
            return
        self.log.send_to(fd)

    def close(self) -> None:
        self.log.close()

    def _put_aside(self) -> None:
        """Give the file the first of its old names; as many of those are kept as `versions` says."""
        path, versions = self.channel.path, self.channel.versions
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                return
        except FileNotFoundError:
            return
        if versions == 0:
            os.unlink(path)
            return
        assert versions is not None
        if self.channel.timestamps:
            os.rename(path, f"{path}.{time.strftime('%Y%m%d%H%M%S')}{time.time_ns() // 1_000_000 % 1000:03d}")
            kept = sorted(self._old(), key=lambda old: old[0], reverse=True)
            if versions != UNLIMITED:
                for _, name in kept[versions:]:
                    os.unlink(name)
            return
        numbers = dict(self._old())
        if versions != UNLIMITED:
            for number in [number for number in numbers if number >= versions - 1]:
                os.unlink(numbers.pop(number))
        for number in sorted(numbers, reverse=True):
            os.rename(numbers[number], f"{path}.{number + 1}")
        os.rename(path, f"{path}.0")

    def _old(self) -> list[tuple[int, str]]:
        path = Path(self.channel.path)
        pattern = re.compile(re.escape(path.name) + r"\.(\d+)\Z", re.ASCII)
        found = []
        for name in os.listdir(path.parent):
            match = pattern.match(name)
            if match is not None:
                found.append((int(match[1]), str(path.parent / name)))
        return found


class NamedLog(Log):
    """The log of a server, and of all its categories."""

    def __init__(self, tag: str, host: str, fd: int = 2) -> None:
        super().__init__(tag, host, fd)
        self._logging = Logging()
        self._files: dict[str, _File] = {}
        self._categories: dict[str, Log] = {}
        self._loop: AbstractEventLoop | None = None
        self._general = self._category("general")

    def category(self, name: str) -> Log:
        """The log for the lines of a category, by named's name of it."""
        found = self._categories.get(name)
        return found if found is not None else self._category(name)

    def _category(self, name: str) -> _Category:
        found = _Category(self, name)
        self._categories[name] = found
        found.follow(self._logging, self._files)
        return found

    def configure(self, logging: Logging) -> None:
        """Write as a configuration says from now on. Raises `ConfigError` for a file that does not open."""
        wanted: dict[str, Channel] = {}
        for channels in (*logging.categories.values(), logging.channels("default")):
            wanted.update({one.path: one for one in channels if one.kind == "file"})
        files: dict[str, _File] = {}
        for path, channel in wanted.items():
            try:
                files[path] = _File(channel, self._loop)
            except OSError as error:
                for one in files.values():
                    one.close()
                raise ConfigError(
                    Path(channel.file), channel.line, f"channel '{channel.name}': {path}: {error.strerror}"
                ) from error
        previous, self._files, self._logging = self._files, files, logging
        for category in self._categories.values():
            assert isinstance(category, _Category)
            category.follow(logging, files)
        for one in previous.values():
            one.close()

    def on_loop(self, loop: AbstractEventLoop | None) -> None:
        self._loop = loop
        super().on_loop(loop)
        for one in self._files.values():
            one.log.on_loop(loop)

    def notice(self, text: str) -> None:
        self._general.say(NOTICE, text)

    def put(self, text: str) -> None:
        """A line of the server's own log."""
        super()._write(text)

    def _write(self, text: str) -> None:
        # A line without category: its severity is in front of it.
        for severity, word in _AS_EVER.items():
            if text.startswith(word):
                self._general.say(severity, text[len(word) :])
                return
        self._general.say(INFO, text)


class _Category(Log):
    """The lines of one category."""

    def __init__(self, root: NamedLog, name: str) -> None:
        super().__init__(root.tag, root.host)
        self._root = root
        self._name = name
        self._outputs: tuple[tuple[Channel, _File | None], ...] = ()
        self._lowest = INFO

    def follow(self, logging: Logging, files: dict[str, _File]) -> None:
        channels = [one for one in logging.channels(self._name) if one.kind != "null"]
        self._outputs = tuple((one, files.get(one.path) if one.kind == "file" else None) for one in channels)
        self._lowest = min((one.severity for one in channels), default=CRITICAL + 1)
        self.verbose = self._lowest < INFO

    def category(self, name: str) -> Log:
        return self._root.category(name)

    def info(self, text: str) -> None:
        self.say(INFO, text)

    def notice(self, text: str) -> None:
        self.say(NOTICE, text)

    def warning(self, text: str) -> None:
        self.say(WARNING, text)

    def error(self, text: str) -> None:
        self.say(ERROR, text)

    def fatal(self, text: str) -> None:
        self.say(CRITICAL, text)

    def debug(self, text: str) -> None:
        self.say(0, text)

    def _write(self, text: str) -> None:
        self.say(ERROR, text.removeprefix("error: "))

    def say(self, severity: int, text: str) -> None:
        """A line, to the channels that want it."""
        if severity < self._lowest:
            return
        for channel, file in self._outputs:
            if severity < channel.severity:
                continue
            line = text
            if channel.print_severity:
                word = _WORDS.get(severity) or f"debug {1 - severity}"
                line = f"{word}: {line}"
            if channel.print_category:
                line = f"{self._name}: {line}"
            if file is None:
                plain = channel.print_severity or channel.print_category
                self._root.put(line if plain else _AS_EVER.get(severity, "") + line)
            else:
                file.put(f"{_now(channel.times)} {line}" if channel.times != "no" else line)


def _now(times: str) -> str:
    now = time.time()
    split = time.gmtime(now) if times == "iso8601-utc" else time.localtime(now)
    thousandths = int(now * 1000) % 1000
    clock = f"{split.tm_hour:02d}:{split.tm_min:02d}:{split.tm_sec:02d}.{thousandths:03d}"
    if times == "local":
        return f"{split.tm_mday:02d}-{_MONTHS[split.tm_mon - 1]}-{split.tm_year} {clock}"
    date = f"{split.tm_year}-{split.tm_mon:02d}-{split.tm_mday:02d}T{clock}"
    return date + "Z" if times == "iso8601-utc" else date
