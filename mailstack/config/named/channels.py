"""`logging`: channels and the categories that go to them.

Standards: BIND 9.18's named.conf(5). A channel that goes to syslog, or to standard error, is the server's own
log here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from mailstack.config.named.syntax import Block, Statement, Word
from mailstack.config.named.values import BOOLEANS, TRUE, boolean, choice, one_block, to_number


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CRITICAL, ERROR, WARNING, NOTICE, INFO = 5, 4, 3, 2, 1
"""Severities; `debug N` is 1 - N."""
_SEVERITIES: Final = {
    "critical": CRITICAL,
    "error": ERROR,
    "warning": WARNING,
    "notice": NOTICE,
    "info": INFO,
    "dynamic": INFO,
}
CATEGORIES: Final = _words(
    """
    client cname config database default delegation-only dispatch dnssec dnstap edns-disabled general
    lame-servers network notify nsid queries query-errors rate-limit resolver rpz rpz-passthru security
    serve-stale spill sslkeylog trust-anchor-telemetry unmatched update update-security xfer-in xfer-out
    zoneload
    """
)
_FACILITIES: Final = _words(
    """
    kern user mail daemon auth syslog lpr news uucp cron authpriv ftp
    local0 local1 local2 local3 local4 local5 local6 local7
    """
)
_UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
UNLIMITED = -1
Times = Literal["no", "local", "iso8601", "iso8601-utc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One `channel`. `own`: the server's own log, which syslog and standard error stand for."""

    name: str
    kind: Literal["file", "own", "null"]
    path: str = ""
    """Absolute path of the file."""
    versions: int | None = None
    """Old files that are kept, -1 for all of them; None when the file is never put aside."""
    size: int = 0
    """Octets at which the file is put aside, or written no more; 0: no limit."""
    timestamps: bool = False
    """Old files are named after the time, not numbered."""
    severity: int = INFO
    times: Times = "no"
    print_category: bool = False
    print_severity: bool = False
    file: str = ""
    line: int = 0
    """Where the statement is."""


OWN: Final = Channel(name="default_syslog", kind="own")
NULL: Final = Channel(name="null", kind="null")
_BUILT_IN: Final = {
    "default_syslog": OWN,
    "default_stderr": OWN,
    # It is for the debugging that named does when told to by rndc.
    "default_debug": NULL,
    "null": NULL,
}


@dataclass(frozen=True, slots=True)
class Logging:
    """The channels of each category that is named; the others go where `default` goes."""

    categories: Mapping[str, tuple[Channel, ...]] = field(default_factory=dict)
    usual: tuple[Channel, ...] = (OWN,)
    """Where `default` goes when nothing is said of it."""

    def channels(self, category: str) -> tuple[Channel, ...]:
        """Where the lines of a category go."""
        if category in self.categories:
            return self.categories[category]
        if category == "unmatched":
            return ()
        return self.categories.get("default", self.usual)


PLAIN: Final = Logging()
"""Everything goes to the server's own log."""


def read_logging(statement: Statement, directory: str, warnings: list[str]) -> Logging:
    """What a `logging` statement says. Raises `ConfigError`."""
    channels = dict(_BUILT_IN)
    own: set[str] = set()
    categories: dict[str, tuple[Channel, ...]] = {}
    given = one_block(statement).statements
    for item in given:
        match item.items:
            case (Word(text="channel"), Word(text=name), Block() as block):
                if name in own:
                    raise item.error(f"channel '{name}' is already defined")
                own.add(name)
                channels[name] = _channel(item, name, block, directory)
            case (Word(text="category"), Word(), Block()):
                pass
            case _:
                raise item.error("'logging' takes channel NAME { … }; and category NAME { channels; };")
    for item in given:
        match item.items:
            case (Word(text="category"), Word(text=name), Block() as block):
                if name not in CATEGORIES:
                    warnings.append(f"{item.path}:{item.line}: unknown logging category '{name}' is left out")
                elif name in categories:
                    raise item.error(f"category '{name}' is already defined")
                else:
                    found = tuple(_named(entry, channels) for entry in block.statements)
                    categories[name] = tuple(dict.fromkeys(one for one in found if one.kind != "null"))
    # Red Hat's named.conf gives default_debug a file, and leaves the categories as they are.
    usual = tuple(channels[name] for name in ("default_syslog", "default_debug"))
    return Logging(categories, tuple(dict.fromkeys(one for one in usual if one.kind != "null")))


