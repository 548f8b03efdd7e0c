"""Containers' logs as lines, those of several containers by time, or as they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from mailstack.runtime import daemon
from mailstack.runtime.errors import RuntimeFailure
from mailstack.runtime.model import LogLine


def read(api: Any, names: Mapping[str, str], *, follow: bool, since: float | None) -> Iterator[LogLine]:
    """Lines of `names` (service -> container), oldest first. `since`: seconds since the epoch.

    A container that is not there has no lines. With `follow` it ends when every container has ended.
    """
    if follow:
        yield from _follow(api, names, since)
        return
    lines: list[LogLine] = []
    for service, container in names.items():

        def whole(container: str = container) -> bytes:
            return bytes(api.logs(container, timestamps=True, since=_since(since)))

        try:
            data = daemon.call(f"reading the log of {service}", whole)
        except RuntimeFailure as error:
            if not _missing(error):
                raise
            continue
        lines += [_line(service, text) for text in data.decode(errors="replace").splitlines()]
    lines.sort(key=lambda line: line.time or 0.0)
    yield from lines


def _follow(api: Any, names: Mapping[str, str], since: float | None) -> Iterator[LogLine]:
    found: queue.SimpleQueue[LogLine | None] = queue.SimpleQueue()

    def pump(service: str, container: str) -> None:
        rest = ""
        try:
            for chunk in api.logs(container, stream=True, follow=True, timestamps=True, since=_since(since)):
                *whole, rest = (rest + chunk.decode(errors="replace")).split("\n")
                for text in whole:
                    found.put(_line(service, text))
        except Exception as error:  # the reader is told; the other containers' lines go on
            found.put(LogLine(service, None, f"[the log ends here: {error}]"))
        found.put(None)

    for service, container in names.items():
        threading.Thread(target=pump, args=(service, container), daemon=True).start()
    running = len(names)
    while running:
        line = found.get()
        if line is None:
            running -= 1
        else:
            yield line


def _line(service: str, text: str) -> LogLine:
    """The daemon puts `2026-11-22T11:57:30.123456789Z ` before each line."""
    stamp, _, rest = text.partition(" ")
    try:
        moment = datetime.strptime(stamp[:26].rstrip("Z"), "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=UTC)
    except ValueError:
        return LogLine(service, None, text)
    return LogLine(service, moment.timestamp(), rest)


def _since(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


def _missing(error: RuntimeFailure) -> bool:
    from docker.errors import NotFound

    return isinstance(error.__cause__, NotFound)