def _named(entry: Statement, channels: Mapping[str, Channel]) -> Channel:
    match entry.items:
        case (Word(text=name),) if name in channels:
            return channels[name]
        case (Word(text=name),):
            raise entry.error(f"undefined channel '{name}'")
    raise entry.error("a category takes the names of channels")


def _channel(owner: Statement, name: str, block: Block, directory: str) -> Channel:
    kind: Literal["file", "own", "null"] | None = None
    path, versions, size, timestamps = "", None, 0, False
    severity, times = INFO, "no"
    flags = {"print-category": False, "print-severity": False}
    for item in block.statements:
        keyword = item.keyword
        if keyword in ("file", "syslog", "stderr", "null"):
            if kind is not None:
                raise owner.error(f"channel '{name}': exactly one of file, syslog, stderr and null is wanted")
            kind = "file" if keyword == "file" else "null" if keyword == "null" else "own"
            if keyword == "file":
                path, versions, size, timestamps = _file(item, directory)
            elif keyword == "syslog":
                _check_facility(item)
            elif len(item.items) != 1:
                raise item.error(f"'{keyword}' takes no value")
        elif keyword == "severity":
            severity = _severity(item)
        elif keyword == "print-time":
            word = choice(item, (*BOOLEANS, "local", "iso8601", "iso8601-utc"))
            times = word if word[0] in "li" else "local" if word in TRUE else "no"
        elif keyword in flags:
            flags[keyword] = boolean(item)
        elif keyword == "buffered":
            boolean(item)  # lines go out together wherever they can
        else:
            raise item.error(f"unknown option '{keyword}' of a channel")
    if kind is None:
        raise owner.error(f"channel '{name}': one of file, syslog, stderr and null is wanted")
    return Channel(
        name=name,
        kind=kind,
        path=path,
        versions=versions,
        size=size,
        timestamps=timestamps,
        severity=severity,
        times=times,  # type: ignore[arg-type]
        print_category=flags["print-category"],
        print_severity=flags["print-severity"],
        file=str(owner.path),
        line=owner.line,
    )


def _severity(item: Statement) -> int:
    match item.items[1:]:
        case (Word(text="debug"),):
            return 0
        case (Word(text="debug"), Word() as level):
            return 1 - to_number(item, level, 0, 99)
    return _SEVERITIES[choice(item, tuple(_SEVERITIES))]


def _check_facility(item: Statement) -> None:
    match item.items[1:]:
        case ():
            return
        case (Word(text=text),) if text.lower() in _FACILITIES:
            return
    raise item.error("'syslog' takes a facility, such as daemon or local0")


def _file(item: Statement, directory: str) -> tuple[str, int | None, int, bool]:
    """`file "PATH" [ versions ( N | unlimited ) ] [ size ( SIZE | unlimited ) ] [ suffix … ]`."""
    match item.items[1:]:
        case (Word(text=path), *rest) if path:
            pass
        case _:
            raise item.error("'file' takes a path in quotes")
    versions: int | None = None
    size, timestamps = 0, False
    while rest:
        match rest:
            case (Word(text="versions"), Word(text="unlimited"), *rest):
                versions = UNLIMITED
            case (Word(text="versions"), Word() as number, *rest):
                versions = to_number(item, number, 0, 0xFFFFFFFF)
            case (Word(text="size"), Word(text="unlimited" | "default"), *rest):
                size = 0
            case (Word(text="size"), Word(text=text), *rest):
                size = _size(item, text)
            case (Word(text="suffix"), Word(text="increment" | "timestamp" as way), *rest):
                timestamps = way == "timestamp"
            case _:
                raise item.error(
                    "behind the file come versions NUMBER, size SIZE and suffix increment or timestamp"
                )
    return os.path.join(directory, path), versions, size, timestamps


def _size(item: Statement, text: str) -> int:
    number, unit = (text, "") if text[-1:].isdecimal() else (text[:-1], text[-1:].lower())
    if not (number.isascii() and number.isdecimal()) or unit not in _UNITS:
        raise item.error(f"'{text}' is not a size, such as 10m")
    return int(number) * _UNITS[unit]
